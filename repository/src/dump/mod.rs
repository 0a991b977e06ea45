//! Logical backups in the repository: what `pg_dump` and `pg_dumpall` have written.
//!
//! ```text
//! dump/<label>/intent                     a dump begins: who takes it
//! dump/<label>/alive-<time>               it is still running
//! dump/<label>/file-<number>-<writer>     one file of it
//! dump/<label>/contents                   it is complete: what it holds, file by file
//! ```
//!
//! The contents' presence is what makes a dump exist. Whatever a dump leaves that was cut off before is none, and harms
//! nothing.

mod audit;
mod contents;
mod file;
mod label;
mod running;

use std::collections::BTreeMap;

pub use audit::Dumps;
pub(crate) use audit::read_through;
pub use contents::{Contents, DUMP_FORMAT, DumpFile, FileName, FileNameError, Part, PartKind, Selection};
pub use file::{DumpReader, DumpWriter};
pub use label::{DumpLabel, DumpLabelError};
pub use running::DumpIntent;

use crate::{Branch, Error, Key, Kind, ObjectInfo, Result};

/// The object that makes a dump exist.
const CONTENTS: &str = "contents";

/// The longest list of files: some million of them.
const MAX_CONTENTS: u64 = 1 << 30;

/// Where all dumps of a branch lie.
pub(crate) fn folder() -> Key {
    Key::root().child("dump")
}

/// What lies in a dump's folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Member {
    Intent,
    Alive,
    File,
    Contents,
    Stray,
}

impl Member {
    fn parse(name: &str) -> Self {
        match name.split_once('-') {
            None if name == "intent" => Self::Intent,
            None if name == CONTENTS => Self::Contents,
            Some(("alive", _)) => Self::Alive,
            Some(("file", _)) => Self::File,
            _ => Self::Stray,
        }
    }
}

/// What an object of a dump's folder is, by its key below the branch; `None` if it lies elsewhere.
pub(crate) fn parse_member(key: &Key) -> Option<(DumpLabel, Member)> {
    let (label, name) = key.below(&folder())?.split_once('/')?;
    Some((label.parse().ok()?, Member::parse(name)))
}

/// The key below the branch of what makes that dump exist.
pub(crate) fn contents_key(label: &DumpLabel) -> Key {
    folder().child(label).child(CONTENTS)
}

/// The key below the branch of an object of that dump.
pub(crate) fn object_key(label: &DumpLabel, object: &FileName) -> Key {
    folder().child(label).child(object)
}

impl Branch {
    /// All whole dumps that may be used, oldest first: those that `expire` has condemned may go at any time, and are left
    /// out.
    pub async fn dumps(&self) -> Result<Vec<DumpLabel>> {
        // Listed first: a dump that is condemned later may be used for as long as the grace period lasts.
        let found = self.all_dumps().await?;
        if found.is_empty() {
            return Ok(found);
        }
        let condemned = match self.condemned().await {
            Ok(condemned) => condemned,
            // A record that cannot be read must not keep anybody from restoring.
            Err(error @ (Error::Corrupt { .. } | Error::Locked { .. } | Error::Invalid { .. })) => {
                tracing::warn!("nobody knows which dumps are condemned: {error}");
                return Ok(found);
            }
            Err(error) => return Err(error),
        };
        Ok(found.into_iter().filter(|label| !condemned.since.contains_key(&contents_key(label))).collect())
    }

    /// All whole dumps, oldest first, with those that are condemned.
    pub async fn all_dumps(&self) -> Result<Vec<DumpLabel>> {
        let found = self.dump_objects().await?.into_iter();
        Ok(found.filter(|(_, members)| is_whole(members)).map(|(label, _)| label).collect())
    }

    /// What a dump holds.
    ///
    /// # Errors
    /// [`Error::Absent`] if it has no contents: then it never became one, or is gone.
    pub async fn read_dump(&self, label: &DumpLabel) -> Result<Contents> {
        let name = contents_key(label);
        let (_, json) = self.get_sealed(Kind::Dump, &name, MAX_CONTENTS).await?;
        let key = self.key(&name);
        let contents = Contents::parse(&json, &key)?;
        match contents.label == *label {
            true => Ok(contents),
            false => Err(Error::corrupt(key, format_args!("it is of dump {}", contents.label))),
        }
    }

    /// All objects below `dump/`, by label.
    async fn dump_objects(&self) -> Result<BTreeMap<DumpLabel, Vec<(Member, ObjectInfo)>>> {
        let mut found: BTreeMap<DumpLabel, Vec<_>> = BTreeMap::new();
        for info in self.store().list(&self.key(&folder())).await? {
            let name = info.key.below(self.root()).and_then(|below| Key::new(below).ok());
            if let Some((label, member)) = name.as_ref().and_then(parse_member) {
                found.entry(label).or_default().push((member, info));
            }
        }
        Ok(found)
    }
}

fn is_whole(members: &[(Member, ObjectInfo)]) -> bool {
    members.iter().any(|(member, _)| *member == Member::Contents)
}
