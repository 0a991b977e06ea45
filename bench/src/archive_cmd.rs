//! What `archive_command` costs, once streaming has done the work.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::{programs, workload};

use crate::report::{Goal, Report};
use crate::stage::Stage;
use crate::turns::{Comparison, Run, time};

/// The processes are short: many runs, so that the median is worth something.
const PAIRS: usize = 200;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("archive_command, once streaming has done the work");
    let archive_cmd = programs::program("archive-cmd")?;
    report.setting(format!("{PAIRS} pairs of runs in turns; in brackets the quartiles"));

    let start = Comparison::of(
        PAIRS,
        || quiet(Command::new(&archive_cmd).arg("--version")),
        || quiet(&mut Command::new("true")),
    )?;
    report.row("start: archive-cmd --version", "true", "ms", start.wall(), Goal::None);

    let mut stage = Stage::new()?;
    report.setting(stage.describe());
    workload::init(&stage.server, 4)?;
    let segment = stage.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")?;
    stage.server.switch_wal()?;
    let end = stage.server.lsn()?;
    stage.agent.wait_durable(&end)?;
    let file = stage.world.at(&segment);
    std::fs::copy(stage.server.data().join("pg_wal").join(&segment), &file)
        .context("cannot copy the segment")?;
    let ours = || quiet(Command::new(&archive_cmd).arg("--config").arg(stage.agent.config()).arg(&file));
    ensure!(ours().is_ok());

    let what = "a 16 MiB segment that the agent holds, checked and digested";
    let held = Comparison::of(PAIRS, ours, || quiet(Command::new("cat").arg(&file)))?;
    report.row(what, "cat SEGMENT > /dev/null", "ms", held.wall(), Goal::AtMost(1.5));
    let copy = stage.world.at("copy");
    let held = Comparison::of(PAIRS, ours, || quiet(Command::new("cp").arg(&file).arg(&copy)))?;
    report.row(what, "cp SEGMENT FILE, not synced", "ms", held.wall(), Goal::None);
    Ok(report)
}

fn quiet(command: &mut Command) -> Result<Run> {
    time(command.stdin(Stdio::null()).stdout(Stdio::null()))
}
