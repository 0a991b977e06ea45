//! Benchmarks against what a user could run instead. `cargo xtask bench` builds everything in release mode first.
//!
//! Each comparison runs both contenders in turns on the same machine, server and data, and prints medians with the
//! spread; what counts is the ratio.

mod archive_cmd;
mod full_backup;
mod stage;
mod tail;
mod turns;

use anyhow::{Result, bail};

type Bench = (&'static str, &'static str, fn() -> Result<()>);

const BENCHES: [Bench; 3] = [
    (
        "archive-cmd",
        "a segment that the agent holds, against cat; start-up, against an empty program",
        archive_cmd::run,
    ),
    (
        "full-backup",
        "a full backup of 2 GB, against pg_basebackup --compress=client-zstd:1",
        full_backup::run,
    ),
    (
        "tail",
        "a flush on a file repository: a new object, against a record appended to a growing file",
        tail::run,
    ),
];

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    match BENCHES.iter().find(|(known, ..)| *known == name) {
        Some((.., run)) => run(),
        None => {
            for (name, what, _) in BENCHES {
                println!("{name:<14}{what}");
            }
            if name.is_empty() { Ok(()) } else { bail!("there is no benchmark \"{name}\"") }
        }
    }
}
