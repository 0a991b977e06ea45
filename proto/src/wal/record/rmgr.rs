//! Who writes records.

use std::fmt;

/// A resource manager: the part of the server that wrote a record and can replay it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rmgr(pub u8);

/// By their numbers, as `pg_waldump` names them.
const NAMES: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// From here on they belong to extensions.
const FIRST_CUSTOM: u8 = 128;

impl Rmgr {
    /// The WAL itself.
    pub const XLOG: Rmgr = Rmgr(0);
    /// Commits and aborts.
    pub const TRANSACTION: Rmgr = Rmgr(1);
    /// Files of relations.
    pub const STORAGE: Rmgr = Rmgr(2);
    /// Databases as folders.
    pub const DATABASE: Rmgr = Rmgr(4);
    /// Where the files of mapped catalogues are.
    pub const RELATION_MAP: Rmgr = Rmgr(7);
    /// What had no room in [`Rmgr::HEAP`].
    pub const HEAP2: Rmgr = Rmgr(9);
    /// Rows of tables.
    pub const HEAP: Rmgr = Rmgr(10);

    /// Whether there is one of that number: one of the server's, or, from 15 on, an extension's.
    pub(crate) fn exists(self, version: u16) -> bool {
        usize::from(self.0) < NAMES.len() || (version >= 15 && self.0 >= FIRST_CUSTOM)
    }
}

/// As `pg_waldump` names it.
impl fmt::Display for Rmgr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "custom{:03}", self.0),
        }
    }
}
