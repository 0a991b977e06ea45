//! How fast a server recovers: its WAL out of a repository by `restore-cmd fetch`, against `cp` from a folder of plain
//! segments. What replay itself takes is in both.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Postgres, Stop};

use crate::report::{Goal, Report};
use crate::stage::{Scene, Stage};
use crate::turns::{Comparison, Run};

const PAIRS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(300);

/// WAL that costs much to replay, and WAL that costs nearly nothing: then only the way to it counts.
const LOADS: [(&str, &str, &str); 2] = [
    (
        "a table of 4,000,000 rows",
        "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 4) AS filler FROM generate_series(1, 4000000) n",
        "SELECT count(*) || ' ' || sum(hashtext(filler)::bigint) FROM bulk",
    ),
    (
        "nothing but messages",
        "CREATE TABLE bulk AS SELECT count(pg_logical_emit_message(false, 'bench', repeat(md5(n::text), 1000))) AS of
           FROM generate_series(1, 24000) n",
        "SELECT of FROM bulk",
    ),
];

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("recovery of a server: WAL from a local repository");
    for (what, load, proof) in LOADS {
        of(&mut report, what, load, proof)?;
    }
    Ok(report)
}

fn of(report: &mut Report, what: &str, load: &str, proof: &str) -> Result<()> {
    let mut stage = Stage::set(&Scene::default())?;
    if report.rows.is_empty() {
        report.setting(stage.describe());
        report.setting(format!(
            "{PAIRS} pairs of runs in turns, in brackets the quartiles; from the server's start to the end of its recovery"
        ));
    }
    stage.agent.start()?;
    stage.agent.backup_full()?;
    let base = stage.world.at("base");
    stage.agent.restore(&base, &[])?.ok()?;
    stage.server.sql(load)?;
    let expected = stage.server.sql(proof)?;
    stage.catch_up("walkeep")?;
    let (archive, segments) = plain_archive(&stage)?;
    stage.agent.stop()?;
    stage.server.stop(Stop::Fast)?;
    let what = format!("{what}, {} MiB of WAL", segments * 16);

    let ours = settings(&base, None)?;
    let theirs = settings(&base, Some(&format!("cp {}/%f %p", archive.display())))?;
    let recover = |name: &str, settings: &str| -> Result<Run> {
        let data = stage.world.at(name);
        let account = stage.world.account();
        ensure!(account.command("cp").arg("-a").arg(&base).arg(&data).status()?.success(), "cp -a failed");
        fs::write(data.join("postgresql.auto.conf"), settings)?;
        let server =
            Postgres::adopt(stage.server.installation(), &stage.world, &format!("{name}.server"), &data)?
                .with_env(stage.repo.environment())
                .with_setting("log_min_messages", "log");
        let log = stage.world.at(&format!("{name}.server.log"));
        let begun = Instant::now();
        server.launch()?;
        await_line(&log, "ready to accept connections")?;
        let wall = begun.elapsed();
        ensure!(server.sql(proof)? == expected, "{name} recovered something else");
        server.stop(Stop::Immediate)?;
        fs::remove_dir_all(&data)?;
        fs::remove_file(&log)?;
        Ok(Run { wall, ..Run::default() })
    };
    let comparison = Comparison::of(PAIRS, || recover("ours", &ours), || recover("theirs", &theirs))?;
    report.row(&what, "cp SEGMENT FILE", "ms", comparison.wall(), Goal::AtMost(1.0));
    Ok(())
}

/// A folder with a copy of each segment up to the last: at its very end, since the server has switched to the next.
fn plain_archive(stage: &Stage) -> Result<(PathBuf, usize)> {
    let archive = stage.world.folder("archive")?;
    let names = stage.server.sql(
        "SELECT name FROM pg_ls_waldir() WHERE name <= pg_walfile_name(pg_current_wal_lsn()) ORDER BY 1",
    )?;
    let mut segments = 0;
    for name in names.lines().filter(|name| name.len() == 24) {
        let copy = archive.join(name);
        fs::copy(stage.server.data().join("pg_wal").join(name), &copy)
            .with_context(|| format!("cannot copy {name}"))?;
        stage.world.account().own(&copy)?;
        segments += 1;
    }
    Ok((archive, segments))
}

/// What the restore has set, with another restore_command if one is given.
fn settings(base: &Path, restore_command: Option<&str>) -> Result<String> {
    let mut settings = fs::read_to_string(base.join("postgresql.auto.conf"))?;
    if let Some(command) = restore_command {
        settings += &format!("restore_command = '{command}'\n");
    }
    Ok(settings)
}

fn await_line(log: &Path, line: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if text.contains(line) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("the server does not say \"{line}\":\n{text}");
        }
        sleep(Duration::from_millis(2));
    }
}
