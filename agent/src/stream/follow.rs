//! The loop around the sessions: connects, plans, follows timelines, waits and comes back.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proto::client::{NextTimeline, Replication, SessionOptions, Start};
use proto::config::{ClusterName, SlotName};
use proto::conninfo::ConnInfo;
use proto::wal::WalFile;
use proto::wal::history::TimelineHistory;
use proto::{Lsn, TimelineId};
use repository::{Branch, EpochFacts, Repository, WalListing};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use super::connect::{Candidate, candidates, refuse_left_behind};
use super::error::{self, StreamError};
use super::known::{checkpoints, stored_beyond};
use super::mend::mend;
use super::pace::Flush;
use super::servers::Servers;
use super::session::{Ended, Limits, Session};
use super::sink::Sink;
use super::slot::{self, Made};
use super::start::{Known, Reach, ServerWal, StartPlan};
use super::state::{Alarm, StreamPhase, StreamState};
use super::tail::{Tail, TailStart};
use crate::archive::KnownSegments;
use crate::backoff::Backoff;
use crate::stop::stopped;

/// After so long without a word from us the server gives the slot to the next agent.
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(20);

/// The first look after a shutdown. A session that comes back too soon would be waited for again.
const AFTER_SHUTDOWN: Duration = Duration::from_secs(5);

/// The first and the longest wait for a server that does not answer: commits may be waiting for us. PostgreSQL's own
/// standbys come back every five seconds, too.
const AWAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A stream that has lasted so long is a success, and the next wait is a short one.
const LASTING: Duration = Duration::from_secs(10);

/// Between looks while only an operator can help.
const WITHOUT_HOPE: Duration = Duration::from_secs(30);

/// How the agent streams.
#[derive(Clone)]
pub struct StreamOptions {
    /// The way to the servers.
    pub servers: Arc<dyn Servers>,
    /// The server, or several of which one is the primary.
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
    /// Told of each gap that is found.
    pub gaps: Arc<Notify>,
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
    let mut follower = Follower {
        repository,
        options,
        state,
        known,
        reach: Reach::BackToTheKnown,
        distrust_slot: false,
        server: None,
        told: BTreeSet::new(),
    };
    let mut backoff = Backoff::new(AWAY.0, AWAY.1);
    while !*stop.borrow() {
        follower.state.set_phase(StreamPhase::Connecting);
        let Err(error) = Box::pin(follower.attempt(&mut stop)).await else { break };
        if follower.state.streaming_for().is_some_and(|time| time > LASTING) {
            backoff.reset();
        }
        let wait = follower.after(&error, &mut backoff);
        tokio::select! {
            biased;
            () = stopped(&mut stop) => {}
            () = follower.wait(wait) => {}
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
    /// The server did not have what the slot promises.
    distrust_slot: bool,
    /// The server of the last attempt.
    server: Option<ConnInfo>,
    /// Forks that were told: the timeline that was left, and where.
    told: BTreeSet<(TimelineId, Lsn)>,
}

/// What to wait for before the next attempt.
enum Wait {
    For(Duration),
    ForTheSlot,
}

impl Follower {
    async fn wait(&self, wait: Wait) {
        match (wait, &self.server) {
            (Wait::ForTheSlot, server) => {
                if let Some(server) = server {
                    self.options.servers.slot_is_free(server, &self.options.slot).await;
                }
                tokio::time::sleep(AWAY.0).await;
            }
            (Wait::For(time), _) => tokio::time::sleep(time).await,
        }
    }

    /// Tells of an error, and what to wait for after it.
    fn after(&mut self, failure: &StreamError, backoff: &mut Backoff) -> Wait {
        if failure.is_wal_removed() {
            match self.reach {
                // It was worth asking. The slot itself promises less.
                Reach::BackToTheKnown => {
                    info!("the server no longer has the WAL that the repository has");
                    self.reach = Reach::ToTheMissing;
                }
                Reach::ToTheMissing => {
                    info!("the server no longer has the WAL before the slot's");
                    self.reach = Reach::Slot;
                }
                Reach::Slot => {
                    self.tell(&format!(
                        "the server does not have the WAL that the replication slot \"{}\" promises: it is made anew",
                        self.options.slot
                    ));
                    self.distrust_slot = true;
                }
            }
            return Wait::For(AWAY.0);
        }
        self.reach = Reach::BackToTheKnown;
        let hint = failure.hint();
        let message = match &hint {
            Some(hint) => format!("{failure}; hint: {hint}"),
            None => failure.to_string(),
        };
        if matches!(failure, StreamError::ServerShutdown) {
            info!("the server has shut down; everything that it sent is durable");
            self.state.set_phase(StreamPhase::Waiting);
            return Wait::For(AFTER_SHUTDOWN.max(backoff.next_wait()));
        }
        let news = self.state.set_error(&message);
        if failure.is_slot_in_use() {
            // Another agent streams. Whoever waits shall take over within seconds of its death.
            self.state.wait_for_slot();
            if news {
                info!("another session uses the slot: waiting for it");
            }
            return Wait::ForTheSlot;
        }
        if failure.needs_operator() {
            self.state.set_phase(StreamPhase::Stopped);
            if news {
                error!(hint, "streaming is stopped: {failure}");
                if failure.is_divergence() {
                    self.state.alarm(Alarm::Diverged, &message);
                }
            }
            // Of several hosts another one may become the primary at any moment.
            let several = self.options.postgres.hosts.len() > 1;
            return Wait::For(if several { AWAY.1 } else { WITHOUT_HOPE });
        }
        self.state.set_phase(StreamPhase::Waiting);
        if news {
            warn!(hint, "streaming is interrupted: {failure}");
        }
        Wait::For(backoff.next_wait())
    }

    /// Tells of something that an operator should know, once.
    fn tell(&self, message: &str) {
        if self.state.set_error(message) {
            error!("{message}");
        }
    }

    /// One connection: returns when we were asked to stop.
    async fn attempt(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), StreamError> {
        let servers = self.options.servers.clone();
        let servers = servers.as_ref();
        let (candidate, branch, mut stored) = self.choose(servers).await?;
        let Candidate { mut session, info: host, identity } = candidate;
        self.server = Some(host.clone());
        let segment_size = session.segment_size().await?;
        if segment_size != branch.segment_size() {
            return Err(StreamError::SegmentSize { server: segment_size, branch: branch.segment_size() });
        }
        let history = store_history(&mut session, &branch, identity.timeline).await?;
        store_ancestors(&mut session, &branch, &stored, &history).await;
        mend(&branch, &mut stored).await?;
        let slot = slot::ready(servers, &mut session, &host, &self.options.slot, self.distrust_slot).await?;
        self.distrust_slot = false;
        let restart_lsn = slot.restart_lsn;
        let mut server = ServerWal { segment_size, history, flushed: identity.flush_lsn, restart_lsn };
        let plan = server.plan(&stored, self.reach)?;
        self.tell_of_slot(slot.made, &plan);
        self.tell_of_forks(&server, &stored);
        if let Some(gap) = &plan.gap
            && !is_behind_us(&branch, &server, gap).await
        {
            let message = error::gap(gap);
            self.tell(&message);
            self.state.alarm(Alarm::Gap, &message);
            self.options.gaps.notify_one();
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
            info!(cluster = %self.options.cluster, timeline = %new, lsn = %switch, "timeline {timeline} has ended");
            self.tell_of_fork(timeline, new, switch, following.2);
            let mut history = store_history(&mut session, &branch, new).await?;
            if server.passes(new) {
                // The server has left that one, too, and its own history says where.
                history = server.history;
            }
            let stored = branch.durable_wal_listing().await?;
            let first = segment_size.segment_at(switch);
            // All before the fork is durable: what follows need not be reported below it.
            server = ServerWal { history, restart_lsn: switch, ..server };
            let known = server.known(&stored, new, first)?;
            next = Next { timeline: new, start: first.start(segment_size), known };
        }
    }

    /// Connects to the server that the cluster goes on with, and looks at what the repository has of it.
    async fn choose(
        &mut self,
        servers: &dyn Servers,
    ) -> Result<(Candidate, Branch, WalListing), StreamError> {
        let session_options = SessionOptions {
            application_name: crate::backup::facts::APPLICATION_NAME.to_owned(),
            wal_sender_timeout: Some(WAL_SENDER_TIMEOUT),
        };
        let mut refused = None;
        for candidate in candidates(servers, &self.options.postgres, &session_options).await? {
            let branch = self.repository.branch(&self.options.cluster, candidate.identity.system_id).await?;
            // What is whole in it is acknowledged without being stored again.
            let stored = branch.durable_wal_listing().await?;
            match refuse_left_behind(&branch, &stored, &candidate.identity).await {
                Ok(()) => {
                    self.state.has_chosen(branch.system_id());
                    return Ok((candidate, branch, stored));
                }
                Err(error @ StreamError::LeftBehind { .. }) => {
                    self.tell(&format!("{}: {error}", candidate.session.host()));
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or(StreamError::ServerShutdown))
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
            journals: branch.has_journals(),
            known: checkpoints,
        });
        let sink = Sink::new(branch.clone(), epoch, self.known.clone(), self.state.clone());
        let limits = Limits {
            segment_size: server.segment_size,
            shutdown_grace: self.options.shutdown_grace,
            report_floor: server.restart_lsn,
        };
        let session = Session::new(wal, tail, sink, limits, self.state.clone(), self.known.clone());
        match Box::pin(session.run(stop)).await? {
            Ended::Stopped => Ok(None),
            Ended::Timeline { session, next, end } => Ok(Some((*session, next, end))),
        }
    }

    /// Tells that a slot was made, and whether the server still has what it did not keep.
    fn tell_of_slot(&self, made: Made, plan: &StartPlan) {
        let slot = &self.options.slot;
        let was = match made {
            Made::Already => return,
            Made::New => "did not exist on this server",
            Made::Anew => {
                "had been invalidated by the server (max_slot_wal_keep_size, idle_replication_slot_timeout) or kept \
                 nothing"
            }
        };
        let from = plan.start;
        let message = format!(
            "the replication slot \"{slot}\" {was}: it was made anew, and WAL is asked for from {from} on"
        );
        self.tell(&message);
        if made == Made::Anew {
            self.state.alarm(Alarm::SlotLost, &message);
        }
    }

    /// Forks that were passed while nobody was connected.
    fn tell_of_forks(&mut self, server: &ServerWal, stored: &WalListing) {
        let history = &server.history;
        let children = history.entries.iter().skip(1).map(|entry| entry.timeline).chain([history.timeline]);
        let forks: Vec<_> =
            history.entries.iter().zip(children).map(|(e, new)| (e.timeline, new, e.switch)).collect();
        for (old, new, switch) in forks {
            if let Some(end) = stored_beyond(stored, old, switch, server.segment_size) {
                self.tell_of_fork(old, new, switch, end);
            }
        }
    }

    fn tell_of_fork(&mut self, old: TimelineId, new: TimelineId, switch: Lsn, end: Lsn) {
        if end > switch && self.told.insert((old, switch)) {
            self.tell(&format!(
                "timeline {new} forks from timeline {old} at {switch}, but the repository has {old} up to {end}: commits \
                 in between may have been acknowledged and are not on the new timeline; the old branch is kept \
                 (after a restore to an earlier moment this is as it should be)"
            ));
        }
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

/// Whether the newest backup was taken behind the gap: then it stands in nobody's way any more. When in doubt it does.
async fn is_behind_us(branch: &Branch, server: &ServerWal, gap: &Range<Lsn>) -> bool {
    let Some(newest) = branch.backups().await.ok().and_then(|mut backups| backups.pop()) else {
        return false;
    };
    let head = branch.read_manifest_head(&newest).await;
    head.is_ok_and(|head| server.passes(head.timeline) && head.start_lsn >= gap.end)
}

/// The same for the timelines before it that nobody has stored: several failovers may have passed unseen. A server need
/// not have them; its own history names them all.
async fn store_ancestors(
    session: &mut Replication,
    branch: &Branch,
    stored: &WalListing,
    history: &TimelineHistory,
) {
    for entry in history.entries.iter().filter(|entry| !stored.histories.contains_key(&entry.timeline)) {
        if let Err(error) = store_history(session, branch, entry.timeline).await {
            info!(timeline = %entry.timeline, "the server has no history of an earlier timeline: {error}");
        }
    }
}
