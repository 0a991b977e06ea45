//! What one transaction has done so far, and what that was once it is committed.

use std::collections::HashMap;

use proto::Lsn;
use proto::wal::record::RelFile;

use super::hit::{Hit, Kind, Subject};

/// What was written to a new relation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Records about rows.
    pub(super) rows: u64,
    /// Whole pages.
    pub(super) pages: u64,
    /// Anything else: entries of an index, a sequence's state.
    pub(super) other: u64,
}

impl Written {
    fn nothing(self) -> bool {
        self == Self::default()
    }
}

/// A new main file.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewFile {
    pub(super) at: Lsn,
    pub(super) file: RelFile,
    pub(super) written: Written,
}

/// A new relation, as `pg_class` has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewRelation {
    pub(super) database: u32,
    pub(super) file: u32,
    pub(super) kind: u8,
}

/// A database that is going.
#[derive(Debug, Clone)]
pub(super) struct GoingDatabase {
    pub(super) oid: u32,
    pub(super) stop: Lsn,
    pub(super) lsn: Lsn,
    pub(super) name: Option<String>,
}

/// A transaction that has not ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Open {
    pub(super) created: Vec<NewFile>,
    /// Rows that came to, and went from, `pg_class`.
    pub(super) class_rows: u64,
    pub(super) class_rows_gone: u64,
    /// New rows of `pg_class` that could be read.
    pub(super) relations: Vec<NewRelation>,
    /// Relations that are rewritten: database, oid.
    pub(super) rewritten: Vec<(u32, u32)>,
    /// Oids of relations that were truncated, where logical decoding has it written.
    pub(super) truncated: Vec<(u32, u32)>,
    pub(super) deleted: HashMap<RelFile, u64>,
    pub(super) databases: Vec<GoingDatabase>,
    /// Databases that are made, with all of their files.
    pub(super) new_databases: Vec<u32>,
}

impl Open {
    /// Takes over what a part of the transaction has done.
    pub(super) fn merge(&mut self, part: Open) {
        self.created.extend(part.created);
        self.class_rows += part.class_rows;
        self.class_rows_gone += part.class_rows_gone;
        self.relations.extend(part.relations);
        self.rewritten.extend(part.rewritten);
        self.truncated.extend(part.truncated);
        for (file, rows) in part.deleted {
            *self.deleted.entry(file).or_default() += rows;
        }
        self.databases.extend(part.databases);
        self.new_databases.extend(part.new_databases);
    }
}

/// What became of relations.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) dropped: Vec<RelFile>,
    pub(super) truncated: Vec<RelFile>,
    pub(super) rewritten: Vec<RelFile>,
    pub(super) created: Vec<RelFile>,
    /// New files, and the old ones whose names they have.
    pub(super) successors: Vec<(RelFile, RelFile)>,
    pub(super) doubt: Option<&'static str>,
}

const UNTOLD: &str = "some of these relations may have been truncated or rewritten instead of dropped: the WAL of a \
                      transaction that does both does not tell which";
const EMPTY: &str = "it may have been a rewrite, such as VACUUM FULL, of a table without rows";

/// Reads it from the files that came and those that went, `gone` in the order in which they were given up.
///
/// A `DROP` only gives files up. A `TRUNCATE` gives each relation a new file, nothing is in a table's one, and `pg_class`
/// gets no new rows. What rewrites a table makes another one in `pg_class` for as long as it takes; `REINDEX` writes whole pages
/// into new files.
pub(super) fn fate(open: &mut Open, gone: &[RelFile]) -> Fate {
    let mut fate = Fate::default();
    open.created.sort_by_key(|new| new.at);
    // What came and went within the transaction was never there.
    let came = |file: &RelFile| open.created.iter().any(|new| new.file == *file);
    let old: Vec<RelFile> = gone.iter().copied().filter(|file| !came(file)).collect();
    let new: Vec<NewFile> = open.created.iter().copied().filter(|new| !gone.contains(&new.file)).collect();
    let told = |new: &NewFile| {
        let (database, file) = (new.file.database, new.file.number);
        open.relations.iter().find(|relation| relation.database == database && relation.file == file)
    };
    // What rewrites a table makes its indexes and its TOAST table anew, too.
    let is_own = |kind: u8| open.rewritten.is_empty() || !matches!(kind, b'i' | b'I' | b't');
    let made = new.iter().filter(|new| told(new).is_some_and(|relation| is_own(relation.kind)));
    let made = made.map(|new| new.file).filter(|file| !open.new_databases.contains(&file.database));
    fate.created = made.collect();
    let replacing: Vec<NewFile> = new.iter().copied().filter(|new| told(new).is_none()).collect();
    if !open.rewritten.is_empty() {
        fate.rewritten = old;
        return fate;
    }
    if replacing.is_empty() {
        fate.dropped = old;
        return fate;
    }
    if old.is_empty() {
        let made = replacing.iter().map(|new| new.file);
        fate.created.extend(made.filter(|file| !open.new_databases.contains(&file.database)));
        return fate;
    }
    if old.len() != replacing.len() {
        fate.doubt = Some(UNTOLD);
        fate.dropped = old;
        return fate;
    }
    let transient = open.class_rows > 0 && open.class_rows_gone > 0;
    let cleared = |new: &NewFile| new.written.nothing() || new.written.rows > 0 && new.written.pages == 0;
    for (new, old) in replacing.iter().zip(old) {
        match !transient && cleared(new) || transient && new.written.nothing() {
            true => fate.truncated.push(old),
            false => fate.rewritten.push(old),
        }
        if !transient {
            fate.successors.push((new.file, old));
        }
    }
    if !fate.truncated.is_empty() {
        // Indexes of a table that was truncated are built anew.
        fate.truncated.append(&mut fate.rewritten);
        fate.doubt = transient.then_some(EMPTY);
    }
    fate
}

/// The hits of that kind, none or one.
pub(super) fn hit(kind: Kind, files: &[RelFile], common: &Hit, doubt: Option<&'static str>) -> Option<Hit> {
    (!files.is_empty()).then(|| Hit {
        kind,
        subjects: files.iter().copied().map(Subject::of).collect(),
        doubt,
        ..common.clone()
    })
}
