//! Log lines on standard error, as text or JSON.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use proto::config::LogLevel;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, reload};

use super::GlobalArgs;
use super::progress::around_bars;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of plain words for each event.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// What [`init_logging`] was told; text before that.
pub(super) fn format() -> LogFormat {
    FORMAT.get().copied().unwrap_or_default()
}

/// Starts logging to standard error. The first call counts; later ones change nothing.
///
/// `RUST_LOG` overrides `-v` and `-q`. Our own crates log from `info` on, others from `warn` on.
pub fn init_logging(args: &GlobalArgs) {
    if FORMAT.set(args.log_format).is_err() {
        return;
    }
    let level = match (args.quiet, args.verbose) {
        (true, _) => LogLevel::Error,
        (false, 0) => LogLevel::Info,
        (false, 1) => LogLevel::Debug,
        (false, _) => LogLevel::Trace,
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| filter(level));
    let is_journal = is_journal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(StandardError { is_journal });
    match args.log_format {
        // The journal has its own clock, and its own way to show how much an entry matters.
        LogFormat::Text if is_journal => {
            let lines = lines.with_ansi(false).with_target(false).without_time().with_level(false);
            let lines = lines.with_filter_reloading();
            keep(lines.reload_handle());
            lines.init();
        }
        LogFormat::Text => {
            let colour = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            let lines = lines.with_ansi(colour).with_target(false).with_filter_reloading();
            keep(lines.reload_handle());
            lines.init();
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            keep(lines.reload_handle());
            lines.init();
        }
    }
}

/// Exchanges the filter; whether that could be done.
type Exchange = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static EXCHANGE: OnceLock<Exchange> = OnceLock::new();

fn keep<S: 'static>(handle: reload::Handle<EnvFilter, S>) {
    // Set once, since the logging is begun once.
    let _ = EXCHANGE.set(Box::new(move |filter| handle.reload(filter).is_ok()));
}

/// Logs so much from now on, unless `RUST_LOG`, `-v` or `-q` has said something else.
pub fn set_log_level(args: &GlobalArgs, level: LogLevel) {
    let is_fixed = args.quiet || args.verbose > 0 || std::env::var_os(EnvFilter::DEFAULT_ENV).is_some();
    if let Some(exchange) = EXCHANGE.get().filter(|_| !is_fixed) {
        exchange(filter(level));
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => {
            "warn,agent=info,walkeep=info,restore=info,restore_cmd=info,repository=info,proto=info"
        }
        LogLevel::Debug => {
            "info,agent=debug,walkeep=debug,restore=debug,restore_cmd=debug,repository=debug,proto=debug"
        }
        LogLevel::Trace => {
            "debug,agent=trace,walkeep=trace,restore=trace,restore_cmd=trace,repository=trace,proto=trace"
        }
    })
}

/// Whether standard error goes to the journal, as the service manager has promised: `JOURNAL_STREAM` names its device and
/// inode. It is inherited by programs whose standard error is something else.
pub(super) fn is_journal() -> bool {
    let promised = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let actual = rustix::fs::fstat(io::stderr().as_fd());
    actual.is_ok_and(|stat| promised == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// As `sd-daemon(3)` has it: what the journal takes off the front of a line.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// Standard error, shared with progress bars: they step aside while a line is printed.
struct StandardError {
    is_journal: bool,
}

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { priority: None }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        Line { priority: self.is_journal.then(|| priority(*event.level())) }
    }
}

struct Line {
    priority: Option<&'static str>,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let told = match self.priority {
            // In one piece: the journal takes what it reads.
            Some(priority) => &[priority.as_bytes(), line].concat(),
            None => line,
        };
        around_bars(|| io::stderr().write_all(told))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
