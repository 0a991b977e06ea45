//! What a flush costs in a directory: a record in room that was written with zeros, as a journal does it, against other
//! ways to the same end.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use harness::World;

use crate::report::{Goal, Report};
use crate::turns::{Comparison, Run};

/// Flushes in one run: a disk's answers vary.
const FLUSHES: u64 = 50;

const PAIRS: usize = 15;

/// What a record needs beside its bytes.
const RECORD_HEADER: usize = 64;

/// The two headers of a sealed object.
const SEALED: usize = 2048;

/// Room for all flushes of all runs.
const ROOM: u64 = 64 << 20;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("a flush in a directory: a record in room that was written with zeros");
    let world = World::new()?;
    for length in [300, 8 << 10] {
        let folder = world.folder(&length.to_string())?;
        let mut zeros = Growing::with_room(&folder.join("zeros"), |file, _| {
            file.write_all_at(&vec![0; ROOM as usize], 0)?;
            Ok(true)
        })?;
        let bytes = vec![1; length + RECORD_HEADER];
        let what = format!("{FLUSHES} flushes of {length} bytes");
        let mut row = |report: &mut Report, against: &str, theirs: &mut dyn FnMut() -> Result<()>| {
            let comparison = Comparison::of(
                PAIRS,
                || flushes(|| zeros.append(&bytes, File::sync_data)),
                || flushes(&mut *theirs),
            )?;
            report.row(&what, against, "ms", comparison.wall(), Goal::None);
            anyhow::Ok(())
        };
        let mut number = 0;
        row(&mut report, "a new object each", &mut || {
            number += 1;
            new_object(&folder, number, length + SEALED)
        })?;
        let mut plain = Growing::with_room(&folder.join("plain"), |_, _| Ok(true))?;
        row(&mut report, "a file that gets longer", &mut || plain.append(&bytes, File::sync_data))?;
        let mut synced = Growing::with_room(&folder.join("synced"), |file, _| {
            file.write_all_at(&vec![0; ROOM as usize], 0)?;
            Ok(true)
        })?;
        row(&mut report, "the same with fsync", &mut || synced.append(&bytes, File::sync_all))?;
        let mut reserved = Growing::with_room(&folder.join("reserved"), |_, path| {
            Ok(Command::new("fallocate").args(["-l", &ROOM.to_string()]).arg(path).status()?.success())
        })?;
        if reserved.has_room {
            row(&mut report, "room by fallocate", &mut || reserved.append(&bytes, File::sync_data))?;
        }
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

/// A file to which records are added.
struct Growing {
    file: File,
    end: u64,
    has_room: bool,
}

impl Growing {
    fn with_room(path: &Path, make: impl FnOnce(&File, &Path) -> Result<bool>) -> Result<Growing> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        let has_room = make(&file, path)?;
        file.sync_all()?;
        Ok(Growing { file, end: 0, has_room })
    }

    fn append(&mut self, bytes: &[u8], sync: impl Fn(&File) -> std::io::Result<()>) -> Result<()> {
        self.file.write_all_at(bytes, self.end)?;
        sync(&self.file)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}
