//! When transactions ended: their commits and aborts, out of the WAL itself.
//!
//! A recovery to a time ends at the first of them that is later. Only these records are looked into.

use super::WalError;
use super::record::{Records, transaction};
use crate::{Lsn, ServerTime};

/// So much of a record over several pages is kept: the time stands at its beginning.
const FRONT: usize = 0;

/// The commit or abort of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnd {
    /// Where its record begins.
    pub start: Lsn,
    /// When it happened, by the server's clock.
    pub time: ServerTime,
}

/// Reads pages of WAL one after the other.
#[derive(Debug)]
pub struct TransactionEnds {
    records: Records,
    last: Option<Lsn>,
}

impl Default for TransactionEnds {
    fn default() -> Self {
        Self { records: Records::new(FRONT), last: None }
    }
}

impl TransactionEnds {
    /// Reads the page at `address`, which follows the one before; what `page` has beyond its 8 KiB does not count. The last one
    /// may be cut off. What its WAL begins with of
    /// a record that was not read from its beginning is passed over.
    ///
    /// # Errors
    /// It is no page of WAL, or not the one at `address`, or a record on it is damaged. A page of zeros is one: they follow
    /// a switch.
    pub fn read(&mut self, page: &[u8], address: Lsn) -> Result<Vec<TransactionEnd>, WalError> {
        let mut ends = Vec::new();
        let last = &mut self.last;
        self.records.read(page, address, |record| {
            *last = Some(record.start);
            let time = transaction::end_time(&record);
            ends.extend(time.map(|time| TransactionEnd { start: record.start, time }));
        })?;
        Ok(ends)
    }

    /// Where the last record begins that was read to its end.
    pub fn last_record(&self) -> Option<Lsn> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::page::{LONG_HEADER, PAGE_SIZE};
    use crate::wal::record::fixture::{Kind, START, Wal, main_data, pages};

    /// What a record of a transaction's end holds, with these parts before its data; or of something else.
    fn content(end: Option<(u8, i64)>, parts: &[u8], length: usize) -> Vec<u8> {
        let data = |time: i64| [&time.to_le_bytes()[..], &vec![7; length]].concat();
        match end {
            Some((_, time)) => [parts, &main_data(&data(time))].concat(),
            None => main_data(&vec![7; length]),
        }
    }

    fn read(bytes: &[u8], from_page: usize) -> (Vec<TransactionEnd>, Option<Lsn>) {
        let mut ends = TransactionEnds::default();
        let found = pages(bytes).skip(from_page).flat_map(|(at, page)| ends.read(page, at).unwrap());
        let found = found.collect();
        (found, ends.last_record())
    }

    proptest! {
        #[test]
        fn finds_every_end_wherever_pages_cut_it(
            records in proptest::collection::vec(
                (proptest::option::of((prop::sample::select(vec![0u8, 0x20, 0x30, 0x40, 0x10, 0x60]), any::<i64>())),
                 prop::sample::select(vec![&[][..], &[252, 1, 2, 3, 4], &[253, 1, 2], &[253, 1, 2, 252, 1, 2, 3, 4]]),
                 0usize..20_000),
                0..12,
            ),
            zeros in 0usize..3,
            skip in 0usize..4,
            cut: prop::sample::Index,
        ) {
            let mut wal = Wal::new();
            let (mut expected, mut last) = (Vec::new(), None);
            for (end, parts, length) in &records {
                let kind = Kind { rmgr: if end.is_some() { 1 } else { 10 }, info: end.map_or(0, |(info, _)| info | 0x80), xid: 3 };
                let start = wal.put(kind, &content(*end, parts, *length));
                last = Some(start);
                if let Some((0 | 0x20 | 0x30 | 0x40, time)) = end {
                    expected.push(TransactionEnd { start, time: ServerTime(*time) });
                }
            }
            let length = wal.bytes.len();
            wal.bytes.resize(length.next_multiple_of(PAGE_SIZE) + zeros * PAGE_SIZE, 0);
            prop_assert_eq!(read(&wal.bytes, 0), (expected.clone(), last));
            // From a later page on: what begins there.
            let from = START + (skip * PAGE_SIZE) as u64;
            let later: Vec<_> = expected.iter().copied().filter(|end| end.start >= from).collect();
            prop_assert_eq!(read(&wal.bytes, skip).0, later);
            // Cut off anywhere: a beginning of it.
            let cut = LONG_HEADER + cut.index(wal.bytes.len() - LONG_HEADER + 1);
            if cut.is_multiple_of(PAGE_SIZE) || cut % PAGE_SIZE >= LONG_HEADER {
                let (found, _) = read(&wal.bytes[..cut], 0);
                prop_assert!(expected.starts_with(&found));
            }
        }
    }

    #[test]
    fn another_page_than_expected_is_refused() {
        let mut wal = Wal::new();
        wal.bytes.resize(PAGE_SIZE, 0);
        let mut ends = TransactionEnds::default();
        assert!(matches!(ends.read(&wal.bytes, START + PAGE_SIZE as u64), Err(WalError::Address { .. })));
    }
}
