//! Is this file the segment that its name promises, and is it whole?
//!
//! A segment is whole if its WAL runs to its last byte, or to a switch (`pg_switch_wal`, `archive_timeout`, the end
//! of a base backup) after which everything is zeros: PostgreSQL 13 to 18 leave no page headers behind a switch.
//! A file that merely *looks* long enough is none: a standby with `archive_mode=always` offers a tail that somebody
//! padded for it under the whole segment's name, and a recycled file has old pages at its end.

use super::padding::padded_tail;
use super::page::{LongHeader, PAGE_SIZE, PageHeader};
use super::{SegmentName, SegmentSize, WalError};
use crate::bytes::{u16_at, u32_at};
use crate::{Lsn, SystemId, TimelineId};

/// What a segment's first page tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Whose WAL it is.
    pub system_id: SystemId,
    /// The cluster's segment size: the length of a whole file.
    pub segment_size: SegmentSize,
    /// The first page's timeline: at most the name's.
    pub header_timeline: TimelineId,
    /// The major version of PostgreSQL, 13 to 18.
    pub version: u16,
}

/// Checks the first page against the file's name and, if known, the cluster.
///
/// The page's timeline may be earlier than the name's: the first segment after a fork begins as a copy of its
/// parent's. That the file is as long as [`SegmentFacts::segment_size`] is left to the caller.
pub fn check_segment_start(
    first_page: &[u8],
    name: SegmentName,
    expected: Option<SystemId>,
) -> Result<SegmentFacts, WalError> {
    let header = LongHeader::parse(first_page)?;
    if let Some(expected) = expected.filter(|expected| *expected != header.system_id) {
        return Err(WalError::Foreign { found: header.system_id, expected });
    }
    check_page(&header.page, name, name.number(header.segment_size)?.start(header.segment_size))?;
    Ok(SegmentFacts {
        system_id: header.system_id,
        segment_size: header.segment_size,
        header_timeline: header.page.timeline,
        version: header.page.version,
    })
}

/// Checks that a segment, the whole file, is whole.
pub fn check_whole(segment: &[u8], name: SegmentName) -> Result<(), WalError> {
    check_whole_by_page(segment.len() as u64, last_content(segment), name, |page, buffer| {
        let from = page as usize * PAGE_SIZE;
        let bytes = segment.get(from..from + PAGE_SIZE).ok_or(WalError::Short(segment.len() as u64))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    })
}

/// The offset of the last byte that is not zero; 0 if there is none.
pub fn last_content(bytes: &[u8]) -> u64 {
    // Compared with zeros, which is memcmp and as wide as the processor can: a switch may leave a gigabyte of them.
    static ZEROS: [u8; 4096] = [0; 4096];
    let chunks = bytes.rchunks(ZEROS.len());
    let zeros = chunks.take_while(|chunk| *chunk == &ZEROS[..chunk.len()]);
    let end = bytes.len() - zeros.map(<[u8]>::len).sum::<usize>();
    bytes[..end].iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64
}

/// [`check_whole`] for a file that is not held in memory.
///
/// `length` is the file's, `last_content` the offset of its last byte that is not zero; `read` reads the page of
/// the given number, and is asked for three at most.
pub fn check_whole_by_page<E: From<WalError>>(
    length: u64,
    last_content: u64,
    name: SegmentName,
    mut read: impl FnMut(u64, &mut [u8; PAGE_SIZE]) -> Result<(), E>,
) -> Result<(), E> {
    let size = SegmentSize::new(length).map_err(|_| WalError::Short(length))?;
    let start = name.number(size).map_err(WalError::from)?.start(size);
    let pages = length / PAGE_SIZE as u64;
    let last = last_content / PAGE_SIZE as u64;
    let mut page = [0; PAGE_SIZE];
    read(last, &mut page)?;
    if last + 1 == pages
        && let Some(valid) = padded_tail(&page)
    {
        return Err(WalError::Padded(valid as u64).into());
    }
    let address = start + last * PAGE_SIZE as u64;
    let header = PageHeader::parse(&page)
        .map_err(|error| WalError::LastPage { at: address, why: error.to_string() })?;
    check_page(&header, name, address)?;
    let end = walk(&page, &header)?;
    let (offset, last_record) = match end {
        // It may go on in the next segment.
        _ if end.fills_page() && last + 1 == pages => return Ok(()),
        End::Nothing => (header.length(), None),
        End::Record { start, end } => (end, record_start(&page, start)),
        End::Continued { end } => {
            let mut before = [0; PAGE_SIZE];
            if let Some(previous) = last.checked_sub(1) {
                read(previous, &mut before)?;
            }
            let known = (last > 0).then_some(&before);
            (end, continued_record(known, &page, &header))
        }
    };
    if last_record.is_some_and(RecordHead::is_switch) {
        return Ok(());
    }
    Err(WalError::Incomplete(address + offset.min(PAGE_SIZE) as u64).into())
}

fn check_page(header: &PageHeader, name: SegmentName, expected: Lsn) -> Result<(), WalError> {
    if header.address != expected {
        return Err(WalError::Address { found: header.address, expected });
    }
    if header.timeline > name.timeline {
        return Err(WalError::Timeline { found: header.timeline, expected: name.timeline });
    }
    Ok(())
}

/// Bytes before a record's content.
const RECORD_HEADER: usize = 24;
/// Where in that header the kind of record and its resource manager are.
const INFO: usize = 16;
/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// What a record's header says about its kind.
#[derive(Clone, Copy)]
struct RecordHead {
    info: u8,
    resource_manager: u8,
    length: u32,
}

impl RecordHead {
    /// XLOG_SWITCH of the resource manager for the WAL itself; it has a header and nothing else.
    fn is_switch(self) -> bool {
        self.resource_manager == 0 && self.info & 0xF0 == 0x40 && self.length as usize == RECORD_HEADER
    }
}

/// What the WAL on a page ends with. `end` may lie beyond the page.
#[derive(Clone, Copy)]
enum End {
    /// A record that began on the page.
    Record { start: usize, end: usize },
    /// The rest of a record that began earlier.
    Continued { end: usize },
    /// There is nothing but the header.
    Nothing,
}

impl End {
    fn fills_page(self) -> bool {
        match self {
            End::Record { end, .. } | End::Continued { end } => end.next_multiple_of(ALIGNMENT) >= PAGE_SIZE,
            End::Nothing => false,
        }
    }
}

/// Follows the records of the last page that is not zeros.
fn walk(page: &[u8; PAGE_SIZE], header: &PageHeader) -> Result<End, WalError> {
    let damaged = |at: usize, why| WalError::Damaged { at: header.address + at as u64, why };
    let mut position = header.length();
    let mut end = End::Nothing;
    if header.continues_record {
        position = position.saturating_add(header.remaining as usize);
        end = End::Continued { end: position };
    }
    loop {
        let start = position.next_multiple_of(ALIGNMENT);
        if start >= PAGE_SIZE {
            return Ok(end);
        }
        // A length never lies across two pages, since records are aligned.
        let length = u32_at(page, start).unwrap_or_default() as usize;
        if length == 0 {
            let rest = page.get(start..).unwrap_or_default();
            return if rest.iter().all(|byte| *byte == 0) {
                Ok(end)
            } else {
                Err(damaged(start, "a record of no length is followed by something"))
            };
        }
        if length < RECORD_HEADER {
            return Err(damaged(start, "a record is shorter than its own header"));
        }
        if matches!(end, End::Record { start, .. } if record_start(page, start).is_some_and(RecordHead::is_switch))
        {
            return Err(damaged(start, "something follows a switch to the next segment"));
        }
        position = start.saturating_add(length);
        end = End::Record { start, end: position };
    }
}

/// The header of a record that lies on one page.
fn record_start(page: &[u8; PAGE_SIZE], start: usize) -> Option<RecordHead> {
    let [info, resource_manager] = u16_at(page, start + INFO)?.to_le_bytes();
    Some(RecordHead { info, resource_manager, length: u32_at(page, start)? })
}

/// The header of a record that began on the page before, where its rest on `page` could be that of a switch.
///
/// A switch is 24 bytes long and begins at a multiple of 8, so 8 or 16 of them are here, its kind always among
/// them. If the page before belongs to the segment before, its length has to be believed.
fn continued_record(
    before: Option<&[u8; PAGE_SIZE]>,
    page: &[u8; PAGE_SIZE],
    header: &PageHeader,
) -> Option<RecordHead> {
    let rest = header.remaining as usize;
    if rest != 8 && rest != 16 {
        return None;
    }
    let already = RECORD_HEADER - rest;
    let [info, resource_manager] = u16_at(page, header.length() + INFO - already)?.to_le_bytes();
    let length = match before {
        Some(before) => u32_at(before, PAGE_SIZE - already)?,
        None => RECORD_HEADER as u32,
    };
    Some(RecordHead { info, resource_manager, length })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 1 << 20;

    fn name() -> SegmentName {
        "000000020000000000000003".parse().unwrap()
    }

    /// A segment of 1 MiB under construction, with records of chosen lengths.
    struct Builder {
        bytes: Vec<u8>,
        position: usize,
    }

    impl Builder {
        /// `rest`: bytes of a record that began in the segment before.
        fn new(rest: &[u8]) -> Self {
            let mut builder = Builder { bytes: vec![0; SIZE], position: 0 };
            builder.page_header(rest.len());
            builder.put(rest);
            builder.align();
            builder
        }

        fn page_header(&mut self, remaining: usize) {
            let at = self.position;
            let long = at == 0;
            let flags = u16::from(remaining > 0) | u16::from(long) << 1;
            let mut header = Vec::new();
            header.extend(0xD110_u16.to_le_bytes());
            header.extend(flags.to_le_bytes());
            header.extend(2_u32.to_le_bytes());
            header.extend((3 * SIZE as u64 + at as u64).to_le_bytes());
            header.extend((remaining as u32).to_le_bytes());
            header.extend([0; 4]);
            if long {
                header.extend(42_u64.to_le_bytes());
                header.extend((SIZE as u32).to_le_bytes());
                header.extend((PAGE_SIZE as u32).to_le_bytes());
            }
            self.bytes[at..at + header.len()].copy_from_slice(&header);
            self.position += header.len();
        }

        fn put(&mut self, bytes: &[u8]) {
            for (index, byte) in bytes.iter().enumerate() {
                if self.position == SIZE {
                    return;
                }
                if self.position.is_multiple_of(PAGE_SIZE) {
                    self.page_header(bytes.len() - index);
                }
                self.bytes[self.position] = *byte;
                self.position += 1;
            }
        }

        fn align(&mut self) {
            self.position = self.position.next_multiple_of(ALIGNMENT);
        }

        fn record(&mut self, length: usize, info: u8) {
            if self.position < SIZE && self.position.is_multiple_of(PAGE_SIZE) {
                self.page_header(0);
            }
            self.put(&record(length, info));
            self.align();
        }

        fn room_on_page(&self) -> usize {
            PAGE_SIZE - self.position % PAGE_SIZE
        }
    }

    fn record(length: usize, info: u8) -> Vec<u8> {
        let mut bytes = vec![0xAB; length];
        bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[INFO] = info;
        bytes[INFO + 1] = 0;
        bytes
    }

    #[test]
    fn a_full_segment_is_whole() {
        let mut builder = Builder::new(&[]);
        while builder.position < SIZE {
            builder.record(1000, 0x10);
        }
        assert_eq!(check_whole(&builder.bytes, name()), Ok(()));
        // Cut anywhere, on the last page too, it is not, however it is padded.
        for valid in [SIZE - 24, SIZE - 5000, SIZE - PAGE_SIZE, SIZE / 2 + 16, PAGE_SIZE, 40] {
            let mut cut = builder.bytes.clone();
            stamp(&mut cut, valid);
            assert_eq!(check_whole(&cut, name()), Err(WalError::Padded(valid as u64)));
        }
        for valid in [SIZE - 5000, SIZE - PAGE_SIZE, SIZE / 2 + 16, PAGE_SIZE, 40] {
            let mut cut = builder.bytes.clone();
            cut[valid..].fill(0);
            assert!(check_whole(&cut, name()).is_err(), "{valid}");
        }
    }

    fn stamp(segment: &mut [u8], valid: usize) {
        super::super::padding::stamp_padding(segment, valid);
    }

    #[test]
    fn a_record_over_several_pages_up_to_the_end_is_whole() {
        let mut builder = Builder::new(&[]);
        builder.record(SIZE, 0x10);
        assert_eq!(check_whole(&builder.bytes, name()), Ok(()));
    }

    /// Wherever on a page the switch comes to lie, its header across two pages included.
    #[test]
    fn a_switch_at_any_place_makes_a_segment_whole() {
        for room in (0..=64).step_by(ALIGNMENT) {
            let mut builder = Builder::new(&[]);
            builder.record(PAGE_SIZE, 0x10);
            builder.record(builder.room_on_page() - room, 0x10);
            builder.record(RECORD_HEADER, 0x40);
            assert_eq!(check_whole(&builder.bytes, name()), Ok(()), "{room}");
            // The same place with another record of that length.
            let mut builder = Builder::new(&[]);
            builder.record(PAGE_SIZE, 0x10);
            builder.record(builder.room_on_page() - room, 0x10);
            builder.record(RECORD_HEADER, 0x20);
            assert!(matches!(check_whole(&builder.bytes, name()), Err(WalError::Incomplete(_))), "{room}");
        }
    }

    #[test]
    fn a_switch_that_began_in_the_segment_before_makes_it_whole() {
        for here in [8, 16] {
            let switch = record(RECORD_HEADER, 0x40);
            let builder = Builder::new(&switch[RECORD_HEADER - here..]);
            assert_eq!(check_whole(&builder.bytes, name()), Ok(()));
            let other = record(RECORD_HEADER, 0x20);
            let builder = Builder::new(&other[RECORD_HEADER - here..]);
            assert!(check_whole(&builder.bytes, name()).is_err());
        }
    }

    #[test]
    fn the_end_of_a_longer_record_is_not_taken_for_a_switch() {
        let mut builder = Builder::new(&[]);
        builder.record(PAGE_SIZE, 0x10);
        builder.record(builder.room_on_page() - 32, 0x10);
        // Its last 8 bytes, alone on the next page, read like the end of a switch.
        let mut long = record(40, 0x10);
        long[32..34].copy_from_slice(&[0x40, 0]);
        builder.put(&long);
        assert!(matches!(check_whole(&builder.bytes, name()), Err(WalError::Incomplete(_))));
    }

    #[test]
    fn anything_behind_a_switch_is_damage() {
        let mut builder = Builder::new(&[]);
        builder.record(RECORD_HEADER, 0x40);
        builder.record(100, 0x10);
        assert!(matches!(check_whole(&builder.bytes, name()), Err(WalError::Damaged { .. })));
    }

    #[test]
    fn an_old_page_at_the_end_of_a_recycled_file_is_told() {
        let mut builder = Builder::new(&[]);
        while builder.position < SIZE {
            builder.record(1000, 0x10);
        }
        let old: SegmentName = "000000020000000000000004".parse().unwrap();
        assert!(matches!(check_whole(&builder.bytes, old), Err(WalError::Address { .. })));
        let parent: SegmentName = "000000010000000000000003".parse().unwrap();
        assert!(matches!(check_whole(&builder.bytes, parent), Err(WalError::Timeline { .. })));
    }

    #[test]
    fn the_start_is_checked_against_name_and_cluster() {
        let builder = Builder::new(&[]);
        let page = &builder.bytes[..PAGE_SIZE];
        let facts = check_segment_start(page, name(), Some(SystemId(42))).unwrap();
        assert_eq!(
            (facts.system_id, facts.segment_size.bytes(), facts.version),
            (SystemId(42), SIZE as u64, 15)
        );
        assert!(matches!(
            check_segment_start(page, name(), Some(SystemId(43))),
            Err(WalError::Foreign { .. })
        ));
        let later: SegmentName = "000000030000000000000003".parse().unwrap();
        assert!(check_segment_start(page, later, None).is_ok(), "the first segment after a fork");
        let earlier: SegmentName = "000000010000000000000003".parse().unwrap();
        assert!(matches!(check_segment_start(page, earlier, None), Err(WalError::Timeline { .. })));
        let elsewhere: SegmentName = "000000020000000000000004".parse().unwrap();
        assert!(matches!(check_segment_start(page, elsewhere, None), Err(WalError::Address { .. })));
        let impossible: SegmentName = "0000000200000000FFFFFFFF".parse().unwrap();
        assert!(matches!(check_segment_start(page, impossible, None), Err(WalError::Name(_))));
        assert_eq!(check_segment_start(&page[..30], name(), None), Err(WalError::Short(30)));
        assert_eq!(check_segment_start(&[0; 40], name(), None), Err(WalError::Magic(0)));
    }

    proptest! {
        #[test]
        fn last_content_is_the_last_byte_that_is_not_zero(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), zeros in 0..2000usize) {
            bytes.extend(std::iter::repeat_n(0, zeros));
            let expected = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
            prop_assert_eq!(last_content(&bytes), expected);
        }

        #[test]
        fn never_panics_on_any_page(
            content in proptest::collection::vec(any::<u8>(), 0..200),
            page in 0..SIZE / PAGE_SIZE,
            remaining: u32,
        ) {
            let mut builder = Builder::new(&[]);
            builder.position = page * PAGE_SIZE;
            builder.page_header(remaining as usize);
            builder.put(&content);
            let _ = check_whole(&builder.bytes, name());
        }
    }
}
