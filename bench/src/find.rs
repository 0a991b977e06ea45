//! How fast `walkeep find` reads the WAL in a repository, against `pg_waldump --stats` on the same segments as files.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::programs;

use crate::report::{Goal, Report};
use crate::stage::{Scene, Stage};
use crate::turns::{Comparison, Run, time};

const PAIRS: usize = 5;

/// Whole pages and many rows at once, then single rows, then few bytes each: the last are hardest to follow.
const WORK: [&str; 3] = [
    "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 8) AS filler FROM generate_series(1, 2000000) n",
    "CREATE TABLE small (n int PRIMARY KEY); INSERT INTO small SELECT generate_series(1, 4000000)",
    "DELETE FROM small WHERE n % 2 = 0",
];

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("walkeep find: the WAL of a file repository");
    let mut stage = Stage::set(&Scene::default())?;
    report.setting(stage.describe());
    stage.agent.start()?;
    stage.agent.backup_full()?;
    let begun = stage.server.sql("SELECT pg_walfile_name(pg_switch_wal())")?;
    for work in WORK {
        stage.server.sql(work)?;
    }
    let ended = stage.server.switch_wal()?;
    let lsn = stage.server.lsn()?;
    stage.agent.wait_durable(&lsn)?;
    stage.agent.stop()?;
    // Aside, or the server takes them away.
    let files = stage.world.folder("segments")?;
    let names = stage.server.sql(&format!(
        "SELECT name FROM pg_ls_waldir() WHERE name > '{begun}' AND name <= '{ended}' ORDER BY 1"
    ))?;
    let names: Vec<&str> = names.lines().filter(|name| name.len() == 24).collect();
    for name in &names {
        std::fs::copy(stage.server.data().join("pg_wal").join(name), files.join(name))
            .with_context(|| format!("cannot copy {name}"))?;
        stage.world.account().own(&files.join(name))?;
    }
    let (Some(first), Some(last)) = (names.first(), names.last()) else { anyhow::bail!("there is no WAL") };
    let mib = names.len() * 16;
    report.setting(format!("{mib} MiB of WAL; {PAIRS} pairs of runs in turns, in brackets the quartiles"));

    let account = stage.world.account();
    let (walkeep, waldump) = (programs::program("walkeep")?, stage.server.installation().tool("pg_waldump"));
    let waldump = waldump.context("no pg_waldump is installed")?;
    let found = stage.agent.walkeep(&["--quiet", "find", "--json"])?.ok()?.json()?;
    ensure!(found["hits"][0]["relations"][0]["rows"] == 2_000_000, "the delete was not found: {found}");
    let ours = || -> Result<Run> {
        let mut command = account.command(&walkeep);
        quiet(command.args(["--quiet", "find", "--config"]).arg(stage.agent.config()))
    };
    let theirs = || -> Result<Run> {
        let mut command = account.command(&waldump);
        quiet(command.args(["--quiet", "--stats", "-p"]).arg(&files).args([first, last]))
    };
    let comparison = Comparison::of(PAIRS, ours, theirs)?;
    let (wall, _) = comparison.wall();
    let mut sorted = wall.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    report.note(format!("{:.0} MiB/s", mib as f64 * 1000.0 / median));
    report.row(
        "all of it, every record checked",
        "pg_waldump --stats",
        "ms",
        comparison.wall(),
        Goal::AtMost(1.0),
    );
    Ok(report)
}

fn quiet(command: &mut Command) -> Result<Run> {
    time(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}
