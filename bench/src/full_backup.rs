//! A full backup against PostgreSQL's own `pg_basebackup` with the same compression.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result};
use harness::{programs, workload};

use crate::stage::Stage;
use crate::turns::{Comparison, print, time, time_and_watch};

/// pgbench's scale for a little over 2 GB.
const SCALE: u32 = 140;
const PAIRS: usize = 5;

pub(crate) fn run() -> Result<()> {
    let stage = Stage::new()?;
    workload::init(&stage.server, SCALE)?;
    // Enough rows change that pages are not all alike.
    workload::transactions(&stage.server, 20_000)?;
    stage.server.sql("CHECKPOINT")?;
    let size = stage.server.sql("SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database")?;
    println!("cluster: {size}, PostgreSQL {}", stage.server.major());

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
            time_and_watch(command.stdout(Stdio::null()).stderr(Stdio::null()))
        },
        || {
            let _ = fs::remove_dir_all(&target);
            let mut command = account.command(&pg_basebackup);
            command.arg("-d").arg(stage.server.conninfo()).arg("-D").arg(&target);
            command.args(["-Ft", "--compress=client-zstd:1", "--checkpoint=fast"]);
            time(command.stdout(Stdio::null()))
        },
    )?;
    print("full backup: walkeep against pg_basebackup --compress=client-zstd:1", &comparison, 1.0);
    println!("    memory {:.0} MiB at its peak   goal < 96", comparison.our_peak_mib());
    Ok(())
}
