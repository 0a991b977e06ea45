//! Whom the facts come from: the agent's own state, sampled once a second, and looks at the repository and the server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use proto::config::SlotName;
use proto::conninfo::ConnInfo;
use repository::Repository;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::exposure::Exposure;
use super::facts::{Calls, Facts, Puts};
use super::history::History;
use super::look::{RepositoryFacts, ServerFacts, look_at_repository, look_at_server};
use crate::archive::ArchiveCounts;
use crate::health::HealthState;
use crate::looks::Shared;
use crate::server::AgentState;
use crate::stop::stopped;
use crate::stream::PutKind;

/// Between samples of the lag.
const SAMPLE: Duration = Duration::from_secs(1);

/// Errors that are shown.
const TROUBLES: usize = 10;

/// What is watched.
pub struct Watched {
    /// The stream and the archiver's calls.
    pub state: AgentState,
    /// What those calls have come to.
    pub archive: Arc<ArchiveCounts>,
    /// The repository, opened.
    pub repository: Repository,
    /// How to reach the server.
    pub postgres: ConnInfo,
    /// The slot.
    pub slot: SlotName,
    /// Whether the agent streams at all.
    pub stream_enabled: bool,
    /// Whether commits wait for it.
    pub synchronous: bool,
    /// The most that WAL waits, as it was at the start.
    pub flush_interval: Duration,
    /// How often the repository and the server are looked at.
    pub refresh: Duration,
    /// The server's health, looked at by somebody else if at all.
    pub health: HealthState,
}

/// The same, being watched. Cheap to clone.
#[derive(Clone)]
pub struct Watching(Arc<Inner>);

struct Inner {
    watched: Watched,
    begun: Instant,
    started: Timestamp,
    lag: Mutex<(Exposure, History)>,
    repository: Shared<RepositoryFacts>,
    server: Shared<ServerFacts>,
}

impl Watched {
    /// Begins to sample and to look, until `stop` becomes true.
    pub fn watch(self, stop: &watch::Receiver<bool>) -> Watching {
        let watching = Watching(Arc::new(Inner {
            watched: self,
            begun: Instant::now(),
            started: Timestamp::now(),
            lag: Mutex::default(),
            repository: Shared::default(),
            server: Shared::default(),
        }));
        let inner = &watching.0;
        tokio::spawn(sample(inner.clone(), stop.clone()));
        let every = inner.watched.refresh;
        tokio::spawn({
            let inner = inner.clone();
            let look = move || {
                let (repository, cluster) =
                    (inner.watched.repository.clone(), inner.watched.state.cluster.clone());
                async move { look_at_repository(&repository, &cluster).await }
            };
            watching.0.repository.clone().keep_looking(every, stop.clone(), look)
        });
        tokio::spawn({
            let inner = inner.clone();
            let look = move || {
                let (postgres, slot) = (inner.watched.postgres.clone(), inner.watched.slot.clone());
                async move { look_at_server(&postgres, &slot).await }
            };
            watching.0.server.clone().keep_looking(every, stop.clone(), look)
        });
        watching
    }
}

/// Notes the lag once a second.
async fn sample(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => inner.sample(),
            () = stopped(&mut stop) => return,
        }
    }
}

impl Inner {
    fn sample(&self) {
        let (status, now) = (self.watched.state.stream.status(), self.begun.elapsed());
        let mut lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        lag.0.observe(&status, now);
        let seconds = lag.0.seconds(&status, now);
        lag.1.note(Timestamp::now(), &status, seconds);
    }
}

impl Watching {
    /// What `walkeep status --json` prints.
    pub(super) async fn status_json(&self) -> String {
        self.0.watched.state.report().await.to_json()
    }

    /// All that is known now, without asking anybody.
    pub(super) fn facts(&self) -> Facts {
        let inner = &self.0;
        let Watched { state, archive, .. } = &inner.watched;
        let (stream, counts) = (state.stream.status(), state.stream.counts());
        let (exposed, history) = {
            let mut lag = inner.lag.lock().unwrap_or_else(PoisonError::into_inner);
            let now = inner.begun.elapsed();
            lag.0.observe(&stream, now);
            (lag.0.seconds(&stream, now), lag.1.samples())
        };
        let mut troubles = [state.stream.troubles(), state.archive.troubles()].concat();
        troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.last));
        troubles.truncate(TROUBLES);
        let puts = |kind| Puts { kind, durations: counts.durations(kind), bytes: counts.bytes(kind) };
        Facts {
            now: Timestamp::now(),
            started: inner.started,
            cluster: state.cluster.to_string(),
            store: inner.watched.repository.store().description().to_owned(),
            stream_enabled: inner.watched.stream_enabled,
            synchronous: inner.watched.synchronous,
            flush_interval: state.stream.flush_interval().unwrap_or(inner.watched.flush_interval),
            stream,
            stands_by: state.stream.waits_for_slot(),
            schedule: state.schedule.status(),
            exposed,
            puts: PutKind::ALL.map(puts).into(),
            retries: counts.retries(),
            interruptions: counts.interruptions(),
            archive: state.archive.status(),
            calls: Calls {
                answered: archive.answered.get(),
                shipped: archive.shipped.get(),
                refused: archive.refused.get(),
                failed: archive.failed.get(),
            },
            written: inner.watched.repository.store().written(),
            troubles,
            history,
            repository: inner.repository.get(),
            server: inner.server.get(),
            health: inner.watched.health.0.get(),
        }
    }
}
