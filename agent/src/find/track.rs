//! Follows the transactions of the WAL, record by record, and says what they did. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use proto::Lsn;
use proto::wal::record::catalogue::{ClassRow, DatabaseRow};
use proto::wal::record::heap::{self, RowChange};
use proto::wal::record::storage::{self, FileChange};
use proto::wal::record::transaction::{self, Ended};
use proto::wal::record::xlog::{self, Milestone};
use proto::wal::record::{Fork, Parts, Record, RelFile, Rmgr};

use super::hit::{Commit, Hit, Kind, Subject};
use super::transaction::{GoingDatabase, NewFile, NewRelation, Open, Written, fate, hit};

/// Open transactions that are followed at most; the oldest are given up.
const MOST_OPEN: usize = 100_000;

/// Relations that are learned from the WAL at most.
const MOST_LEARNED: usize = 200_000;

/// New files of transactions without a number, and marked databases, at most.
const MOST_UNOWNED: usize = 1000;
const MOST_MARKED: usize = 100;

/// Hits that are kept at most.
const MOST_HITS: usize = 100_000;

/// Oids and files below are the server's own.
const FIRST_NORMAL: u32 = 16384;

/// The oids of `pg_class` and `pg_database`: also the numbers of their files, as long as nobody has rewritten them.
const PG_CLASS: u32 = 1259;
const PG_DATABASE: u32 = 1262;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What kinds.
    pub kinds: HashSet<Kind>,
    /// So many rows that one transaction deletes from a table are many.
    pub many: u64,
    /// Only this transaction.
    pub xid: Option<u32>,
}

/// How a relation is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Its row in `pg_class` was seen.
    Row {
        /// The schema's oid.
        schema: u32,
        /// Its name.
        name: String,
        /// Its kind.
        kind: char,
        /// Its oid.
        oid: u32,
    },
    /// It has the name of the relation that had that file.
    As(RelFile),
    /// It is the relation of that oid.
    Oid(u32),
}

/// Follows transactions.
#[derive(Debug)]
pub struct Tracker {
    wanted: Wanted,
    open: HashMap<u32, Open>,
    /// New files of open transactions.
    fresh: HashMap<RelFile, Written>,
    /// New files of transactions that had no number yet.
    unowned: VecDeque<(Lsn, RelFile)>,
    /// By database and file.
    known: HashMap<(u32, u32), Known>,
    /// Where the files of `pg_class`, or of `pg_database`, have gone, by database.
    moved: HashMap<u32, u32>,
    /// Rows of `pg_database` that were marked as going, or that cannot be read.
    marked: VecDeque<(Lsn, Option<(u32, String)>)>,
    last_commit: Option<Commit>,
    hits: Vec<Hit>,
    /// Hits that were not kept.
    pub more: u64,
    /// Whether transactions were given up.
    pub overwhelmed: bool,
}

impl Tracker {
    /// Looks for that. `moved`: the file of `pg_class` in databases where it is not the usual one; for database 0, that of
    /// `pg_database`.
    pub fn new(wanted: Wanted, moved: HashMap<u32, u32>) -> Self {
        Self {
            wanted,
            open: HashMap::new(),
            fresh: HashMap::new(),
            unowned: VecDeque::new(),
            known: HashMap::new(),
            moved,
            marked: VecDeque::new(),
            last_commit: None,
            hits: Vec::new(),
            more: 0,
            overwhelmed: false,
        }
    }

    /// What was found, and how relations are known that the WAL tells of.
    pub fn finish(mut self) -> (Vec<Hit>, HashMap<(u32, u32), Known>) {
        let mut open: Vec<(u32, Open)> = self.open.drain().collect();
        open.sort_by_key(|(xid, _)| *xid);
        for (xid, open) in open {
            let common = self.common(Lsn::INVALID, xid);
            self.push_databases(open.databases, &common);
        }
        (self.hits, self.known)
    }

    /// The next record. `in_range`: whether what it makes happen is of interest.
    pub fn record(&mut self, record: &Record<'_>, in_range: bool) {
        match record.rmgr {
            Rmgr::TRANSACTION => {
                if let Some(ended) = transaction::ended(record) {
                    self.ended(record, &ended, in_range);
                }
            }
            Rmgr::STORAGE | Rmgr::DATABASE | Rmgr::RELATION_MAP => self.files(record, in_range),
            Rmgr::HEAP | Rmgr::HEAP2 => {
                if let Ok(parts) = record.parts() {
                    self.rows(record, &parts);
                    self.wrote(record, &parts);
                }
            }
            Rmgr::XLOG if in_range => {
                if let Some(Milestone::RestorePoint { time, name }) = xlog::milestone(record) {
                    let name = Some(String::from_utf8_lossy(name).into_owned());
                    let common = self.common(record.start, 0);
                    self.push(Hit { kind: Kind::RestorePoint, time: Some(time), name, ..common });
                }
                self.wrote_if_fresh(record);
            }
            _ => self.wrote_if_fresh(record),
        }
    }

    fn wrote_if_fresh(&mut self, record: &Record<'_>) {
        if !self.fresh.is_empty()
            && let Ok(parts) = record.parts()
        {
            self.wrote(record, &parts);
        }
    }

    /// Counts what is written to new files.
    fn wrote(&mut self, record: &Record<'_>, parts: &Parts<'_>) {
        if self.fresh.is_empty() {
            return;
        }
        for block in parts.blocks().filter(|block| block.fork == Fork::Main) {
            if let Some(written) = self.fresh.get_mut(&block.file) {
                match record.rmgr {
                    Rmgr::HEAP | Rmgr::HEAP2 => written.rows += 1,
                    Rmgr::XLOG => written.pages += 1,
                    _ => written.other += 1,
                }
            }
        }
    }

    fn open(&mut self, xid: u32) -> &mut Open {
        if self.open.len() >= MOST_OPEN && !self.open.contains_key(&xid) {
            self.overwhelmed = true;
            self.open.clear();
            self.fresh.clear();
        }
        self.open.entry(xid).or_default()
    }

    fn files(&mut self, record: &Record<'_>, in_range: bool) {
        match storage::change(record) {
            Some(FileChange::Created { file, fork: Fork::Main }) if record.xid == 0 => {
                self.fresh.insert(file, Written::default());
                self.unowned.push_back((record.start, file));
                if self.unowned.len() > MOST_UNOWNED
                    && let Some((_, file)) = self.unowned.pop_front()
                {
                    self.fresh.remove(&file);
                }
            }
            Some(FileChange::Created { file, fork: Fork::Main }) => {
                self.fresh.insert(file, Written::default());
                let new = NewFile { at: record.start, file, written: Written::default() };
                self.open(record.xid).created.push(new);
            }
            Some(FileChange::DatabaseDropped { database, .. }) if in_range => {
                let mark = self.mark_of(database);
                let (stop, name) = mark.unwrap_or((record.start, None));
                let going = GoingDatabase { oid: database, stop, lsn: record.start, name };
                self.open(record.xid).databases.push(going);
            }
            Some(FileChange::DatabaseCreated { database, .. }) => {
                self.open(record.xid).new_databases.push(database);
            }
            Some(FileChange::MapChanged { database, mappings }) => {
                let catalogue = if database == 0 { PG_DATABASE } else { PG_CLASS };
                let mut mappings = mappings.iter();
                while let (Some(oid), Some(file)) = (mappings.next(), mappings.next()) {
                    if oid == catalogue {
                        self.moved.insert(database, file);
                    }
                }
            }
            _ => {}
        }
    }

    /// Where replay begins to undo a database: its row is overwritten in place before its files go.
    fn mark_of(&mut self, database: u32) -> Option<(Lsn, Option<String>)> {
        let told =
            |(_, row): &&(Lsn, Option<(u32, String)>)| row.as_ref().is_some_and(|(oid, _)| *oid == database);
        let untold = |(_, row): &&(Lsn, Option<(u32, String)>)| row.is_none();
        let mark = self.marked.iter().rev().find(told).or_else(|| self.marked.iter().rev().find(untold))?;
        Some((mark.0, mark.1.as_ref().map(|(_, name)| name.clone())))
    }

    fn is_catalogue(&self, file: RelFile) -> bool {
        let usual = if file.database == 0 { PG_DATABASE } else { PG_CLASS };
        file.number == self.moved.get(&file.database).copied().unwrap_or(usual)
    }

    fn rows(&mut self, record: &Record<'_>, parts: &Parts<'_>) {
        let Some(change) = heap::change(record, parts) else { return };
        if let RowChange::Truncated { database, relations } = change {
            let truncated = relations.iter().map(|oid| (database, oid));
            self.open(record.xid).truncated.extend(truncated);
            return;
        }
        let Some(file) = parts.blocks().next().map(|block| block.file) else { return };
        match change {
            RowChange::Deleted => {
                let open = self.open(record.xid);
                *open.deleted.entry(file).or_default() += 1;
                if self.is_catalogue(file) && file.database != 0 {
                    self.open(record.xid).class_rows_gone += 1;
                }
            }
            RowChange::Inserted(1) if file.database != 0 && self.is_catalogue(file) => {
                self.open(record.xid).class_rows += 1;
                if let Some(row) =
                    heap::row(record, parts).and_then(|row| ClassRow::parse(row, record.version))
                {
                    self.learn(record.xid, file.database, &row);
                }
            }
            RowChange::InPlace if file.database == 0 && self.is_catalogue(file) => {
                let row = heap::row(record, parts);
                let row = row.and_then(|row| DatabaseRow::parse(row, record.version));
                // Others are overwritten in place too, when they have been vacuumed.
                let mark = match row {
                    Some(row) if row.invalid => {
                        Some((row.oid, String::from_utf8_lossy(row.name).into_owned()))
                    }
                    Some(_) => return,
                    None => None,
                };
                self.marked.push_back((record.start, mark));
                if self.marked.len() > MOST_MARKED {
                    self.marked.pop_front();
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, xid: u32, database: u32, row: &ClassRow<'_>) {
        if let Some(at) = self
            .unowned
            .iter()
            .position(|(_, file)| file.database == database && file.number == row.file && row.file != 0)
            && let Some((at, file)) = self.unowned.remove(at)
        {
            self.open(xid).created.push(NewFile { at, file, written: Written::default() });
        }
        let known = match row.rewrites() {
            Some(oid) => {
                self.open(xid).rewritten.push((database, oid));
                Known::Oid(oid)
            }
            None => {
                let relation = NewRelation { database, file: row.file, kind: row.kind };
                self.open(xid).relations.push(relation);
                Known::Row {
                    schema: row.schema,
                    name: String::from_utf8_lossy(row.name).into_owned(),
                    kind: char::from(row.kind),
                    oid: row.oid,
                }
            }
        };
        if self.known.len() < MOST_LEARNED && row.file != 0 {
            self.known.insert((database, row.file), known);
        }
    }

    fn ended(&mut self, record: &Record<'_>, ended: &Ended<'_>, in_range: bool) {
        let mut open = self.open.remove(&ended.xid).unwrap_or_default();
        for part in ended.subtransactions.iter() {
            if let Some(part) = self.open.remove(&part) {
                open.merge(part);
            }
        }
        for new in &mut open.created {
            new.written = self.fresh.remove(&new.file).unwrap_or_default();
        }
        let mut common = self.common(record.start, ended.xid);
        common.time = Some(ended.time);
        common.prepared_as = ended.prepared_as.map(|name| String::from_utf8_lossy(name).into_owned());
        self.push_databases(std::mem::take(&mut open.databases), &common);
        if !ended.committed {
            return;
        }
        // The last one that was given up comes first.
        let mut gone: Vec<RelFile> = ended.dropped.iter().collect();
        gone.reverse();
        let fate = fate(&mut open, &gone);
        for (new, old) in &fate.successors {
            if self.known.len() < MOST_LEARNED {
                self.known.entry((new.database, new.number)).or_insert(Known::As(*old));
            }
        }
        if in_range {
            let groups = [
                (Kind::Drop, &fate.dropped),
                (Kind::Truncate, &fate.truncated),
                (Kind::Rewrite, &fate.rewritten),
                (Kind::Create, &fate.created),
            ];
            let hits: Vec<Hit> =
                groups.iter().filter_map(|(kind, files)| hit(*kind, files, &common, fate.doubt)).collect();
            hits.into_iter().for_each(|hit| self.push(hit));
            self.push_truncated_in_place(&open, &fate.truncated, &common);
            self.push_deleted(&open, &common);
            if self.wanted.kinds.contains(&Kind::Commit) {
                let subjects =
                    ended.database.map(|database| Subject { database, file: None, oid: None, rows: 0 });
                let subjects = subjects.into_iter().collect();
                self.push(Hit { kind: Kind::Commit, subjects, ..common });
            }
        }
        self.last_commit = Some(Commit { xid: ended.xid, time: ended.time });
    }

    /// Databases that went: their folders are gone even if the transaction was not committed, or has not ended.
    fn push_databases(&mut self, databases: Vec<GoingDatabase>, common: &Hit) {
        for database in databases {
            let subject = Subject { database: database.oid, file: None, oid: None, rows: 0 };
            self.push(Hit {
                kind: Kind::DropDatabase,
                stop: database.stop,
                lsn: database.lsn,
                name: database.name,
                subjects: vec![subject],
                ..common.clone()
            });
        }
    }

    /// What logical decoding tells of truncated relations, where nothing else does.
    fn push_truncated_in_place(&mut self, open: &Open, truncated: &[RelFile], common: &Hit) {
        if open.truncated.is_empty() || !truncated.is_empty() {
            return;
        }
        let subject = |(database, oid): &(u32, u32)| Subject {
            database: *database,
            file: None,
            oid: Some(*oid),
            rows: 0,
        };
        let subjects = open.truncated.iter().map(subject).collect();
        self.push(Hit { kind: Kind::Truncate, subjects, ..common.clone() });
    }

    fn push_deleted(&mut self, open: &Open, common: &Hit) {
        let many = self.wanted.many;
        let counted =
            open.deleted.iter().filter(|(file, rows)| **rows >= many && file.number >= FIRST_NORMAL);
        let mut subjects: Vec<Subject> =
            counted.map(|(file, rows)| Subject { rows: *rows, ..Subject::of(*file) }).collect();
        subjects.sort_by_key(|subject| (std::cmp::Reverse(subject.rows), subject.file));
        if !subjects.is_empty() {
            self.push(Hit { kind: Kind::Delete, subjects, ..common.clone() });
        }
    }

    fn common(&self, lsn: Lsn, xid: u32) -> Hit {
        Hit {
            kind: Kind::Commit,
            stop: lsn,
            lsn,
            xid,
            time: None,
            subjects: Vec::new(),
            name: None,
            prepared_as: None,
            doubt: None,
            before: self.last_commit,
        }
    }

    fn push(&mut self, hit: Hit) {
        let wanted =
            self.wanted.kinds.contains(&hit.kind) && self.wanted.xid.is_none_or(|xid| xid == hit.xid);
        match wanted {
            true if self.hits.len() < MOST_HITS => self.hits.push(hit),
            true => self.more += 1,
            false => {}
        }
    }
}

#[cfg(test)]
#[path = "track_tests.rs"]
mod tests;
