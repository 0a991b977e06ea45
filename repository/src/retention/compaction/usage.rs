//! What is needed of packs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::backup::BackupRef;
use crate::manifest::Entry;
use crate::pack::{PackEntry, PackName};
use crate::{Branch, Result};

/// Manifests that are read side by side.
const SIDE_BY_SIDE: usize = 4;

/// What backups need of a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackUse {
    /// The pack, as the manifests name it.
    pub entry: PackEntry,
    /// Bytes of its raw stream: ascending ranges that neither overlap nor touch.
    pub needed: Vec<Range<u64>>,
}

impl PackUse {
    /// How many bytes that is.
    pub fn needed_bytes(&self) -> u64 {
        self.needed.iter().map(|range| range.end - range.start).sum()
    }
}

/// What some backups need of some packs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// By pack; only those that anything is needed of.
    pub packs: BTreeMap<PackName, PackUse>,
    /// The backups that were read, each with those of the packs that it names.
    pub backups: BTreeMap<BackupRef, BTreeSet<PackName>>,
}

impl Usage {
    /// Adds what one backup needs of a pack; `needed` in any order.
    pub fn add(&mut self, backup: &BackupRef, entry: &PackEntry, needed: Vec<Range<u64>>) {
        self.backups.entry(backup.clone()).or_default().insert(entry.name().clone());
        let pack = self.packs.entry(entry.name().clone());
        let pack = pack.or_insert_with(|| PackUse { entry: entry.clone(), needed: Vec::new() });
        pack.needed.extend(needed);
        join(&mut pack.needed);
    }
}

/// Puts ranges in order, and joins those that touch.
fn join(ranges: &mut Vec<Range<u64>>) {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let touches = next.start <= range.end;
        if touches {
            range.end = range.end.max(next.end);
        }
        touches
    });
}

impl Branch {
    /// What `backups` need of `packs`: reads their manifests, all of each.
    pub async fn usage(&self, backups: Vec<BackupRef>, packs: BTreeSet<PackName>) -> Result<Usage> {
        let packs = Arc::new(packs);
        let found = stream::iter(backups).map(|backup| {
            let wanted = packs.clone();
            async move {
                let look = move |found: &mut Needed, named: &[PackEntry], entry: &Entry| {
                    if let Entry::File { extents, .. } = entry {
                        for extent in extents {
                            let pack = named.get(extent.pack as usize).map(PackEntry::name);
                            if let (true, Some(end)) =
                                (pack.is_some_and(|pack| wanted.contains(pack)), extent.pack_end())
                            {
                                found.note(extent.pack, extent.pack_offset..end);
                            }
                        }
                    }
                };
                let (named, found) = self.scan_manifest(&backup, look).await?;
                Ok((backup, named, found))
            }
        });
        let found: Vec<_> = found.buffered(SIDE_BY_SIDE).try_collect().await?;
        let mut usage = Usage::default();
        for (backup, named, found) in found {
            for (pack, needed) in found.0 {
                if let Some(entry) = named.get(pack as usize) {
                    usage.add(&backup, entry, needed);
                }
            }
        }
        Ok(usage)
    }
}

/// What one manifest needs, by the numbers that it gives to packs.
#[derive(Default)]
struct Needed(BTreeMap<u32, Vec<Range<u64>>>);

impl Needed {
    fn note(&mut self, pack: u32, bytes: Range<u64>) {
        let ranges = self.0.entry(pack).or_default();
        match ranges.last_mut() {
            // Mostly files lie in a pack in the order of the manifest.
            Some(last) if last.end == bytes.start => last.end = bytes.end,
            _ => ranges.push(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The same bytes, in order, with a gap between any two ranges.
        #[test]
        fn joining_keeps_every_byte(ranges in proptest::collection::vec((0u64..60, 0u64..10), 0..20)) {
            let mut joined: Vec<Range<u64>> = ranges.iter().map(|(start, length)| *start..start + length).collect();
            let bytes: BTreeSet<u64> = joined.iter().cloned().flatten().collect();
            join(&mut joined);
            prop_assert!(joined.iter().cloned().flatten().eq(bytes));
            prop_assert!(joined.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
