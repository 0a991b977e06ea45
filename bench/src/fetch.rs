//! What `restore_command` costs: `restore-cmd fetch` against `cp` from a folder.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::programs;

use crate::report::{Goal, Report};
use crate::stage::{Scene, Stage};
use crate::turns::{Comparison, Run, time};

const PAIRS: usize = 40;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("restore_command: a segment from a local repository");
    let mut stage = Stage::set(&Scene::default())?;
    report.setting(stage.describe());
    report.setting(format!("{PAIRS} pairs of runs in turns, in brackets the quartiles"));
    stage.agent.start()?;
    stage.server.sql(
        "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 8) AS filler FROM generate_series(1, 4000000) n",
    )?;
    stage.catch_up("walkeep")?;
    let archive = stage.world.folder("archive")?;
    let mut segments = Vec::new();
    let names = stage.server.sql(
        "SELECT name FROM pg_ls_waldir() WHERE name < pg_walfile_name(pg_current_wal_lsn()) ORDER BY 1",
    )?;
    for name in names.lines().filter(|name| name.len() == 24) {
        std::fs::copy(stage.server.data().join("pg_wal").join(name), archive.join(name))
            .with_context(|| format!("cannot copy {name}"))?;
        segments.push(name.to_owned());
    }
    ensure!(segments.len() > PAIRS, "only {} segments are there", segments.len());

    let restore_cmd = programs::program("restore-cmd")?;
    let account = stage.world.account();
    let target = stage.world.folder("recovering")?;
    let fetch = |name: &str| -> Result<Run> {
        let mut command = account.command(&restore_cmd);
        command.args(["fetch", name, "RECOVERYXLOG", "--config"]).arg(stage.agent.config());
        quiet(command.current_dir(&target))
    };
    let copy = |name: &str| -> Result<Run> {
        quiet(account.command("cp").arg(archive.join(name)).arg("COPIED").current_dir(&target))
    };
    let (mut ours, mut theirs) = (segments.iter(), segments.iter());
    let fetched = || -> Result<Run> {
        let name = ours.next().context("too few segments")?;
        let run = fetch(name)?;
        // Counts only if it is the segment.
        ensure!(same(&target.join("RECOVERYXLOG"), &archive.join(name))?, "{name} came out differently");
        std::fs::remove_file(target.join("RECOVERYXLOG"))?;
        Ok(run)
    };
    let copied = || -> Result<Run> {
        let run = copy(theirs.next().context("too few segments")?)?;
        std::fs::remove_file(target.join("COPIED"))?;
        Ok(run)
    };
    let comparison = Comparison::of(PAIRS, fetched, copied)?;
    report.row("one call, 16 MiB", "cp SEGMENT FILE", "ms", comparison.wall(), Goal::AtMost(1.0));
    Ok(report)
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    Ok(std::fs::read(one)? == std::fs::read(other)?)
}

fn quiet(command: &mut Command) -> Result<Run> {
    time(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}
