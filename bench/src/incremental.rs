//! What an incremental backup costs after 1 % of the pages has changed at random: by the server's summaries and by content,
//! each against pgBackRest's increments by blocks.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use harness::programs;

use crate::pgbackrest::{self, Peer};
use crate::report::{Goal, Report};
use crate::stage::{Scene, Stage};
use crate::turns::{Comparison, Run, time_and_watch};

/// Rows of the table; each takes a seventh of a page: 2 GB.
const ROWS: u32 = 1_800_000;
const PAIRS: usize = 5;

/// Small files together, and increments by blocks instead of whole files.
const PEER: &str = "repo1-bundle=y\nrepo1-block=y\n";

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("incremental backup of 2 GB, 1 % of the pages changed at random");
    // The first version whose summaries can be relied on, and that Debian's stable pgBackRest knows.
    let scene = Scene { major: Some(17), conf: &[("summarize_wal", "on")], ..Scene::default() };
    let mut stage = Stage::set(&scene)?;
    report.setting(stage.describe());
    pgbackrest::install(&mut report)?;
    stage.agent.start()?;
    // Rows of random text of which a third compresses away, as that of many databases does; with room in each page, so
    // that a changed row stays there.
    stage.server.sql(&format!(
        "CREATE TABLE big (n int, v int, filler text) WITH (fillfactor = 85);
         ALTER TABLE big ALTER filler SET STORAGE PLAIN;
         INSERT INTO big SELECT n, 0, (SELECT string_agg(md5(n::text || k), '') FROM generate_series(1, 30) k)
             FROM generate_series(1, {ROWS}) n"
    ))?;
    stage.server.sql("VACUUM (FREEZE) big")?;
    stage.server.sql("CHECKPOINT")?;
    let peer = Peer::new(&stage, PEER)?;
    stage.server.archive_with(&peer.archive_command())?;
    let size = stage.server.sql("SELECT pg_size_pretty(pg_relation_size('big'))")?;
    report.setting(format!("a table of {size}; {PAIRS} pairs of runs in turns, in brackets the quartiles"));

    let full = backup(&stage, &["--full"])?;
    let (_, peer_full) =
        grown(&peer.folder, || stage.with_server_cpu(|| peer.run(&["backup", "--type=full"])))?;
    report.note(format!(
        "full before: {:.0} MB in {:.1} s, pgBackRest's {:.0} MB",
        full.1,
        full.0.wall.as_secs_f64(),
        peer_full
    ));
    let mut turn = 0;
    for (how, name, time) in
        [("server", "by the server's summaries", Goal::AtMost(0.5)), ("content", "by content", Goal::None)]
    {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let comparison = Comparison::of(
            PAIRS,
            || {
                turn += 1;
                change(&stage, turn)?;
                let (run, bytes) = backup(&stage, &["--incremental", "--by", how])?;
                ours.push(bytes);
                Ok(run)
            },
            || {
                let (run, bytes) =
                    grown(&peer.folder, || stage.with_server_cpu(|| peer.run(&["backup", "--type=incr"])))?;
                theirs.push(bytes);
                Ok(run)
            },
        )?;
        // All that both have put down, but for WAL; without the warm-up.
        let bytes = (ours.split_off(1), theirs.split_off(1));
        report.row(&format!("incremental {name}"), "pgbackrest", "ms", comparison.wall(), time);
        report.row(
            "its seconds of the processor, the server's too",
            "pgbackrest",
            "s",
            comparison.cpu(),
            Goal::None,
        );
        report.row("what it adds to the repository", "pgbackrest", "MB", bytes, Goal::AtMost(1.0));
        report.note(format!("memory of walkeep backup {name}: {} MiB", comparison.our_peak_mib()));
    }
    let kinds = stage.agent.list()?;
    let kinds = kinds["backups"].as_array().context("`backups` is no list")?;
    ensure!(
        kinds.iter().skip(1).all(|backup| backup["kind"] == "incremental"),
        "a backup was taken in full: {kinds:?}"
    );
    let mut restore = stage.world.account().command(programs::program("restore-cmd")?);
    restore.args(["restore", "--archive", "off", "--pgdata"]).arg(stage.world.at("restored"));
    restore.arg("--config").arg(stage.agent.config()).stdout(Stdio::null()).stderr(Stdio::null());
    let restored = time_and_watch(&mut restore)?;
    let (took, memory) = (restored.wall.as_secs_f64(), restored.peak_memory >> 20);
    report.note(format!("restore of the last one: {took:.1} s, {memory} MiB"));
    Ok(report)
}

/// Changes one row of each hundredth page, of others each time.
fn change(stage: &Stage, turn: u32) -> Result<()> {
    let pages = format!("hashint8(((ctid::text::point)[0])::int8 + {turn}) % 100 = 0");
    stage.server.sql(&format!(
        "UPDATE big SET v = {turn} WHERE ctid IN
             (SELECT min(ctid) FROM big WHERE {pages} GROUP BY (ctid::text::point)[0])"
    ))?;
    stage.server.sql("CHECKPOINT").map(drop)
}

/// Takes a backup; the megabytes that the repository has grown by, but for WAL.
fn backup(stage: &Stage, arguments: &[&str]) -> Result<(Run, f64)> {
    let before = stored(stage)?;
    let mut command = stage.world.account().command(programs::program("walkeep")?);
    command.arg("backup").args(arguments).arg("--config").arg(stage.agent.config());
    let run =
        stage.with_server_cpu(|| time_and_watch(command.stdout(Stdio::null()).stderr(Stdio::null())))?;
    Ok((run, stored(stage)? - before))
}

fn stored(stage: &Stage) -> Result<f64> {
    let objects = stage.repo.objects()?;
    let of_backups = objects.iter().filter(|object| !object.key.contains("/wal/"));
    Ok(of_backups.map(|object| object.size as f64).sum::<f64>() / 1e6)
}

/// Runs something; the megabytes that the folder of backups has grown by.
fn grown(folder: &Path, run: impl FnOnce() -> Result<Run>) -> Result<(Run, f64)> {
    let folder = folder.join("backup");
    let before = length(&folder)?;
    let run = run()?;
    Ok((run, (length(&folder)? - before) as f64 / 1e6))
}

fn length(folder: &Path) -> Result<i64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.path().symlink_metadata()?;
        total += if meta.is_dir() { length(&entry.path())? } else { meta.len() as i64 };
    }
    Ok(total)
}
