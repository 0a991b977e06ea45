//! Restores of which not all is wanted: a directory that is nearly right, and one table. Each against a restore of everything.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::{programs, workload};

use crate::report::{Goal, Report};
use crate::stage::Stage;
use crate::turns::{Comparison, Run, time_and_watch};

/// pgbench's scale for a little over 2 GB.
const SCALE: u32 = 140;
const PAIRS: usize = 5;

/// One page in so many is damaged.
const DAMAGED: u64 = 100;
const PAGE: u64 = 8192;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("restores of 2 GB");
    let mut stage = Stage::new()?;
    report.setting(stage.describe());
    workload::init(&stage.server, SCALE)?;
    workload::transactions(&stage.server, 20_000)?;
    stage.agent.backup_full()?;
    let end = stage.server.lsn()?;
    stage.agent.wait_durable(&end)?;
    let size = stage.server.sql("SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database")?;
    report.setting(format!(
        "cluster of {size}; {PAIRS} pairs of runs in turns, in brackets the quartiles; no server is started on what is restored"
    ));

    let (fresh, kept) = (stage.world.at("fresh"), stage.world.at("kept"));
    let whole = || -> Result<Run> {
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        quiet(command(&stage, "restore")?.arg("--pgdata").arg(&fresh))
    };
    quiet(command(&stage, "restore")?.arg("--pgdata").arg(&kept))?;
    let delta = || -> Result<Run> {
        let damaged = damage(&kept.join("base"), 0)?;
        ensure!(damaged > 1000, "only {damaged} pages were damaged");
        quiet(command(&stage, "restore")?.arg("--delta").arg("--pgdata").arg(&kept))
    };
    let comparison = Comparison::of(PAIRS, delta, whole)?;
    let against = "restore to an empty directory";
    report.row(
        "--delta, one page in a hundred damaged at random",
        against,
        "ms",
        comparison.wall(),
        Goal::None,
    );
    report.row("its seconds of the processor", against, "s", comparison.cpu(), Goal::None);
    report.note(format!("memory of restore --delta: {} MiB (goal ≤ 96)", comparison.our_peak_mib()));
    let whole_memory = crate::spread::Spread::of(
        comparison.theirs.iter().map(|run| run.peak_memory as f64 / (1 << 20) as f64),
    );
    report.note(format!("memory of restore: {whole_memory} MiB (goal ≤ 96)"));

    let (scratch, dumps) = (stage.world.folder("scratch")?, stage.world.folder("dumps")?);
    let mut number = 0;
    let export = || -> Result<Run> {
        number += 1;
        let file = dumps.join(format!("{number}.dump"));
        let mut command = command(&stage, "export")?;
        command.args(["--table", "pgbench_branches", "--output"]).arg(file);
        command.arg("--scratch").arg(&scratch).arg("--bindir").arg(&stage.server.installation().bin);
        quiet(&mut command)
    };
    let comparison = Comparison::of(PAIRS, export, whole)?;
    report.row(
        "export of a table of 140 rows: restored, recovered, dumped, removed",
        against,
        "ms",
        comparison.wall(),
        Goal::None,
    );
    Ok(report)
}

fn command(stage: &Stage, verb: &str) -> Result<Command> {
    let mut command = stage.world.account().command(programs::program("restore-cmd")?);
    command.args(["--quiet", verb, "--config"]).arg(stage.agent.config());
    Ok(command)
}

fn quiet(command: &mut Command) -> Result<Run> {
    time_and_watch(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// Writes something else over pages below a folder; how many.
fn damage(folder: &Path, mut number: u64) -> Result<u64> {
    let mut damaged = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            damaged += damage(&path, number)?;
            continue;
        }
        let file = OpenOptions::new().write(true).open(&path)?;
        for page in 0..file.metadata()?.len() / PAGE {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(page | 1);
            if (number >> 33).is_multiple_of(DAMAGED) {
                file.write_all_at(b"damaged", page * PAGE + 4000)?;
                damaged += 1;
            }
        }
    }
    Ok(damaged)
}
