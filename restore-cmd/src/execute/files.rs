//! The files of a backup while their bytes arrive: some 25 bytes of memory each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use repository::manifest::{Entry, ManifestHead, SafePath};

use super::beneath::{Beneath, dress};
use super::crc::PieceCrc;
use super::pages::{PageCheck, first_block};
use super::table::{Facts, Table};
use super::wants::{Want, WantSorter};
use crate::plan::is_external;
use crate::program::failure;

/// Longest file that is held in memory until the end.
const LONGEST_HELD: u64 = 64 << 20;

/// Damaged pages that are listed; beyond these they are only counted.
const LISTED: usize = 100;

/// How far a file has come.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Where its facts are.
    facts: u64,
    /// Bytes that are to come.
    remaining: u64,
    crc: PieceCrc,
    /// Whether it was there before the restore: what is in it may be right.
    adopted: bool,
    /// Whether it is written by the last steps, not while its bytes come.
    held: bool,
}

/// A file that is written last: configuration, and what makes the directory a cluster.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    pub(super) mtime: i64,
}

/// Pages whose checksum is wrong although their bytes are what the server sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Damage {
    /// How many.
    pub pages: u64,
    /// File and block of some of them.
    pub listed: Vec<(String, u32)>,
}

/// All files, and what was noticed of them.
pub(super) struct Files {
    table: Table,
    slots: Mutex<Vec<Slot>>,
    held: Mutex<BTreeMap<Vec<u8>, Held>>,
    /// Files of the data directory itself.
    top: BTreeSet<Vec<u8>>,
    size_bytes: u64,
    pages: Option<PageCheck>,
    damage: Mutex<Damage>,
    known_damage: HashMap<SafePath, Vec<u32>>,
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
    /// None yet, of a backup that is restored into `folder`.
    pub(super) fn new(head: &ManifestHead, folder: &Path) -> Self {
        let known = head.damaged_pages.iter().map(|file| (file.path.clone(), file.blocks.clone()));
        Self {
            table: Table::new(folder),
            slots: Mutex::default(),
            held: Mutex::default(),
            top: BTreeSet::new(),
            size_bytes: 0,
            pages: head.data_checksums.then(|| PageCheck::new(head.start_lsn..head.stop_lsn)),
            damage: Mutex::default(),
            known_damage: known.collect(),
        }
    }

    /// Takes the next file of the manifest: makes it with its length, or takes the one that is there if `adopt` says so, and
    /// puts what is wanted of packs into `wants`. One without content is whole then.
    ///
    /// # Errors
    /// It cannot be made, or makes no sense.
    pub(super) fn add(
        &mut self,
        entry: &Entry,
        beneath: &Beneath,
        adopt: bool,
        wants: &mut WantSorter,
    ) -> Result<()> {
        let Entry::File { path, size, mode, mtime, crc32c, extents } = entry else { return Ok(()) };
        if is_left_out(path) {
            return Ok(());
        }
        let held = is_held(entry);
        if held && *size > LONGEST_HELD {
            return Err(failure(
                format!("file {path} of the backup has {size} bytes, which makes no sense"),
                "restore another backup with --backup",
            ));
        }
        let number = lock(&self.slots).len();
        let file = u32::try_from(number).context("the backup has too many files")?;
        let (mut remaining, mut end, mut holes) = (0, 0, Vec::new());
        for extent in extents {
            remaining += extent.length;
            if end < extent.file_offset {
                holes.push(end..extent.file_offset);
            }
            end = extent.file_offset + extent.length;
            let (pack_offset, length, file_offset) = (extent.pack_offset, extent.length, extent.file_offset);
            let want = Want { pack_offset, length, file, file_offset };
            wants.push(extent.pack, want).context(NO_TEMPORARY)?;
        }
        if end < *size {
            holes.push(end..*size);
        }
        let facts = Facts { path: path.clone(), size: *size, mode: *mode, mtime: *mtime, crc: *crc32c };
        let at = self.table.push(&facts).context(NO_TEMPORARY)?;
        let mut slot = Slot { facts: at, remaining, crc: PieceCrc::default(), adopted: false, held };
        self.size_bytes += size;
        if !path.as_bytes().contains(&b'/') {
            self.top.insert(path.as_bytes().to_vec());
        }
        if held {
            let content = Held { content: vec![0; *size as usize], mode: *mode, mtime: *mtime };
            lock(&self.held).insert(path.as_bytes().to_vec(), content);
        } else {
            let cannot = || format!("cannot make the file {path}");
            slot.adopted = adopt && beneath.adopt(path, *size, &holes).with_context(cannot)?;
            if !slot.adopted {
                beneath.create(path, *size).with_context(cannot)?;
            }
        }
        lock(&self.slots).push(slot);
        if remaining == 0 {
            complete(&facts, &slot, beneath)?;
        }
        Ok(())
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        lock(&self.slots).len() as u64
    }

    /// Their bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn file(&self, number: u32) -> Result<(Slot, Facts)> {
        let slot = lock(&self.slots).get(number as usize).copied().context("no file has that number")?;
        Ok((slot, self.table.get(slot.facts).context(NO_TEMPORARY)?))
    }

    /// Puts bytes from a pack's raw stream where they belong. `wants` are those that `bytes` may touch.
    pub(super) fn place(&self, beneath: &Beneath, wants: &[Want], offset: u64, bytes: &[u8]) -> Result<u64> {
        let end = offset + bytes.len() as u64;
        let mut placed = 0;
        // Neighbours in a pack are often neighbours in a file.
        let mut open: Option<OpenFile> = None;
        for want in wants {
            let from = want.pack_offset.max(offset);
            let to = (want.pack_offset + want.length).min(end);
            if from >= to {
                continue;
            }
            let piece = &bytes[(from - offset) as usize..(to - offset) as usize];
            let file = match open.take().filter(|open| open.number == want.file) {
                Some(file) => file,
                None => {
                    let (slot, facts) = self.file(want.file)?;
                    OpenFile { number: want.file, slot, facts, open: None }
                }
            };
            let file = open.insert(file);
            let at = want.file_offset + (from - want.pack_offset);
            self.write(beneath, file, at, piece)
                .with_context(|| format!("cannot write the file {}", file.facts.path))?;
            self.come(beneath, want.file, &file.facts, at, piece)?;
            placed += piece.len() as u64;
        }
        Ok(placed)
    }

    fn write(&self, beneath: &Beneath, file: &mut OpenFile, at: u64, piece: &[u8]) -> Result<()> {
        if file.slot.held {
            let mut held = lock(&self.held);
            let held = held.get_mut(file.facts.path.as_bytes()).context("its content is written already")?;
            let room = held.content.get_mut(at as usize..at as usize + piece.len());
            room.context("it is too long")?.copy_from_slice(piece);
            return Ok(());
        }
        let open = match &file.open {
            Some(open) => open,
            None => file.open.insert(beneath.reopen(&file.facts.path)?),
        };
        if file.slot.adopted {
            return Ok(open.write_all_at(piece, at)?);
        }
        // A file that was just made is zeros, without room taken for them.
        for run in runs_of_content(piece) {
            open.write_all_at(&piece[run.clone()], at + run.start as u64)?;
        }
        Ok(())
    }

    /// Reads what is in a file that was there before the restore. `None` if it was not, or cannot be read.
    pub(super) fn read_back(&self, beneath: &Beneath, file: u32, offset: u64, into: &mut [u8]) -> Option<()> {
        let (slot, facts) = self.file(file).ok()?;
        if !slot.adopted {
            return None;
        }
        beneath.read(&facts.path).and_then(|open| open.read_exact_at(into, offset)).ok()
    }

    /// These bytes are where they belong already.
    pub(super) fn count(&self, beneath: &Beneath, file: u32, offset: u64, piece: &[u8]) -> Result<()> {
        let (_, facts) = self.file(file)?;
        self.come(beneath, file, &facts, offset, piece)
    }

    /// Bytes are where they belong.
    fn come(&self, beneath: &Beneath, file: u32, facts: &Facts, offset: u64, piece: &[u8]) -> Result<()> {
        if let Some(pages) = &self.pages
            && let Some(first_block) = first_block(facts.path.as_bytes())
        {
            self.judge(facts, &pages.add(file, first_block, offset, piece));
        }
        let mut crc = PieceCrc::default();
        crc.add(offset, piece, facts.size);
        let slot = {
            let mut slots = lock(&self.slots);
            let slot = slots.get_mut(file as usize).context("no file has that number")?;
            slot.crc.join(crc);
            slot.remaining = slot.remaining.saturating_sub(piece.len() as u64);
            *slot
        };
        // Whoever brings the last byte finds it whole: what others have brought was written before it was counted.
        if slot.remaining == 0 { complete(facts, &slot, beneath) } else { Ok(()) }
    }

    /// Damage that the backup saw already is known. Anything else is told, but loses nobody the restore: the bytes are
    /// those that the server sent, their digests say so.
    fn judge(&self, facts: &Facts, damaged: &[u32]) {
        let known = self.known_damage.get(&facts.path);
        for &block in damaged.iter().filter(|block| known.is_none_or(|known| !known.contains(block))) {
            let mut damage = lock(&self.damage);
            damage.pages += 1;
            if damage.listed.len() < LISTED {
                damage.listed.push((facts.path.to_string(), block));
            }
        }
    }

    /// Pages that are damaged and were not recorded by the backup.
    pub(super) fn damage(&self) -> Damage {
        let mut damage = lock(&self.damage).clone();
        damage.listed.sort_unstable();
        damage
    }

    /// Hands over each file that was written while its bytes came, in the manifest's order, with its CRC-32C.
    ///
    /// # Errors
    /// A file, one of the others too, is not whole; or `take` fails.
    pub(super) fn each(&self, mut take: impl FnMut(Facts, u32) -> Result<()>) -> Result<()> {
        for number in 0.. {
            let Some(slot) = lock(&self.slots).get(number).copied() else { return Ok(()) };
            let facts = self.table.get(slot.facts).context(NO_TEMPORARY)?;
            anyhow::ensure!(slot.remaining == 0, "the content of file {} has not come", facts.path);
            if !slot.held {
                let crc = slot.crc.finish(facts.size);
                take(facts, crc)?;
            }
        }
        Ok(())
    }

    /// Takes the content of a file that was held.
    pub(super) fn take_held(&self, path: &[u8]) -> Option<Held> {
        lock(&self.held).remove(path)
    }

    /// Whether the backup has a file of that name in the data directory itself.
    pub(super) fn has(&self, name: &str) -> bool {
        self.top.contains(name.as_bytes())
    }
}

/// What it means if that fails.
pub(super) const NO_TEMPORARY: &str = "cannot use a temporary file in the directory that is restored into";

struct OpenFile {
    number: u32,
    slot: Slot,
    facts: Facts,
    open: Option<File>,
}

/// The file's last byte is here.
fn complete(facts: &Facts, slot: &Slot, beneath: &Beneath) -> Result<()> {
    let found = slot.crc.finish(facts.size);
    if let Some(expected) = facts.crc.filter(|expected| *expected != found) {
        return Err(failure(
            format!(
                "file {} is not what the backup read: its CRC-32C is {found:08x}, the manifest says {expected:08x}",
                facts.path
            ),
            "restore another backup with --backup; `walkeep verify` tells what else is affected",
        ));
    }
    if !slot.held {
        let dressed =
            beneath.reopen(&facts.path).and_then(|open| dress(&open, facts.mode, Some(facts.mtime)));
        dressed.with_context(|| format!("cannot set mode and time of the file {}", facts.path))?;
    }
    Ok(())
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

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
