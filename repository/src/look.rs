//! What the server was like on a day: `look/<time>-<writer>`, one small object for each look that was kept.
//!
//! The agent is stateless, so it is these that tell how databases and tables have grown since. Names of relations are in them,
//! and figures, but nothing of the database's content. `expire` sweeps the old ones.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::drill::{TIME_LENGTH, parse_time};
use crate::{Branch, Error, Key, Kind, Result, WriterId};

/// Under which they lie.
const FOLDER: &str = "look";

/// The version of a look's form. Keys that a reader does not know are ignored.
pub const LOOK_FORMAT: u32 = 1;

/// None is longer.
const LONGEST: u64 = 16 << 20;

/// A look's name: when it was taken, by the clock of its computer; whose it is. The order of names is that of time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LookName {
    /// To the millisecond.
    pub at: Timestamp,
    writer: WriterId,
}

impl LookName {
    /// The key below the branch.
    pub fn key(&self) -> Key {
        Key::root().child(FOLDER).child(self)
    }

    /// The name in a key below the branch; `None`: it is something else.
    pub(crate) fn of_key(key: &Key) -> Option<Self> {
        key.below(&Key::root().child(FOLDER))?.parse().ok()
    }
}

impl fmt::Display for LookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.at.strftime("%Y%m%dT%H%M%S%3fZ"), self.writer)
    }
}

/// The text names no look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a look: one such as 20261124T013015123Z-00000000000000a1 is expected")]
pub struct LookNameError(String);

impl FromStr for LookName {
    type Err = LookNameError;

    fn from_str(text: &str) -> Result<Self, LookNameError> {
        let parse = || {
            let (time, writer) = text.split_at_checked(TIME_LENGTH)?;
            Some(Self { at: parse_time(time)?, writer: writer.strip_prefix('-')?.parse().ok()? })
        };
        parse()
            // One text for each name.
            .filter(|name| name.to_string() == text)
            .ok_or_else(|| LookNameError(text.chars().take(64).collect()))
    }
}

/// The figures of one look.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// [`LOOK_FORMAT`].
    pub format: u32,
    /// By the clock of the computer that looked.
    pub at: Timestamp,
    /// Name and version of the program.
    pub program: String,
    /// The computer's name.
    pub host: String,
    /// The databases.
    pub databases: Vec<DatabaseFigures>,
    /// The largest tables of all databases.
    pub tables: Vec<TableFigures>,
    /// How far the server's log was read. `None`: it could not be.
    pub log: Option<LogPosition>,
}

/// A database. What is counted is so since `counted_since`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DatabaseFigures {
    /// Its name.
    pub name: String,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Transactions that were committed.
    pub commits: u64,
    /// Blocks that were found in shared buffers.
    pub blocks_hit: u64,
    /// Blocks that were not.
    pub blocks_read: u64,
    /// Bytes of temporary files.
    pub temp_bytes: u64,
    /// When the server began to count.
    pub counted_since: Option<Timestamp>,
    /// By `pg_stat_statements`, where it is installed: how often statements were called.
    pub calls: Option<u64>,
    /// How long they took altogether, in seconds.
    pub seconds: Option<f64>,
}

/// A table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableFigures {
    /// Its database.
    pub database: String,
    /// Schema and name, quoted where SQL needs it.
    pub name: String,
    /// Bytes on disk, with indexes and TOAST.
    pub size_bytes: u64,
}

/// A place in the server's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogPosition {
    /// The file, as the server names it.
    pub file: String,
    /// Bytes of it that were read.
    pub offset: u64,
}

impl Branch {
    /// Keeps a look, durably.
    pub async fn keep_look(&self, figures: &Figures) -> Result<LookName> {
        let name = LookName { at: figures.at, writer: self.writer() };
        let key = name.key();
        let json = serde_json::to_vec(figures).map_err(|error| Error::invalid(&key, error))?;
        self.put_sealed(self.header(Kind::Look, &key), json.into()).await?;
        Ok(name)
    }

    /// The names of all that are kept, oldest first. Objects with other names are passed over.
    pub async fn looks(&self) -> Result<Vec<LookName>> {
        let listed = self.store().list_folder(&self.key(&Key::root().child(FOLDER))).await?;
        let mut names: Vec<LookName> =
            listed.objects.iter().filter_map(|object| object.key.name().parse().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads one.
    pub async fn look(&self, name: &LookName) -> Result<Figures> {
        let key = name.key();
        let (_, json) = self.get_sealed(Kind::Look, &key, LONGEST).await?;
        serde_json::from_slice(&json).map_err(|error| Error::corrupt(self.key(&key), error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_ordered_by_time() {
        let name: LookName = "20261124T013015123Z-00000000000000a1".parse().unwrap();
        assert_eq!(LookName::of_key(&name.key()), Some(name.clone()));
        let later: LookName = "20261124T013015124Z-0000000000000000".parse().unwrap();
        assert!(name < later && name.to_string() < later.to_string());
        for text in ["", "20261124T013015123Z", "20261124T013015Z-00000000000000a1", "é0261124T013015123Z-a1"]
        {
            assert!(text.parse::<LookName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<LookName>();
        }
    }
}
