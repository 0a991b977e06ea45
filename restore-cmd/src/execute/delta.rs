//! `--delta`: what the directory holds already, and is right, stays.
//!
//! Right is what has the digest that the pack's index tells of a frame: all bytes of a frame are there, each in its place, or
//! the frame is fetched. So what stays is proven as strongly as what is fetched, and a restore that was cut off goes on
//! where it was.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use proto::Digest;
use repository::manifest::{EXTERNAL_PREFIX, Entry, EntryIndex, SafePath};

use super::beneath::Beneath;
use super::directory::{UNFINISHED, remove};
use super::files::{Files, is_written_last};
use super::wants::Want;
use crate::plan::{Foreign, TablespaceMove};

/// What may be in the directory already.
struct Known<'a> {
    entries: &'a EntryIndex,
    spaces: &'a [TablespaceMove],
}

/// Removes everything from the data directory and its folders in tablespaces that is not the backup's: files, folders, links,
/// and all WAL. Links are removed, never followed; a file with a second name elsewhere is left to that name.
///
/// # Errors
/// Something cannot be read or removed.
pub(super) fn sweep(pgdata: &Path, spaces: &[TablespaceMove], entries: &EntryIndex) -> Result<u64> {
    let mut removed = 0;
    each_foreign(pgdata, spaces, entries, &mut |path, _| {
        removed += 1;
        remove(path)
    })?;
    Ok(removed)
}

/// What it means if that fails.
const NOT_READ: &str = "cannot read the temporary file with the manifest";

/// So many foreign entries are named.
const NAMED: usize = 10;

/// What a delta restore would remove. Nothing is changed.
///
/// # Errors
/// A directory cannot be read.
pub fn foreign(pgdata: &Path, spaces: &[TablespaceMove], entries: &EntryIndex) -> Result<Foreign> {
    let mut found = Foreign::default();
    let mut names = BTreeSet::new();
    if pgdata.exists() {
        each_foreign(pgdata, spaces, entries, &mut |_, name| {
            found.entries += 1;
            names.insert(String::from_utf8_lossy(name).into_owned());
            if names.len() > NAMED {
                names.pop_last();
            }
            Ok(())
        })?;
    }
    found.first = names.into_iter().collect();
    Ok(found)
}

/// Hands over what is not the backup's: the path, and the name below the data directory.
fn each_foreign(
    pgdata: &Path,
    spaces: &[TablespaceMove],
    entries: &EntryIndex,
    act: &mut dyn FnMut(&Path, &[u8]) -> Result<()>,
) -> Result<()> {
    let known = Known { entries, spaces };
    known.walk(pgdata, b"", act)?;
    for space in spaces.iter().filter(|space| !space.in_place) {
        let Some(name) = &space.folder else { continue };
        // A link in its place would lead elsewhere, and is found when the folder is made.
        let folder = space.to.join(name);
        if fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            known.walk(&folder, format!("pg_tblspc/{}/{name}", space.oid).as_bytes(), act)?;
        }
    }
    Ok(())
}

impl Known<'_> {
    /// Whether a folder of that name is the backup's.
    fn folder(&self, name: &[u8]) -> Result<bool> {
        let Ok(path) = SafePath::new(name) else { return Ok(false) };
        // In the data directory these are links, made at the end.
        let mut outside = self.spaces.iter().filter(|space| !space.in_place);
        if outside.any(|space| name == format!("pg_tblspc/{}", space.oid).as_bytes())
            || path.parts().next() == Some(EXTERNAL_PREFIX.as_bytes())
        {
            return Ok(false);
        }
        self.entries.is_folder(&path).context(NOT_READ)
    }

    /// Whether a file of that name is the backup's, and may stay.
    fn file(&self, name: &[u8]) -> Result<bool> {
        let Ok(path) = SafePath::new(name) else { return Ok(false) };
        let entry = self.entries.find(&path).context(NOT_READ)?;
        Ok(entry.is_some_and(|entry| matches!(entry, Entry::File { .. }) && !is_written_last(&entry)))
    }

    fn walk(
        &self,
        folder: &Path,
        prefix: &[u8],
        act: &mut dyn FnMut(&Path, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let cannot = || format!("cannot read the directory {}", folder.display());
        for entry in fs::read_dir(folder).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let mut path = prefix.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            if path == UNFINISHED.as_bytes() {
                continue;
            }
            let meta = fs::symlink_metadata(entry.path()).with_context(cannot)?;
            if meta.is_dir() && self.folder(&path)? {
                self.walk(&entry.path(), &path, act)?;
            } else if !(meta.is_file() && meta.nlink() == 1 && self.file(&path)?) {
                act(&entry.path(), &path)?;
            }
        }
        Ok(())
    }
}

/// Of what is wanted of a pack with these frames: what is not there yet, ascending, and how many bytes are. Those count
/// as come.
///
/// # Errors
/// A file turned out not to be the manifest's.
pub(super) fn keep(
    frames: &[(Range<u64>, Digest)],
    wants: &[Want],
    files: &Files,
    beneath: &Beneath,
) -> Result<(Vec<Want>, u64)> {
    let (mut missing, mut kept) = (Vec::new(), 0);
    let mut first = 0;
    for (frame, digest) in frames {
        while wants.get(first).is_some_and(|want| want.pack_offset + want.length <= frame.start) {
            first += 1;
        }
        let past = first + wants[first..].partition_point(|want| want.pack_offset < frame.end);
        let pieces: Vec<Want> = wants[first..past].iter().filter_map(|want| within(want, frame)).collect();
        match assemble(frame, &pieces, files, beneath) {
            Some(raw) if Digest::of(&raw) == *digest => {
                for piece in &pieces {
                    let from = (piece.pack_offset - frame.start) as usize;
                    let bytes = &raw[from..from + piece.length as usize];
                    files.count(beneath, piece.file, piece.file_offset, bytes)?;
                    kept += piece.length;
                }
            }
            _ => missing.extend(pieces),
        }
    }
    missing.sort_unstable();
    Ok((missing, kept))
}

/// The part of what is wanted that lies in `frame`.
fn within(want: &Want, frame: &Range<u64>) -> Option<Want> {
    let from = want.pack_offset.max(frame.start);
    let to = (want.pack_offset + want.length).min(frame.end);
    (from < to).then(|| Want {
        pack_offset: from,
        length: to - from,
        file: want.file,
        file_offset: want.file_offset + (from - want.pack_offset),
    })
}

/// A frame's raw bytes out of the files into which they belong; `None` if they are not all there, or one byte would be
/// another in another file.
fn assemble(frame: &Range<u64>, pieces: &[Want], files: &Files, beneath: &Beneath) -> Option<Vec<u8>> {
    let mut raw: Vec<u8> = Vec::with_capacity((frame.end - frame.start) as usize);
    for piece in pieces {
        let from = (piece.pack_offset - frame.start) as usize;
        let mut local = vec![0; piece.length as usize];
        files.read_back(beneath, piece.file, piece.file_offset, &mut local)?;
        let known = raw.len().checked_sub(from)?.min(local.len());
        if raw[from..from + known] != local[..known] {
            return None;
        }
        raw.extend_from_slice(&local[known..]);
    }
    (raw.len() as u64 == frame.end - frame.start).then_some(raw)
}
