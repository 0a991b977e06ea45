//! `--delta`: what the directory holds already, and is right, stays.
//!
//! Right is what has the digest that the pack's index tells of a frame: all bytes of a frame are there, each in its place, or
//! the frame is fetched. So what stays is proven as strongly as what is fetched, and a restore that was cut off goes on
//! where it was.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use proto::Digest;
use repository::manifest::{Entry, Manifest};

use super::beneath::Beneath;
use super::directory::{UNFINISHED, remove};
use super::files::{Files, Want, is_written_last};
use crate::plan::{Foreign, TablespaceMove, is_external};

/// What may be in the directory already.
struct Known<'a> {
    files: HashSet<&'a [u8]>,
    folders: HashSet<&'a [u8]>,
}

/// Removes everything from the data directory and its folders in tablespaces that is not the backup's: files, folders, links,
/// and all WAL. Links are removed, never followed; a file with a second name elsewhere is left to that name.
///
/// # Errors
/// Something cannot be read or removed.
pub(super) fn sweep(pgdata: &Path, spaces: &[TablespaceMove], manifest: &Manifest) -> Result<u64> {
    let mut removed = 0;
    each_foreign(pgdata, spaces, manifest, &mut |path, _| {
        removed += 1;
        remove(path)
    })?;
    Ok(removed)
}

/// So many foreign entries are named.
const NAMED: usize = 10;

/// What a delta restore would remove. Nothing is changed.
///
/// # Errors
/// A directory cannot be read.
pub fn foreign(pgdata: &Path, spaces: &[TablespaceMove], manifest: &Manifest) -> Result<Foreign> {
    let mut found = Foreign::default();
    let mut names = BTreeSet::new();
    if pgdata.exists() {
        each_foreign(pgdata, spaces, manifest, &mut |_, name| {
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
    manifest: &Manifest,
    act: &mut dyn FnMut(&Path, &[u8]) -> Result<()>,
) -> Result<()> {
    let outside = || spaces.iter().filter(|space| !space.in_place);
    let mut known = Known { files: HashSet::new(), folders: HashSet::new() };
    for entry in manifest.entries.iter().filter(|entry| !is_external(entry)) {
        let path = entry.path().as_bytes();
        if matches!(entry, Entry::Directory { .. }) {
            known.folders.insert(path);
        } else if !is_written_last(entry) {
            known.files.insert(path);
        }
        let parents = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
        known.folders.extend(parents);
    }
    // In the data directory these are links, made at the end.
    for space in outside() {
        known.folders.remove(format!("pg_tblspc/{}", space.oid).as_bytes());
    }
    known.walk(pgdata, b"", act)?;
    for space in outside() {
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
            if meta.is_dir() && self.folders.contains(path.as_slice()) {
                self.walk(&entry.path(), &path, act)?;
            } else if !(meta.is_file() && meta.nlink() == 1 && self.files.contains(path.as_slice())) {
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
