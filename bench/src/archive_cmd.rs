//! What `archive_command` costs, once streaming has done the work.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::{programs, workload};

use crate::stage::Stage;
use crate::turns::{Comparison, Run, print, time};

/// The processes are short: many runs, so that the median is worth something.
const PAIRS: usize = 200;

pub(crate) fn run() -> Result<()> {
    let archive_cmd = programs::program("archive-cmd")?;
    let size = std::fs::metadata(&archive_cmd)?.len();
    println!("archive-cmd: {:.0} KiB as built", size as f64 / 1024.0);

    let quiet =
        |command: &mut Command| -> Result<Run> { time(command.stdin(Stdio::null()).stdout(Stdio::null())) };
    let empty = programs::program("empty")?;
    let start = Comparison::of(
        PAIRS,
        || quiet(Command::new(&archive_cmd).arg("--version")),
        || quiet(&mut Command::new(&empty)),
    )?;
    print("start-up: archive-cmd --version against an empty program", &start, 1.5);

    let mut stage = Stage::new()?;
    workload::init(&stage.server, 4)?;
    let segment = stage.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")?;
    stage.server.switch_wal()?;
    let end = stage.server.lsn()?;
    stage.agent.wait_durable(&end)?;
    let file = stage.world.at(&segment);
    std::fs::copy(stage.server.data().join("pg_wal").join(&segment), &file)
        .context("cannot copy the segment")?;
    ensure!(quiet(Command::new(&archive_cmd).arg("--config").arg(stage.agent.config()).arg(&file)).is_ok());

    let held = Comparison::of(
        PAIRS,
        || quiet(Command::new(&archive_cmd).arg("--config").arg(stage.agent.config()).arg(&file)),
        || quiet(Command::new("cat").arg(&file)),
    )?;
    print("a 16 MiB segment that the agent holds: archive-cmd against cat SEGMENT > /dev/null", &held, 1.5);
    Ok(())
}
