//! Reads the WAL: fetched, opened and verified side by side, followed in order.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context, Result};
use proto::Lsn;
use proto::wal::SegmentNo;
use proto::wal::page::PAGE_SIZE;
use proto::wal::record::Records;
use repository::catalogue::{Inventory, WalContent};
use repository::{Branch, Error};
use restore::program::Progress;
use tokio::sync::mpsc;

use super::range::{Bounds, WalRange};
use super::track::Tracker;

/// So many bytes of segments are fetched ahead at most, but one at least. Those of more than 16 MiB are in temporary files.
const IN_FLIGHT: u64 = 256 << 20;

/// Damage that is told one by one.
const MOST_TOLD: usize = 100;

/// WAL that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The page, or the segment, that it is in.
    pub at: Lsn,
    /// What is wrong.
    pub why: String,
}

/// What there is to say about the reading itself.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Bytes of WAL.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// And more of it.
    pub more_damage: u64,
}

impl Scanned {
    fn damaged(&mut self, at: Lsn, why: String) {
        match self.damage.len() < MOST_TOLD {
            true => self.damage.push(Damage { at, why }),
            false => self.more_damage += 1,
        }
    }
}

/// Reads `range` and has `tracker` follow it. What is damaged is passed over, and told.
///
/// # Errors
/// The store does not answer, or the WAL is encrypted for others.
pub async fn scan(
    branch: &Branch,
    inventory: &Arc<Inventory>,
    range: &WalRange,
    bounds: &Bounds,
    mut tracker: Tracker,
    progress: &Progress,
) -> Result<(Tracker, Scanned)> {
    let size = inventory.segment_size();
    let numbers = size.segment_at(range.from).0..=size.segment_before(range.to).0;
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let jobs = jobs.min(usize::try_from(IN_FLIGHT / size.bytes()).unwrap_or(1)).max(1);
    // One is being followed, one waits, the others are fetched.
    let (sender, mut segments) = mpsc::channel::<(Lsn, Result<WalContent, Error>)>(1);
    let (bounds, to, shown) = (bounds.clone(), range.to, progress.clone());
    let follower = tokio::task::spawn_blocking(move || {
        let (mut records, mut scanned) = (Records::default(), Scanned::default());
        while let Some((start, segment)) = segments.blocking_recv() {
            match segment {
                Ok(content) => {
                    for piece in content.pieces() {
                        match piece {
                            Ok((offset, bytes)) => {
                                let start = start + offset;
                                follow(&mut records, &mut tracker, &mut scanned, &bounds, start, &bytes, to);
                            }
                            Err(error) => scanned.damaged(start, error.to_string()),
                        }
                    }
                    shown.add(content.length());
                }
                Err(error) => scanned.damaged(start, error.to_string()),
            }
        }
        (tracker, scanned)
    });
    let (mut numbers, mut fetches) = (numbers.map(SegmentNo), VecDeque::with_capacity(jobs));
    loop {
        while fetches.len() < jobs
            && let Some(number) = numbers.next()
        {
            let (branch, inventory) = (branch.clone(), inventory.clone());
            let lineage = range.lineage.clone();
            let fetch = async move { inventory.read_wal(&branch, &lineage, number).await };
            fetches.push_back((number, tokio::spawn(fetch)));
        }
        let Some((number, fetch)) = fetches.pop_front() else { break };
        let fetched = fetch.await.context("what fetches the WAL has stopped")?;
        let fetched = match fetched {
            Ok(Some(content)) => Ok(content),
            // A gap, which is told by itself.
            Ok(None) => continue,
            Err(error @ (Error::Corrupt { .. } | Error::Conflict { .. } | Error::Invalid { .. })) => {
                Err(error)
            }
            Err(error) => return Err(error).context("cannot read the WAL"),
        };
        if sender.send((number.start(size), fetched)).await.is_err() {
            break;
        }
    }
    drop(sender);
    follower.await.context("what follows the WAL has stopped")
}

/// The pages of a piece of WAL.
fn follow(
    records: &mut Records,
    tracker: &mut Tracker,
    scanned: &mut Scanned,
    bounds: &Bounds,
    start: Lsn,
    bytes: &[u8],
    to: Lsn,
) {
    for (number, page) in bytes.chunks(PAGE_SIZE).enumerate() {
        let address = start + (number * PAGE_SIZE) as u64;
        if address >= to {
            return;
        }
        scanned.bytes += page.len() as u64;
        let mut read = || {
            records.read(page, address, |record| {
                scanned.records += 1;
                tracker.record(&record, bounds.contains_lsn(record.start));
            })
        };
        let Err(error) = read() else { continue };
        // The page itself may be whole, and only not be what the one before promised.
        let _ = read();
        scanned.damaged(address, error.to_string());
    }
}
