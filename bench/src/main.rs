//! Benchmarks against what a user could run instead. `cargo xtask bench` builds everything in release mode first.
//!
//! Each comparison runs both contenders in turns on the same machine, server and data, and prints medians with the
//! spread; what counts is the ratio.

mod archive_cmd;
mod commits;
mod delay;
mod fetch;
mod find;
mod full_backup;
mod incremental;
mod manifest;
mod pgbackrest;
mod picture;
mod receiver;
mod recovery;
mod report;
mod restore;
mod spread;
mod stage;
mod tail;
mod throughput;
mod turns;

use std::path::Path;

use anyhow::{Result, bail, ensure};
use report::Report;

type Bench = (&'static str, &'static str, fn() -> Result<Report>);

const BENCHES: [Bench; 14] = [
    (
        "archive-cmd",
        "a segment that the agent holds, against cat and cp; start-up, against true",
        archive_cmd::run,
    ),
    (
        "full-backup",
        "a full backup of 2 GB, against pg_basebackup --compress=client-zstd:1",
        full_backup::run,
    ),
    (
        "incremental",
        "an incremental backup of 2 GB after 1 % of the pages changed at random, against pgBackRest's by blocks",
        incremental::run,
    ),
    ("manifest", "manifests of 10 TB in a million files: time and memory", manifest::run),
    ("commits", "commits per second with a synchronous standby, against pg_receivewal", commits::run),
    ("delay", "from a commit to its WAL in the repository, on S3", delay::run),
    ("throughput", "WAL under a bulk COPY, against pg_receivewal", throughput::run),
    ("memory", "of the agent while it streams, segments of 16 MiB and 1 GiB", throughput::memory),
    ("fetch", "one call of restore-cmd fetch, against cp", fetch::run),
    ("recovery", "a server that recovers with restore-cmd fetch, against cp", recovery::run),
    ("tail", "a flush in a directory: a record in a journal, against other ways", tail::run),
    ("find", "all WAL of a repository, against pg_waldump --stats", find::run),
    ("restore", "--delta after damage and export of a table, against a whole restore; memory", restore::run),
    ("pgbackrest", "backup, restore and archive_command against Debian's pgBackRest", pgbackrest::run),
];

/// Where the pictures are kept.
const PICTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks");

fn main() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, step, folder] = &words[..]
        && word == manifest::STEP
    {
        return manifest::step(step, folder);
    }
    let save = words.iter().any(|word| word == "--save");
    words.retain(|word| word != "--save");
    if words.is_empty() {
        println!("NAME [--save]: run a benchmark, and keep a picture of it in docs/benchmarks\n");
        BENCHES.iter().for_each(|(name, what, _)| println!("{name:<14}{what}"));
    }
    for word in &words {
        let found = BENCHES.iter().find(|(name, ..)| name == word);
        let Some((name, _, run)) = found else { bail!("there is no benchmark \"{word}\"") };
        let report = run()?;
        ensure!(!report.rows.is_empty() || !report.notes.is_empty(), "{name} has measured nothing");
        if save {
            report.save(Path::new(PICTURES), name)?;
        }
    }
    Ok(())
}
