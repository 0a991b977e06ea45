//! The header that each 8 KiB page of WAL begins with.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | magic: tells the major version |
//! | 2 | 2 | flags |
//! | 4 | 4 | timeline |
//! | 8 | 8 | the page's own address |
//! | 16 | 4 | bytes of a record from an earlier page that are still to come |
//! | 24 | 8 | long header only: system identifier |
//! | 32 | 4 | long header only: segment size |
//! | 36 | 4 | long header only: page size |
//!
//! All in the byte order of the host that wrote it; little-endian is what is read here.

use super::{SegmentSize, WalError};
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::{Lsn, SystemId, TimelineId};

/// Bytes in a page of WAL. Another size needs another build of PostgreSQL; it is refused by name.
pub const PAGE_SIZE: usize = 8192;

/// Bytes that the header takes on most pages.
pub const SHORT_HEADER: usize = 24;
/// Bytes that it takes on a segment's first page.
pub const LONG_HEADER: usize = 40;

const CONTINUES_RECORD: u16 = 1;
const IS_LONG: u16 = 2;
const ABANDONS_RECORD: u16 = 8;
/// With "removable blocks" (4): all flags that there are.
const ALL_FLAGS: u16 = 15;

/// What every page begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// The major version that writes this format: 13 to 18.
    pub version: u16,
    /// Whether the page begins with the rest of a record.
    pub continues_record: bool,
    /// Whether the record that would go on here was torn by a crash, and is given up.
    pub abandons_record: bool,
    /// Whether [`LongHeader`] is there: on a segment's first page, and nowhere else.
    pub long: bool,
    /// Of the page's writer: at a fork an earlier one than the file's name says.
    pub timeline: TimelineId,
    /// Where in the WAL the page belongs.
    pub address: Lsn,
    /// Bytes of that record that are still to come, this page's included; 0 unless `continues_record`.
    pub remaining: u32,
}

/// What a segment's first page says in addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// The common part.
    pub page: PageHeader,
    /// Whose WAL it is.
    pub system_id: SystemId,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
}

/// The major version that writes pages with this magic number.
pub const fn version_of(magic: u16) -> Option<u16> {
    match magic {
        0xD106 => Some(13),
        0xD10D => Some(14),
        0xD110 => Some(15),
        0xD113 => Some(16),
        0xD116 => Some(17),
        0xD118 => Some(18),
        _ => None,
    }
}

impl PageHeader {
    /// Reads the header at the beginning of `page`.
    pub fn parse(page: &[u8]) -> Result<PageHeader, WalError> {
        let short = || WalError::Short(page.len() as u64);
        let magic = u16_at(page, 0).ok_or_else(short)?;
        let version = version_of(magic).ok_or(WalError::Magic(magic))?;
        let flags = u16_at(page, 2).ok_or_else(short)?;
        if flags & !ALL_FLAGS != 0 {
            return Err(WalError::Header("it has flags that do not exist"));
        }
        let timeline = TimelineId::new(u32_at(page, 4).ok_or_else(short)?);
        let address = Lsn(u64_at(page, 8).ok_or_else(short)?);
        if !address.0.is_multiple_of(PAGE_SIZE as u64) {
            return Err(WalError::Header("its address is not that of a page"));
        }
        let continues_record = flags & CONTINUES_RECORD != 0;
        let remaining = u32_at(page, 16).ok_or_else(short)?;
        if continues_record != (remaining != 0) {
            return Err(WalError::Header("a continued record has no length"));
        }
        if page.len() < SHORT_HEADER {
            return Err(short());
        }
        Ok(PageHeader {
            version,
            continues_record,
            abandons_record: flags & ABANDONS_RECORD != 0,
            long: flags & IS_LONG != 0,
            timeline: timeline.ok_or(WalError::Header("its timeline is 0"))?,
            address,
            remaining,
        })
    }

    /// Bytes that the header takes.
    pub fn length(&self) -> usize {
        if self.long { LONG_HEADER } else { SHORT_HEADER }
    }
}

impl LongHeader {
    /// Reads the header of a segment's first page.
    pub fn parse(page: &[u8]) -> Result<LongHeader, WalError> {
        let header = PageHeader::parse(page)?;
        if !header.long {
            return Err(WalError::Header("a segment's first page must have a long one"));
        }
        let short = || WalError::Short(page.len() as u64);
        let system_id = SystemId(u64_at(page, 24).ok_or_else(short)?);
        let segment_size = u32_at(page, 32).ok_or_else(short)?;
        if u32_at(page, 36).ok_or_else(short)? as usize != PAGE_SIZE {
            return Err(WalError::Header("the server was built with WAL pages of another size than 8 KiB"));
        }
        let segment_size = SegmentSize::new(segment_size.into())
            .map_err(|_| WalError::Header("its segment size is not a power of two from 1 MiB to 1 GiB"))?;
        if !header.address.0.is_multiple_of(segment_size.bytes()) {
            return Err(WalError::Header("its address is not that of a segment"));
        }
        Ok(LongHeader { page: header, system_id, segment_size })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = PageHeader::parse(&bytes);
            let _ = LongHeader::parse(&bytes);
        }

        #[test]
        fn never_panics_behind_a_right_magic(mut bytes in proptest::collection::vec(any::<u8>(), 2..64)) {
            bytes[..2].copy_from_slice(&[0x18, 0xD1]);
            let _ = PageHeader::parse(&bytes);
            let _ = LongHeader::parse(&bytes);
        }
    }
}
