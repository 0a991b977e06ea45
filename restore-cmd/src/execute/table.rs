//! What is known of each file from the beginning on, in bounded memory: paths, sizes, times.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use repository::manifest::SafePath;

/// So many bytes are kept in memory, before they go to a temporary file.
const ROOM: usize = 8 << 20;

/// The file is written in pieces of this size.
const PIECE: usize = 64 << 10;

/// What the manifest tells of a file, without its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) path: SafePath,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: i64,
    /// CRC-32C of the content, if known.
    pub(super) crc: Option<u32>,
}

/// Bytes before the path; the first two of them are its length.
const FIXED: usize = 27;

/// So many are read at once: few paths are longer.
const GUESS: usize = 128;

/// Facts of files, one behind the other. What is too much for memory is in a temporary file without a name in the directory
/// that is restored into.
#[derive(Debug)]
pub(super) struct Table {
    folder: PathBuf,
    room: usize,
    held: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file, and those that are to be written behind them.
    written: u64,
    open: Vec<u8>,
}

impl Table {
    pub(super) fn new(folder: &Path) -> Self {
        Self::with_room(folder, ROOM)
    }

    fn with_room(folder: &Path, room: usize) -> Self {
        let (held, open) = (Vec::new(), Vec::new());
        Self { folder: folder.to_owned(), room, held, file: None, written: 0, open }
    }

    /// Takes the next one; where it is.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub(super) fn push(&mut self, facts: &Facts) -> io::Result<u64> {
        let path = facts.path.as_bytes();
        let length = u16::try_from(path.len()).map_err(io::Error::other)?;
        let fits = self.file.is_none() && self.held.len() + FIXED + path.len() <= self.room;
        if !fits && self.file.is_none() {
            self.file = Some(tempfile::tempfile_in(&self.folder)?);
        }
        let before = if fits { 0 } else { self.held.len() as u64 + self.written };
        let into = if fits { &mut self.held } else { &mut self.open };
        let at = before + into.len() as u64;
        into.extend_from_slice(&length.to_le_bytes());
        into.extend_from_slice(&facts.size.to_le_bytes());
        into.extend_from_slice(&facts.mtime.to_le_bytes());
        into.extend_from_slice(&facts.mode.to_le_bytes());
        into.push(u8::from(facts.crc.is_some()));
        into.extend_from_slice(&facts.crc.unwrap_or_default().to_le_bytes());
        into.extend_from_slice(path);
        if self.open.len() >= PIECE
            && let Some(file) = &mut self.file
        {
            file.write_all(&self.open)?;
            self.written += self.open.len() as u64;
            self.open.clear();
        }
        Ok(at)
    }

    /// What was pushed there.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub(super) fn get(&self, at: u64) -> io::Result<Facts> {
        let mut bytes = [0; GUESS];
        let read = self.read(at, &mut bytes)?;
        if let Some(facts) = facts(&bytes[..read]) {
            return Ok(facts);
        }
        let mut bytes = vec![0; FIXED + usize::from(u16::MAX)];
        let read = self.read(at, &mut bytes)?;
        facts(&bytes[..read]).ok_or_else(broken)
    }

    /// Reads as much as there is in one place.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let beyond = |length: usize| at.checked_sub(length as u64);
        let copy = |from: &[u8], at: u64, into: &mut [u8]| {
            let rest = usize::try_from(at).ok().and_then(|at| from.get(at..)).unwrap_or_default();
            let length = rest.len().min(into.len());
            into[..length].copy_from_slice(&rest[..length]);
            length
        };
        match (beyond(self.held.len()), &self.file) {
            (None, _) => Ok(copy(&self.held, at, into)),
            (Some(at), _) if at >= self.written => Ok(copy(&self.open, at - self.written, into)),
            (Some(at), Some(file)) => file.read_at(into, at),
            (Some(_), None) => Err(broken()),
        }
    }
}

/// `None` if it is not all there.
fn facts(bytes: &[u8]) -> Option<Facts> {
    let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
    let long = |from: usize| u64::from_le_bytes(std::array::from_fn(|byte| fixed[from + byte]));
    let short = |from: usize| u32::from_le_bytes(std::array::from_fn(|byte| fixed[from + byte]));
    let length = usize::from(u16::from_le_bytes([fixed[0], fixed[1]]));
    Some(Facts {
        path: SafePath::new(rest.get(..length)?).ok()?,
        size: long(2),
        mtime: long(10).cast_signed(),
        mode: short(18),
        crc: (fixed[22] != 0).then(|| short(23)),
    })
}

fn broken() -> io::Error {
    io::Error::other("a temporary file of this program does not hold what was written to it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_there_in_memory_and_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let facts = |number: u32| Facts {
            path: SafePath::new(format!("base/x{}/{}", "x".repeat(number as usize % 200), number)).unwrap(),
            size: u64::from(number) << 33,
            mode: 0o640,
            mtime: -i64::from(number),
            crc: (!number.is_multiple_of(3)).then_some(number),
        };
        for room in [0, 1000, 1 << 20] {
            let mut table = Table::with_room(folder.path(), room);
            let places: Vec<u64> = (0..5000).map(|number| table.push(&facts(number)).unwrap()).collect();
            assert_eq!(table.file.is_some(), room < 1 << 20);
            for (number, at) in (0..).zip(places) {
                assert_eq!(table.get(at).unwrap(), facts(number), "{room}");
            }
        }
    }
}
