//! Where bytes of packs have gone to.

use std::collections::BTreeMap;

use crate::manifest::{Entry, Manifest};
use crate::pack::{Extent, PackEntry, PackName, push_extent};
use crate::{Error, Result};

/// A stretch of a pack's raw stream that lies elsewhere now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    from: u64,
    length: u64,
    /// Which of the new packs.
    pack: usize,
    to: u64,
}

/// What was copied, and where it is now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Moves {
    /// The new packs.
    packs: Vec<PackEntry>,
    /// By old pack; ascending, without overlap.
    pieces: BTreeMap<PackName, Vec<Piece>>,
}

impl Moves {
    /// The new packs.
    pub(super) fn packs(&self) -> &[PackEntry] {
        &self.packs
    }

    /// Which of the new packs the next one will be.
    pub(super) fn next_pack(&self) -> usize {
        self.packs.len()
    }

    /// Adds new packs behind those that are there.
    pub(super) fn add_packs(&mut self, packs: Vec<PackEntry>) {
        self.packs.extend(packs);
    }

    /// Whether anything of that pack was copied: then all that is needed of it was.
    #[cfg(test)]
    fn has(&self, pack: &PackName) -> bool {
        self.pieces.contains_key(pack)
    }

    /// Notes that `length` bytes of `old`, from `from` on, lie in the new pack with this number, from `to` on. What is
    /// noted of an old pack ascends.
    pub(super) fn note(&mut self, old: &PackName, from: u64, length: u64, pack: usize, to: u64) {
        let pieces = match self.pieces.get_mut(old) {
            Some(pieces) => pieces,
            None => self.pieces.entry(old.clone()).or_default(),
        };
        match pieces.last_mut() {
            Some(last)
                if last.pack == pack && last.from + last.length == from && last.to + last.length == to =>
            {
                last.length += length;
            }
            _ => pieces.push(Piece { from, length, pack, to }),
        }
    }

    /// The manifest of the same content that names new packs for what was copied, and old ones for the rest.
    ///
    /// # Errors
    /// It needs bytes of an old pack that were not copied with the others: then it is not the manifest that was looked at.
    pub(super) fn apply(&self, mut manifest: Manifest) -> Result<Manifest> {
        let label = &manifest.head.label;
        // By the old number: where its bytes are now, if they were copied.
        let moved: Vec<Option<&[Piece]>> =
            manifest.packs.iter().map(|pack| self.pieces.get(pack.name()).map(Vec::as_slice)).collect();
        let first = manifest.packs.len();
        for entry in &mut manifest.entries {
            let Entry::File { path, extents, .. } = entry else { continue };
            let is_moved = |extent: &Extent| moved.get(extent.pack as usize).is_some_and(Option::is_some);
            if !extents.iter().any(is_moved) {
                continue;
            }
            let mut now = Vec::with_capacity(extents.len());
            for extent in extents.iter() {
                match moved.get(extent.pack as usize).copied().flatten() {
                    None => push_extent(&mut now, *extent),
                    Some(pieces) => follow(*extent, pieces, first, &mut now).ok_or_else(|| {
                        let what = format!("the manifest of backup {label}");
                        Error::invalid(what, format_args!("it needs other bytes for {path} than before"))
                    })?,
                }
            }
            *extents = now;
        }
        manifest.packs.extend_from_slice(&self.packs);
        manifest.drop_unused_packs();
        Ok(manifest)
    }
}

/// Appends where the bytes of `extent` are now; `None` if they are not all among `pieces`.
fn follow(extent: Extent, pieces: &[Piece], first: usize, to: &mut Vec<Extent>) -> Option<()> {
    let end = extent.pack_end()?;
    let (mut at, mut file_offset) = (extent.pack_offset, extent.file_offset);
    let mut next = pieces.partition_point(|piece| piece.from + piece.length <= at);
    while at < end {
        let piece = pieces.get(next).filter(|piece| piece.from <= at)?;
        let length = end.min(piece.from + piece.length) - at;
        let pack = u32::try_from(first + piece.pack).ok()?;
        push_extent(to, Extent { file_offset, length, pack, pack_offset: piece.to + (at - piece.from) });
        (at, file_offset, next) = (at + length, file_offset + length, next + 1);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::Digest;

    use super::*;
    use crate::manifest::{SafePath, text_tests};

    fn name(number: u32) -> PackName {
        format!("20261124T013015Z-full-1a2b3c/{number:08}-00000000000000ff").parse().unwrap()
    }

    fn pack(number: u32, raw_length: u64) -> PackEntry {
        let index_digest = Digest::of(b"");
        PackEntry { name: name(number), stored_length: 1, raw_length, index_offset: 0, index_digest }
    }

    fn manifest(packs: Vec<PackEntry>, extents: Vec<Extent>) -> Manifest {
        let path = SafePath::new("base/1/1").unwrap();
        let size = extents.last().map_or(0, |extent| extent.file_offset + extent.length);
        let file = Entry::File { path, size, mode: 0o600, mtime: 0, crc32c: None, extents };
        Manifest { head: text_tests::head(), packs, entries: vec![file] }
    }

    fn extents(manifest: &Manifest) -> &[Extent] {
        match &manifest.entries[0] {
            Entry::File { extents, .. } => extents,
            Entry::Directory { .. } => &[],
        }
    }

    #[test]
    fn bytes_that_were_not_copied_are_an_error() {
        let mut moves = Moves::default();
        moves.note(&name(0), 100, 50, 0, 0);
        moves.add_packs(vec![pack(9, 50)]);
        assert!(moves.has(&name(0)) && !moves.has(&name(1)));
        for (pack_offset, length) in [(99, 10), (100, 51), (150, 1)] {
            let needs = vec![Extent { file_offset: 0, length, pack: 0, pack_offset }];
            assert!(moves.apply(manifest(vec![pack(0, 500)], needs)).is_err(), "{pack_offset}, {length}");
        }
    }

    proptest! {
        /// Two packs of numbered bytes; of the first one some stretches are copied into others, in several pieces. Every
        /// byte of every file is the same one, and the old pack is not named any more.
        #[test]
        fn every_byte_is_found_where_it_went(
            stretches in prop::collection::vec((1u64..50, 1u64..50), 1..12), border in 1u64..300,
            wanted in prop::collection::vec((any::<prop::sample::Index>(), 0u64..50, 1u64..50, any::<bool>()), 1..20),
        ) {
            let (mut moves, mut live, mut at, mut written) = (Moves::default(), Vec::new(), 0, 0u64);
            // Where each byte of the new packs came from.
            let mut content: Vec<Vec<u64>> = vec![Vec::new(), Vec::new()];
            for (gap, length) in stretches {
                at += gap;
                live.push(at..at + length);
                for byte in at..at + length {
                    let new = usize::from(written >= border);
                    moves.note(&name(0), byte, 1, new, content[new].len() as u64);
                    content[new].push(byte);
                    written += 1;
                }
                at += length;
            }
            moves.add_packs(vec![pack(8, content[0].len() as u64), pack(9, content[1].len() as u64)]);
            let (mut before, mut file_offset) = (Vec::new(), 0);
            for (which, skip, length, elsewhere) in wanted {
                let range = which.get(&live).clone();
                let start = range.start + skip.min(range.end - range.start - 1);
                let length = length.min(range.end - start);
                let extent = Extent { file_offset, length, pack: u32::from(elsewhere), pack_offset: start };
                push_extent(&mut before, extent);
                file_offset += length;
            }
            let old = manifest(vec![pack(0, at), pack(1, at)], before.clone());
            let new = moves.apply(old).unwrap();
            prop_assert!(new.packs.iter().all(|pack| *pack.name() != name(0)));
            let mut after = Vec::new();
            for extent in extents(&new) {
                let numbers: Vec<u64> = match new.packs[extent.pack as usize].name() {
                    pack if *pack == name(1) => (extent.pack_offset..extent.pack_offset + extent.length).collect(),
                    pack => {
                        let bytes = &content[usize::from(*pack == name(9))];
                        bytes[extent.pack_offset as usize..][..extent.length as usize].to_vec()
                    }
                };
                after.extend(numbers.into_iter().zip(extent.file_offset..));
            }
            let expected: Vec<(u64, u64)> = before.iter()
                .flat_map(|e| (e.pack_offset..e.pack_offset + e.length).zip(e.file_offset..))
                .collect();
            prop_assert_eq!(after, expected);
        }
    }
}
