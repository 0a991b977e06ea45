//! One timeline from one START_REPLICATION: reads, stores, reports. The rules are in [`super::tail`].

use std::panic::resume_unwind;
use std::time::Duration;

use futures::FutureExt;
use proto::Lsn;
use proto::client::{NextTimeline, Replication, StandbyStatus, WalMessage, WalStream};
use proto::wal::{SegmentName, SegmentSize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::action::{Action, JobId};
use super::appender::Appender;
use super::error::StreamError;
use super::pace::Tick;
use super::report::Reporter;
use super::silence::Silence;
use super::sink::Sink;
use super::state::StreamState;
use super::tail::Tail;
use crate::archive::KnownSegments;
use crate::stop::stopped;

/// How long the end of a session waits for the repository, when the connection is lost or the agent stops.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How long the server may take to end the stream in good order.
const FAREWELL: Duration = Duration::from_secs(5);

/// Messages that are taken at once before anything else happens.
const AT_A_TIME: usize = 16;

/// The limits of one session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) segment_size: SegmentSize,
    /// How long a shutdown of the server may wait for the repository.
    pub(crate) shutdown_grace: Duration,
    /// Nothing below is reported.
    pub(crate) report_floor: Lsn,
}

/// Why a session ended well.
pub(crate) enum Ended {
    /// The timeline is complete; everything of it is durable.
    Timeline { session: Box<Replication>, next: NextTimeline, end: Lsn },
    /// We were asked to stop.
    Stopped,
}

/// What the session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Streaming,
    /// The server has no more of this timeline.
    TimelineEnded,
    /// We stop, at the latest at this moment.
    Leaving(Instant),
}

pub(crate) struct Session {
    wal: WalStream,
    tail: Tail,
    sink: Sink,
    reporter: Reporter,
    limits: Limits,
    state: StreamState,
    known: KnownSegments,
    appender: Appender,
    jobs: JoinSet<repository::Result<JobId>>,
    deletions: JoinSet<()>,
    begun: Instant,
    server_end: Lsn,
    questions: Questions,
    silence: Silence,
    /// Since when there has been no room to read on, and nothing was stored.
    stalled: Option<Tick>,
}

impl Session {
    pub(crate) fn new(
        wal: WalStream,
        tail: Tail,
        sink: Sink,
        limits: Limits,
        state: StreamState,
        known: KnownSegments,
    ) -> Self {
        Self {
            wal,
            reporter: Reporter::new(limits.report_floor),
            server_end: tail.received(),
            tail,
            appender: Appender::new(sink.clone()),
            sink,
            limits,
            state,
            known,
            jobs: JoinSet::new(),
            deletions: JoinSet::new(),
            begun: Instant::now(),
            questions: Questions::default(),
            silence: Silence::default(),
            stalled: None,
        }
    }

    fn now(&self) -> Tick {
        self.begun.elapsed()
    }

    /// Runs until the timeline ends, `stop` becomes true, or something fails.
    pub(crate) async fn run(mut self, stop: &mut watch::Receiver<bool>) -> Result<Ended, StreamError> {
        let result = self.stream(stop).await;
        if let Err(error) = &result
            && !matches!(error, StreamError::Diverged { .. } | StreamError::Repository(_))
        {
            // What the server has sent may be all that is left of it: it goes to the repository first.
            self.drain(LAST_WORDS).await;
            // Whoever asks now must not be told that what has just been stored would be lost.
            self.publish();
        }
        self.known.set_coming(None);
        match result? {
            Mode::TimelineEnded => {
                let end = self.tail.received();
                match self.wal.finish().await? {
                    (session, Some(next)) => Ok(Ended::Timeline { session: Box::new(session), next, end }),
                    (_, None) => Err(StreamError::OutOfOrder(
                        "the server ended a timeline and did not say which one follows".to_owned(),
                    )),
                }
            }
            _ => {
                // The slot is free at once when the server has seen our farewell.
                if let Ok(Err(error)) = timeout(FAREWELL, self.wal.finish()).await {
                    info!("the stream did not end cleanly: {error}");
                }
                Ok(Ended::Stopped)
            }
        }
    }

    async fn stream(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Mode, StreamError> {
        let mut mode = Mode::Streaming;
        loop {
            if let Some(interval) = self.state.flush_interval() {
                self.tail.set_flush_interval(interval);
            }
            self.dispatch();
            self.publish();
            self.report().await?;
            match mode {
                Mode::TimelineEnded if self.tail.is_idle() => return Ok(mode),
                Mode::Leaving(until) if self.tail.is_idle() || Instant::now() >= until => {
                    self.report().await?;
                    return Ok(mode);
                }
                _ => {}
            }
            self.check_stall(mode)?;
            let listening = mode == Mode::Streaming && self.tail.wants_bytes();
            if !listening {
                self.silence.broken(self.now());
            }
            let wake = self.wake(mode);
            // What is done comes first: somebody may wait for it to be acknowledged, and it cannot crowd out the rest.
            tokio::select! {
                biased;
                Some(done) = self.jobs.join_next() => {
                    // A defect of ours ends the agent, aloud: it is no outage.
                    let stored = done.unwrap_or_else(|error| resume_unwind(error.into_panic()))?;
                    self.tail.stored(stored);
                    self.stalled = None;
                }
                appended = self.appender.next() => {
                    self.tail.stored(appended?);
                    self.stalled = None;
                }
                Some(_) = self.deletions.join_next() => {}
                () = stopped(stop), if !matches!(mode, Mode::Leaving(_)) => {
                    self.tail.hurry();
                    mode = Mode::Leaving(Instant::now() + LAST_WORDS);
                }
                message = self.wal.next(), if listening => {
                    self.silence.broken(self.now());
                    mode = self.take_all(message?)?;
                }
                // Only where no message is waiting: after a pause of ours the answer may have come long ago.
                () = sleep_until(wake) => {
                    if let Some(silence) = self.silence.final_after(self.now()) {
                        return Err(StreamError::Silent { silence });
                    }
                }
            }
        }
    }

    /// While there is no room to read, a shutdown of the server cannot be seen, and would wait for us without an end.
    fn check_stall(&mut self, mode: Mode) -> Result<(), StreamError> {
        if mode == Mode::Streaming && self.tail.wants_bytes() {
            self.stalled = None;
            return Ok(());
        }
        let now = self.now();
        let stalled = now.saturating_sub(*self.stalled.get_or_insert(now));
        if stalled <= self.limits.shutdown_grace {
            return Ok(());
        }
        Err(StreamError::LetGo { grace: self.limits.shutdown_grace, durable: self.tail.durable() })
    }

    fn wake(&self, mode: Mode) -> Instant {
        let others = self.tail.deadline().into_iter().chain(self.silence.deadline());
        let next = others.fold(self.reporter.deadline(), Tick::min);
        match mode {
            Mode::Leaving(until) => until.min(self.begun + next),
            _ => self.begun + next,
        }
    }

    /// Takes a message, and those that are here already: one flush is enough for all of them.
    fn take_all(&mut self, mut message: WalMessage) -> Result<Mode, StreamError> {
        for taken in 1.. {
            match message {
                WalMessage::TimelineEnded => {
                    self.timeline_ended()?;
                    return Ok(Mode::TimelineEnded);
                }
                // The server has seen everything acknowledged, or it would still wait.
                WalMessage::ServerShutdown => return Err(StreamError::ServerShutdown),
                message => self.take(message)?,
            }
            if taken == AT_A_TIME || !self.tail.wants_bytes() {
                break;
            }
            match self.wal.next().now_or_never() {
                Some(next) => message = next?,
                None => break,
            }
        }
        Ok(Mode::Streaming)
    }

    fn take(&mut self, message: WalMessage) -> Result<(), StreamError> {
        let now = self.now();
        match message {
            WalMessage::Data { start, server_end, sent_at, bytes } => {
                self.server_end = self.server_end.max(server_end);
                let timeline = self.tail.timeline();
                self.tail
                    .receive(start, &bytes, sent_at, now)
                    .map_err(|error| StreamError::tail(error, timeline))?;
            }
            WalMessage::Keepalive { server_end, reply_requested, .. } => {
                self.server_end = self.server_end.max(server_end);
                if reply_requested {
                    // It may be shutting down, and then waits until the last byte is durable.
                    self.reporter.ask();
                    self.tail.hurry();
                    if self.questions.ask(now) > self.limits.shutdown_grace
                        && self.reporter.reported() < self.server_end
                    {
                        return Err(StreamError::LetGo {
                            grace: self.limits.shutdown_grace,
                            durable: self.tail.durable(),
                        });
                    }
                }
            }
            WalMessage::TimelineEnded | WalMessage::ServerShutdown => {}
        }
        Ok(())
    }

    /// The server has sent the timeline's last byte.
    fn timeline_ended(&mut self) -> Result<(), StreamError> {
        if let Some(at) = self.tail.unproven() {
            // The fork lies before what was stored of this timeline: it is planned anew, with the fork known.
            let (end, timeline) = (self.tail.received(), self.tail.timeline());
            return Err(StreamError::TimelineEnded { timeline, end, wanted: at });
        }
        self.tail.hurry();
        Ok(())
    }

    /// Hands out what there is to do.
    fn dispatch(&mut self) {
        self.tail.plan(self.now());
        while let Some(action) = self.tail.next_action() {
            let sink = self.sink.clone();
            match action {
                Action::PutFragment(put) => drop(self.jobs.spawn(sink.put_fragment(put))),
                Action::Append(append) => self.appender.push(append),
                Action::PutSegment(put) => drop(self.jobs.spawn(sink.put_segment(put))),
                Action::Delete { segment, ranges } => {
                    self.deletions.spawn(sink.delete(segment, ranges));
                }
                Action::DeleteJournals { segment, window } => {
                    self.deletions.spawn(sink.delete_journals(segment, window));
                }
            }
        }
    }

    fn publish(&self) {
        let (tail, now) = (&self.tail, self.now());
        let server = self.server_end.max(tail.received());
        self.state.update(|status| {
            status.timeline = Some(tail.timeline());
            status.received_lsn = Some(tail.received());
            status.durable_lsn = Some(tail.durable());
            status.server_lsn = Some(server);
            status.lag_seconds = Some(tail.lag(now).as_secs_f64());
        });
        let receiving = SegmentName::at(tail.timeline(), tail.received(), self.limits.segment_size);
        // The archiver may be quicker than the last bytes of the segment that it offers.
        let first = tail.storing().min().unwrap_or(receiving);
        self.known.set_coming(Some((first, receiving)));
    }

    async fn report(&mut self) -> Result<(), StreamError> {
        // Durable: the tail counts only bytes whose puts have returned, without a hole. And compared: a server that
        // differs from the repository is told nothing at all.
        let durable = if self.tail.unproven().is_none() { self.tail.durable() } else { Lsn::INVALID };
        let now = self.now();
        if let Some(position) = self.reporter.due(durable, now) {
            // An archiver replays nothing, so `apply` stays unknown.
            let status = StandbyStatus {
                write: position,
                flush: position,
                apply: Lsn::INVALID,
                reply_requested: self.silence.asks(now),
            };
            self.wal.report(status).await?;
        }
        Ok(())
    }

    /// Stores what was received, without the server.
    async fn drain(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        self.tail.hurry();
        loop {
            self.dispatch();
            let at_rest = self.jobs.is_empty() && self.appender.is_idle();
            if self.tail.is_idle() || (at_rest && self.tail.unproven().is_some()) {
                return;
            }
            tokio::select! {
                biased;
                Some(done) = self.jobs.join_next() => match done {
                    Ok(Ok(stored)) => self.tail.stored(stored),
                    _ => return,
                },
                appended = self.appender.next(), if !self.appender.is_idle() => match appended {
                    Ok(stored) => self.tail.stored(stored),
                    Err(_) => return,
                },
                () = sleep_until(until) => {
                    let (durable, received) = (self.tail.durable(), self.tail.received());
                    warn!(%durable, %received, "the last WAL received is not in the repository yet; the slot has it");
                    return;
                }
            }
        }
    }
}

/// The server's repeated questions: since when it has been waiting for us.
#[derive(Debug, Default)]
struct Questions {
    first: Option<Tick>,
    last: Tick,
}

impl Questions {
    /// Questions further apart than this have nothing to do with each other.
    const PAUSE: Duration = Duration::from_secs(3);

    /// Another question. Answers for how long they have been coming.
    fn ask(&mut self, now: Tick) -> Duration {
        let first = match self.first {
            Some(first) if now.saturating_sub(self.last) < Self::PAUSE => first,
            _ => now,
        };
        self.first = Some(first);
        self.last = now;
        now - first
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
