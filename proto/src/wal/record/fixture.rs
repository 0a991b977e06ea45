//! WAL for tests: records with right checksums, on pages.

use super::{ALIGNMENT, RECORD_HEADER};
use crate::Lsn;
use crate::checksum::Crc32c;
use crate::wal::page::{LONG_HEADER, PAGE_SIZE, SHORT_HEADER};

/// Where it begins.
pub(crate) const START: Lsn = Lsn(0x100_0000);
/// Bytes of its segments.
pub(crate) const SEGMENT: usize = 1 << 20;

/// WAL of PostgreSQL 15 from [`START`] on.
pub(crate) struct Wal {
    pub(crate) bytes: Vec<u8>,
    pub(crate) last: Lsn,
}

impl Wal {
    pub(crate) fn new() -> Self {
        let mut wal = Wal { bytes: Vec::new(), last: Lsn(0x80_0000) };
        wal.header(0, 0);
        wal
    }

    /// `flags` are added to those that the place demands.
    pub(crate) fn header(&mut self, remaining: usize, flags: u16) {
        let long = self.bytes.len().is_multiple_of(SEGMENT);
        let mut header = vec![0; if long { LONG_HEADER } else { SHORT_HEADER }];
        let flags = flags | u16::from(remaining > 0) | u16::from(long) << 1;
        header[..2].copy_from_slice(&0xD110u16.to_le_bytes());
        header[2..4].copy_from_slice(&flags.to_le_bytes());
        header[4] = 1;
        header[8..16].copy_from_slice(&(START.0 + self.bytes.len() as u64).to_le_bytes());
        header[16..20].copy_from_slice(&(remaining as u32).to_le_bytes());
        self.bytes.extend(header);
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        if self.bytes.len().is_multiple_of(PAGE_SIZE) {
            self.header(0, 0);
        }
    }

    /// Puts a record; where it begins.
    pub(crate) fn put(&mut self, kind: Kind, content: &[u8]) -> Lsn {
        self.put_until(kind, content, usize::MAX)
    }

    /// The same, but no page is begun for it after so many: as if the server had crashed.
    pub(crate) fn put_until(&mut self, kind: Kind, content: &[u8], mut pages: usize) -> Lsn {
        self.align();
        let start = START + self.bytes.len() as u64;
        let record = record(kind, self.last, content);
        let mut rest = record.as_slice();
        loop {
            let room = PAGE_SIZE - self.bytes.len() % PAGE_SIZE;
            let (here, later) = rest.split_at(rest.len().min(room));
            self.bytes.extend_from_slice(here);
            rest = later;
            if rest.is_empty() {
                self.last = start;
                return start;
            }
            if pages == 0 {
                return start;
            }
            pages -= 1;
            self.header(rest.len(), 0);
        }
    }

    /// Ends the segment with a switch.
    pub(crate) fn switch(&mut self) -> Lsn {
        let start = self.put(Kind { rmgr: 0, info: 0x40, xid: 0 }, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT), 0);
        start
    }

    pub(crate) fn pages(&self) -> impl Iterator<Item = (Lsn, &[u8])> {
        pages(&self.bytes)
    }
}

pub(crate) fn pages(bytes: &[u8]) -> impl Iterator<Item = (Lsn, &[u8])> {
    let pages = bytes.chunks(PAGE_SIZE).enumerate();
    pages.map(|(number, page)| (START + (number * PAGE_SIZE) as u64, page))
}

/// What a record's header says beside its length and place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) rmgr: u8,
    pub(crate) info: u8,
    pub(crate) xid: u32,
}

fn record(kind: Kind, previous: Lsn, content: &[u8]) -> Vec<u8> {
    let mut record = vec![0; RECORD_HEADER];
    record[..4].copy_from_slice(&((RECORD_HEADER + content.len()) as u32).to_le_bytes());
    record[4..8].copy_from_slice(&kind.xid.to_le_bytes());
    record[8..16].copy_from_slice(&previous.0.to_le_bytes());
    record[16..18].copy_from_slice(&[kind.info, kind.rmgr]);
    let mut checksum = Crc32c::new();
    checksum.update(content);
    checksum.update(&record[..20]);
    record[20..24].copy_from_slice(&checksum.value().to_le_bytes());
    record.extend_from_slice(content);
    record
}

/// Main data with its header.
pub(crate) fn main_data(data: &[u8]) -> Vec<u8> {
    let mut content = match u8::try_from(data.len()) {
        Ok(length) => vec![255, length],
        Err(_) => [&[254][..], &(data.len() as u32).to_le_bytes()].concat(),
    };
    content.extend_from_slice(data);
    content
}
