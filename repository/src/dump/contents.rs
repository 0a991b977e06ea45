//! What a dump holds: the object that makes it exist.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use proto::Digest;
use proto::config::DumpFormat;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::DumpLabel;
use crate::{Error, Key, Result};

/// The version of the form. A reader refuses another one; keys that it does not know are ignored.
pub const DUMP_FORMAT: u32 = 1;

/// A whole dump.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Contents {
    /// [`DUMP_FORMAT`].
    pub format: u32,
    /// Its label.
    pub label: DumpLabel,
    /// The server's, as `server_version_num`.
    pub server_version: u32,
    /// The version of `pg_dump` and `pg_dumpall`, such as `15.18`.
    pub tool_version: String,
    /// Whether a standby was read.
    pub from_standby: bool,
    /// When it began, by the clock of the computer that took it.
    pub started_at: Timestamp,
    /// By the same clock.
    pub finished_at: Timestamp,
    /// The operator's note.
    pub note: Option<String>,
    /// What was asked for.
    pub selection: Selection,
    /// What is there: first what concerns all databases, then each database.
    pub parts: Vec<Part>,
}

/// What was asked for. Dumps with the same selection are one series: retention counts within it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Databases by name; `None`: all of them.
    pub databases: Option<Vec<String>>,
    /// Roles and tablespaces.
    pub globals: bool,
    /// All of the server as one script, by `pg_dumpall`.
    pub everything: bool,
    /// Patterns of `pg_dump`: only these tables.
    pub tables: Vec<String>,
    /// Only these schemas.
    pub schemas: Vec<String>,
    /// Not these tables.
    pub exclude_tables: Vec<String>,
    /// Not these schemas.
    pub exclude_schemas: Vec<String>,
    /// Of these tables the definitions alone.
    pub exclude_table_data: Vec<String>,
    /// Definitions, no rows.
    pub schema_only: bool,
    /// Rows, no definitions.
    pub data_only: bool,
}

/// What one run of a tool has written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// What it is of.
    pub kind: PartKind,
    /// The database, of [`PartKind::Database`].
    pub database: Option<String>,
    /// The form.
    pub format: DumpFormat,
    /// One, but for the format `directory`.
    pub files: Vec<DumpFile>,
}

/// What a part is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// Roles and tablespaces: `pg_dumpall --globals-only`.
    Globals,
    /// The whole server as one script: `pg_dumpall`.
    Everything,
    /// One database: `pg_dump`.
    Database,
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DumpFile {
    /// What the tool called it within its directory; `None` for what it wrote to its standard output.
    pub name: Option<FileName>,
    /// The object's name beside the contents.
    pub object: FileName,
    /// Its bytes.
    pub size_bytes: u64,
    /// Bytes of the object.
    pub stored_bytes: u64,
    /// Of its bytes.
    pub digest: Digest,
}

/// The name of a file in a directory that `pg_dump` writes, or of an object: letters, digits and `.`, `_`, `-`, 255 at most,
/// and not a dot first. So it never leads out of the folder that it is written to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

/// The text is no name of a file of a dump.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a file of a dump")]
pub struct FileNameError(String);

impl FileName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileName {
    type Err = FileNameError;

    fn from_str(text: &str) -> Result<Self, FileNameError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let valid = (1..=255).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(plain);
        valid.then(|| Self(text.to_owned())).ok_or_else(|| FileNameError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for FileName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Contents {
    /// Reads what lies at `key`.
    pub(super) fn parse(json: &[u8], key: &Key) -> Result<Self> {
        #[derive(Deserialize)]
        struct Front {
            format: u32,
        }
        let corrupt = |error: serde_json::Error| Error::corrupt(key, error);
        match serde_json::from_slice::<Front>(json).map_err(corrupt)?.format {
            DUMP_FORMAT => {}
            other => {
                let why = format!("its format is {other}; this program knows {DUMP_FORMAT} only");
                return Err(Error::invalid(format_args!("object {key}"), why));
            }
        }
        let contents: Self = serde_json::from_slice(json).map_err(corrupt)?;
        match contents.parts.iter().find(|part| !part.is_sound()) {
            None => Ok(contents),
            Some(part) => Err(Error::corrupt(key, format_args!("its part {} makes no sense", part.title()))),
        }
    }

    /// The major version of the tools: older ones cannot read what they have written.
    pub fn tool_major(&self) -> u32 {
        let digits = self.tool_version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().unwrap_or(self.server_version / 10_000)
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &DumpFile> {
        self.parts.iter().flat_map(|part| &part.files)
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files().map(|file| file.size_bytes).sum()
    }

    /// Bytes of all files' objects.
    pub fn stored_bytes(&self) -> u64 {
        self.files().map(|file| file.stored_bytes).sum()
    }
}

impl Part {
    /// In words: `database shop`, `globals`, `everything`.
    pub fn title(&self) -> String {
        match (self.kind, &self.database) {
            (PartKind::Globals, _) => "globals".to_owned(),
            (PartKind::Everything, _) => "everything".to_owned(),
            (PartKind::Database, Some(name)) => format!("database {name}"),
            (PartKind::Database, None) => "database".to_owned(),
        }
    }

    /// Bytes of its files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// A directory has files with names, each once; everything else is one file without.
    fn is_sound(&self) -> bool {
        let files = match self.format {
            DumpFormat::Directory => {
                let mut names: Vec<_> = self.files.iter().filter_map(|file| file.name.as_ref()).collect();
                let all = names.len() == self.files.len();
                names.sort_unstable();
                all && !names.is_empty() && names.windows(2).all(|pair| pair[0] != pair[1])
            }
            _ => matches!(self.files.as_slice(), [file] if file.name.is_none()),
        };
        files && (self.kind == PartKind::Database) == self.database.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/dump.json");

    proptest! {
        /// Whatever lies there is read or refused, and what is read makes sense.
        #[test]
        fn no_contents_make_it_panic(at in 0..GOLDEN.len(), length in 0usize..40, text in "\\PC{0,12}") {
            let mut bytes = GOLDEN.as_bytes().to_vec();
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, text.into_bytes());
            if let Ok(contents) = Contents::parse(&bytes, &Key::root()) {
                prop_assert!(contents.parts.iter().all(Part::is_sound));
                prop_assert!(contents.files().all(|file| !file.object.as_str().contains('/')));
                let _ = contents.tool_major();
            }
        }
    }

    #[test]
    fn another_format_is_refused_by_its_number() {
        let other = GOLDEN.replacen("\"format\":1", "\"format\":2", 1);
        let error = Contents::parse(other.as_bytes(), &Key::root()).unwrap_err();
        assert!(matches!(&error, Error::Invalid { why, .. } if why.contains("its format is 2")), "{error}");
        assert!(Contents::parse(GOLDEN.as_bytes(), &Key::root()).is_ok());
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        for text in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a b", "ä", "a\0", "a\\b"] {
            assert!(text.parse::<FileName>().is_err(), "{text:?}");
        }
        for text in ["toc.dat", "4711.dat.gz", "blob_16384.dat", "file-00000001-00000000000000a1"] {
            assert_eq!(text.parse::<FileName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_part_that_makes_no_sense_is_refused() {
        let file = |name: Option<&str>| DumpFile {
            name: name.map(|name| name.parse().unwrap()),
            object: "file-00000000-00000000000000a1".parse().unwrap(),
            size_bytes: 1,
            stored_bytes: 2,
            digest: Digest::of(b"x"),
        };
        let part =
            |format, files| Part { kind: PartKind::Database, database: Some("shop".into()), format, files };
        assert!(part(DumpFormat::Custom, vec![file(None)]).is_sound());
        assert!(part(DumpFormat::Directory, vec![file(Some("toc.dat")), file(Some("1.dat"))]).is_sound());
        let globals = Part { kind: PartKind::Globals, ..part(DumpFormat::Plain, vec![file(None)]) };
        assert!(!globals.is_sound(), "globals are of no database");
        assert!(Part { database: None, ..globals }.is_sound());
        for wrong in [
            part(DumpFormat::Custom, vec![]),
            part(DumpFormat::Custom, vec![file(Some("toc.dat"))]),
            part(DumpFormat::Custom, vec![file(None), file(None)]),
            part(DumpFormat::Directory, vec![file(None)]),
            part(DumpFormat::Directory, vec![file(Some("a")), file(Some("a"))]),
        ] {
            assert!(!wrong.is_sound(), "{wrong:?}");
        }
    }
}
