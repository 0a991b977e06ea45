//! Commits and aborts.

use super::{Numbers, Record, RelFile, RelFiles, Rmgr};
use crate::ServerTime;
use crate::bytes::{u32_at, u64_at};

const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const KIND: u8 = 0x70;
/// More follows the time than nothing.
const HAS_INFO: u8 = 0x80;

const HAS_DATABASE: u32 = 1;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_FILES: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_PREPARED: u32 = 1 << 4;
const HAS_GID: u32 = 1 << 7;
/// From 15 on.
const HAS_STATISTICS: u32 = 1 << 8;

const INVALIDATION: usize = 16;

/// The commit or abort of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended<'a> {
    /// Whether it was committed.
    pub committed: bool,
    /// The transaction: that which `recovery_target_xid` knows, also of one that was prepared.
    pub xid: u32,
    /// When, by the server's clock.
    pub time: ServerTime,
    /// The database that it was in, where that is told.
    pub database: Option<u32>,
    /// What was a part of it.
    pub subtransactions: Numbers<'a>,
    /// The files that go with its end: dropped, truncated or rewritten relations of a commit, new ones of an abort.
    pub dropped: RelFiles<'a>,
    /// Under which name it was prepared, where that is told.
    pub prepared_as: Option<&'a [u8]>,
}

/// The end of a transaction, if the record is one. `None` also where it does not hold what it announces.
pub fn ended<'a>(record: &Record<'a>) -> Option<Ended<'a>> {
    let committed = committed(record)?;
    let main = record.parts().ok()?.main;
    let time = ServerTime(u64_at(main, 0)? as i64);
    let mut ended = Ended {
        committed,
        xid: record.xid,
        time,
        database: None,
        subtransactions: Numbers::default(),
        dropped: RelFiles::default(),
        prepared_as: None,
    };
    if record.info & HAS_INFO == 0 {
        return Some(ended);
    }
    let has = u32_at(main, 8)?;
    let mut rest = Rest { bytes: main, at: 12 };
    if has & HAS_DATABASE != 0 {
        ended.database = Some(u32_at(rest.take(8)?, 0)?);
    }
    if has & HAS_SUBTRANSACTIONS != 0 {
        ended.subtransactions = Numbers(rest.counted(4)?);
    }
    if has & HAS_FILES != 0 {
        ended.dropped = RelFiles(rest.counted(RelFile::LENGTH)?);
    }
    if has & HAS_STATISTICS != 0 && record.version >= 15 {
        // The number of what they are of has 8 bytes since 18.
        rest.counted(if record.version >= 18 { 16 } else { 12 })?;
    }
    if has & HAS_INVALIDATIONS != 0 && committed {
        rest.counted(INVALIDATION)?;
    }
    if has & HAS_PREPARED != 0 {
        ended.xid = u32_at(rest.take(4)?, 0)?;
        if has & HAS_GID != 0 {
            let name = rest.bytes.get(rest.at..)?;
            let length = name.iter().position(|byte| *byte == 0)?;
            ended.prepared_as = Some(&name[..length]);
        }
    }
    Some(ended)
}

/// When a transaction ended, if the record says so: without looking at the rest.
pub fn end_time(record: &Record<'_>) -> Option<ServerTime> {
    committed(record)?;
    Some(ServerTime(u64_at(record.parts().ok()?.main, 0)? as i64))
}

/// Whether the record is a commit, or an abort; `None`: neither.
fn committed(record: &Record<'_>) -> Option<bool> {
    if record.rmgr != Rmgr::TRANSACTION {
        return None;
    }
    match record.info & KIND {
        COMMIT | COMMIT_PREPARED => Some(true),
        ABORT | ABORT_PREPARED => Some(false),
        _ => None,
    }
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// So many items of that length as the number before them says.
    fn counted(&mut self, item: usize) -> Option<&'a [u8]> {
        let count = u32_at(self.take(4)?, 0)? as usize;
        self.take(count.checked_mul(item)?)
    }
}
