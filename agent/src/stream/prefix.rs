//! The durable prefix: how far WAL is stored without a hole.

use std::collections::BTreeMap;

use proto::Lsn;

/// Takes ranges in any order, answers with the end of the contiguous part that begins at the start.
#[derive(Debug)]
pub(crate) struct DurablePrefix {
    end: Lsn,
    /// Durable ranges behind the first hole, start to end; none touches `end` or another.
    islands: BTreeMap<Lsn, Lsn>,
}

impl DurablePrefix {
    /// Everything before `start` counts as durable.
    pub(crate) fn starting_at(start: Lsn) -> Self {
        Self { end: start, islands: BTreeMap::new() }
    }

    /// Every byte before this one is durable.
    pub(crate) fn end(&self) -> Lsn {
        self.end
    }

    /// The bytes `[from, to)` have become durable. Ranges may overlap and repeat.
    pub(crate) fn add(&mut self, from: Lsn, to: Lsn) {
        if from >= to || to <= self.end {
            return;
        }
        let known = self.islands.entry(from).or_insert(to);
        *known = (*known).max(to);
        while let Some(island) = self.islands.first_entry() {
            if *island.key() > self.end {
                break;
            }
            self.end = self.end.max(island.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn never_passes_a_hole() {
        let mut prefix = DurablePrefix::starting_at(Lsn(100));
        prefix.add(Lsn(110), Lsn(120));
        assert_eq!(prefix.end(), Lsn(100));
        prefix.add(Lsn(100), Lsn(105));
        assert_eq!(prefix.end(), Lsn(105));
        prefix.add(Lsn(105), Lsn(110));
        assert_eq!(prefix.end(), Lsn(120));
    }

    proptest! {
        #[test]
        fn equals_the_naive_answer(ranges in prop::collection::vec((0..64u64, 0..16u64), 0..40)) {
            let mut prefix = DurablePrefix::starting_at(Lsn(0));
            let mut bytes = [false; 96];
            for (from, length) in ranges {
                prefix.add(Lsn(from), Lsn(from + length));
                bytes[from as usize..(from + length) as usize].fill(true);
                let naive = bytes.iter().position(|durable| !durable).unwrap();
                prop_assert_eq!(prefix.end(), Lsn(naive as u64));
            }
        }
    }
}
