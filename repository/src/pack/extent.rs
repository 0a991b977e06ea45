//! Where a file's bytes lie.

/// A run of a file's bytes that lies in one piece in a pack's raw stream.
///
/// A file's extents are in ascending order and do not overlap; what no extent covers is zeros. Whether the
/// bytes compressed well has no influence: offsets count raw bytes, so a run of any length is one extent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Extent {
    /// Offset in the file, in bytes.
    pub file_offset: u64,
    /// Bytes; at least 1.
    pub length: u64,
    /// Index of the pack in the manifest's list of packs.
    pub pack: u32,
    /// Offset in the pack's raw stream, in bytes.
    pub pack_offset: u64,
}

impl Extent {
    /// The first byte of the file after the run; `None` if that is beyond 64 bits.
    pub fn file_end(&self) -> Option<u64> {
        self.file_offset.checked_add(self.length)
    }

    /// The first byte of the pack's raw stream after the run; `None` if that is beyond 64 bits.
    pub fn pack_end(&self) -> Option<u64> {
        self.pack_offset.checked_add(self.length)
    }

    /// The same bytes, seen from a file in which the run lies `offset` bytes further on.
    pub fn shifted(self, offset: u64) -> Extent {
        Extent { file_offset: self.file_offset.saturating_add(offset), ..self }
    }

    /// Whether `next` goes on where this run ends, in the file and in the pack.
    fn continues_with(&self, next: &Extent) -> bool {
        self.pack == next.pack
            && self.file_end() == Some(next.file_offset)
            && self.pack_end() == Some(next.pack_offset)
    }
}

/// Appends `extent` to a file's list, as part of the last run where it continues that.
pub fn push_extent(extents: &mut Vec<Extent>, extent: Extent) {
    if extent.length == 0 {
        return;
    }
    match extents.last_mut() {
        Some(last) if last.continues_with(&extent) => last.length += extent.length,
        _ => extents.push(extent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(file_offset: u64, length: u64, pack: u32, pack_offset: u64) -> Extent {
        Extent { file_offset, length, pack, pack_offset }
    }

    #[test]
    fn joins_only_what_continues_in_both() {
        let mut extents = Vec::new();
        for extent in [
            run(0, 10, 0, 100),
            run(10, 5, 0, 110),
            run(15, 0, 0, 0),
            run(15, 5, 0, 200),
            run(20, 5, 1, 205),
            run(30, 5, 1, 210),
        ] {
            push_extent(&mut extents, extent);
        }
        assert_eq!(extents, [run(0, 15, 0, 100), run(15, 5, 0, 200), run(20, 5, 1, 205), run(30, 5, 1, 210)]);
    }

    proptest! {
        /// The address of every byte is the same before and after joining.
        #[test]
        fn joining_moves_no_byte(runs in proptest::collection::vec((0u64..3, 1u64..6, 0u32..2, 0u64..3), 0..40)) {
            let (mut list, mut naive) = (Vec::new(), Vec::new());
            let (mut file, mut pack_end) = (0, [0u64; 2]);
            for (hole, length, pack, skip) in runs {
                let end = &mut pack_end[pack as usize];
                file += hole / 2;
                *end += skip / 2;
                let extent = run(file, length, pack, *end);
                naive.extend((0..length).map(|i| (file + i, pack, extent.pack_offset + i)));
                push_extent(&mut list, extent);
                file += length;
                *end += length;
            }
            let expanded: Vec<_> = list.iter()
                .flat_map(|e| (0..e.length).map(|i| (e.file_offset + i, e.pack, e.pack_offset + i)))
                .collect();
            prop_assert_eq!(expanded, naive);
            prop_assert!(list.windows(2).all(|pair| !pair[0].continues_with(&pair[1])));
        }
    }
}
