//! When transactions ended: their commits and aborts, out of the WAL itself.
//!
//! A recovery to a time ends at the first of them that is later. Only these records are looked into; of all others
//! nothing but the length counts.

use super::WalError;
use super::page::{PAGE_SIZE, PageHeader};
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::{Lsn, ServerTime};

/// Bytes before a record's content.
const RECORD_HEADER: usize = 24;

/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// So much of a record is kept: enough for its header, those of its parts, and the time with which the last part begins.
const FRONT: usize = 64;

/// The commit or abort of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnd {
    /// Where its record begins.
    pub start: Lsn,
    /// When it happened, by the server's clock.
    pub time: ServerTime,
}

/// Reads pages of WAL one after the other.
#[derive(Debug, Default)]
pub struct TransactionEnds {
    open: Option<Record>,
    last: Option<Lsn>,
}

/// A record that is not all there yet.
#[derive(Debug)]
struct Record {
    start: Lsn,
    missing: usize,
    front: Vec<u8>,
}

impl TransactionEnds {
    /// Reads the page at `address`, which follows the one before; what `page` has beyond its 8 KiB does not count. The last one
    /// may be cut off. What its WAL begins with of
    /// a record that was not read from its beginning is passed over.
    ///
    /// # Errors
    /// It is no page of WAL, or not the one at `address`. A page of zeros is one: they follow a switch.
    pub fn read(&mut self, page: &[u8], address: Lsn) -> Result<Vec<TransactionEnd>, WalError> {
        let mut ends = Vec::new();
        let page = page.get(..PAGE_SIZE).unwrap_or(page);
        if page.iter().all(|byte| *byte == 0) {
            self.open = None;
            return Ok(ends);
        }
        let header = PageHeader::parse(page)?;
        if header.address != address {
            return Err(WalError::Address { found: header.address, expected: address });
        }
        let damaged = |at: usize, why| WalError::Damaged { at: address + at as u64, why };
        let mut at = header.length();
        // A record that is not continued was given up when the server crashed.
        let open = self.open.take().filter(|_| header.continues_record);
        if header.continues_record {
            let remaining = header.remaining as usize;
            let end = at.saturating_add(remaining).min(PAGE_SIZE);
            if let Some(record) = open {
                if record.missing != remaining {
                    return Err(damaged(at, "a record is continued with another length"));
                }
                self.take(record, page.get(at..end), &mut ends);
            }
            at = end;
        }
        loop {
            at = at.next_multiple_of(ALIGNMENT);
            // A length never lies across two pages, since records are aligned.
            let length = match u32_at(page, at) {
                Some(length) if length > 0 => length as usize,
                _ => return Ok(ends),
            };
            if length < RECORD_HEADER {
                return Err(damaged(at, "a record is shorter than its own header"));
            }
            let end = at.saturating_add(length).min(PAGE_SIZE);
            let record = Record { start: address + at as u64, missing: length, front: Vec::new() };
            self.take(record, page.get(at..end), &mut ends);
            at = end;
        }
    }

    /// Where the last record begins that was read to its end.
    pub fn last_record(&self) -> Option<Lsn> {
        self.last
    }

    /// More of a record; `None` where the page is cut off.
    fn take(&mut self, mut record: Record, bytes: Option<&[u8]>, ends: &mut Vec<TransactionEnd>) {
        let Some(bytes) = bytes else { return };
        let room = FRONT.saturating_sub(record.front.len()).min(bytes.len());
        record.front.extend_from_slice(&bytes[..room]);
        record.missing = record.missing.saturating_sub(bytes.len());
        if record.missing > 0 {
            self.open = Some(record);
            return;
        }
        self.last = Some(record.start);
        ends.extend(end_of(&record.front).map(|time| TransactionEnd { start: record.start, time }));
    }
}

/// The time in a record of a transaction's end; `None` for every other.
fn end_of(front: &[u8]) -> Option<ServerTime> {
    const TRANSACTIONS: u8 = 1;
    const TOPLEVEL_XID: u8 = 252;
    const ORIGIN: u8 = 253;
    const LONG_DATA: u8 = 254;
    const SHORT_DATA: u8 = 255;
    let [info, resource_manager] = u16_at(front, 16)?.to_le_bytes();
    // Commit, abort, and both of prepared transactions.
    if resource_manager != TRANSACTIONS || !matches!(info & 0x70, 0x00 | 0x20 | 0x30 | 0x40) {
        return None;
    }
    let mut at = RECORD_HEADER;
    loop {
        at += match *front.get(at)? {
            TOPLEVEL_XID => 5,
            ORIGIN => 3,
            LONG_DATA => return Some(ServerTime(u64_at(front, at + 5)? as i64)),
            SHORT_DATA => return Some(ServerTime(u64_at(front, at + 2)? as i64)),
            _ => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::page::{LONG_HEADER, SHORT_HEADER};

    /// WAL from 0/1000000 on.
    struct Wal {
        bytes: Vec<u8>,
    }

    const START: Lsn = Lsn(0x100_0000);

    impl Wal {
        fn header(&mut self, remaining: usize) {
            let long = self.bytes.is_empty();
            let mut header = vec![0; if long { LONG_HEADER } else { SHORT_HEADER }];
            let flags = u16::from(remaining > 0) | if long { 2 } else { 0 };
            header[..2].copy_from_slice(&0xD110u16.to_le_bytes());
            header[2..4].copy_from_slice(&flags.to_le_bytes());
            header[4] = 1;
            header[8..16].copy_from_slice(&(START.0 + self.bytes.len() as u64).to_le_bytes());
            header[16..20].copy_from_slice(&(remaining as u32).to_le_bytes());
            self.bytes.extend(header);
        }

        fn put(&mut self, record: &[u8]) -> Lsn {
            self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
            if self.bytes.len().is_multiple_of(PAGE_SIZE) {
                self.header(0);
            }
            let start = START + self.bytes.len() as u64;
            let mut rest = record;
            loop {
                let room = PAGE_SIZE - self.bytes.len() % PAGE_SIZE;
                let (here, later) = rest.split_at(rest.len().min(room));
                self.bytes.extend_from_slice(here);
                rest = later;
                if rest.is_empty() {
                    return start;
                }
                self.header(rest.len());
            }
        }
    }

    /// A record of a transaction's end with these parts before its data, or of something else.
    fn record(end: Option<(u8, i64)>, parts: &[u8], length: usize) -> Vec<u8> {
        let mut record = vec![0; RECORD_HEADER];
        record[17] = if end.is_some() { 1 } else { 10 };
        if let Some((info, time)) = end {
            record[16] = info | 0x80;
            record.extend_from_slice(parts);
            match length {
                0..=255 => record.extend([255, length as u8]),
                _ => record.extend([254, length as u8, (length >> 8) as u8, 0, 0]),
            }
            record.extend(time.to_le_bytes());
        }
        record.resize(record.len() + length, 7);
        let total = record.len() as u32;
        record[..4].copy_from_slice(&total.to_le_bytes());
        record
    }

    fn read(bytes: &[u8], from_page: usize) -> (Vec<TransactionEnd>, Option<Lsn>) {
        let mut ends = TransactionEnds::default();
        let pages = bytes.chunks(PAGE_SIZE).enumerate().skip(from_page);
        let found =
            pages.flat_map(|(number, page)| ends.read(page, START + (number * PAGE_SIZE) as u64).unwrap());
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
            let mut wal = Wal { bytes: Vec::new() };
            wal.header(0);
            let (mut expected, mut last) = (Vec::new(), None);
            for (end, parts, length) in &records {
                let start = wal.put(&record(*end, parts, *length));
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

        #[test]
        fn never_panics_on_any_bytes(mut page in proptest::collection::vec(any::<u8>(), 24..9000), fixed: bool) {
            if fixed {
                page[..2].copy_from_slice(&0xD118u16.to_le_bytes());
                page[2..16].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
                page[16..20].fill(0);
            }
            let _ = TransactionEnds::default().read(&page, START);
        }
    }

    #[test]
    fn another_page_than_expected_is_refused() {
        let mut wal = Wal { bytes: Vec::new() };
        wal.header(0);
        wal.bytes.resize(PAGE_SIZE, 0);
        let mut ends = TransactionEnds::default();
        assert!(matches!(ends.read(&wal.bytes, START + PAGE_SIZE as u64), Err(WalError::Address { .. })));
    }
}
