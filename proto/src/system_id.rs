//! The identifier that initdb gives a cluster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::{u32_at, u64_at};

/// A cluster's system identifier: chosen by initdb, shared by all its copies, changed by `pg_upgrade`.
///
/// Written in decimal everywhere; in JSON as a string, since the number exceeds what many readers hold exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

/// The text is no system identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a system identifier: a decimal number is expected")]
pub struct SystemIdError(String);

impl SystemId {
    /// The identifier in the content of `global/pg_control`; `None` if that is none of PostgreSQL 13 to 18.
    ///
    /// It never changes, so it is right even if the server is writing the file just now.
    pub fn of_control_file(content: &[u8]) -> Option<Self> {
        const VERSIONS: [u32; 3] = [1300, 1700, 1800];
        let version = u32_at(content, 8)?;
        VERSIONS.contains(&version).then(|| u64_at(content, 0).map(Self)).flatten()
    }

    /// Where `pg_control` is looked for that tells whose a file of `pg_wal` is: in the data directory that its path names, then
    /// in the working directory, which is the data directory for `archive_command`.
    pub fn control_files(wal_file: &Path) -> impl Iterator<Item = PathBuf> {
        let named = wal_file.parent().and_then(Path::parent).map(Path::to_owned);
        named.into_iter().chain([PathBuf::new()]).map(|data| data.join("global/pg_control"))
    }
}

impl FromStr for SystemId {
    type Err = SystemIdError;

    fn from_str(text: &str) -> Result<Self, SystemIdError> {
        text.parse().map(SystemId).map_err(|_| SystemIdError(text.to_owned()))
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SystemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
