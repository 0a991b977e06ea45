//! Are the dumps that are listed there, and are they what was written?

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;

use super::{Contents, DumpFile, DumpLabel, folder};
use crate::audit::is_damage;
use crate::branch::off_thread;
use crate::pack::Pace;
use crate::{Branch, Error, Key, Result};

/// So much is read at a time.
const PIECE: usize = 256 << 10;

/// The dumps of a branch, as a quick look finds them.
#[derive(Clone, Debug, Default)]
pub struct Dumps {
    /// Those whose contents can be read, oldest first.
    pub whole: Vec<Contents>,
    /// Those whose contents cannot, and why.
    pub unreadable: Vec<(DumpLabel, Error)>,
}

impl Dumps {
    /// Reads the contents of all dumps that may be used.
    ///
    /// # Errors
    /// The store failed.
    pub async fn load(branch: &Branch) -> Result<Self> {
        Self::of(branch, branch.dumps().await?).await
    }

    /// Whether this one is there.
    pub fn has(&self, label: &DumpLabel) -> bool {
        self.whole.iter().any(|dump| dump.label == *label)
            || self.unreadable.iter().any(|(unreadable, _)| unreadable == label)
    }

    /// Reads the contents of these. One that is gone meanwhile is left out.
    pub(crate) async fn of(branch: &Branch, labels: Vec<DumpLabel>) -> Result<Self> {
        let mut dumps = Self::default();
        for label in labels {
            match branch.read_dump(&label).await {
                Ok(contents) => dumps.whole.push(contents),
                Err(Error::Absent { .. }) => {}
                Err(error) if is_damage(&error) || matches!(error, Error::Locked { .. }) => {
                    dumps.unreadable.push((label, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(dumps)
    }

    /// The files that are not there, or not as long as they were: with what is wrong, in a sentence.
    pub(crate) async fn missing(&self, branch: &Branch) -> Result<Vec<(DumpLabel, Key, String)>> {
        if self.whole.is_empty() {
            return Ok(Vec::new());
        }
        let listed = branch.store().list(&branch.key(&folder())).await?;
        let sizes: BTreeMap<Key, u64> = listed.into_iter().map(|object| (object.key, object.size)).collect();
        let mut missing = Vec::new();
        for dump in &self.whole {
            for file in dump.files() {
                let key = branch.key(&branch.dump_object(&dump.label, &file.object));
                let stored = file.stored_bytes;
                let why = match sizes.get(&key) {
                    Some(size) if *size == stored => continue,
                    Some(size) => format!("object {key} has {size} bytes instead of {stored}"),
                    None => format!("object {key} does not exist"),
                };
                missing.push((dump.label.clone(), key, why));
            }
        }
        Ok(missing)
    }
}

/// Reads a file to its end, no faster than the pace allows.
pub(crate) async fn read_through(
    branch: &Branch,
    label: &DumpLabel,
    file: &DumpFile,
    pace: &Mutex<Pace>,
    done: &(impl Fn(u64) + Sync),
) -> Result<()> {
    let mut reader = branch.read_dump_file(label, file).await?;
    let key = branch.key(&branch.dump_object(label, &file.object));
    let mut left = file.size_bytes;
    loop {
        Pace::pass_shared(pace, PIECE.min(usize::try_from(left).unwrap_or(PIECE))).await;
        let read = move || {
            let mut buffer = vec![0; PIECE];
            match reader.read(&mut buffer) {
                Ok(count) => Ok((reader, count)),
                Err(error) => Err(reader.failure(error)),
            }
        };
        let (back, count) = off_thread(&key, read).await?;
        if count == 0 {
            return Ok(());
        }
        reader = back;
        left = left.saturating_sub(count as u64);
        done(count as u64);
    }
}
