//! Measuring commands against each other, in turns: A B A B …, so that a machine whose speed drifts slows both.

use std::fmt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// What one run of a command took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) wall: Duration,
    /// The largest resident size that was seen, in bytes; 0 where it was not watched.
    pub(crate) peak_memory: u64,
}

/// Runs a command to its end.
pub(crate) fn time(command: &mut Command) -> Result<Run> {
    let begun = Instant::now();
    let status = command.status()?;
    let wall = begun.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(Run { wall, peak_memory: 0 })
}

/// Runs a command to its end and watches its memory, every 10 ms. The kernel keeps the peak, so only what a process
/// allocates in its last 10 ms can be missed.
pub(crate) fn time_and_watch(command: &mut Command) -> Result<Run> {
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let mut peak_memory = 0;
    let status = loop {
        peak_memory = peak_memory.max(resident_peak(&child));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let wall = begun.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(Run { wall, peak_memory })
}

fn resident_peak(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The same number of runs of two contenders, the first of each left out as warm-up.
pub(crate) struct Comparison {
    pub(crate) ours: Vec<Run>,
    pub(crate) theirs: Vec<Run>,
}

impl Comparison {
    /// Runs both in turns, `pairs` times after one warm-up.
    pub(crate) fn of(
        pairs: usize,
        mut ours: impl FnMut() -> Result<Run>,
        mut theirs: impl FnMut() -> Result<Run>,
    ) -> Result<Comparison> {
        let mut comparison = Comparison { ours: Vec::new(), theirs: Vec::new() };
        for pair in 0..=pairs {
            let (our_run, their_run) = (ours()?, theirs()?);
            if pair > 0 {
                comparison.ours.push(our_run);
                comparison.theirs.push(their_run);
            }
        }
        Ok(comparison)
    }

    /// Time of ours over time of theirs, pair by pair.
    pub(crate) fn ratio(&self) -> Spread {
        let pairs = self.ours.iter().zip(&self.theirs);
        Spread::of(pairs.map(|(ours, theirs)| ours.wall.as_secs_f64() / theirs.wall.as_secs_f64()))
    }

    pub(crate) fn our_milliseconds(&self) -> Spread {
        Spread::of(self.ours.iter().map(|run| run.wall.as_secs_f64() * 1e3))
    }

    pub(crate) fn their_milliseconds(&self) -> Spread {
        Spread::of(self.theirs.iter().map(|run| run.wall.as_secs_f64() * 1e3))
    }

    /// The largest memory of any of our runs, in MiB.
    pub(crate) fn our_peak_mib(&self) -> f64 {
        self.ours.iter().map(|run| run.peak_memory).max().unwrap_or(0) as f64 / (1 << 20) as f64
    }
}

/// Least, middle and greatest of a set of figures.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    least: f64,
    median: f64,
    greatest: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Spread {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        Spread { least: at(0), median: at(figures.len() / 2), greatest: at(figures.len().saturating_sub(1)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.least, self.greatest)
    }
}

/// One line of a result: what, ours, theirs, ratio, goal.
pub(crate) fn print(what: &str, comparison: &Comparison, goal: f64) {
    println!(
        "{what}\n    ours   {} ms\n    theirs {} ms\n    ratio  {}   goal ≤ {goal}",
        comparison.our_milliseconds(),
        comparison.their_milliseconds(),
        comparison.ratio(),
    );
}
