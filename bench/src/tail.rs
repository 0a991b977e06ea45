//! What a flush costs on a file repository: a new object each time, against a record appended to a growing file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use harness::World;

use crate::report::{Goal, Report};
use crate::turns::{Comparison, Run};

/// Flushes in one run: a disk's answers vary.
const FLUSHES: usize = 20;

const PAIRS: usize = 15;

/// What a self-checking record needs beside its bytes: range, server time, digest.
const RECORD_HEADER: usize = 64;

/// The two headers of a sealed object.
const SEALED: usize = 2048;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("A flush on a file repository");
    let world = World::new()?;
    for (what, length) in [("300 bytes", 300), ("8 KiB", 8 << 10), ("128 KiB", 128 << 10)] {
        let folder = world.folder(&length.to_string())?;
        let mut file = OpenOptions::new().create(true).append(true).open(folder.join("tail"))?;
        let mut number = 0;
        let comparison = Comparison::of(
            PAIRS,
            || {
                flushes(|| {
                    number += 1;
                    new_object(&folder, number, length + SEALED)
                })
            },
            || flushes(|| append(&mut file, length + RECORD_HEADER)),
        )?;
        let what = format!("{FLUSHES} flushes of {what}, each a new object");
        report.row(&what, "records appended to one file", "ms", comparison.wall(), Goal::None);
    }
    Ok(report)
}

fn flushes(mut flush: impl FnMut() -> Result<()>) -> Result<Run> {
    let begun = Instant::now();
    for _ in 0..FLUSHES {
        flush()?;
    }
    Ok(Run { wall: begun.elapsed(), ..Run::default() })
}

/// As the store does it: a file of another name, synced, renamed, its folder synced.
fn new_object(folder: &Path, number: usize, length: usize) -> Result<()> {
    let (staged, path) = (folder.join(format!("{number}#1")), folder.join(number.to_string()));
    let mut file = File::create(&staged)?;
    file.write_all(&vec![1; length])?;
    file.sync_all()?;
    std::fs::rename(&staged, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// The cheapest that is durable: the file's new length is synced, too.
fn append(file: &mut File, length: usize) -> Result<()> {
    file.write_all(&vec![1; length])?;
    file.sync_data()?;
    Ok(())
}
