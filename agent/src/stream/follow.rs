//! The loop around the sessions: connects, plans, follows timelines, waits and comes back.

use std::time::Duration;

use proto::client::{NextTimeline, Replication, SessionOptions, SlotState, Start};
use proto::config::{ClusterName, SlotName};
use proto::conninfo::ConnInfo;
use proto::wal::WalFile;
use proto::wal::history::TimelineHistory;
use proto::{Lsn, TimelineId};
use repository::{Branch, EpochFacts, Repository};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::error::{self, StreamError};
use super::known::checkpoints;
use super::mend::mend;
use super::session::{Ended, Limits, Session};
use super::sink::Sink;
use super::start::{Known, Reach, ServerWal};
use super::state::{StreamPhase, StreamState};
use super::tail::{Flush, Tail, TailStart};
use crate::archive::KnownSegments;
use crate::backoff::Backoff;
use crate::backup::facts::Sql;
use crate::stop::stopped;

/// After so long without a word from us the server gives the slot to the next agent.
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(20);

/// The first look after a shutdown. A session that comes back too soon would be waited for again.
const AFTER_SHUTDOWN: Duration = Duration::from_secs(5);

/// Between tries to get the slot from another session.
const SLOT_IN_USE: Duration = Duration::from_secs(2);

/// Between looks while only an operator can help.
const WITHOUT_HOPE: Duration = Duration::from_secs(30);

/// How the agent streams.
#[derive(Clone)]
pub struct StreamOptions {
    /// The server.
    pub postgres: ConnInfo,
    /// The cluster's name in the repository.
    pub cluster: ClusterName,
    /// The permanent slot.
    pub slot: SlotName,
    /// The most that WAL waits for the repository.
    pub flush_interval: Duration,
    /// Flush at once.
    pub synchronous: bool,
    /// How long a shutdown of the server may wait for the repository.
    pub shutdown_grace: Duration,
}

impl StreamOptions {
    fn flush(&self) -> Flush {
        if self.synchronous { Flush::AtOnce } else { Flush::Every(self.flush_interval) }
    }
}

/// Streams until `stop` becomes true. All that goes wrong is logged, shown in `state`, and tried again.
pub async fn follow(
    repository: Repository,
    options: StreamOptions,
    state: StreamState,
    known: KnownSegments,
    mut stop: watch::Receiver<bool>,
) {
    let mut follower = Follower { repository, options, state, known, reach: Reach::BackToTheKnown };
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    while !*stop.borrow() {
        follower.state.set_phase(StreamPhase::Connecting);
        let Err(error) = Box::pin(follower.attempt(&mut stop)).await else { break };
        if follower.state.streaming_for().is_some_and(|time| time > Duration::from_secs(60)) {
            backoff.reset();
        }
        let wait = follower.after(&error, &mut backoff);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stopped(&mut stop) => {}
        }
    }
    follower.state.set_phase(StreamPhase::Stopped);
}

struct Follower {
    repository: Repository,
    options: StreamOptions,
    state: StreamState,
    known: KnownSegments,
    /// How far back to ask the server next time.
    reach: Reach,
}

impl Follower {
    /// Tells of an error, and how long to wait after it.
    fn after(&mut self, failure: &StreamError, backoff: &mut Backoff) -> Duration {
        if failure.is_wal_removed() && self.reach == Reach::BackToTheKnown {
            // It was worth asking. The slot itself promises less.
            info!("the server no longer has the WAL before the slot's");
            self.reach = Reach::Slot;
            return Duration::ZERO;
        }
        self.reach = Reach::BackToTheKnown;
        let lost = StreamError::SlotLost { slot: self.options.slot.clone(), stored_to: None };
        // The server does not even have what the slot promises.
        let failure = if failure.is_wal_removed() { &lost } else { failure };
        let hint = failure.hint();
        let message = match &hint {
            Some(hint) => format!("{failure}; hint: {hint}"),
            None => failure.to_string(),
        };
        if matches!(failure, StreamError::ServerShutdown) {
            info!("the server has shut down; everything that it sent is durable");
            self.state.set_phase(StreamPhase::Waiting);
            return AFTER_SHUTDOWN.max(backoff.next_wait());
        }
        let news = self.state.set_error(&message);
        if failure.is_slot_in_use() {
            // Another agent streams. Whoever waits shall take over within seconds of its death.
            self.state.set_phase(StreamPhase::Waiting);
            if news {
                info!("another session uses the slot: waiting for it");
            }
            return SLOT_IN_USE;
        }
        if failure.needs_operator() {
            self.state.set_phase(StreamPhase::Stopped);
            if news {
                error!(hint, "streaming is stopped: {failure}");
            }
            return WITHOUT_HOPE;
        }
        self.state.set_phase(StreamPhase::Waiting);
        if news {
            warn!(hint, "streaming is interrupted: {failure}");
        }
        backoff.next_wait()
    }

    /// One connection: returns when we were asked to stop.
    async fn attempt(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), StreamError> {
        let session_options = SessionOptions {
            application_name: crate::backup::facts::APPLICATION_NAME.to_owned(),
            wal_sender_timeout: Some(WAL_SENDER_TIMEOUT),
        };
        let mut session = Replication::connect(&self.options.postgres, &session_options).await?;
        let identity = session.identify_system().await?;
        let branch = self.repository.branch(&self.options.cluster, identity.system_id).await?;
        let segment_size = session.segment_size().await?;
        if segment_size != branch.segment_size() {
            return Err(StreamError::SegmentSize { server: segment_size, branch: branch.segment_size() });
        }
        let history = store_history(&mut session, &branch, identity.timeline).await?;
        let mut stored = branch.wal_listing().await?;
        mend(&branch, &mut stored).await?;
        let restart_lsn = self.slot_position(&mut session, &branch, identity.timeline).await?;
        let mut server = ServerWal { segment_size, history, flushed: identity.flush_lsn, restart_lsn };
        let plan = server.plan(&stored, self.reach)?;
        if let Some(gap) = &plan.gap {
            let message = error::gap(gap);
            if self.state.set_error(&message) {
                error!("{message}");
            }
        }
        let mut next = Next { timeline: plan.timeline, start: plan.start, known: plan.known };
        loop {
            if *stop.borrow() {
                return Ok(());
            }
            let timeline = next.timeline;
            let following = match self.stream(session, &branch, &server, next, stop).await? {
                None => return Ok(()),
                Some(following) => following,
            };
            session = following.0;
            let NextTimeline { timeline: new, start: switch } = following.1;
            self.tell_of_switch(timeline, new, switch, following.2);
            let history = store_history(&mut session, &branch, new).await?;
            let stored = branch.wal_listing().await?;
            let first = segment_size.segment_at(switch);
            // All before the fork is durable: what follows need not be reported below it.
            server = ServerWal { history, restart_lsn: switch, ..server };
            let known = server.known(&stored, new, first)?;
            next = Next { timeline: new, start: first.start(segment_size), known };
        }
    }

    /// Streams one timeline. `None`: we were asked to stop.
    async fn stream(
        &mut self,
        session: Replication,
        branch: &Branch,
        server: &ServerWal,
        next: Next,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<(Replication, NextTimeline, Lsn)>, StreamError> {
        let Next { timeline, start, known } = next;
        if let Some(end) = known.end(server.segment_size).filter(|end| *end > server.flushed) {
            warn!(
                "the server's WAL ends at {}, the repository's at {end}: until the server has got there and was found \
                 equal, nothing is stored or acknowledged",
                server.flushed
            );
        }
        let checkpoints = checkpoints(branch, &known).await?;
        for (segment, digest) in &known.whole {
            self.known.stored(*segment, *digest);
        }
        let wal = match session.start_replication(Some(&self.options.slot), start, timeline).await? {
            Start::TimelineEnded { session, next } => return Ok(Some((session, next, start))),
            Start::Streaming(wal) => wal,
        };
        // We hold the slot: nobody else streams through it, so this epoch is ours.
        let facts = EpochFacts { timeline, start, slot: Some(self.options.slot.to_string()) };
        let epoch = branch.claim_epoch(facts).await?;
        info!(cluster = %self.options.cluster, %timeline, lsn = %start, %epoch, "streaming");
        let flush = self.options.flush();
        let tail = Tail::new(TailStart {
            timeline,
            segment_size: server.segment_size,
            start,
            flush,
            known: checkpoints,
        });
        let sink = Sink::new(branch.clone(), epoch, self.known.clone(), self.state.clone());
        let limits = Limits {
            segment_size: server.segment_size,
            shutdown_grace: self.options.shutdown_grace,
            report_floor: server.restart_lsn,
            until: None,
        };
        let session = Session::new(wal, tail, sink, limits, self.state.clone(), self.known.clone());
        match Box::pin(session.run(stop)).await? {
            Ended::Stopped => Ok(None),
            Ended::Timeline { session, next, end } => Ok(Some((session, next, end))),
        }
    }

    fn tell_of_switch(&self, old: TimelineId, new: TimelineId, switch: Lsn, end: Lsn) {
        if end > switch {
            let message = format!(
                "timeline {new} forks from timeline {old} at {switch}, but {old} was received up to {end}: commits in \
                 between may have been acknowledged and are not on the new timeline; the old branch is kept"
            );
            self.state.set_error(&message);
            error!("{message}");
        } else {
            info!(cluster = %self.options.cluster, timeline = %new, lsn = %switch, "timeline {old} has ended");
        }
    }

    /// Where the slot stands; an error if streaming through it would hide a gap.
    async fn slot_position(
        &self,
        session: &mut Replication,
        branch: &Branch,
        timeline: TimelineId,
    ) -> Result<Lsn, StreamError> {
        let slot = &self.options.slot;
        // A lost slot must be found before it is used: up to 17 the server lets us start behind the hole, and
        // then calls the slot healthy again.
        match session.read_slot(slot).await? {
            SlotState::Reserved { restart_lsn, .. } => return Ok(restart_lsn),
            SlotState::Absent => return Err(StreamError::SlotAbsent(slot.clone())),
            SlotState::Lost => {}
            SlotState::Unsupported => {
                let sql = |error: anyhow::Error| StreamError::Sql(format!("{error:#}"));
                let found =
                    Sql::connect(&self.options.postgres).await.map_err(sql)?.slot(slot).await.map_err(sql)?;
                let found = found.ok_or_else(|| StreamError::SlotAbsent(slot.clone()))?;
                let restart_lsn = found.restart_lsn.filter(|_| !found.lost).and_then(|lsn| lsn.parse().ok());
                if let Some(restart_lsn) = restart_lsn {
                    return Ok(restart_lsn);
                }
            }
        }
        Err(StreamError::SlotLost { slot: slot.clone(), stored_to: branch.newest_wal(timeline).await? })
    }
}

/// Where a session begins.
struct Next {
    timeline: TimelineId,
    start: Lsn,
    known: Known,
}

/// Fetches a timeline's history and stores it: before any of its WAL, so that whoever finds that WAL knows its origin.
pub(super) async fn store_history(
    session: &mut Replication,
    branch: &Branch,
    timeline: TimelineId,
) -> Result<TimelineHistory, StreamError> {
    if timeline == TimelineId::FIRST {
        return Ok(TimelineHistory { timeline, entries: Vec::new() });
    }
    let content = session.timeline_history(timeline).await?;
    let history =
        TimelineHistory::parse(timeline, &content).map_err(|why| StreamError::History { timeline, why })?;
    branch.put_wal_file(WalFile::History(timeline), content.into()).await?;
    Ok(history)
}
