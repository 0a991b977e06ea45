//! What a server says about itself, asked in plain SQL.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use proto::config::SlotName;
use proto::conninfo::ConnInfo;
use proto::page::BLOCK_SIZE;
use proto::{Lsn, TimelineId};
use restore::conf::identifier;
use restore::program::failure;
use serde::de::DeserializeOwned;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::pages::SEGMENT_BLOCKS;

/// How we name ourselves to the server unless the connection string does.
pub const APPLICATION_NAME: &str = "walkeep";

/// The settings that decide what walkeep can do. Those that this role may not see are absent.
const SETTINGS: &str = "SELECT name, setting FROM pg_settings WHERE name IN ('archive_command', 'archive_library', \
    'archive_mode', 'block_size', 'config_file', 'data_checksums', 'data_directory', 'hba_file', 'ident_file', \
    'max_replication_slots', 'max_wal_senders', 'segment_size', 'summarize_wal', 'wal_level')";

/// The key of the advisory lock: "walkeep" in ASCII.
pub(crate) const BACKUP_LOCK: i64 = 0x0077_616C_6B65_6570;

/// A session for plain SQL.
pub struct Sql {
    client: Client,
}

/// What the server knows of a replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Whether it is for physical replication.
    pub physical: bool,
    /// Whether somebody reads from it just now.
    pub active: bool,
    /// The server has removed WAL that the slot needed.
    pub lost: bool,
    /// The oldest WAL that it keeps.
    pub restart_lsn: Option<Lsn>,
}

/// The server's settings and state.
#[derive(Debug, Clone)]
pub struct Facts {
    settings: HashMap<String, String>,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The role of this session.
    pub role: String,
    /// Whether the role may open replication connections.
    pub may_replicate: bool,
    /// Whether the role may read the server's files.
    pub may_read_files: bool,
}

impl Sql {
    /// Opens the session.
    pub async fn connect(info: &ConnInfo) -> anyhow::Result<Self> {
        let client =
            proto::client::sql(info, APPLICATION_NAME).await.context("cannot connect to PostgreSQL")?;
        Ok(Self { client })
    }

    /// Asks for everything in [`Facts`].
    pub async fn facts(&self) -> anyhow::Result<Facts> {
        let settings = self.rows(SETTINGS).await?;
        let state = self
            .rows(
                "SELECT pg_is_in_recovery(), rolname, rolreplication OR rolsuper, has_function_privilege( \
                 'pg_read_binary_file(text, bigint, bigint)', 'execute') FROM pg_roles WHERE rolname = current_user",
            )
            .await?;
        let state = state.first().context("the server does not know the role of this session")?;
        let text = |at: usize| state.get(at).cloned().flatten().unwrap_or_default();
        Ok(Facts {
            settings: settings
                .into_iter()
                .filter_map(|row| match <[Option<String>; 2]>::try_from(row) {
                    Ok([Some(name), Some(value)]) => Some((name, value)),
                    _ => None,
                })
                .collect(),
            in_recovery: text(0) == "t",
            role: text(1),
            may_replicate: text(2) == "t",
            may_read_files: text(3) == "t",
        })
    }

    /// The slot, if there is one of this name.
    pub async fn slot(&self, name: &SlotName) -> anyhow::Result<Option<Slot>> {
        // A slot's name has letters, digits and underscores only.
        let rows = self
            .rows(&format!(
                "SELECT slot_type, active, wal_status, restart_lsn FROM pg_replication_slots WHERE slot_name = '{name}'"
            ))
            .await?;
        rows.first().map(|row| read_slot(row)).transpose()
    }

    /// The server's clock: microseconds since 1970.
    pub async fn clock(&self) -> anyhow::Result<jiff::Timestamp> {
        let rows = self.rows("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await?;
        let micros =
            rows.first().and_then(|row| row.first().cloned().flatten()).and_then(|text| text.parse().ok());
        let micros = micros.context("the server did not tell the time")?;
        Ok(jiff::Timestamp::from_microsecond(micros)?)
    }

    /// When the last transaction was committed that a standby has replayed, by its primary's clock. `None` on a primary,
    /// and before the first one.
    pub async fn last_replayed(&self) -> anyhow::Result<Option<jiff::Timestamp>> {
        let replayed = "SELECT (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint";
        let rows = self.rows(replayed).await?;
        let micros = rows.first().and_then(|row| row.first().cloned().flatten());
        let micros: Option<i64> = micros.and_then(|text| text.parse().ok());
        Ok(micros.map(jiff::Timestamp::from_microsecond).transpose()?)
    }

    /// `length` bytes of one of the server's files from `offset` on; fewer where it ends, `None` where it is gone.
    /// `path` as the server understands it: absolute, or relative to the data directory.
    pub async fn read_file(&self, path: &str, offset: u64, length: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let path = path.replace('\'', "''");
        // The prefix makes backslashes plain, whatever standard_conforming_strings says.
        let path = path.replace('\\', "\\\\");
        let rows = self
            .rows(&format!("SELECT encode(pg_read_binary_file(E'{path}', {offset}, {length}, true), 'hex')"))
            .await?;
        let Some(hex) = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()) else {
            return Ok(None);
        };
        let bytes = hex.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        });
        Ok(Some(bytes.collect::<Option<_>>().context("the server encoded a file in an unknown way")?))
    }

    /// Takes the lock that only one backup of a server holds, as long as this session lives. `false`: another has it.
    ///
    /// The server gives it up at once when its holder is killed, so that a dead backup blocks nobody, which no sign
    /// of life in the repository could offer. Backups that do not see each other here do each other no harm either.
    pub async fn lock_backup(&self) -> anyhow::Result<bool> {
        let rows = self.rows(&format!("SELECT pg_try_advisory_lock({BACKUP_LOCK})")).await?;
        Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("t"))
    }

    /// The names of tablespaces that lie in the data directory itself.
    pub async fn in_place_tablespaces(&self) -> anyhow::Result<Vec<String>> {
        let rows = self
            .rows("SELECT spcname FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE 'pg_tblspc/%' ORDER BY 1")
            .await?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// The files from which the server's settings come, those that others include among them. Empty for a role that
    /// may not see them.
    pub async fn configuration_sources(&self) -> anyhow::Result<Vec<PathBuf>> {
        let rows =
            self.rows("SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL").await?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).map(PathBuf::from).collect())
    }

    /// The server's summaries of the WAL of `[from, to)`: what each covers, and for each relation's fork that was cut short
    /// there the smallest length in blocks, as `[relation, tablespace, database, fork, length]`, with the beginning of the
    /// first summary that tells of it. 17 and later.
    pub async fn wal_summaries(
        &self,
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
    ) -> anyhow::Result<(Vec<(Lsn, Lsn)>, Vec<([u64; 5], Lsn)>)> {
        let of = format!("tli = {timeline} AND end_lsn > '{from}' AND start_lsn < '{to}'");
        let ranges = self
            .rows(&format!("SELECT start_lsn, end_lsn FROM pg_available_wal_summaries() WHERE {of}"))
            .await?;
        let limits = self
            .rows(&format!(
                "SELECT c.relfilenode, c.reltablespace, c.reldatabase, c.relforknumber, min(c.relblocknumber), \
                 min(s.start_lsn) \
                 FROM (SELECT * FROM pg_available_wal_summaries() WHERE {of}) s, \
                 LATERAL pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c \
                 WHERE c.is_limit_block GROUP BY 1, 2, 3, 4"
            ))
            .await?;
        let ranges = ranges.iter().map(|row| Some((parsed(row, 0)?, parsed(row, 1)?)));
        let ranges = ranges.collect::<Option<_>>();
        let limits = limits.iter().map(|row| {
            let limit = [parsed(row, 0)?, parsed(row, 1)?, parsed(row, 2)?, parsed(row, 3)?, parsed(row, 4)?];
            Some((limit, parsed(row, 5)?))
        });
        let both = ranges.zip(limits.collect::<Option<_>>());
        both.context("the server told of its WAL summaries in an unknown way")
    }

    /// All rows of an answer, each as a value of `T` whose fields are called as the columns are: the server makes JSON of them.
    pub(crate) async fn many<T: DeserializeOwned>(&self, query: &str) -> anyhow::Result<Vec<T>> {
        let rows = self.rows(&format!("SELECT coalesce(json_agg(q), '[]') FROM ({query}) q")).await?;
        let json = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        let json = json.context("the server gave no answer")?;
        serde_json::from_str(&json).context("the server answered in an unknown way")
    }

    /// The only row of an answer.
    pub(crate) async fn one<T: DeserializeOwned>(&self, query: &str) -> anyhow::Result<T> {
        self.many(query).await?.into_iter().next().context("the server answered with no row")
    }

    /// Whether the session is over, as far as is known here.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs a statement of which only matters whether it was done; else the server's code for what has happened, if it said
    /// one, and its words.
    pub(crate) async fn run(&self, statement: &str) -> Result<(), (Option<String>, String)> {
        let done = self.client.batch_execute(statement).await;
        done.map_err(|error| {
            let state = error.code().map(|state| state.code().to_owned());
            (state, sql_error(error).to_string())
        })
    }

    /// Runs a query of ours; fields come as text, `None` for NULL.
    pub(crate) async fn rows(&self, query: &str) -> anyhow::Result<Vec<Vec<Option<String>>>> {
        let messages = self.client.simple_query(query).await.map_err(sql_error)?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }
}

/// A row of `pg_replication_slots`: type, whether it is active, status of its WAL, restart_lsn.
///
/// # Errors
/// The position cannot be read. That must not pass for a slot that keeps nothing: such a one is made anew.
fn read_slot(row: &[Option<String>]) -> anyhow::Result<Slot> {
    let text = |at: usize| row.get(at).and_then(Option::as_deref);
    let restart_lsn = text(3).map(str::parse).transpose();
    Ok(Slot {
        physical: text(0) == Some("physical"),
        active: text(1) == Some("t"),
        lost: text(2) == Some("lost"),
        restart_lsn: restart_lsn.context("the server tells the slot's restart_lsn in an unknown way")?,
    })
}

/// A column that is not null and can be read.
fn parsed<T: FromStr>(row: &[Option<String>], at: usize) -> Option<T> {
    row.get(at)?.as_deref()?.parse().ok()
}

/// Whether these settings make the archiver hand WAL to walkeep.
pub(crate) fn archives_to_us<'a>(setting: impl Fn(&'static str) -> &'a str) -> bool {
    let command = setting("archive_command");
    matches!(setting("archive_mode"), "on" | "always")
        && setting("archive_library").is_empty()
        && (command.contains("archive-cmd") || command.contains("walkeep"))
}

/// `tokio_postgres` shows only "db error" by itself; what the server said lies below.
fn sql_error(error: tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(said) => anyhow::anyhow!("the server refused a query: {}", said.message()),
        None => anyhow::Error::new(error).context("the connection to PostgreSQL broke"),
    }
}

impl Facts {
    /// A setting as `pg_settings` has it; `None` if this role may not see it.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// Whether pages have 8 KiB and files of relations 1 GiB, as in every build that does not ask for something else.
    pub fn has_usual_blocks(&self) -> bool {
        let (block, segment) = (BLOCK_SIZE.to_string(), SEGMENT_BLOCKS.to_string());
        self.setting("block_size") == Some(&block) && self.setting("segment_size") == Some(&segment)
    }

    /// Whether data pages carry checksums.
    pub fn data_checksums(&self) -> bool {
        self.setting("data_checksums") == Some("on")
    }

    /// The server's data directory, if this role may know it.
    pub fn data_directory(&self) -> Option<PathBuf> {
        self.setting("data_directory").map(PathBuf::from)
    }

    /// Whether the archiver hands WAL to walkeep.
    pub fn archives_to_us(&self) -> bool {
        archives_to_us(|name| self.setting(name).unwrap_or_default())
    }

    /// An error unless the WAL tells enough to restore from it.
    pub fn check_wal_level(&self) -> anyhow::Result<()> {
        match self.setting("wal_level") {
            Some("minimal") => Err(failure(
                "wal_level is minimal: the WAL does not tell enough to restore from it",
                "put `wal_level = replica` into postgresql.conf and restart the server",
            )),
            _ => Ok(()),
        }
    }

    /// An error unless the role may open replication connections.
    pub fn check_replication_role(&self) -> anyhow::Result<()> {
        if self.may_replicate {
            return Ok(());
        }
        let role = &self.role;
        Err(failure(
            format!("the role \"{role}\" may not replicate"),
            format!("as a superuser: ALTER ROLE {} REPLICATION;", identifier(role)),
        ))
    }
}

#[cfg(test)]
impl Facts {
    /// Of a server with these settings.
    pub(crate) fn of(settings: &[(&str, &str)]) -> Self {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let role = "walkeep".to_owned();
        Self { settings, in_recovery: false, role, may_replicate: true, may_read_files: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_cannot_be_read_is_no_slot_that_keeps_nothing() {
        let row = |lsn: Option<&str>| {
            ["physical", "f", "reserved"]
                .map(|text| Some(text.to_owned()))
                .into_iter()
                .chain([lsn.map(str::to_owned)])
        };
        let read = |lsn| read_slot(&row(lsn).collect::<Vec<_>>());
        assert_eq!(read(Some("0/3000000")).unwrap().restart_lsn, Some(Lsn(0x300_0000)));
        assert_eq!(read(None).unwrap().restart_lsn, None);
        assert!(read(Some("somewhere")).is_err());
    }
}
