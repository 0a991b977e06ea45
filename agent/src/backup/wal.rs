//! The WAL without which a backup is worth nothing: all from its start to its stop has to be in the repository before
//! the manifest is written.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use proto::client::{Replication, SlotLifetime};
use proto::config::SlotName;
use proto::conninfo::ConnInfo;
use proto::wal::page::PAGE_SIZE;
use proto::wal::{SegmentName, SegmentNo, SegmentSize, checkpoint};
use proto::{Lsn, TimelineId};
use repository::Branch;
use repository::manifest::ManifestHead;
use restore::program::{Progress, failure};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::plan::WalPlan;
use crate::stream::receive_until;

/// So long may nothing new arrive before the backup gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// So long may the archiver bring nothing new before we fetch the WAL ourselves.
const PATIENCE_WITH_ARCHIVER: Duration = Duration::from_secs(60);

/// The same on a standby, where fetching the WAL ourselves costs its primary nothing.
const PATIENCE_ON_STANDBY: Duration = Duration::from_secs(15);

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

/// Where the WAL comes from and where it goes.
pub struct Source {
    /// Who is to bring it.
    pub plan: WalPlan,
    /// What keeps it on the server meanwhile.
    pub held: Option<HeldWal>,
    /// The server.
    pub info: ConnInfo,
    /// The repository.
    pub branch: Branch,
    /// The backup's timeline.
    pub timeline: TimelineId,
    /// Where the backup starts.
    pub from: Lsn,
}

/// The WAL of a backup that is under way. If nobody else brings it, it is received beside the backup: however long that
/// takes, the server need not keep more than what is just on its way.
pub struct Coming {
    task: JoinHandle<anyhow::Result<()>>,
    /// Where the backup stops, once that is known.
    stop: watch::Sender<Option<Lsn>>,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Coming {
    /// Begins.
    pub fn begin(source: Source, progress: Progress) -> Self {
        let (stop, to) = watch::channel(None);
        Self { task: tokio::spawn(bring(source, to, progress)), stop }
    }

    /// Returns only if the WAL cannot be had: then the backup is worth nothing, and need not go on.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => anyhow::anyhow!("the WAL ended before the backup did"),
            Err(error) => error.into(),
        }
    }

    /// The backup stops at `to`: all of its WAL is durable in the repository when this returns.
    pub async fn until(mut self, to: Lsn) -> anyhow::Result<()> {
        self.stop.send_replace(Some(to));
        (&mut self.task).await?
    }
}

/// Sees to it that all WAL from where the backup starts up to `to` is durable in the repository when this returns.
async fn bring(
    source: Source,
    mut to: watch::Receiver<Option<Lsn>>,
    progress: Progress,
) -> anyhow::Result<()> {
    let Source { plan, held, info, branch, timeline, from } = source;
    let patience = match plan {
        WalPlan::Agent => PATIENCE,
        WalPlan::Archiver => PATIENCE_WITH_ARCHIVER,
        WalPlan::Elsewhere => PATIENCE_ON_STANDBY,
        WalPlan::Ourselves => Duration::ZERO,
    };
    let missing = match plan {
        WalPlan::Ourselves => SegmentName::at(timeline, from, branch.segment_size()),
        WalPlan::Agent | WalPlan::Archiver | WalPlan::Elsewhere => {
            // What an agent has not stored its slot keeps; what the archiver has not, the server keeps in any case.
            let Ok(Some(to)) = to.wait_for(Option::is_some).await.map(|to| *to) else { return Ok(()) };
            let tails = plan == WalPlan::Elsewhere;
            match wait(&branch, timeline, from, to, patience, tails, &progress).await? {
                Some(missing) => missing,
                None => return Ok(()),
            }
        }
    };
    let Some(HeldWal { session, slot }) = held else {
        return Err(failure(
            format!(
                "WAL segment {missing}, which this backup needs, did not arrive in the repository within {} minutes",
                PATIENCE.as_secs() / 60
            ),
            "look at `walkeep status`; when WAL arrives again, take the backup again",
        ));
    };
    let receive = async |session, slot| {
        let received = receive_until(session, slot, &branch, timeline, from, to.clone()).await;
        received.context("cannot receive the backup's WAL")
    };
    if plan == WalPlan::Ourselves {
        return receive(session, Some(&slot)).await;
    }
    match plan {
        // A quiet primary does not end its segment, and its archiver has nothing to hand over.
        WalPlan::Elsewhere => {
            tracing::info!("nobody brings the end of WAL segment {missing}: receiving it from the standby");
        }
        _ => tracing::warn!("the archiver does not bring WAL segment {missing}: receiving it ourselves"),
    }
    progress.step("receiving the WAL");
    match receive(session, Some(&slot)).await {
        Ok(()) => Ok(()),
        // Nobody has moved the slot, so the server may have given it up; what waits for the archiver is there still.
        Err(error) => {
            tracing::warn!("{error:#}: trying without the slot");
            receive(crate::commands::connect(&info).await?, None).await
        }
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

/// Waits until every segment of `[from, to)` is in the repository, whole. The one that is missing if nothing new has
/// arrived for as long as `patience`.
///
/// A primary switches to a new segment at a backup's end, so the last one becomes whole too. A standby cannot: with
/// `tails` fragments will do, as far as they are needed.
async fn wait(
    branch: &Branch,
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
    patience: Duration,
    tails: bool,
    progress: &Progress,
) -> anyhow::Result<Option<SegmentName>> {
    for segment in segments(timeline, from, to, branch.segment_size()) {
        let progressed = Instant::now();
        // Whole, since an object becomes visible only when all of it is stored; and durable.
        while branch.durable_segment(segment).await?.is_none()
            && !(tails && tail_reaches(branch, segment, to).await?)
        {
            progress.step(&format!("waiting for WAL segment {segment}"));
            if progressed.elapsed() > patience {
                return Ok(Some(segment));
            }
            sleep(INTERVAL).await;
        }
    }
    Ok(None)
}

/// Whether the fragments of one epoch hold all bytes of the segment before `to`.
async fn tail_reaches(branch: &Branch, segment: SegmentName, to: Lsn) -> anyhow::Result<bool> {
    let size = branch.segment_size();
    let number = segment.number(size)?;
    let wal = branch.folder_listing(segment.timeline, segment.log).await?;
    let reached = number.start(size) + u64::from(wal.tail_length(segment));
    Ok(reached >= to.min(number.end(size)))
}

/// An error unless the stored WAL is that of the server which was backed up: where the backup says that its checkpoint is, it has
/// one, from whose redo position the backup is replayed. That names exist proves less: a copy of the server may have stored
/// its own WAL under them.
///
/// An encrypted segment that this host cannot read is not looked at.
pub async fn check_start(branch: &Branch, head: &ManifestHead) -> anyhow::Result<()> {
    let (size, at) = (branch.segment_size(), head.checkpoint_lsn);
    let first = size.segment_at(at);
    let from = Lsn(at.0 - at.0 % PAGE_SIZE as u64);
    let to = (from + 2 * PAGE_SIZE as u64).min(head.stop_lsn).max(at + 1);
    let mut wal = Vec::new();
    for number in (first.0..=size.segment_before(to).0).map(SegmentNo) {
        let start = number.start(size);
        let piece =
            Piece::of(from.max(start).bytes_since(start)..to.min(number.end(size)).bytes_since(start));
        let read = branch.read_segment_to(SegmentName::new(head.timeline, number, size), piece.clone()).await;
        match read {
            Ok(_) => wal.append(&mut piece.bytes()),
            Err(error @ repository::Error::Locked { .. }) => {
                tracing::debug!("the WAL of the backup's checkpoint was not looked at: {error}");
                return Ok(());
            }
            // A standby's backup may end where the stream has just got to, and begin little before.
            Err(repository::Error::Absent { .. }) => {
                let name = SegmentName::new(head.timeline, number, size);
                let tail = branch
                    .read_tail(name)
                    .await
                    .context("cannot read the WAL with which the backup begins")?;
                let bytes = tail.map(|tail| tail.bytes).unwrap_or_default();
                let within = |at: Lsn| (at.bytes_since(start) as usize).min(bytes.len());
                wal.extend_from_slice(&bytes[within(from.max(start))..within(to.min(number.end(size)))]);
            }
            Err(error) => return Err(error).context("cannot read the WAL with which the backup begins"),
        }
    }
    if checkpoint::redo(&wal, from, at) == Some(head.start_lsn) {
        return Ok(());
    }
    Err(failure(
        format!(
            "segment {} in the repository is not this server's: it has no checkpoint at {at} that begins at {}",
            SegmentName::new(head.timeline, first, size),
            head.start_lsn
        ),
        "another server with the same system identifier, such as a copy, has stored WAL: stop its archiving; then find out \
         with `walkeep verify` what is stored, and take the backup again",
    ))
}

/// Keeps a piece of what is written, and lets the rest go by: a segment may have a gigabyte.
#[derive(Clone)]
struct Piece {
    wanted: Range<u64>,
    seen: u64,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Piece {
    fn of(wanted: Range<u64>) -> Self {
        Self { wanted, seen: 0, kept: Arc::default() }
    }

    fn bytes(&self) -> Vec<u8> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl io::Write for Piece {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let within = |at: u64| (at.saturating_sub(self.seen) as usize).min(bytes.len());
        let piece = &bytes[within(self.wanted.start)..within(self.wanted.end)];
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(piece);
        self.seen += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_the_same_however_it_comes() {
        let all: Vec<u8> = (0..100).collect();
        for step in [1, 7, 30, 100] {
            let mut piece = Piece::of(20..50);
            all.chunks(step).for_each(|bytes| io::Write::write_all(&mut piece, bytes).unwrap());
            assert_eq!(piece.bytes(), &all[20..50]);
        }
    }

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
