//! Files that come and go: of relations, of databases, and which of them a mapped catalogue has.

use super::{Fork, Numbers, Record, RelFile, Rmgr};
use crate::bytes::u32_at;

const SMGR_CREATE: u8 = 0x10;
const SMGR_TRUNCATE: u8 = 0x20;

/// What begins a map of relations.
const MAP_MAGIC: u32 = 0x0059_2717;

/// What happened to files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileChange<'a> {
    /// An empty file is there.
    Created {
        /// Of which relation.
        file: RelFile,
        /// Which of its forks.
        fork: Fork,
    },
    /// A relation was cut off at its end, as `VACUUM` does. `TRUNCATE` does that only to relations which its own
    /// transaction has created.
    Truncated {
        /// Which.
        file: RelFile,
        /// Blocks that are left.
        blocks: u32,
    },
    /// A database came into being.
    DatabaseCreated {
        /// Its oid.
        database: u32,
        /// Where its folder is.
        tablespace: u32,
        /// Which one it is a copy of, where that is told.
        source: Option<u32>,
    },
    /// A database's folders are gone.
    DatabaseDropped {
        /// Its oid.
        database: u32,
        /// Where the folders were; one only in 13's earliest records.
        tablespaces: Numbers<'a>,
    },
    /// The mapped catalogues of a database have these files now.
    MapChanged {
        /// The database; 0: the catalogues that all share.
        database: u32,
        /// Pairs of oid and file.
        mappings: Numbers<'a>,
    },
}

/// What the record says of files, if it does. `None` also where it does not hold what it announces.
pub fn change<'a>(record: &Record<'a>) -> Option<FileChange<'a>> {
    match record.rmgr {
        Rmgr::STORAGE => relation(record),
        Rmgr::DATABASE => database(record),
        Rmgr::RELATION_MAP if record.kind() == 0 => map(record),
        _ => None,
    }
}

fn relation<'a>(record: &Record<'a>) -> Option<FileChange<'a>> {
    let main = record.parts().ok()?.main;
    match record.kind() {
        SMGR_CREATE => {
            Some(FileChange::Created { file: RelFile::at(main, 0)?, fork: Fork::of(u32_at(main, 12)?)? })
        }
        SMGR_TRUNCATE => {
            Some(FileChange::Truncated { file: RelFile::at(main, 4)?, blocks: u32_at(main, 0)? })
        }
        _ => None,
    }
}

fn database<'a>(record: &Record<'a>) -> Option<FileChange<'a>> {
    let main = record.parts().ok()?.main;
    // 15 has two ways to create one; "drop" moved.
    let dropped = if record.version >= 15 { 0x20 } else { 0x10 };
    match record.kind() {
        0x00 => Some(FileChange::DatabaseCreated {
            database: u32_at(main, 0)?,
            tablespace: u32_at(main, 4)?,
            source: u32_at(main, 8),
        }),
        kind if kind == dropped => {
            let count = u32_at(main, 4)? as usize;
            let end = count.checked_mul(4)?.checked_add(8)?;
            Some(FileChange::DatabaseDropped {
                database: u32_at(main, 0)?,
                tablespaces: Numbers(main.get(8..end)?),
            })
        }
        0x10 => Some(FileChange::DatabaseCreated {
            database: u32_at(main, 0)?,
            tablespace: u32_at(main, 4)?,
            source: None,
        }),
        _ => None,
    }
}

fn map<'a>(record: &Record<'a>) -> Option<FileChange<'a>> {
    let main = record.parts().ok()?.main;
    if u32_at(main, 12)? != MAP_MAGIC {
        return None;
    }
    let count = u32_at(main, 16)? as usize;
    let end = count.checked_mul(8)?.checked_add(20)?;
    Some(FileChange::MapChanged { database: u32_at(main, 0)?, mappings: Numbers(main.get(20..end)?) })
}
