//! The records of the WAL: what the server did, one change after the other.
//!
//! [`Records`] puts them together from pages; a [`Record`] is the header of one with what follows, [`Parts`] are the
//! blocks that it touches and its main data. What the resource managers wrote there is read in the modules beside.
//!
//! | offset | bytes | field of the header |
//! |---|---|---|
//! | 0 | 4 | length, the header's included |
//! | 4 | 4 | transaction; 0: none |
//! | 8 | 8 | where the record before begins |
//! | 16 | 1 | kind: the upper half is the resource manager's |
//! | 17 | 1 | resource manager |
//! | 20 | 4 | CRC-32C of what follows the header, then of the header up to here |

pub mod catalogue;
#[cfg(test)]
pub(crate) mod fixture;
pub mod heap;
mod parts;
mod reader;
mod rmgr;
pub mod storage;
pub mod transaction;
pub mod xlog;

use std::fmt;

pub use parts::{Block, Image, Parts};
pub use reader::Records;
pub use rmgr::Rmgr;

use crate::Lsn;
use crate::bytes::u32_at;

/// Bytes of the header.
pub const RECORD_HEADER: usize = 24;

/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;

/// No record is longer, in bytes: the server could not hold it in memory.
pub const LONGEST_RECORD: u32 = 1 << 30;

/// One record, with a right checksum.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Where it begins.
    pub start: Lsn,
    /// Where the one before begins.
    pub previous: Lsn,
    /// The transaction that wrote it; 0: none, or none that changes anything.
    pub xid: u32,
    /// Who wrote it.
    pub rmgr: Rmgr,
    /// What kind it is: the upper four bits are the resource manager's, the lower ones the WAL's own.
    pub info: u8,
    /// Bytes, the header's included.
    pub length: u32,
    /// The major version of the server that wrote it, 13 to 18.
    pub version: u16,
    /// What follows the header; cut off if it is longer than what [`Records`] keeps.
    pub content: &'a [u8],
}

impl<'a> Record<'a> {
    /// The kind, without what belongs to the WAL itself.
    pub fn kind(&self) -> u8 {
        self.info & 0xF0
    }

    /// The blocks that it touches, and its main data.
    ///
    /// # Errors
    /// Its parts do not fit together, which a right checksum makes unlikely: it is of an unknown kind of server.
    pub fn parts(&self) -> Result<Parts<'a>, crate::wal::WalError> {
        Parts::of(self)
    }

    /// Whether it ends the segment: zeros follow up to the next one.
    pub fn is_switch(&self) -> bool {
        self.rmgr == Rmgr::XLOG && self.kind() == xlog::SWITCH
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:02X} at {} of transaction {}", self.rmgr, self.info, self.start, self.xid)
    }
}

/// The files of a relation, without regard to its forks and segments: tablespace, database, number of the file.
///
/// The number is the relation's oid until it is rewritten or truncated for the first time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelFile {
    /// The tablespace's oid.
    pub tablespace: u32,
    /// The database's oid; 0: shared by all.
    pub database: u32,
    /// The number that is the file's name.
    pub number: u32,
}

impl RelFile {
    /// Bytes that it takes in a record.
    const LENGTH: usize = 12;

    pub(crate) fn at(bytes: &[u8], at: usize) -> Option<RelFile> {
        Some(RelFile {
            tablespace: u32_at(bytes, at)?,
            database: u32_at(bytes, at + 4)?,
            number: u32_at(bytes, at + 8)?,
        })
    }
}

/// As `pg_waldump` shows it: `1663/5/16384`.
impl fmt::Display for RelFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.number)
    }
}

/// Which of a relation's files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fork {
    /// Its content.
    Main,
    /// The free space map.
    FreeSpace,
    /// The visibility map.
    Visibility,
    /// What an unlogged relation is reset to.
    Init,
}

impl Fork {
    pub(crate) fn of(number: u32) -> Option<Fork> {
        [Fork::Main, Fork::FreeSpace, Fork::Visibility, Fork::Init].get(number as usize).copied()
    }

    /// As it ends the names of its files; empty for the main one.
    pub fn name(self) -> &'static str {
        match self {
            Fork::Main => "main",
            Fork::FreeSpace => "fsm",
            Fork::Visibility => "vm",
            Fork::Init => "init",
        }
    }
}

/// Numbers of four bytes that lie one after the other in a record.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    /// In their order there.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.0.chunks_exact(4).map(|bytes| u32_at(bytes, 0).unwrap_or_default())
    }
}

/// The files of relations that lie one after the other in a record.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RelFiles<'a>(&'a [u8]);

impl RelFiles<'_> {
    /// In their order there.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RelFile> + '_ {
        let none = RelFile { tablespace: 0, database: 0, number: 0 };
        self.0.chunks_exact(RelFile::LENGTH).map(move |bytes| RelFile::at(bytes, 0).unwrap_or(none))
    }
}
