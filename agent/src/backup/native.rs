//! Incremental backups by the server's own means (PostgreSQL 17 and later): it knows from its WAL summaries which
//! blocks have changed, and reads and sends only those.
//!
//! What it does not send is the parent's, but not always: a relation that was truncated and extended again can have
//! pages that no WAL record has ever named. The server leaves them out, and PostgreSQL's own combination of backups
//! then takes the parent's old pages for them: deleted rows come back. So the parent's blocks count here only below
//! the smallest length that the relation has had since, which the summaries tell ([`Limits`]); what lies above, and was
//! not sent, is zeros, as it is on the server.
//!
//! And the server puts its summaries together in the order in which its directory lists them (seen on 18.6). Where a relation
//! was cut short in one and extended in a later one, and that one comes first, it forgets the later changes and sends them
//! to nobody. So it is not told that the parent has the files of such relations: then it sends them whole.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, ensure};
use bytes::Bytes;
use proto::backup_manifest::BackupManifest;
use proto::client::ServerVersion;
use proto::page::{self, Fork};
use proto::{Lsn, TimelineId};
use repository::manifest::ManifestHead;

use super::facts::{Facts, Sql};

/// The first version with WAL summaries.
const FIRST: u32 = 17;

/// The oldest minor release of each version whose summaries are relied on: earlier ones can miss changes of visibility
/// maps, and stall or write impossible lengths.
pub const SOUND: [(u32, u32); 2] = [(17, 11), (18, 6)];

/// Blocks in a file of a relation.
const SEGMENT_BLOCKS: u32 = super::pages::SEGMENT_BLOCKS;

/// Whether the server can be asked for what changed since that backup; if not, why. `insisted`: the operator wants it
/// of any version that can do it.
pub fn possible(
    version: ServerVersion,
    facts: &Facts,
    timeline: TimelineId,
    parent: &ManifestHead,
    insisted: bool,
) -> Result<(), String> {
    let (major, minor) = (version.major(), version.0 % 10_000);
    if major < FIRST {
        return Err(format!("PostgreSQL {major} keeps no summaries of its WAL: {FIRST} does"));
    }
    if facts.setting("summarize_wal") != Some("on") {
        return Err("the server keeps no summaries of its WAL: `summarize_wal` is off".into());
    }
    // The limits are counted in such blocks, and so are the changes that it sends.
    if !facts.has_usual_blocks() {
        return Err(
            "the server was built with another size of blocks, or of relations' files, than is usual".into(),
        );
    }
    let sound = SOUND.iter().find(|(of, _)| *of == major).is_none_or(|(_, oldest)| minor >= *oldest);
    if !sound && !insisted {
        return Err(format!("WAL summaries of PostgreSQL {version} have known faults"));
    }
    if parent.timeline != timeline || parent.stop_timeline != timeline {
        return Err(format!("its timeline is {}, and the server is on {timeline}", parent.timeline));
    }
    if parent.server_manifest.is_none() {
        return Err("the server's own manifest of it was not kept".into());
    }
    Ok(())
}

/// A fork of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RelationFork {
    tablespace: u32,
    database: u32,
    /// 0: all relations of the database.
    relation: u32,
    /// As PostgreSQL numbers them.
    fork: u32,
}

const MAIN_FORK: u32 = 0;

impl RelationFork {
    /// Whose file that is, and which of its files.
    fn of(path: &str) -> Option<(Self, u32)> {
        const PG_DEFAULT: u32 = 1663;
        const PG_GLOBAL: u32 = 1664;
        let file = page::is_relation_file(path)?;
        let parts: Vec<&str> = path.split('/').collect();
        let (tablespace, database) = match parts.as_slice() {
            ["global", _] => (PG_GLOBAL, 0),
            ["base", database, _] => (PG_DEFAULT, database.parse().ok()?),
            ["pg_tblspc", tablespace, _, database, _] => (tablespace.parse().ok()?, database.parse().ok()?),
            _ => return None,
        };
        let fork = match file.fork {
            Fork::Main => MAIN_FORK,
            Fork::FreeSpaceMap => 1,
            Fork::VisibilityMap => 2,
            Fork::Init => 3,
        };
        Some((Self { tablespace, database, relation: file.number, fork }, file.segment_no))
    }
}

/// The smallest length that each relation has had since the parent began, in blocks; of those that were truncated,
/// dropped or made since.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Limits {
    lengths: HashMap<RelationFork, u32>,
    /// Those that were cut short before the last summary begins: a later one may tell of changes.
    early: HashSet<RelationFork>,
}

impl Limits {
    /// Out of the server's summaries of the WAL from the parent's beginning to this backup's.
    ///
    /// # Errors
    /// There is no summary of some of it, or this role may not see them.
    pub async fn ask(sql: &Sql, timeline: TimelineId, from: Lsn, to: Lsn) -> anyhow::Result<Limits> {
        let (summaries, limits) = sql.wal_summaries(timeline, from, to).await?;
        let last = summaries.iter().map(|(start, _)| *start).max().unwrap_or(from);
        let gap = gap(summaries, from, to);
        ensure!(gap.is_none(), "there is no summary of the WAL from {} on", gap.unwrap_or(from));
        Self::of_rows(limits, last)
    }

    /// Out of those that there are so far: before the backup begins.
    ///
    /// # Errors
    /// This role may not see them.
    pub async fn so_far(sql: &Sql, timeline: TimelineId, from: Lsn) -> anyhow::Result<Limits> {
        let (_, limits) = sql.wal_summaries(timeline, from, Lsn(u64::MAX)).await?;
        Self::of_rows(limits, Lsn(u64::MAX))
    }

    fn of_rows(rows: Vec<([u64; 5], Lsn)>, last: Lsn) -> anyhow::Result<Limits> {
        let mut limits = Limits::default();
        for ([relation, tablespace, database, fork, limit], first) in rows {
            let number =
                |number: u64| u32::try_from(number).context("a number in a WAL summary is too large");
            let [relation, tablespace] = [number(relation)?, number(tablespace)?];
            let [database, fork] = [number(database)?, number(fork)?];
            let key = RelationFork { tablespace, database, relation, fork };
            limits.lengths.insert(key, number(limit)?);
            // Of a database as a whole everything is sent.
            if first < last && relation != 0 {
                limits.early.insert(key);
            }
        }
        Ok(limits)
    }

    /// Whether each relation whose changes the server may have forgotten is one of `known`: then its files come whole.
    ///
    /// # Errors
    /// One is not.
    pub fn covered_by(&self, known: &Limits) -> anyhow::Result<()> {
        let new = self.early.difference(&known.early).next();
        ensure!(
            new.is_none(),
            "relation {} was cut short while the backup began",
            new.map_or(0, |fork| fork.relation)
        );
        Ok(())
    }

    /// The server's manifest of the parent, without the files of relations that were cut short since: it sends those whole.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn take_from(&self, manifest: Bytes) -> anyhow::Result<Bytes> {
        if self.early.is_empty() {
            return Ok(manifest);
        }
        let mut parent =
            BackupManifest::parse(&manifest).context("the parent's own manifest cannot be read")?;
        let files = parent.files.len();
        parent.files.retain(|file| {
            let path = String::from_utf8_lossy(&file.path);
            // So it was called if the parent was sent as changes itself.
            let path = path.replacen("/INCREMENTAL.", "/", 1);
            RelationFork::of(&path).is_none_or(|(fork, _)| !self.early.contains(&fork))
        });
        Ok(if parent.files.len() == files { manifest } else { parent.write().into() })
    }

    /// Below which block of that file the parent's blocks count.
    pub fn of(&self, path: &str) -> u32 {
        let Some((relation, segment)) = RelationFork::of(path) else { return 0 };
        let database = RelationFork { relation: 0, fork: MAIN_FORK, ..relation };
        let limits = [relation, database].into_iter().filter_map(|key| self.lengths.get(&key));
        match limits.min() {
            Some(limit) => limit.saturating_sub(segment.saturating_mul(SEGMENT_BLOCKS)),
            None => u32::MAX,
        }
    }
}

/// The first position of `[from, to)` that no summary covers.
fn gap(mut summaries: Vec<(Lsn, Lsn)>, from: Lsn, to: Lsn) -> Option<Lsn> {
    summaries.sort_unstable();
    let mut reached = from;
    for (start, end) in summaries {
        if start <= reached {
            reached = reached.max(end);
        }
    }
    (reached < to).then_some(reached)
}

#[cfg(test)]
mod tests {
    use proto::SystemId;
    use proto::backup_manifest::FileEntry;

    use super::*;

    #[test]
    fn only_a_server_with_the_usual_blocks_is_asked() {
        let mut parent = super::super::choose::tests::head(1, 0x200_0000);
        parent.server_manifest = Some("server-manifest".to_owned());
        let ask = |segment_size| {
            let settings = [("summarize_wal", "on"), ("block_size", "8192"), ("segment_size", segment_size)];
            possible(ServerVersion(180_006), &Facts::of(&settings), TimelineId::FIRST, &parent, false)
        };
        assert_eq!(ask("131072"), Ok(()));
        assert!(ask("65536").unwrap_err().contains("another size"));
        let untold = Facts::of(&[("summarize_wal", "on")]);
        assert!(possible(ServerVersion(180_006), &untold, TimelineId::FIRST, &parent, false).is_err());
    }

    fn lsns(ranges: &[(u64, u64)]) -> Vec<(Lsn, Lsn)> {
        ranges.iter().map(|(start, end)| (Lsn(*start), Lsn(*end))).collect()
    }

    #[test]
    fn every_byte_must_be_summarised() {
        assert_eq!(gap(lsns(&[(20, 30), (5, 20)]), Lsn(10), Lsn(30)), None);
        assert_eq!(gap(lsns(&[(5, 20), (20, 40)]), Lsn(10), Lsn(30)), None);
        assert_eq!(gap(lsns(&[(5, 20), (21, 40)]), Lsn(10), Lsn(30)), Some(Lsn(20)));
        assert_eq!(gap(lsns(&[(5, 20)]), Lsn(10), Lsn(30)), Some(Lsn(20)));
        assert_eq!(gap(lsns(&[(15, 40)]), Lsn(10), Lsn(30)), Some(Lsn(10)));
        assert_eq!(gap(vec![], Lsn(10), Lsn(10)), None);
    }

    #[test]
    fn limits_are_those_of_the_file() {
        let key =
            |tablespace, database, relation, fork| RelationFork { tablespace, database, relation, fork };
        let lengths = HashMap::from([
            (key(1663, 5, 16_384, 0), SEGMENT_BLOCKS + 10),
            (key(1663, 5, 16_385, 2), 1),
            (key(16_400, 7, 0, 0), 0),
            (key(1664, 0, 1262, 0), 3),
        ]);
        let limits = Limits { lengths, ..Limits::default() };
        assert_eq!(limits.of("base/5/16384"), SEGMENT_BLOCKS + 10);
        assert_eq!(limits.of("base/5/16384.1"), 10);
        assert_eq!(limits.of("base/5/16384.2"), 0);
        assert_eq!(limits.of("base/5/16385"), u32::MAX);
        assert_eq!(limits.of("base/5/16385_vm"), 1);
        assert_eq!(limits.of("global/1262"), 3);
        assert_eq!(limits.of("pg_tblspc/16400/PG_17_202406281/7/1259"), 0);
        assert_eq!(limits.of("base/7/1259"), u32::MAX);
        // Nothing is known of what is no relation: nothing of the parent's counts.
        assert_eq!(limits.of("base/5/pg_filenode.map"), 0);
    }
    /// What the server may have forgotten comes whole, or the backup is not taken so.
    #[test]
    fn relations_that_were_cut_short_are_taken_from_the_parents_manifest() {
        let file = |path: &str| FileEntry {
            path: path.as_bytes().to_vec(),
            size: 8192,
            last_modified: 0,
            checksum: None,
        };
        let paths = [
            "base/5/16384",
            "base/5/16384.1",
            "base/5/16384_vm",
            "base/5/INCREMENTAL.16385",
            "base/5/16386",
            "pg_tblspc/16400/PG_18_202506291/5/INCREMENTAL.16384.2",
            "PG_VERSION",
        ];
        let manifest = BackupManifest {
            version: 2,
            system_id: Some(SystemId(42)),
            files: paths.map(file).to_vec(),
            wal_ranges: Vec::new(),
        };
        let row = |relation, tablespace, first| ([relation, tablespace, 5, 0, 7], Lsn(first));
        let rows =
            vec![row(16_384, 1663, 100), row(16_385, 1663, 200), row(16_384, 16_400, 100), row(0, 1663, 100)];
        let known = Limits::of_rows(rows.clone(), Lsn(u64::MAX)).unwrap();
        let left = known.take_from(manifest.write().into()).unwrap();
        let left = BackupManifest::parse(&left).unwrap();
        let left: Vec<_> = left.files.iter().map(|file| String::from_utf8_lossy(&file.path)).collect();
        assert_eq!(left, ["base/5/16384_vm", "base/5/16386", "PG_VERSION"]);
        let none = Limits::default();
        assert_eq!(none.take_from(manifest.write().into()).unwrap(), manifest.write());

        // In the last summary nothing comes behind it.
        let found = Limits::of_rows(rows, Lsn(200)).unwrap();
        assert!(found.covered_by(&known).is_ok());
        assert!(found.covered_by(&none).unwrap_err().to_string().contains("16384"));
        let last = Limits::of_rows(vec![row(16_385, 1663, 200)], Lsn(200)).unwrap();
        assert!(last.covered_by(&none).is_ok());
    }
}
