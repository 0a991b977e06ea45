//! What an incremental backup costs after 1 % of the pages has changed at random, against a full one.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use harness::programs;

use crate::report::{Goal, Report};
use crate::stage::{Scene, Stage};
use crate::turns::{Comparison, Run, time_and_watch};

/// Rows of the table; each takes a seventh of a page: 2 GB.
const ROWS: u32 = 1_800_000;
const PAIRS: usize = 3;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("incremental backup by content, 1 % of the pages changed at random");
    let mut stage = Stage::set(&Scene::default())?;
    report.setting(stage.describe());
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
    let size = stage.server.sql("SELECT pg_size_pretty(pg_relation_size('big'))")?;
    report.setting(format!("a table of {size}; {PAIRS} pairs of runs in turns, in brackets the quartiles"));

    let walkeep = programs::program("walkeep")?;
    let backup = |kind: &str| -> Result<Run> {
        let mut command = stage.world.account().command(&walkeep);
        command.args(["backup", kind, "--config"]).arg(stage.agent.config());
        stage.with_server_cpu(|| time_and_watch(command.stdout(Stdio::null()).stderr(Stdio::null())))
    };
    let mut turn = 0;
    let comparison = Comparison::of(
        PAIRS,
        || {
            turn += 1;
            // One row of each hundredth page, others each time.
            let pages = format!("hashint8(((ctid::text::point)[0])::int8 + {turn}) % 100 = 0");
            stage.server.sql(&format!(
                "UPDATE big SET v = {turn} WHERE ctid IN
                     (SELECT min(ctid) FROM big WHERE {pages} GROUP BY (ctid::text::point)[0])"
            ))?;
            stage.server.sql("CHECKPOINT")?;
            backup("--incremental")
        },
        || backup("--full"),
    )?;
    report.row("incremental backup", "walkeep backup --full", "ms", comparison.wall(), Goal::None);
    report.row("seconds of the processor", "walkeep backup --full", "s", comparison.cpu(), Goal::None);
    report.row("bytes of packs", "walkeep backup --full", "MB", stored(&stage)?, Goal::AtMost(0.02));
    report.note(format!("memory of walkeep backup --incremental: {} MiB", comparison.our_peak_mib()));
    Ok(report)
}

/// Megabytes that the incremental and the full backups have stored, in the order in which they were taken; not those of
/// the warm-up.
fn stored(stage: &Stage) -> Result<(Vec<f64>, Vec<f64>)> {
    let list = stage.agent.list()?;
    let backups = list["backups"].as_array().context("`backups` is no list")?;
    let of = |kind: &str| -> Vec<f64> {
        let backups = backups.iter().filter(|backup| backup["kind"] == kind);
        backups.filter_map(|backup| backup["stored_bytes"].as_f64()).map(|bytes| bytes / 1e6).collect()
    };
    // The very first one had no parent, and is full; the warm-up's are that and the next.
    let (incremental, full) = (of("incremental"), of("full"));
    ensure!(incremental.len() == PAIRS && full.len() == PAIRS + 2, "other backups were taken: {list}");
    Ok((incremental, full[2..].to_vec()))
}
