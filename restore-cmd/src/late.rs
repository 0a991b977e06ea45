//! Tablespaces that were made after the backup had begun.
//!
//! Those that the backup knows go where they are told to. One that was made later is made again by replay, at its own place:
//! on the original's computer that is the living one, and the server would write into it. Before 13.5 and 14.1 it would be
//! emptied first; since then what a lost server has left there stays, and pages that are newer than the replay are kept as
//! they are. No setting prevents either. So the WAL is looked through beforehand.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use proto::Lsn;
use proto::wal::SegmentNo;
use proto::wal::page::PAGE_SIZE;
use proto::wal::record::{Record, Records, Rmgr, transaction};
use repository::Branch;
use repository::catalogue::Inventory;

use crate::plan::{Plan, RecoveryTarget};
use crate::program::{Progress, failure};

/// The resource manager of tablespaces.
const TABLESPACES: Rmgr = Rmgr(5);

/// The kind of record with which one is made.
const CREATE: u8 = 0x00;

/// Segments that are fetched at once.
const AT_ONCE: usize = 2;

/// A tablespace that replay will make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Late {
    /// Where the record is.
    pub at: Lsn,
    /// Its directory.
    pub location: PathBuf,
}

/// Looks through the WAL of the plan, up to its target.
///
/// # Errors
/// The store does not answer. Damage is left to replay, which does not get past it either.
pub async fn late_tablespaces(
    branch: &Branch,
    inventory: &Inventory,
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<Late>> {
    let size = inventory.segment_size();
    let mut look =
        Look { target: &plan.target, end: plan.wal_from + plan.wal_bytes(), over: false, found: Vec::new() };
    let numbers = size.segment_at(plan.wal_from).0..=size.segment_before(look.end).0;
    let mut contents = stream::iter(numbers)
        .map(|number| async move {
            let number = SegmentNo(number);
            (number, inventory.read_wal(branch, &plan.lineage, number).await)
        })
        .buffered(AT_ONCE);
    let mut records = Records::new(64 << 10);
    while let Some((number, content)) = contents.next().await {
        let content = match content {
            Ok(Some(content)) => content,
            Ok(None) => break,
            // Without the key nothing else could be restored either.
            Err(error) if error.is_transient() || matches!(error, repository::Error::Locked { .. }) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!("cannot look through the WAL from {}: {error:#}", number.start(size));
                break;
            }
        };
        for piece in content.pieces() {
            let (offset, bytes) = piece?;
            for (index, page) in bytes.chunks(PAGE_SIZE).enumerate() {
                let address = number.start(size) + offset + (index * PAGE_SIZE) as u64;
                // What is damaged here ends the replay, too, or is passed over by both.
                let _ = records.read(page, address, |record| look.see(&record));
            }
        }
        progress.add(content.length());
        if look.over {
            break;
        }
    }
    Ok(look.found)
}

struct Look<'a> {
    target: &'a RecoveryTarget,
    end: Lsn,
    /// Recovery ends before what follows.
    over: bool,
    found: Vec<Late>,
}

impl Look<'_> {
    fn see(&mut self, record: &Record<'_>) {
        if let RecoveryTarget::Time(time) = self.target
            && let Some(ended) = transaction::end_time(record)
            && ended.unix_micros() > time.instant().as_microsecond()
        {
            self.over = true;
        }
        self.over |= record.start > self.end;
        if !self.over
            && record.rmgr == TABLESPACES
            && record.kind() == CREATE
            && let Some(location) = location(record)
        {
            self.found.push(Late { at: record.start, location });
        }
    }
}

/// Its oid, then its place; one within the data directory has none.
fn location(record: &Record<'_>) -> Option<PathBuf> {
    let main = record.parts().ok()?.main.get(4..)?;
    let path = main.split(|byte| *byte == 0).next().unwrap_or_default();
    (!path.is_empty()).then(|| Path::new(OsStr::from_bytes(path)).to_owned())
}

/// A copy must have none of them: the original may live beside it.
///
/// # Errors
/// There is one.
pub fn refuse_late(late: &[Late]) -> Result<()> {
    let Some(Late { at, location }) = late.first() else { return Ok(()) };
    Err(failure(
        format!(
            "the tablespace at {} was made at {at}, after the backup had begun: on its way there a copy would write \
             into that very directory",
            location.display()
        ),
        "take a backup, of which a copy can move it (`walkeep backup`), or name a target before that position",
    ))
}

/// What the operator should know of them, if a server of that major version can make them here.
///
/// # Errors
/// Files of such a server lie in a tablespace's directory already, or it cannot be looked at.
pub fn judge_late(late: &[Late], major: u32) -> Result<Vec<String>> {
    let mut notices = Vec::new();
    for Late { at, location } in late {
        let shown = location.display();
        match occupied(location, major) {
            Ok(None) => notices.push(format!(
                "the tablespace at {shown} was made at {at}, after the backup had begun: replay makes it again there"
            )),
            Ok(Some(folder)) => {
                return Err(failure(
                    format!(
                        "the tablespace at {shown} was made at {at}, after the backup had begun: replay makes it again in \
                         that very directory, where {folder} holds the files of a server"
                    ),
                    format!(
                        "if the original lives on this computer, take a backup and restore that one with --tablespace \
                         OLD=NEW, or name a target before {at}; if the lost server has left them, empty {shown} first"
                    ),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => notices.push(format!(
                "the tablespace at {shown} was made at {at}, after the backup had begun: make an empty directory there \
                 for the server's user, or recovery stops at that point"
            )),
            Err(error) => return Err(error).with_context(|| format!("cannot look at the directory {shown}")),
        }
    }
    Ok(notices)
}

/// The folder of such a server in a tablespace's directory, if there is something in it.
fn occupied(location: &Path, major: u32) -> io::Result<Option<String>> {
    for entry in fs::read_dir(location)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("PG_{major}_")) && fs::read_dir(entry.path())?.next().is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_place_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let location = home.path().join(name);
            fs::create_dir(&location).unwrap();
            location
        };
        let late = |location: &Path| [Late { at: Lsn(0x300_0028), location: location.to_owned() }];
        let empty = place("empty");
        fs::create_dir_all(empty.join("PG_15_202209061")).unwrap();
        fs::create_dir_all(empty.join("PG_14_202107181/5")).unwrap();
        assert!(judge_late(&late(&empty), 15).unwrap()[0].contains("0/3000028"));
        let full = place("full");
        fs::create_dir_all(full.join("PG_15_202209061/5")).unwrap();
        let error = format!("{:#}", judge_late(&late(&full), 15).unwrap_err());
        assert!(error.contains("PG_15_202209061") && error.contains("0/3000028"), "{error}");
        let missing = judge_late(&late(&home.path().join("missing")), 15).unwrap();
        assert!(missing[0].contains("make an empty directory"), "{missing:?}");
        assert!(refuse_late(&late(&empty)).is_err() && refuse_late(&[]).is_ok());
    }
}
