//! The record of a checkpoint: where replay begins.

use super::page::{PAGE_SIZE, PageHeader};
use crate::Lsn;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::checksum::crc32c;

/// Bytes before a record's content; the last four are its CRC-32C, of the content and of what stands before it here.
const RECORD_HEADER: usize = 24;
const CRC_AT: usize = 20;

/// No version writes a longer record of a checkpoint: they have little more than 100 bytes.
const LONGEST: usize = 1024;

/// Where replay begins after the checkpoint whose record begins at `at`. `wal` is the WAL from the page at `address` on; that page
/// and the next are enough.
///
/// `None` if no checkpoint's record begins there, or not all of it is in `wal`.
pub fn redo(wal: &[u8], address: Lsn, at: Lsn) -> Option<Lsn> {
    const XLOG: u8 = 0;
    const SHUTDOWN: u8 = 0x00;
    const ONLINE: u8 = 0x10;
    const SHORT_DATA: u8 = 255;
    const LONG_DATA: u8 = 254;
    let record = record(wal, address, at)?;
    let (header, content) = record.split_at_checked(RECORD_HEADER)?;
    let summed = [content, header.get(..CRC_AT)?].concat();
    if u32_at(header, CRC_AT)? != crc32c(&summed) {
        return None;
    }
    let [info, resource_manager] = u16_at(header, 16)?.to_le_bytes();
    if resource_manager != XLOG || !matches!(info & 0xF0, SHUTDOWN | ONLINE) {
        return None;
    }
    match *content.first()? {
        SHORT_DATA => u64_at(content, 2).map(Lsn),
        LONG_DATA => u64_at(content, 5).map(Lsn),
        _ => None,
    }
}

/// The bytes of the record that begins at `at`, without the headers of the pages that it lies on.
fn record(wal: &[u8], address: Lsn, at: Lsn) -> Option<Vec<u8>> {
    if at < address {
        return None;
    }
    let mut offset = usize::try_from(at.bytes_since(address)).ok()?;
    // A length never lies across two pages, since records are aligned.
    let length = u32_at(wal, offset)? as usize;
    if !(RECORD_HEADER..=LONGEST).contains(&length) {
        return None;
    }
    let mut record = Vec::with_capacity(length);
    while record.len() < length {
        if offset.is_multiple_of(PAGE_SIZE) {
            let header = PageHeader::parse(wal.get(offset..)?).ok()?;
            if header.remaining as usize != length - record.len() {
                return None;
            }
            offset += header.length();
        }
        let room = PAGE_SIZE - offset % PAGE_SIZE;
        let here = room.min(length - record.len());
        record.extend_from_slice(wal.get(offset..offset + here)?);
        offset += here;
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::page::SHORT_HEADER;

    const START: Lsn = Lsn(0x200_0000);
    const REDO: Lsn = Lsn(0x200_0028);

    fn checkpoint(info: u8) -> Vec<u8> {
        let mut record = vec![0; RECORD_HEADER];
        record[16] = info;
        record.extend([255, 88]);
        record.extend(REDO.0.to_le_bytes());
        record.resize(RECORD_HEADER + 2 + 88, 3);
        let length = record.len() as u32;
        record[..4].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c(&[&record[RECORD_HEADER..], &record[..CRC_AT]].concat());
        record[CRC_AT..RECORD_HEADER].copy_from_slice(&crc.to_le_bytes());
        record
    }

    /// Two pages with the record at that offset.
    fn wal(record: &[u8], at: usize) -> Vec<u8> {
        let mut wal = vec![0; 2 * PAGE_SIZE];
        let here = record.len().min(PAGE_SIZE - at);
        wal[at..at + here].copy_from_slice(&record[..here]);
        let rest = &record[here..];
        for (page, remaining) in [(0, 0), (1, rest.len())] {
            let header = &mut wal[page * PAGE_SIZE..][..SHORT_HEADER];
            header[..2].copy_from_slice(&0xD110u16.to_le_bytes());
            header[2] = u8::from(remaining > 0);
            header[4] = 1;
            header[8..16].copy_from_slice(&(START.0 + (page * PAGE_SIZE) as u64).to_le_bytes());
            header[16..20].copy_from_slice(&(remaining as u32).to_le_bytes());
        }
        wal[PAGE_SIZE + SHORT_HEADER..][..rest.len()].copy_from_slice(rest);
        wal
    }

    #[test]
    fn is_read_wherever_it_lies() {
        let record = checkpoint(0x10);
        for at in (PAGE_SIZE - 200..PAGE_SIZE).step_by(8) {
            let wal = wal(&record, at);
            assert_eq!(redo(&wal, START, START + at as u64), Some(REDO), "{at}");
            assert_eq!(redo(&wal, START, START + (at as u64 - 8)), None, "{at}");
        }
        assert_eq!(redo(&wal(&checkpoint(0), 400), START, START + 400), Some(REDO));
    }

    #[test]
    fn nothing_else_is_one() {
        // A switch of segments.
        assert_eq!(redo(&wal(&checkpoint(0x40), 400), START, START + 400), None);
        let mut damaged = wal(&checkpoint(0x10), 400);
        damaged[430] ^= 1;
        assert_eq!(redo(&damaged, START, START + 400), None);
        assert_eq!(redo(&damaged, START, Lsn(START.0 - 8)), None);
    }

    proptest! {
        #[test]
        fn never_panics(wal in proptest::collection::vec(any::<u8>(), 0..9000), at in 0u64..10_000) {
            let _ = redo(&wal, START, START + at);
        }
    }
}
