//! Whether a recovery to a time comes to it.
//!
//! PostgreSQL stops at the first transaction that ended after the target. If there is none it takes the target for missed
//! and does not open, however late it was when the last WAL was written. So the WAL around the target is looked into
//! beforehand; if nothing ended after it, recovery goes to the last record instead, which is the same moment.

use anyhow::Result;
use proto::wal::SegmentNo;
use proto::wal::ends::TransactionEnds;
use proto::wal::page::PAGE_SIZE;
use proto::{Lsn, ServerTime};
use repository::Branch;
use repository::catalogue::Inventory;

use crate::plan::{Choice, Options, RecoveryTarget, Seen, TargetTime, last_moment};

/// So many segments are looked into at most: where nobody wrote down when they were sent, it could be all of them.
const MOST_SEGMENTS: u64 = 32;

/// Longer segments are too much to look through for this.
const LONGEST_SEGMENT: u64 = 64 << 20;

/// Where the last record of the WAL begins, if no transaction ended after a target that is a time. `None` if one did, if
/// the target is none, or if that cannot be told.
///
/// # Errors
/// WAL cannot be read; or there is a hole in it, and the target may lie behind that.
pub async fn last_record(
    branch: &Branch,
    inventory: &Inventory,
    choice: &Choice,
    options: &Options,
) -> Result<Option<Lsn>> {
    let RecoveryTarget::Time(target) = &options.target else { return Ok(None) };
    let seen = look(branch, inventory, choice, options, target).await?;
    let wal_end_time = match choice.beyond {
        Some(_) => inventory.time_before(branch, choice.lineage.timeline(), choice.wal_end).await?,
        None => None,
    };
    Ok(last_moment(choice, options, wal_end_time, seen)?)
}

async fn look(
    branch: &Branch,
    inventory: &Inventory,
    choice: &Choice,
    options: &Options,
    target: &TargetTime,
) -> Result<Seen> {
    let size = inventory.segment_size();
    let last = size.segment_before(choice.wal_end).0;
    let first = first_after(branch, inventory, choice, target).await?;
    if size.bytes() > LONGEST_SEGMENT || last.saturating_sub(first) >= MOST_SEGMENTS {
        return Ok(Seen::Unknown);
    }
    let is_later = |time: ServerTime| {
        let (time, target) = (time.unix_micros(), target.instant().as_microsecond());
        time > target || (options.exclusive && time == target)
    };
    let mut ends = TransactionEnds::default();
    for number in (first..=last).map(SegmentNo) {
        let Some(content) = inventory.read_wal(branch, &choice.lineage, number).await? else {
            return Ok(Seen::Unknown);
        };
        // What lies behind a hole is another matter.
        let content = content.up_to(choice.wal_end.bytes_since(number.start(size)));
        for piece in content.pieces() {
            let (offset, bytes) = piece?;
            for (index, page) in bytes.chunks(PAGE_SIZE).enumerate() {
                let address = number.start(size) + offset + (index * PAGE_SIZE) as u64;
                let found = match ends.read(page, address) {
                    Ok(found) => found,
                    // Replay will judge it; here it only means that nobody can tell.
                    Err(error) => {
                        tracing::warn!("cannot look into the WAL at {address}: {error}");
                        return Ok(Seen::Unknown);
                    }
                };
                if found.iter().any(|end| is_later(end.time)) {
                    return Ok(Seen::Later);
                }
            }
        }
    }
    Ok(ends.last_record().map_or(Seen::Unknown, Seen::Nothing))
}

/// The first segment in which a transaction can have ended after the target: what was sent before it did so before it.
async fn first_after(
    branch: &Branch,
    inventory: &Inventory,
    choice: &Choice,
    target: &TargetTime,
) -> Result<u64> {
    let size = inventory.segment_size();
    let mut first = size.segment_at(choice.backup.start_lsn).0;
    let mut last = size.segment_before(choice.wal_end).0;
    while first < last {
        let middle = first + (last - first) / 2;
        let end = SegmentNo(middle).end(size);
        let sent = inventory.time_before(branch, choice.lineage.timeline(), end).await?;
        match sent.is_some_and(|sent| sent <= target.instant()) {
            true => first = middle + 1,
            false => last = middle,
        }
    }
    Ok(first)
}
