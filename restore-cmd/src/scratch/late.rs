//! Tablespaces that were made after the backup had begun.
//!
//! Those that the backup knows are moved into the scratch directory. One that was made later is made again by replay, at its
//! own place: on the original's computer that is the living one, and the server would write into it, or (before 13.5 and
//! 14.1) empty it first. No setting keeps it from that. So the WAL is looked through beforehand, and such a copy refused.

use anyhow::Result;
use futures::{StreamExt, stream};
use proto::Lsn;
use proto::wal::SegmentNo;
use proto::wal::page::PAGE_SIZE;
use proto::wal::record::{Record, Records, Rmgr, transaction};
use repository::Branch;
use repository::catalogue::Inventory;

use crate::plan::{Plan, RecoveryTarget};
use crate::program::{Progress, failure};
use crate::reach::content;

/// The resource manager of tablespaces.
const TABLESPACES: Rmgr = Rmgr(5);

/// The kind of record with which one is made.
const CREATE: u8 = 0x00;

/// Segments that are fetched at once; one if they are large.
const AT_ONCE: usize = 3;

/// Larger segments are held in memory one at a time.
const LARGE: u64 = 64 << 20;

/// Looks through the WAL of the plan, up to its target.
///
/// # Errors
/// A tablespace is made there, or the store does not answer. Damage is left to replay, which does not get past it either.
pub(super) async fn refuse_late_tablespaces(
    branch: &Branch,
    inventory: &Inventory,
    plan: &Plan,
    progress: &Progress,
) -> Result<()> {
    let size = inventory.segment_size();
    let end = plan.wal_from + plan.wal_bytes();
    let numbers = size.segment_at(plan.wal_from).0..=size.segment_before(end).0;
    let at_once = if size.bytes() > LARGE { 1 } else { AT_ONCE };
    let mut contents = stream::iter(numbers)
        .map(|number| async move {
            let number = SegmentNo(number);
            (number, content(branch, inventory, &plan.lineage, plan.wal_to, number).await)
        })
        .buffered(at_once);
    let mut records = Records::new(64 << 10);
    while let Some((number, content)) = contents.next().await {
        let bytes = match content {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(error) if error.downcast_ref().is_some_and(repository::Error::is_transient) => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!("cannot look through the WAL from {}: {error:#}", number.start(size));
                return Ok(());
            }
        };
        for (index, page) in bytes.chunks(PAGE_SIZE).enumerate() {
            let address = number.start(size) + (index * PAGE_SIZE) as u64;
            let mut found = Found::Nothing;
            // What is damaged here ends the replay, too, or is passed over by both.
            let _ = records.read(page, address, |record| found.see(&record, &plan.target));
            match found {
                Found::Nothing => {}
                Found::Target => return Ok(()),
                Found::Made { at, location } => return Err(refusal(at, &location)),
            }
        }
        progress.add(bytes.len() as u64);
    }
    Ok(())
}

/// What decides, whichever comes first.
#[derive(PartialEq, Eq, Debug)]
enum Found {
    Nothing,
    /// Recovery ends before what follows.
    Target,
    Made {
        at: Lsn,
        location: String,
    },
}

impl Found {
    fn see(&mut self, record: &Record<'_>, target: &RecoveryTarget) {
        if *self != Self::Nothing {
            return;
        }
        if let RecoveryTarget::Time(time) = target
            && let Some(ended) = transaction::end_time(record)
            && ended.unix_micros() > time.instant().as_microsecond()
        {
            *self = Self::Target;
        }
        if record.rmgr == TABLESPACES
            && record.kind() == CREATE
            && let Some(location) = location(record)
        {
            *self = Self::Made { at: record.start, location };
        }
    }
}

/// Its oid, then its place; one within the data directory has none.
fn location(record: &Record<'_>) -> Option<String> {
    let main = record.parts().ok()?.main.get(4..)?;
    let path = main.split(|byte| *byte == 0).next().unwrap_or_default();
    (!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned())
}

fn refusal(at: Lsn, location: &str) -> anyhow::Error {
    failure(
        format!(
            "the tablespace at {location} was made at {at}, after the backup had begun: on its way there a copy would write \
             into that very directory"
        ),
        "take a backup, of which a copy can move it (`walkeep backup`), or name a target before that position",
    )
}
