//! Which packs are written anew: computed without clock, network or file.

use std::collections::{BTreeMap, BTreeSet};

use super::{PackUse, Usage};
use crate::backup::{BackupLabel, BackupRef, parse_member};
use crate::pack::PackName;
use crate::retention::{Plan, Survey};

/// A pack is written anew if no more than one in so many of its bytes are needed: then what is written is less than what
/// is gained, and no byte is copied more often than the pack has been halved.
const WASTE: u64 = 2;

/// What a pack is at least, without any content: headers, index and the digests of blocks, about.
const EMPTY_PACK: u64 = 4096;

/// A pack that is written anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// The pack, and what is needed of it.
    pub pack: PackUse,
    /// Bytes in the store that what is needed will take, about.
    pub copied_bytes: u64,
}

/// Which packs are written anew, and for whom.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compaction {
    /// In the order of their names.
    pub rewrites: Vec<Rewrite>,
    /// The backups whose manifests name these packs.
    pub backups: Vec<BackupRef>,
    /// Why nothing is written anew although something could be, in a plain sentence.
    pub held_back: Option<String>,
}

impl Compaction {
    /// Packs of which some may not be needed any more: those that a backup which is gone, or goes, has written, and that a
    /// backup which stays needs. All of what a backup has written it needs itself.
    pub fn candidates(survey: &Survey, plan: &Plan) -> (Vec<BackupRef>, BTreeSet<PackName>) {
        let kept: BTreeSet<&BackupLabel> =
            plan.verdicts.iter().filter(|verdict| verdict.is_kept()).map(|verdict| &verdict.label).collect();
        let (mut backups, mut candidates) = (Vec::new(), BTreeSet::new());
        for (label, packs) in survey.packs.iter().filter(|(label, _)| kept.contains(label)) {
            let orphans: Vec<&PackName> = packs.keys().filter(|pack| !kept.contains(pack.label())).collect();
            if let (false, Some(generation)) = (orphans.is_empty(), survey.generations.get(label)) {
                backups.push(BackupRef { label: label.clone(), generation: *generation });
                candidates.extend(orphans.into_iter().cloned());
            }
        }
        (backups, candidates)
    }

    /// Decides what pays, given what is needed of the candidates.
    pub fn plan(survey: &Survey, plan: &Plan, usage: &Usage) -> Self {
        let rewrites: Vec<Rewrite> = usage.packs.values().filter_map(rewrite).collect();
        if rewrites.is_empty() {
            return Self::default();
        }
        if let Some(running) = survey.running.keys().next() {
            // It may come to need what would have to be kept for it, besides the copy.
            return Self::held_back(format!("no pack is written anew while backup {running} is running"));
        }
        if let Some(why) = plan.held_back.first() {
            return Self::held_back(format!("no pack is written anew: {why}"));
        }
        let rewritten: BTreeSet<&PackName> =
            rewrites.iter().map(|rewrite| rewrite.pack.entry.name()).collect();
        let concerned =
            usage.backups.iter().filter(|(_, packs)| packs.iter().any(|pack| rewritten.contains(pack)));
        let backups: Vec<BackupRef> = concerned.map(|(backup, _)| backup.clone()).collect();
        let sizes = manifest_sizes(survey);
        let manifests: u64 = backups.iter().filter_map(|backup| sizes.get(backup)).sum();
        let compaction = Self { rewrites, backups, held_back: None };
        // What is written must be less than what is gained, the manifests included; else it is left for a later day.
        match compaction.gained_bytes() > compaction.copied_bytes() + manifests {
            true => compaction,
            false => Self::default(),
        }
    }

    fn held_back(why: String) -> Self {
        Self { held_back: Some(why), ..Self::default() }
    }

    /// Whether nothing is written anew.
    pub fn is_empty(&self) -> bool {
        self.rewrites.is_empty()
    }

    /// Bytes that are written for packs, about.
    pub fn copied_bytes(&self) -> u64 {
        self.rewrites.iter().map(|rewrite| rewrite.copied_bytes).sum()
    }

    /// Bytes by which the repository is smaller in the end, about.
    pub fn gained_bytes(&self) -> u64 {
        let stored = |rewrite: &Rewrite| rewrite.pack.entry.stored_length();
        self.rewrites.iter().map(|rewrite| stored(rewrite).saturating_sub(rewrite.copied_bytes)).sum()
    }
}

/// The pack, if it is worth writing anew.
fn rewrite(pack: &PackUse) -> Option<Rewrite> {
    let (needed, raw) = (pack.needed_bytes(), pack.entry.raw_length());
    if needed.saturating_mul(WASTE) > raw {
        return None;
    }
    let share = u128::from(pack.entry.stored_length()) * u128::from(needed) / u128::from(raw.max(1));
    // Not more than the pack's length, which has 64 bits.
    let copied_bytes = share as u64 + EMPTY_PACK;
    Some(Rewrite { pack: pack.clone(), copied_bytes })
}

fn manifest_sizes(survey: &Survey) -> BTreeMap<BackupRef, u64> {
    let sizes = survey.objects.iter().filter_map(|object| match parse_member(&object.key)? {
        (label, crate::backup::Member::Manifest { generation }) => {
            Some((BackupRef { label, generation }, object.size))
        }
        _ => None,
    });
    sizes.collect()
}

#[cfg(test)]
mod tests {
    use proto::Digest;

    use super::*;
    use crate::pack::PackEntry;

    fn pack(stored: u64, raw: u64, needed: u64) -> PackUse {
        let entry = PackEntry {
            name: "20261124T013015Z-full-1a2b3c/00000007-00000000000000ff".parse().unwrap(),
            stored_length: stored,
            raw_length: raw,
            index_offset: 0,
            index_digest: Digest::of(b""),
        };
        PackUse { entry, needed: std::iter::once(0..needed).collect() }
    }

    #[test]
    fn a_pack_is_written_anew_once_half_of_it_is_waste() {
        assert_eq!(rewrite(&pack(1 << 20, 4 << 20, (2 << 20) + 1)), None);
        assert_eq!(rewrite(&pack(1 << 20, 4 << 20, 2 << 20)).unwrap().copied_bytes, (1 << 19) + EMPTY_PACK);
        assert_eq!(rewrite(&pack(u64::MAX, u64::MAX, 0)).unwrap().copied_bytes, EMPTY_PACK);
    }
}
