//! The WAL without which a backup is worth nothing: all from its start to its stop has to be in the repository before
//! the manifest is written.

use std::time::Duration;

use anyhow::Context;
use proto::client::{Replication, SlotLifetime};
use proto::config::SlotName;
use proto::wal::{SegmentName, SegmentNo, SegmentSize};
use proto::{Lsn, TimelineId};
use repository::Branch;
use restore::program::{Progress, failure};
use tokio::time::{Instant, sleep};

use super::plan::WalPlan;

/// So long may nothing new arrive before the backup gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// So long may the archiver bring nothing new before we fetch the WAL ourselves.
const PATIENCE_WITH_ARCHIVER: Duration = Duration::from_secs(60);

/// Between two looks at the repository.
const INTERVAL: Duration = Duration::from_millis(500);

/// A session with a temporary slot: while it lives, the server removes no WAL that the backup needs.
pub struct HeldWal {
    /// The slot belongs to this session, and ends with it.
    pub session: Replication,
    /// The slot.
    pub slot: SlotName,
}

impl HeldWal {
    /// Makes the slot. From here on the server keeps all WAL since its last checkpoint.
    pub async fn hold(mut session: Replication) -> anyhow::Result<Self> {
        let slot: SlotName = format!("walkeep_backup_{:08x}", rand::random::<u32>()).parse()?;
        session.create_slot(&slot, SlotLifetime::Temporary).await?;
        Ok(Self { session, slot })
    }
}

/// The segments that hold `[from, to)`, in order.
pub fn segments(
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
    size: SegmentSize,
) -> impl Iterator<Item = SegmentName> + use<> {
    let last = size.segment_before(to.max(from + 1));
    (size.segment_at(from).0..=last.0).map(move |number| SegmentName::new(timeline, SegmentNo(number), size))
}

/// Sees to it that all WAL of `[from, to)` is durable in the repository when this returns.
pub async fn bring(
    plan: WalPlan,
    held: Option<HeldWal>,
    branch: &Branch,
    timeline: TimelineId,
    (from, to): (Lsn, Lsn),
    progress: &Progress,
) -> anyhow::Result<()> {
    let missing = match plan {
        WalPlan::Agent => wait(branch, timeline, from, to, PATIENCE, progress).await?,
        WalPlan::Archiver => wait(branch, timeline, from, to, PATIENCE_WITH_ARCHIVER, progress).await?,
        WalPlan::Ourselves => Some(SegmentName::at(timeline, from, branch.segment_size())),
    };
    match (missing, held) {
        (None, _) => Ok(()),
        (Some(segment), Some(held)) => {
            if plan == WalPlan::Archiver {
                tracing::warn!("the archiver does not bring WAL segment {segment}: receiving it ourselves");
            }
            progress.step("receiving the WAL");
            crate::stream::receive_until(held.session, &held.slot, branch, timeline, from, to)
                .await
                .context("cannot receive the backup's WAL")
        }
        (Some(segment), None) => Err(failure(
            format!(
                "WAL segment {segment}, which this backup needs, did not arrive in the repository within {} minutes",
                PATIENCE.as_secs() / 60
            ),
            "look at `walkeep status`; when WAL arrives again, take the backup again",
        )),
    }
}

/// Waits until every segment of `[from, to)` is in the repository, whole. The one that is missing if nothing new has
/// arrived for as long as `patience`.
///
/// The server switches to a new segment at a backup's end, so the last one becomes whole too.
async fn wait(
    branch: &Branch,
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
    patience: Duration,
    progress: &Progress,
) -> anyhow::Result<Option<SegmentName>> {
    for segment in segments(timeline, from, to, branch.segment_size()) {
        let progressed = Instant::now();
        // Whole and durable: a segment's object becomes visible only when all of it is stored.
        while branch.segment_digest(segment).await?.is_none() {
            progress.step(&format!("waiting for WAL segment {segment}"));
            if progressed.elapsed() > patience {
                return Ok(Some(segment));
            }
            sleep(INTERVAL).await;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_segment_that_is_needed() {
        let names = |from: u64, to: u64| -> Vec<String> {
            segments(TimelineId::FIRST, Lsn(from), Lsn(to), SegmentSize::DEFAULT)
                .map(|s| s.to_string())
                .collect()
        };
        let segment = 16 << 20;
        assert_eq!(names(2 * segment + 40, 2 * segment + 300), ["000000010000000000000002"]);
        assert_eq!(names(2 * segment, 3 * segment), ["000000010000000000000002"]);
        assert_eq!(names(2 * segment, 3 * segment + 1).len(), 2);
        assert_eq!(names(255 * segment, 257 * segment)[1], "000000010000000100000000");
    }
}
