//! A full backup against PostgreSQL's own `pg_basebackup` with the same compression.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result};
use harness::{programs, workload};

use crate::report::{Goal, Report};
use crate::stage::Stage;
use crate::turns::{Comparison, time, time_and_watch};

/// pgbench's scale for a little over 2 GB.
const SCALE: u32 = 140;
const PAIRS: usize = 5;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("full backup, over the replication protocol");
    let stage = Stage::new()?;
    report.setting(stage.describe());
    workload::init(&stage.server, SCALE)?;
    // Enough rows change that pages are not all alike.
    workload::transactions(&stage.server, 20_000)?;
    stage.server.sql("CHECKPOINT")?;
    let size = stage.server.sql("SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database")?;
    report.setting(format!(
        "cluster of {size}; {PAIRS} pairs of runs in turns, in brackets the quartiles; seconds of the processor include the server's"
    ));

    let walkeep = programs::program("walkeep")?;
    let installation = stage.server.installation();
    let pg_basebackup = installation.tool("pg_basebackup").context("pg_basebackup is gone")?;
    let account = stage.world.account();
    let target = stage.world.at("pg_basebackup");
    let comparison = Comparison::of(
        PAIRS,
        || {
            let mut command = account.command(&walkeep);
            command.arg("backup").arg("--full").arg("--config").arg(stage.agent.config());
            stage.with_server_cpu(|| time_and_watch(command.stdout(Stdio::null()).stderr(Stdio::null())))
        },
        || {
            let _ = fs::remove_dir_all(&target);
            let mut command = account.command(&pg_basebackup);
            command.arg("-d").arg(stage.server.conninfo()).arg("-D").arg(&target);
            command.args(["-Ft", "--compress=client-zstd:1", "--checkpoint=fast"]);
            stage.with_server_cpu(|| time(command.stdout(Stdio::null())))
        },
    )?;
    let against = "pg_basebackup --compress=client-zstd:1";
    report.row("full backup, file repository", against, "ms", comparison.wall(), Goal::AtMost(1.0));
    report.row("seconds of the processor", against, "s", comparison.cpu(), Goal::None);
    report.note(format!("memory of walkeep backup: {} MiB (goal < 96)", comparison.our_peak_mib()));
    Ok(report)
}
