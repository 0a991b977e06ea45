//! Measuring commands against each other, in turns: A B A B …, so that a machine whose speed drifts slows both.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::spread::Spread;

/// What one run of a command took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) wall: Duration,
    /// Processor time, with what it had others do where the caller has added that. In steps of 10 ms.
    pub(crate) cpu: Duration,
    /// The largest resident size that was seen, in bytes; 0 where it was not watched.
    pub(crate) peak_memory: u64,
}

/// Runs a command to its end.
pub(crate) fn time(command: &mut Command) -> Result<Run> {
    let (begun, cpu) = (Instant::now(), cpu_of_children("self")?);
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    let wall = begun.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(Run { wall, cpu: cpu_of_children("self")?.saturating_sub(cpu), peak_memory: 0 })
}

/// Runs a command to its end and watches its memory, every 10 ms. The kernel keeps the peak, so only what a process
/// allocates in its last 10 ms can be missed.
pub(crate) fn time_and_watch(command: &mut Command) -> Result<Run> {
    let (begun, cpu) = (Instant::now(), cpu_of_children("self")?);
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
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
    Ok(Run { wall, cpu: cpu_of_children("self")?.saturating_sub(cpu), peak_memory })
}

/// The largest size that a process has had in memory so far, in bytes.
pub(crate) fn resident_peak(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Processor time of the children of a process that have ended, and of their children.
pub(crate) fn cpu_of_children(process: &str) -> Result<Duration> {
    /// What `/proc` counts in, on every Linux there is.
    const TICK: Duration = Duration::from_millis(10);
    /// Where, after the name in brackets, cutime and cstime are.
    const FIELDS: [usize; 2] = [13, 14];
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("cannot read /proc")?;
    let (_, rest) = stat.rsplit_once(')').context("/proc/…/stat has no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = FIELDS.map(|at| fields.get(at).and_then(|field| field.parse::<u32>().ok()));
    Ok(ticks.into_iter().flatten().sum::<u32>() * TICK)
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

    /// Milliseconds on the wall of each contender.
    pub(crate) fn wall(&self) -> (Vec<f64>, Vec<f64>) {
        let milliseconds = |runs: &[Run]| runs.iter().map(|run| run.wall.as_secs_f64() * 1e3).collect();
        (milliseconds(&self.ours), milliseconds(&self.theirs))
    }

    /// Seconds of the processor of each contender.
    pub(crate) fn cpu(&self) -> (Vec<f64>, Vec<f64>) {
        let seconds = |runs: &[Run]| runs.iter().map(|run| run.cpu.as_secs_f64()).collect();
        (seconds(&self.ours), seconds(&self.theirs))
    }

    /// The largest memory of our runs, in MiB.
    pub(crate) fn our_peak_mib(&self) -> Spread {
        Spread::of(self.ours.iter().map(|run| run.peak_memory as f64 / (1 << 20) as f64))
    }
}
