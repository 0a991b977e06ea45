//! WAL as fast as the server makes it: does the receiver keep up, and in how much memory?

use std::time::Instant;

use anyhow::{Context, Result};

use crate::receiver::{self, Receiver};
use crate::report::{Goal, Report};
use crate::stage::{Scene, Stage};
use crate::turns::{Comparison, Run};

const PAIRS: usize = 5;
/// Rows of some 270 bytes each; an index makes more WAL of them.
const ROWS: u32 = 1_500_000;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("WAL under a bulk COPY");
    let mut stage = Stage::set(&Scene::default())?;
    report.setting(stage.describe());
    let file = prepare(&stage, ROWS)?;
    let mut comparison = Comparison { ours: Vec::new(), theirs: Vec::new() };
    let mut volume = 0.0;
    for pair in 0..=PAIRS {
        stage.agent.start()?;
        let (ours, bytes) = copy(&stage, "walkeep", &file)?;
        stage.agent.stop()?;
        stage.wait_gone("walkeep")?;
        let receiver = Receiver::start(&stage, &[])?;
        let (theirs, _) = copy(&stage, receiver::NAME, &file)?;
        drop(receiver);
        stage.wait_gone(receiver::NAME)?;
        if pair > 0 {
            comparison.ours.push(ours);
            comparison.theirs.push(theirs);
        }
        volume = bytes / f64::from(1 << 20);
    }
    report.setting(format!(
        "{volume:.0} MiB of WAL a run; {PAIRS} pairs of runs in turns, in brackets the quartiles"
    ));
    report.row(
        "from the COPY's begin until all of its WAL is flushed",
        "pg_receivewal",
        "ms",
        comparison.wall(),
        Goal::AtMost(1.0),
    );
    Ok(report)
}

/// The agent's memory while it streams what a COPY makes.
pub(crate) fn memory() -> Result<Report> {
    let mut report = Report::new("memory of walkeep run while it streams");
    for (segment_mib, rows, goal) in [(16, ROWS, 32), (1024, 3 * ROWS, 64)] {
        let scene = Scene { segment_mib, conf: &[("min_wal_size", "2GB")], ..Scene::default() };
        let mut stage = Stage::set(&scene)?;
        let file = prepare(&stage, rows)?;
        stage.agent.start()?;
        let (_, bytes) = copy(&stage, "walkeep", &file)?;
        let peak = stage.agent.peak_memory()? as f64 / f64::from(1 << 20);
        report.note(format!(
            "segments of {segment_mib} MiB, {:.0} MiB of WAL: {peak:.0} MiB at the peak (goal ≤ {goal})",
            bytes / f64::from(1 << 20)
        ));
        stage.agent.stop()?;
    }
    Ok(report)
}

/// A table, and a file with its rows.
fn prepare(stage: &Stage, rows: u32) -> Result<String> {
    let file = stage.world.at("rows").display().to_string();
    stage.server.sql(&format!(
        "COPY (SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, {rows}) n) TO '{file}';
         CREATE TABLE bulk (n int PRIMARY KEY, filler text)"
    ))?;
    Ok(file)
}

/// How long a COPY takes until `standby` has flushed its WAL, and how many bytes that was.
fn copy(stage: &Stage, standby: &str, file: &str) -> Result<(Run, f64)> {
    stage.server.sql("TRUNCATE bulk; CHECKPOINT")?;
    stage.catch_up(standby)?;
    let before = stage.server.lsn()?;
    let begun = Instant::now();
    stage.server.sql(&format!("COPY bulk FROM '{file}'"))?;
    let after = stage.server.lsn()?;
    stage.catch_up(standby)?;
    let wall = begun.elapsed();
    let bytes = stage.server.sql(&format!("SELECT '{after}'::pg_lsn - '{before}'::pg_lsn"))?;
    Ok((Run { wall, ..Run::default() }, bytes.parse().context("no number of bytes")?))
}
