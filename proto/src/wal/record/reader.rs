//! Records out of pages.

use super::{ALIGNMENT, LONGEST_RECORD, RECORD_HEADER, Record, Rmgr};
use crate::Lsn;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::checksum::Crc32c;
use crate::wal::WalError;
use crate::wal::page::{PAGE_SIZE, PageHeader};

/// Where the checksum lies in a record's header; it covers what lies before it.
const CHECKSUM: usize = 20;

/// Reads pages of WAL one after the other, and hands out the records that end on them.
///
/// A record on one page is not copied. One that goes over pages is gathered in a buffer that is used again and never
/// holds more than was read of it, nor more than what is to be kept.
///
/// It begins anywhere: what the first page begins with of a record from before is passed over. The same is true where
/// pages are left out in between, and after an error.
#[derive(Debug)]
pub struct Records {
    keep: usize,
    /// The page that follows the last one.
    next_page: Option<Lsn>,
    place: Place,
    /// Where the last record begins, if nothing was left out since.
    last: Option<Lsn>,
    open: Open,
}

/// What the WAL is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Unknown: at the beginning, and after damage.
    Unknown,
    /// Between two records.
    Between,
    /// Within [`Open`].
    Within,
    /// Behind a switch: zeros up to the end of the segment.
    Switched,
    /// At the end: no record begins there.
    Ended(Lsn),
}

/// A record that began on an earlier page.
#[derive(Debug)]
struct Open {
    start: Lsn,
    length: u32,
    missing: u32,
    /// Of what follows the header.
    checksum: Crc32c,
    /// Its first bytes.
    front: Vec<u8>,
}

impl Default for Records {
    fn default() -> Self {
        Self::new(16 << 20)
    }
}

impl Records {
    /// Of a record over several pages, `keep` bytes are kept at most; of the rest only the checksum is looked at. A
    /// commit that drops a million relations takes 12 MiB. The default is 16 MiB.
    pub fn new(keep: usize) -> Self {
        let open =
            Open { start: Lsn::INVALID, length: 0, missing: 0, checksum: Crc32c::new(), front: Vec::new() };
        Self { keep: keep.max(PAGE_SIZE), next_page: None, place: Place::Unknown, last: None, open }
    }

    /// Where the last record begins that was read to its end.
    pub fn last_record(&self) -> Option<Lsn> {
        self.last
    }

    /// Where a record begins whose end was not given yet.
    pub fn open_record(&self) -> Option<Lsn> {
        (self.place == Place::Within).then_some(self.open.start)
    }

    /// Reads the page at `address` and calls `each` for every record that ends on it. What `page` has beyond its 8 KiB
    /// does not count; the WAL's last page may be cut off. A page of zeros may follow a switch, and the end.
    ///
    /// # Errors
    /// It is no page of WAL, or not the one at `address`, or does not follow the one before, or a record on it is
    /// damaged. The records before that were handed out; what can be read goes on with the next page, or with the same
    /// one if that does not continue the last.
    pub fn read(
        &mut self,
        page: &[u8],
        address: Lsn,
        mut each: impl FnMut(Record<'_>),
    ) -> Result<(), WalError> {
        if self.next_page != Some(address) {
            self.forget();
        }
        self.next_page = Some(address + PAGE_SIZE as u64);
        let done = self.page(page.get(..PAGE_SIZE).unwrap_or(page), address, &mut each);
        if done.is_err() {
            self.forget();
            // The page itself may be whole where it is another one's continuation that is missing.
            self.next_page = None;
        }
        done
    }

    fn forget(&mut self) {
        self.place = Place::Unknown;
        self.last = None;
    }

    fn page(&mut self, page: &[u8], address: Lsn, each: &mut impl FnMut(Record<'_>)) -> Result<(), WalError> {
        let damaged = |at: Lsn, why| WalError::Damaged { at, why };
        if page.iter().all(|byte| *byte == 0) {
            match self.place {
                Place::Between => self.place = Place::Ended(address),
                Place::Within => self.place = Place::Ended(self.open.start),
                Place::Unknown | Place::Switched | Place::Ended(_) => {}
            }
            return Ok(());
        }
        let header = PageHeader::parse(page)?;
        if header.address != address {
            return Err(WalError::Address { found: header.address, expected: address });
        }
        match self.place {
            Place::Ended(at) => return Err(damaged(at, "WAL ends there and goes on later")),
            Place::Switched if !header.long => {
                return Err(damaged(address, "something follows a switch to the next segment"));
            }
            _ => {}
        }
        let mut at = header.length();
        if header.continues_record {
            let end = at.saturating_add(header.remaining as usize);
            match self.place {
                Place::Within if header.remaining != self.open.missing => {
                    return Err(damaged(address, "a record is continued with another length"));
                }
                Place::Within => self.go_on(page, at, header.version, each)?,
                Place::Unknown => {}
                _ => return Err(damaged(address, "a record is continued that has not begun")),
            }
            if end > PAGE_SIZE {
                return Ok(());
            }
            if self.place == Place::Unknown {
                self.place = Place::Between;
            }
            at = end;
        } else {
            // A record that was torn by a crash is given up, and the page says so.
            if self.place == Place::Within && !header.abandons_record {
                return Err(damaged(self.open.start, "the record that begins there is not continued"));
            }
            self.place = Place::Between;
        }
        self.records(page, at, &header, each)
    }

    /// Every record that begins on the page, from `at` on.
    fn records(
        &mut self,
        page: &[u8],
        mut at: usize,
        header: &PageHeader,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<(), WalError> {
        loop {
            at = at.next_multiple_of(ALIGNMENT);
            let start = header.address + at as u64;
            // A length never lies across two pages, since records are aligned. Where it is missing the page is at its
            // end, or was cut off.
            let Some(length) = u32_at(page, at) else { return Ok(()) };
            if length == 0 {
                if page.get(at..).unwrap_or_default().iter().any(|byte| *byte != 0) {
                    return Err(WalError::Damaged {
                        at: start,
                        why: "a record of no length is followed by something",
                    });
                }
                if self.place != Place::Switched {
                    self.place = Place::Ended(start);
                }
                return Ok(());
            }
            if self.place == Place::Switched {
                return Err(WalError::Damaged {
                    at: start,
                    why: "something follows a switch to the next segment",
                });
            }
            if (length as usize) < RECORD_HEADER {
                return Err(WalError::Damaged { at: start, why: "a record is shorter than its own header" });
            }
            if length > LONGEST_RECORD {
                return Err(WalError::Damaged { at: start, why: "a record is longer than any can be" });
            }
            let end = at + length as usize;
            let Some(record) = page.get(at..end) else {
                self.begin(page.get(at..).unwrap_or_default(), start, length);
                return Ok(());
            };
            let mut checksum = Crc32c::new();
            checksum.update(&record[RECORD_HEADER..]);
            let record = whole(record, length, start, header.version, checksum)?;
            self.hand_out(record, each)?;
            at = end;
        }
    }

    /// The first bytes of a record that goes on.
    fn begin(&mut self, bytes: &[u8], start: Lsn, length: u32) {
        self.place = Place::Within;
        self.open.start = start;
        self.open.length = length;
        self.open.missing = length;
        self.open.checksum = Crc32c::new();
        self.open.front.clear();
        self.take(bytes);
    }

    /// More of the open record.
    fn take(&mut self, bytes: &[u8]) {
        let open = &mut self.open;
        let read = (open.length - open.missing) as usize;
        let header = RECORD_HEADER.saturating_sub(read).min(bytes.len());
        open.checksum.update(&bytes[header..]);
        let room = self.keep.saturating_sub(open.front.len()).min(bytes.len());
        open.front.extend_from_slice(&bytes[..room]);
        // Never more than is missing: a page holds no more of it than its header says.
        open.missing -= (bytes.len() as u32).min(open.missing);
    }

    /// What the page has of the open record, from `at` on.
    fn go_on(
        &mut self,
        page: &[u8],
        at: usize,
        version: u16,
        each: &mut impl FnMut(Record<'_>),
    ) -> Result<(), WalError> {
        let end = at.saturating_add(self.open.missing as usize).min(page.len()).max(at);
        self.take(page.get(at..end).unwrap_or_default());
        if self.open.missing > 0 {
            return Ok(());
        }
        // Its bytes are lent out while the record is looked at.
        let front = std::mem::take(&mut self.open.front);
        let done = whole(&front, self.open.length, self.open.start, version, self.open.checksum)
            .and_then(|record| self.hand_out(record, each));
        self.open.front = front;
        done
    }

    fn hand_out(&mut self, record: Record<'_>, each: &mut impl FnMut(Record<'_>)) -> Result<(), WalError> {
        // Also behind a torn record, the one before is the last that was whole.
        let follows = match self.last {
            Some(last) => record.previous == last,
            None => record.previous < record.start,
        };
        if !follows {
            let why = "a record does not follow the one before: it is left from an earlier use of the file";
            return Err(WalError::Damaged { at: record.start, why });
        }
        self.last = Some(record.start);
        self.place = if record.is_switch() { Place::Switched } else { Place::Between };
        each(record);
        Ok(())
    }
}

/// A record of which all, or the part that is kept, is in `bytes`; `checksum` is that of what follows its header.
fn whole(
    bytes: &[u8],
    length: u32,
    start: Lsn,
    version: u16,
    mut checksum: Crc32c,
) -> Result<Record<'_>, WalError> {
    let damaged = |why| WalError::Damaged { at: start, why };
    checksum.update(bytes.get(..CHECKSUM).unwrap_or_default());
    if u32_at(bytes, CHECKSUM) != Some(checksum.value()) {
        return Err(damaged("a record's checksum is wrong"));
    }
    let fields = || {
        let [info, rmgr] = u16_at(bytes, 16)?.to_le_bytes();
        Some(Record {
            start,
            previous: Lsn(u64_at(bytes, 8)?),
            xid: u32_at(bytes, 4)?,
            rmgr: Rmgr(rmgr),
            info,
            length,
            version,
            content: bytes.get(RECORD_HEADER..)?,
        })
    };
    let record = fields().ok_or_else(|| damaged("a record is shorter than its own header"))?;
    if !record.rmgr.exists(version) {
        return Err(damaged("a record is of no resource manager that there is"));
    }
    Ok(record)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
