//! The files of a backup while their bytes arrive.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use repository::manifest::{DamagedPages, Entry, Manifest, SafePath};

use super::beneath::{Beneath, dress};
use super::crc::PieceCrc;
use super::pages::PageCheck;
use crate::plan::is_external;
use crate::program::failure;

/// Longest file that is held in memory until the end.
const LONGEST_HELD: u64 = 64 << 20;

/// Damaged pages that are listed; beyond these they are only counted.
const LISTED: usize = 100;

/// A stretch of one pack that belongs into a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Want {
    /// Offset in the pack's raw stream.
    pub(super) pack_offset: u64,
    pub(super) length: u64,
    /// Which file.
    pub(super) file: usize,
    /// Offset in the file.
    pub(super) file_offset: u64,
}

/// A regular file to be restored.
pub(super) struct Restored {
    pub(super) path: SafePath,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: i64,
    /// Whether it is written last.
    held: bool,
    /// What no extent covers.
    holes: Box<[Range<u64>]>,
    /// By the manifest.
    crc: Option<u32>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    remaining: u64,
    crc: PieceCrc,
    pages: Option<PageCheck>,
    /// The content of a file that is written last.
    held: Option<Vec<u8>>,
    /// Whether it was there before the restore: what is in it may be right.
    adopted: bool,
    /// The CRC-32C of the whole, once it is here and right.
    checked: Option<u32>,
}

impl Restored {
    /// Whether it is written by the last steps, not while its bytes come.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }
}

/// Pages whose checksum is wrong although their bytes are what the server sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Damage {
    /// How many.
    pub pages: u64,
    /// File and block of the first ones.
    pub listed: Vec<(String, u32)>,
}

/// All files, and what was noticed of them.
pub(super) struct Files {
    pub(super) files: Vec<Restored>,
    damage: Mutex<Damage>,
    known_damage: Vec<DamagedPages>,
}

/// How a file of the backup is treated.
fn is_held(entry: &Entry) -> bool {
    const HELD: &[&[u8]] = &[
        b"PG_VERSION",
        b"backup_label",
        b"global/pg_control",
        b"postgresql.auto.conf",
        b"postgresql.conf",
        b"tablespace_map",
    ];
    HELD.contains(&entry.path().as_bytes()) || is_external(entry)
}

/// What is not restored: the lost server's part in a recovery, and its own manifest.
fn is_left_out(path: &SafePath) -> bool {
    const LEFT_OUT: &[&[u8]] =
        &[b"standby.signal", b"recovery.signal", b"backup_manifest", b"postmaster.pid", b"postmaster.opts"];
    LEFT_OUT.contains(&path.as_bytes())
}

/// Whether a file is not written while its bytes come, or not at all.
pub(super) fn is_written_last(entry: &Entry) -> bool {
    is_held(entry) || is_left_out(entry.path())
}

impl Files {
    /// From the manifest: the files, and what is wanted of each pack, ascending.
    ///
    /// # Errors
    /// A file that must be held in memory is far too long.
    pub(super) fn of(manifest: &Manifest) -> Result<(Self, Vec<Vec<Want>>)> {
        let head = &manifest.head;
        let span = head.data_checksums.then_some(head.start_lsn..head.stop_lsn);
        let mut files = Vec::new();
        let mut wants: Vec<Vec<Want>> = vec![Vec::new(); manifest.packs.len()];
        for entry in &manifest.entries {
            let Entry::File { path, size, mode, mtime, crc32c, extents } = entry else { continue };
            if is_left_out(path) {
                continue;
            }
            let held = is_held(entry);
            if held && *size > LONGEST_HELD {
                return Err(failure(
                    format!("file {path} of the backup has {size} bytes, which makes no sense"),
                    "restore another backup with --backup",
                ));
            }
            let (mut remaining, mut end, mut holes) = (0, 0, Vec::new());
            for extent in extents {
                remaining += extent.length;
                if end < extent.file_offset {
                    holes.push(end..extent.file_offset);
                }
                end = extent.file_offset + extent.length;
                let want = Want {
                    pack_offset: extent.pack_offset,
                    length: extent.length,
                    file: files.len(),
                    file_offset: extent.file_offset,
                };
                let pack = wants.get_mut(extent.pack as usize);
                pack.with_context(|| format!("file {path} lies in a pack that the manifest does not name"))?
                    .push(want);
            }
            if end < *size {
                holes.push(end..*size);
            }
            let state = State {
                remaining,
                crc: PieceCrc::default(),
                pages: span.clone().and_then(|span| PageCheck::of(path.as_bytes(), span)),
                held: held.then(|| vec![0; *size as usize]),
                adopted: false,
                checked: None,
            };
            let (path, state) = (path.clone(), Mutex::new(state));
            let (size, mode, mtime, crc, holes) = (*size, *mode, *mtime, *crc32c, holes.into());
            files.push(Restored { path, size, mode, mtime, held, holes, crc, state });
        }
        wants.iter_mut().for_each(|wants| wants.sort_unstable());
        let known_damage = manifest.head.damaged_pages.clone();
        Ok((Self { files, damage: Mutex::default(), known_damage }, wants))
    }

    /// Makes every file with its length, or takes the one that is there if `adopt` says so. Those without content are
    /// whole then.
    pub(super) fn create(&self, beneath: &Beneath, adopt: bool) -> Result<()> {
        for file in &self.files {
            let mut state = lock(&file.state);
            if state.held.is_none() {
                let cannot = || format!("cannot make the file {}", file.path);
                state.adopted =
                    adopt && beneath.adopt(&file.path, file.size, &file.holes).with_context(cannot)?;
                if !state.adopted {
                    beneath.create(&file.path, file.size).with_context(cannot)?;
                }
            }
            if state.remaining == 0 {
                self.complete(file, &mut state, beneath)?;
            }
        }
        Ok(())
    }

    /// Puts bytes from a pack's raw stream where they belong. `wants` are those that `bytes` may touch.
    pub(super) fn place(&self, beneath: &Beneath, wants: &[Want], offset: u64, bytes: &[u8]) -> Result<u64> {
        let end = offset + bytes.len() as u64;
        let mut placed = 0;
        for want in wants {
            let from = want.pack_offset.max(offset);
            let to = (want.pack_offset + want.length).min(end);
            if from >= to {
                continue;
            }
            let piece = &bytes[(from - offset) as usize..(to - offset) as usize];
            self.write(beneath, want.file, want.file_offset + (from - want.pack_offset), piece)?;
            placed += piece.len() as u64;
        }
        Ok(placed)
    }

    /// Reads what is in a file that was there before the restore. `None` if it was not, or cannot be read.
    pub(super) fn read_back(
        &self,
        beneath: &Beneath,
        file: usize,
        offset: u64,
        into: &mut [u8],
    ) -> Option<()> {
        let file = &self.files[file];
        if !lock(&file.state).adopted {
            return None;
        }
        beneath.read(&file.path).and_then(|open| open.read_exact_at(into, offset)).ok()
    }

    /// These bytes are where they belong already.
    pub(super) fn count(&self, beneath: &Beneath, file: usize, offset: u64, piece: &[u8]) -> Result<()> {
        let file = &self.files[file];
        self.come(beneath, file, &mut lock(&file.state), offset, piece)
    }

    fn write(&self, beneath: &Beneath, file: usize, offset: u64, piece: &[u8]) -> Result<()> {
        let file = &self.files[file];
        let mut state = lock(&file.state);
        let adopted = state.adopted;
        match &mut state.held {
            Some(held) => {
                let (from, to) = (offset as usize, offset as usize + piece.len());
                let room =
                    held.get_mut(from..to).with_context(|| format!("file {} is too long", file.path))?;
                room.copy_from_slice(piece);
            }
            None => {
                let write = || {
                    let open = beneath.reopen(&file.path)?;
                    if adopted {
                        return open.write_all_at(piece, offset);
                    }
                    // A file that was just made is zeros, without room taken for them.
                    runs_of_content(piece)
                        .into_iter()
                        .try_for_each(|run| open.write_all_at(&piece[run.clone()], offset + run.start as u64))
                };
                write().with_context(|| format!("cannot write the file {}", file.path))?;
            }
        }
        self.come(beneath, file, &mut state, offset, piece)
    }

    /// Bytes are where they belong.
    fn come(
        &self,
        beneath: &Beneath,
        file: &Restored,
        state: &mut State,
        offset: u64,
        piece: &[u8],
    ) -> Result<()> {
        state.crc.add(offset, piece);
        if let Some(pages) = &mut state.pages {
            pages.add(offset, piece);
        }
        state.remaining = state.remaining.saturating_sub(piece.len() as u64);
        if state.remaining == 0 {
            self.complete(file, state, beneath)?;
        }
        Ok(())
    }

    /// The file's last byte is here.
    fn complete(&self, file: &Restored, state: &mut State, beneath: &Beneath) -> Result<()> {
        let found = std::mem::take(&mut state.crc).finish(file.size);
        let found =
            found.with_context(|| format!("the manifest contradicts itself about file {}", file.path))?;
        if let Some(expected) = file.crc.filter(|expected| *expected != found) {
            return Err(failure(
                format!(
                    "file {} is not what the backup read: its CRC-32C is {found:08x}, the manifest says {expected:08x}",
                    file.path
                ),
                "restore another backup with --backup; `walkeep verify` tells what else is affected",
            ));
        }
        state.checked = Some(found);
        if let Some(pages) = state.pages.take() {
            self.judge(file, &pages.finish());
        }
        if state.held.is_none() {
            let dressed =
                beneath.reopen(&file.path).and_then(|open| dress(&open, file.mode, Some(file.mtime)));
            dressed.with_context(|| format!("cannot set mode and time of the file {}", file.path))?;
        }
        Ok(())
    }

    /// Damage that the backup saw already is known. Anything else is told, but loses nobody the restore: the bytes are
    /// those that the server sent, their digests say so.
    fn judge(&self, file: &Restored, damaged: &[u32]) {
        let known = self.known_damage.iter().filter(|known| known.path == file.path);
        let known: Vec<u32> = known.flat_map(|known| known.blocks.iter().copied()).collect();
        for &block in damaged.iter().filter(|block| !known.contains(block)) {
            let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
            damage.pages += 1;
            if damage.listed.len() < LISTED {
                damage.listed.push((file.path.to_string(), block));
            }
        }
    }

    /// Pages that are damaged and were not recorded by the backup.
    pub(super) fn damage(&self) -> Damage {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The CRC-32C of each file, in order.
    ///
    /// # Errors
    /// A file is not whole.
    pub(super) fn checked(&self) -> Result<Vec<u32>> {
        let checked = |file: &Restored| {
            lock(&file.state)
                .checked
                .with_context(|| format!("the content of file {} has not come", file.path))
        };
        self.files.iter().map(checked).collect()
    }

    /// Takes the content of a file that was held.
    pub(super) fn take_held(&self, path: &[u8]) -> Option<(Vec<u8>, &Restored)> {
        let file = self.files.iter().find(|file| file.path.as_bytes() == path)?;
        Some((lock(&file.state).held.take()?, file))
    }
}

/// What has to be written of `piece`: all but zeros in runs of at least 64 KiB.
fn runs_of_content(piece: &[u8]) -> Vec<Range<usize>> {
    const HOLE: usize = 64 << 10;
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, part) in piece.chunks(HOLE).enumerate() {
        let start = number * HOLE;
        if part.iter().fold(0, |all, byte| all | byte) == 0 && part.len() == HOLE {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += part.len(),
            _ => runs.push(start..start + part.len()),
        }
    }
    runs
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
