//! Copies what is needed of packs into new ones, and names those in new generations of manifests.
//!
//! Whatever cuts it off, every manifest that is there names whole packs: the new ones are durable before any manifest names
//! them, and the old ones stay for a grace period at least. New packs that no manifest has come to name are leftovers,
//! which `expire` condemns like all others. Since it does so after a grace period, the manifests must be written before
//! that is over: copying ends after a quarter of it, and after half of it no manifest is written any more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use futures::TryStreamExt;

use super::moves::Moves;
use super::{Compaction, PackUse};
use crate::backup::{BackupLabel, BackupRef};
use crate::pack::{BlockDigest, PackBlocks, PackName, PackReader, PackWriter};
use crate::retention::Survey;
use crate::retention::sweep::ANOTHER;
use crate::{Branch, Error, Result};

/// What became of a compaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compacted {
    /// Packs that no manifest of `backups` names any more, with their bytes in the store.
    pub replaced: Vec<(PackName, u64)>,
    /// The new packs, with their bytes in the store.
    pub written: Vec<(PackName, u64)>,
    /// The new manifests.
    pub backups: Vec<BackupRef>,
    /// What was not done, and why, in plain sentences.
    pub held_back: Vec<String>,
}

impl Branch {
    /// Carries a compaction out, with frames compressed on `jobs` threads.
    ///
    /// # Errors
    /// The store failed, or a pack is damaged: then what was written is a leftover, and every manifest as good as before.
    /// That no identity opens the packs is no error.
    pub async fn compact(
        &self,
        survey: &Survey,
        compaction: &Compaction,
        grace: Duration,
        jobs: usize,
    ) -> Result<Compacted> {
        let mut done = Compacted::default();
        done.held_back.extend(compaction.held_back.clone());
        if compaction.is_empty() {
            return Ok(done);
        }
        let begun = Instant::now();
        let mut groups: BTreeMap<&BackupLabel, Vec<&PackUse>> = BTreeMap::new();
        for rewrite in &compaction.rewrites {
            groups.entry(rewrite.pack.entry.name().label()).or_default().push(&rewrite.pack);
        }
        let mut moves = Moves::default();
        for (label, packs) in groups {
            let enough = || begun.elapsed() > grace / 4;
            match self.copy(label, &packs, &mut moves, &enough, jobs).await {
                Ok(copied) => {
                    let copied = packs.iter().take(copied).map(|pack| &pack.entry);
                    done.replaced.extend(copied.map(|pack| (pack.name().clone(), pack.stored_length())));
                }
                Err(error @ Error::Locked { .. }) => {
                    done.held_back
                        .push(format!("no pack is written anew, which takes the key of the data: {error}"));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if done.replaced.is_empty() {
            return Ok(done);
        }
        // A backup that has begun meanwhile may be compared with a manifest as it was; one that was marked stays.
        if self.has_news(survey).await? {
            done.held_back.push(ANOTHER.to_owned());
            return Ok(Compacted { held_back: done.held_back, ..Compacted::default() });
        }
        done.written = moves.packs().iter().map(|pack| (pack.name().clone(), pack.stored_length())).collect();
        for backup in &compaction.backups {
            let manifest = moves.apply(self.read_manifest(backup).await?)?;
            if begun.elapsed() > grace / 2 {
                let why =
                    "what was copied is too old to be named: a longer `[retention] grace` gives more time";
                done.held_back.push(why.to_owned());
                break;
            }
            match self.put_next_manifest(backup, &manifest).await? {
                Some(next) => done.backups.push(next),
                None => done.held_back.push(format!("backup {} has changed meanwhile", backup.label)),
            }
        }
        Ok(done)
    }

    /// Copies what is needed of `packs`, all of which that backup has written, into new packs under its name: so packs of
    /// different full backups never become one. How many packs were copied before it was `enough`. All that was copied is
    /// durable when this returns.
    async fn copy(
        &self,
        label: &BackupLabel,
        packs: &[&PackUse],
        moves: &mut Moves,
        enough: &(impl Fn() -> bool + Sync),
        jobs: usize,
    ) -> Result<usize> {
        let first = moves.next_pack();
        let mut writer = PackWriter::new(self.clone(), label.clone(), jobs);
        let mut copied = 0;
        for pack in packs {
            if enough() {
                break;
            }
            let name = pack.entry.name();
            let blocks = self.known_blocks(name).await?;
            // Each frame is checked against its digest before a byte of it comes.
            let mut pieces = PackReader::read(self, &pack.entry, &pack.needed, jobs).await?;
            while let Some((offset, bytes)) = pieces.try_next().await? {
                for (at, block) in cuts(offset..offset + bytes.len() as u64, &blocks, &pack.needed) {
                    if let Some((length, digest)) = block {
                        writer.begin_block(length, digest);
                    }
                    let part = (at.start - offset) as usize..(at.end - offset) as usize;
                    for extent in writer.append(bytes.slice(part)).await? {
                        let from = at.start + extent.file_offset;
                        moves.note(
                            name,
                            from,
                            extent.length,
                            first + extent.pack as usize,
                            extent.pack_offset,
                        );
                    }
                }
            }
            copied += 1;
        }
        // All packs are durable when this returns.
        moves.add_packs(writer.finish().await?);
        Ok(copied)
    }

    /// The digests of a pack's blocks. Without them those blocks count as changed for the next backup.
    async fn known_blocks(&self, pack: &PackName) -> Result<PackBlocks> {
        match self.read_pack_blocks(pack).await {
            Ok(blocks) => Ok(blocks.unwrap_or_default()),
            Err(error @ (Error::Corrupt { .. } | Error::Foreign { .. })) => {
                tracing::warn!("the digests of the blocks of pack {pack} are lost: {error}");
                Ok(PackBlocks::default())
            }
            Err(error) => Err(error),
        }
    }
}

/// A block that begins at the first byte of a cut: its length and its digest.
type Block = Option<(usize, BlockDigest)>;

/// Cuts bytes of a pack's raw stream where blocks begin, all bytes of which are needed. A block that is not copied whole
/// has no digest any more.
fn cuts(bytes: Range<u64>, blocks: &PackBlocks, needed: &[Range<u64>]) -> Vec<(Range<u64>, Block)> {
    let mut cuts: Vec<(Range<u64>, Block)> = Vec::new();
    let after = needed.partition_point(|range| range.start <= bytes.start);
    let end = after.checked_sub(1).map_or(bytes.end, |at| needed[at].end);
    for (start, length, digest) in blocks.beginning_in(bytes.clone()) {
        if start + length as u64 > end {
            continue;
        }
        match cuts.last_mut() {
            Some(last) => last.0.end = start,
            None if start > bytes.start => cuts.push((bytes.start..start, None)),
            None => {}
        }
        cuts.push((start..bytes.end, Some((length, digest))));
    }
    if cuts.is_empty() {
        cuts.push((bytes, None));
    }
    cuts
}
