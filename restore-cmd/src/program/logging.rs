//! Log lines on standard error, as text or JSON.

use std::io::{self, Write};
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
        (true, _) => "error",
        (false, 0) => "warn,agent=info,walkeep=info,restore=info,restore_cmd=info,repository=info,proto=info",
        (false, 1) => {
            "info,agent=debug,walkeep=debug,restore=debug,restore_cmd=debug,repository=debug,proto=debug"
        }
        (false, _) => {
            "debug,agent=trace,walkeep=trace,restore=trace,restore_cmd=trace,repository=trace,proto=trace"
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(StandardError);
    match args.log_format {
        LogFormat::Text => {
            let colour = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colour).with_target(false).init();
        }
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// Standard error, shared with progress bars: they step aside while a line is printed.
struct StandardError;

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line
    }
}

struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        around_bars(|| io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
