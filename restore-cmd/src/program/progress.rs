//! How far a long piece of work has come.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar where the total is not known, and where it is.
const OPEN_ENDED: &str = "{prefix:.bold} {spinner} {bytes} · {bytes_per_sec} · {elapsed}{msg}";
const MEASURED: &str = "{prefix:.bold} {bar:24.green/dim} {percent:>3} % · {bytes}/{total_bytes} · \
    {bytes_per_sec} · {eta} left{msg}";

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows bytes done, rate and time left: a bar on a terminal, otherwise a line every ten seconds.
///
/// Cheap to clone; all clones count together. Everything goes to standard error.
#[derive(Clone)]
pub struct Progress(Arc<Inner>);

struct Inner {
    what: String,
    done: AtomicU64,
    total: AtomicU64,
    begun: Instant,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines { next: Mutex<Instant> },
    Nothing,
}

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)))
}

/// Runs `print` while no bar is on the screen.
pub(super) fn around_bars<T>(print: impl FnOnce() -> T) -> T {
    bars().suspend(print)
}

impl Progress {
    /// Begins to show work called `what` (a word or two), of `total` bytes if that is known.
    pub fn new(what: &str, total: Option<u64>) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let bar = bars().add(ProgressBar::no_length());
            bar.set_prefix(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
            Shown::Bar(bar)
        } else {
            Shown::Lines { next: Mutex::new(Instant::now() + LINE_INTERVAL) }
        };
        let progress = Self::of(what, shown);
        if let Some(total) = total {
            progress.set_total(total);
        } else if let Shown::Bar(bar) = &progress.0.shown {
            bar.set_style(style(OPEN_ENDED));
        }
        progress
    }

    /// Counts, but shows nothing: for `--quiet`, and for work within other work.
    pub fn hidden() -> Self {
        Self::of("", Shown::Nothing)
    }

    fn of(what: &str, shown: Shown) -> Self {
        Self(Arc::new(Inner {
            what: what.to_owned(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            begun: Instant::now(),
            shown,
        }))
    }

    /// Sets, or corrects, how many bytes there are in all.
    pub fn set_total(&self, bytes: u64) {
        self.0.total.store(bytes, Relaxed);
        if let Shown::Bar(bar) = &self.0.shown {
            bar.set_length(bytes);
            bar.set_style(style(MEASURED));
        }
    }

    /// `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        let done = self.0.done.fetch_add(bytes, Relaxed) + bytes;
        match &self.0.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines { next } => {
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                if now >= *next {
                    *next = now + LINE_INTERVAL;
                    drop(next);
                    self.line();
                }
            }
            Shown::Nothing => {}
        }
    }

    /// Says what is being done just now, beside the bar.
    pub fn step(&self, text: &str) {
        if let Shown::Bar(bar) = &self.0.shown {
            bar.set_message(if text.is_empty() { String::new() } else { format!(" · {text}") });
        }
    }

    /// Bytes done so far.
    pub fn done(&self) -> u64 {
        self.0.done.load(Relaxed)
    }

    /// Since the work began.
    pub fn elapsed(&self) -> Duration {
        self.0.begun.elapsed()
    }

    /// Takes the bar off the screen. The summary is the caller's.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.0.shown {
            bar.finish_and_clear();
            bars().remove(bar);
        }
    }

    fn line(&self) {
        let (done, total) = (self.done(), self.0.total.load(Relaxed));
        let rate = (done as f64 / self.elapsed().as_secs_f64().max(0.001)) as u64;
        let what = &self.0.what;
        if let Some(percent) = done.saturating_mul(100).checked_div(total) {
            let left = total.saturating_sub(done) / rate.max(1);
            let (done, total, rate) = (HumanBytes(done), HumanBytes(total), HumanBytes(rate));
            tracing::info!("{what}: {percent} %, {done} of {total}, {rate}/s, {left} s left");
        } else {
            tracing::info!("{what}: {}, {}/s", HumanBytes(done), HumanBytes(rate));
        }
    }
}

/// A template of ours; the plain bar if indicatif should not like it.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together() {
        let progress = Progress::hidden();
        let other = progress.clone();
        progress.add(3);
        other.add(4);
        assert_eq!(progress.done(), 7);
    }

    #[test]
    fn templates_are_sound() {
        for template in [OPEN_ENDED, MEASURED] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
