//! For a backup without an agent: brings the WAL that it needs, then is done.

use std::time::Duration;

use proto::client::{Replication, Start};
use proto::config::SlotName;
use proto::{Lsn, TimelineId};
use repository::{Branch, EpochFacts};
use tokio::sync::watch;

use super::error::StreamError;
use super::follow::store_history;
use super::known::checkpoints;
use super::session::{Ended, Limits, Session};
use super::sink::Sink;
use super::start::ServerWal;
use super::state::StreamState;
use super::tail::{Flush, Tail, TailStart};
use crate::archive::KnownSegments;

/// Bytes wait longer than for an agent: here nothing but the segments counts.
const FLUSH: Duration = Duration::from_secs(2);

/// Streams `timeline` from the start of `from`'s segment until every byte before `to` is durable in the repository,
/// through a slot of the caller's.
///
/// # Errors
/// The server or the repository fails, the WAL differs from what the repository has, or the timeline ends before `to`.
pub async fn receive_until(
    mut session: Replication,
    slot: &SlotName,
    branch: &Branch,
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
) -> Result<(), StreamError> {
    let segment_size = branch.segment_size();
    let identity = session.identify_system().await?;
    let history = store_history(&mut session, branch, timeline).await?;
    let server = ServerWal {
        segment_size,
        history,
        flushed: identity.flush_lsn,
        restart_lsn: segment_size.floor(from),
    };
    let first = segment_size.segment_at(from);
    let known = server.known(&branch.wal_listing().await?, timeline, first)?;
    let start = first.start(segment_size);
    let checkpoints = checkpoints(branch, &known).await?;
    let wal = match session.start_replication(Some(slot), start, timeline).await? {
        Start::Streaming(wal) => wal,
        Start::TimelineEnded { next, .. } => {
            return Err(StreamError::TimelineEnded { timeline, end: next.start, wanted: to });
        }
    };
    let epoch = branch.claim_epoch(EpochFacts { timeline, start, slot: Some(slot.to_string()) }).await?;
    let start = TailStart { timeline, segment_size, start, flush: Flush::Every(FLUSH), known: checkpoints };
    let (known, state) = (KnownSegments::default(), StreamState::default());
    let sink = Sink::new(branch.clone(), epoch, known.clone(), state.clone());
    let limits = Limits {
        segment_size,
        shutdown_grace: Duration::from_secs(60),
        report_floor: Lsn::INVALID,
        until: Some(to),
    };
    let session = Session::new(wal, Tail::new(start), sink, limits, state, known);
    // Nobody stops us: the sender lives as long as the receiver.
    let (_go_on, mut stop) = watch::channel(false);
    match Box::pin(session.run(&mut stop)).await? {
        Ended::Stopped => Ok(()),
        Ended::Timeline { end, .. } if end >= to => Ok(()),
        Ended::Timeline { end, .. } => Err(StreamError::TimelineEnded { timeline, end, wanted: to }),
    }
}
