//! Calls relations by their names: out of what backups keep, and of what the WAL itself tells.

use std::collections::{HashMap, HashSet};

use proto::Lsn;
use proto::wal::record::RelFile;
use repository::backup::{BackupLabel, NameRecord, RelationName};
use repository::catalogue::Inventory;
use repository::manifest::ManifestHead;
use repository::{Branch, Error};
use serde::Serialize;

use super::hit::{Hit, Subject};
use super::track::Known;

/// The names of so many backups are looked at.
const MOST_BACKUPS: usize = 30;

/// So often a file may have followed another.
const LONGEST_CHAIN: usize = 10_000;

/// Where `pg_class` lists itself.
const PG_CLASS: u32 = 1259;
const PG_DATABASE: u32 = 1262;

/// A relation by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Name {
    /// The database.
    pub database: String,
    /// The schema; `None` if it is not known.
    pub schema: Option<String>,
    /// The relation.
    pub name: String,
    /// As in `pg_class`.
    pub kind: char,
    /// Its oid.
    pub oid: u32,
}

impl Name {
    /// `schema.name`.
    pub fn qualified(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// What one backup knows of what is asked for.
#[derive(Debug, Default)]
struct Snapshot {
    /// Where the backup began.
    at: Lsn,
    databases: HashMap<u32, String>,
    schemas: HashMap<(u32, u32), String>,
    by_file: HashMap<(u32, u32), RelationName>,
    by_oid: HashMap<(u32, u32), RelationName>,
    /// The database whose lines are being read.
    current: u32,
}

/// All names that are known.
#[derive(Debug, Default)]
pub struct Names {
    /// In the order of their backups.
    snapshots: Vec<Snapshot>,
    known: HashMap<(u32, u32), Known>,
    /// Why there are no more.
    pub notices: Vec<String>,
}

/// What is asked for: files and oids, each with its database; 0 for what all share.
#[derive(Debug, Default, Clone)]
struct Asked {
    files: HashSet<(u32, u32)>,
    oids: HashSet<(u32, u32)>,
}

/// Where the files of `pg_class` are in databases where they are not in the usual place, and of `pg_database` for 0, as
/// the newest backup before `from` has it.
pub async fn moved_catalogues(
    branch: &Branch,
    inventory: &Inventory,
    from: Lsn,
) -> anyhow::Result<HashMap<u32, u32>> {
    let before = inventory.backups.iter().filter(|backup| backup.start_lsn <= from);
    let backup = before.max_by_key(|backup| backup.start_lsn).or_else(|| inventory.backups.first());
    let Some(backup) = backup else { return Ok(HashMap::new()) };
    let gathered =
        branch.read_names(&backup.label, (0, HashMap::new()), |(current, moved), record| match record {
            NameRecord::Database { oid, .. } => *current = oid,
            NameRecord::Relation(relation) if relation.oid == PG_CLASS => {
                moved.insert(*current, relation.file);
            }
            NameRecord::Relation(relation) if relation.oid == PG_DATABASE => {
                moved.insert(0, relation.file);
            }
            _ => {}
        });
    match gathered.await {
        Ok(gathered) => Ok(gathered.map(|(_, moved)| moved).unwrap_or_default()),
        // They are read again for the names, where it is told.
        Err(Error::Corrupt { .. } | Error::Locked { .. } | Error::Invalid { .. }) => Ok(HashMap::new()),
        Err(error) => Err(error.into()),
    }
}

impl Names {
    /// Looks up what `hits` tell of in the names that backups keep; `known` is what the WAL told.
    pub async fn look_up(
        branch: &Branch,
        inventory: &Inventory,
        hits: &[Hit],
        known: HashMap<(u32, u32), Known>,
    ) -> anyhow::Result<Self> {
        let asked = asked(hits, &known);
        let mut names = Self { known, ..Self::default() };
        let mut without = 0;
        for backup in nearest(&inventory.backups, hits) {
            match snapshot(branch, backup, asked.clone()).await {
                Ok(Some(snapshot)) => names.snapshots.push(snapshot),
                Ok(None) => without += 1,
                Err(error @ (Error::Corrupt { .. } | Error::Locked { .. } | Error::Invalid { .. })) => names
                    .notices
                    .push(format!("the names that backup {} keeps cannot be read: {error}", backup.label)),
                Err(error) => return Err(error.into()),
            }
        }
        names.snapshots.sort_by_key(|snapshot| snapshot.at);
        if names.snapshots.is_empty() && without > 0 && !hits.is_empty() {
            names.notices.push(
                "no backup keeps the names of relations: they were taken by an earlier version of walkeep, or could not \
                 read the catalogues; take one now, for the next time"
                    .to_owned(),
            );
        }
        Ok(names)
    }

    /// The snapshots, the best for a position first: the last one before it, those before that, then those after it.
    fn best(&self, at: Lsn) -> impl Iterator<Item = &Snapshot> {
        let after = self.snapshots.partition_point(|snapshot| snapshot.at <= at);
        self.snapshots[..after].iter().rev().chain(&self.snapshots[after..])
    }

    /// The name of a database.
    pub fn database(&self, oid: u32, at: Lsn) -> Option<&str> {
        self.best(at).find_map(|snapshot| snapshot.databases.get(&oid)).map(String::as_str)
    }

    /// The name of a relation at a position of the WAL.
    pub fn name(&self, subject: &Subject, at: Lsn) -> Option<Name> {
        if let Some(oid) = subject.oid {
            return self.by_oid(subject.database, oid, at);
        }
        let mut file = subject.file?;
        for _ in 0..LONGEST_CHAIN {
            let key = (file.database, file.number);
            match self.known.get(&key) {
                Some(Known::Row { schema, name, kind, oid }) => {
                    return Some(Name {
                        database: self.database_name(file.database, at),
                        schema: self.schema(file.database, *schema, at),
                        name: name.clone(),
                        kind: *kind,
                        oid: *oid,
                    });
                }
                Some(Known::Oid(oid)) => return self.by_oid(file.database, *oid, at),
                Some(Known::As(earlier)) => {
                    if let Some(name) = self.by_file(key, at) {
                        return Some(name);
                    }
                    file = *earlier;
                }
                None => return self.by_file(key, at),
            }
        }
        None
    }

    fn by_oid(&self, database: u32, oid: u32, at: Lsn) -> Option<Name> {
        let relation = self.best(at).find_map(|snapshot| snapshot.by_oid.get(&(database, oid)))?;
        Some(self.named(database, relation, at))
    }

    fn by_file(&self, key: (u32, u32), at: Lsn) -> Option<Name> {
        let relation = self.best(at).find_map(|snapshot| snapshot.by_file.get(&key))?;
        Some(self.named(key.0, relation, at))
    }

    fn named(&self, database: u32, relation: &RelationName, at: Lsn) -> Name {
        Name {
            database: self.database_name(database, at),
            schema: self.schema(database, relation.schema, at),
            name: relation.name.clone(),
            kind: relation.kind,
            oid: relation.oid,
        }
    }

    fn database_name(&self, oid: u32, at: Lsn) -> String {
        self.database(oid, at).map_or_else(|| format!("with oid {oid}"), ToOwned::to_owned)
    }

    fn schema(&self, database: u32, oid: u32, at: Lsn) -> Option<String> {
        self.best(at).find_map(|snapshot| snapshot.schemas.get(&(database, oid))).cloned()
    }
}

/// What has to be known to name the hits.
fn asked(hits: &[Hit], known: &HashMap<(u32, u32), Known>) -> Asked {
    let mut asked = Asked::default();
    let mut ask = |file: RelFile| {
        let mut file = file;
        for _ in 0..LONGEST_CHAIN {
            let key = (file.database, file.number);
            asked.files.insert(key);
            match known.get(&key) {
                Some(Known::As(earlier)) => file = *earlier,
                Some(Known::Oid(oid)) => {
                    asked.oids.insert((file.database, *oid));
                    return;
                }
                _ => return,
            }
        }
    };
    hits.iter().flat_map(|hit| &hit.subjects).filter_map(|subject| subject.file).for_each(&mut ask);
    let oids = hits.iter().flat_map(|hit| &hit.subjects);
    asked.oids.extend(oids.filter_map(|subject| Some((subject.database, subject.oid?))));
    asked
}

/// The backups from the last one before the hits to the first one after them; of many, the newest.
fn nearest<'a>(backups: &'a [ManifestHead], hits: &[Hit]) -> Vec<&'a ManifestHead> {
    let (Some(first), Some(last)) =
        (hits.iter().map(|hit| hit.stop).min(), hits.iter().map(|hit| hit.lsn).max())
    else {
        return Vec::new();
    };
    let mut sorted: Vec<_> = backups.iter().collect();
    sorted.sort_by_key(|backup| backup.start_lsn);
    let from = sorted.partition_point(|backup| backup.start_lsn <= first).saturating_sub(1);
    let to = (sorted.partition_point(|backup| backup.start_lsn <= last) + 1).min(sorted.len());
    let chosen = &sorted[from..to];
    match chosen.len() > MOST_BACKUPS {
        // The first one knows what was there at the beginning.
        true => [&chosen[..1], &chosen[chosen.len() - MOST_BACKUPS + 1..]].concat(),
        false => chosen.to_vec(),
    }
}

async fn snapshot(
    branch: &Branch,
    backup: &ManifestHead,
    asked: Asked,
) -> repository::Result<Option<Snapshot>> {
    let label: &BackupLabel = &backup.label;
    let start = Snapshot { at: backup.start_lsn, ..Snapshot::default() };
    let databases: HashSet<u32> =
        asked.files.iter().chain(&asked.oids).map(|(database, _)| *database).collect();
    branch
        .read_names(label, start, move |snapshot, record| match record {
            NameRecord::Database { oid, name, .. } => {
                snapshot.current = oid;
                snapshot.databases.insert(oid, name);
            }
            NameRecord::Schema { oid, name } => {
                if databases.contains(&snapshot.current) {
                    snapshot.schemas.insert((snapshot.current, oid), name);
                }
            }
            NameRecord::Relation(relation) => {
                let database = if relation.tablespace == SHARED { 0 } else { snapshot.current };
                if asked.files.contains(&(database, relation.file)) && relation.file != 0 {
                    snapshot.by_file.insert((database, relation.file), relation.clone());
                }
                if asked.oids.contains(&(database, relation.oid)) {
                    snapshot.by_oid.insert((database, relation.oid), relation);
                }
            }
            NameRecord::End => {}
        })
        .await
}

/// The tablespace of what all databases share.
const SHARED: u32 = 1664;

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
