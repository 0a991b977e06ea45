//! For a backup without an agent: brings the WAL that it needs, then is done.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use proto::client::{Replication, Start};
use proto::config::SlotName;
use proto::{Lsn, TimelineId};
use repository::{Branch, EpochFacts};
use tokio::sync::watch;
use tokio::time::sleep;

use super::error::StreamError;
use super::follow::store_history;
use super::known::checkpoints;
use super::pace::Flush;
use super::session::{Ended, Limits, Session};
use super::sink::Sink;
use super::start::ServerWal;
use super::state::StreamState;
use super::tail::{Tail, TailStart};
use crate::archive::KnownSegments;

/// Bytes wait longer than for an agent: here nothing but the segments counts.
const FLUSH: Duration = Duration::from_secs(2);

/// Between two looks at how much is durable.
const INTERVAL: Duration = Duration::from_millis(50);

/// Streams `timeline` from the start of `from`'s segment until every byte before a position is durable in the
/// repository, through a slot of the caller's if there is one. `to` may say only later which position that is.
///
/// # Errors
/// The server or the repository fails, the WAL differs from what the repository has, or the timeline ends too early.
pub async fn receive_until(
    mut session: Replication,
    slot: Option<&SlotName>,
    branch: &Branch,
    timeline: TimelineId,
    from: Lsn,
    to: watch::Receiver<Option<Lsn>>,
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
    let known = server.known(&branch.durable_wal_listing().await?, timeline, first)?;
    let start = first.start(segment_size);
    let checkpoints = checkpoints(branch, &known).await?;
    let wal = match session.start_replication(slot, start, timeline).await? {
        Start::Streaming(wal) => wal,
        Start::TimelineEnded { next, .. } => {
            return Err(StreamError::TimelineEnded { timeline, end: next.start, wanted: from });
        }
    };
    let epoch =
        branch.claim_epoch(EpochFacts { timeline, start, slot: slot.map(ToString::to_string) }).await?;
    let journals = branch.has_journals();
    let flush = Flush::Every(FLUSH);
    let start = TailStart { timeline, segment_size, start, flush, journals, known: checkpoints };
    let (known, state) = (KnownSegments::default(), StreamState::default());
    let sink = Sink::new(branch.clone(), epoch, known.clone(), state.clone());
    let limits = Limits { segment_size, shutdown_grace: Duration::from_secs(60), report_floor: Lsn::INVALID };
    let session = Session::new(wal, Tail::new(start), sink, limits, state.clone(), known);
    let (stop, mut stopped) = watch::channel(false);
    let ended = tokio::select! {
        ended = Box::pin(session.run(&mut stopped)) => ended?,
        never = stop_when_durable(&state, to.clone(), stop) => match never {},
    };
    let wanted = *to.borrow();
    match ended {
        // Nobody else stops it: everything is durable.
        Ended::Stopped => Ok(()),
        Ended::Timeline { end, .. } if wanted.is_some_and(|to| end >= to) => Ok(()),
        Ended::Timeline { end, .. } => {
            Err(StreamError::TimelineEnded { timeline, end, wanted: wanted.unwrap_or(end) })
        }
    }
}

/// Stops a session once every byte before the position is durable: its state counts only what has been put into the
/// repository, without a hole.
async fn stop_when_durable(
    state: &StreamState,
    mut to: watch::Receiver<Option<Lsn>>,
    stop: watch::Sender<bool>,
) -> Infallible {
    // Whoever would have told it is gone, and so are we, soon.
    let Ok(Some(to)) = to.wait_for(Option::is_some).await.map(|to| *to) else { return pending().await };
    while state.status().durable_lsn.is_none_or(|durable| durable < to) {
        sleep(INTERVAL).await;
    }
    // The sender stays here until the session has ended.
    let _ = stop.send(true);
    pending().await
}
