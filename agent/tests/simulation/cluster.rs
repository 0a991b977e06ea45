//! The servers: what each has written, its slot, and what it was told to be durable.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use proto::wal::history::HistoryEntry;
use proto::{Lsn, TimelineId};
use repository::catalogue::Inventory;
use tokio::sync::watch;

use crate::reader::Reader;
use crate::wal::{Written, size};

pub(crate) const SYSTEM: u64 = 7_000_000_000_000_000_007;
pub(crate) const SLOT: &str = "walkeep";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Up {
    Running,
    /// A fast shutdown: waits for those who stream.
    Stopping,
    Down,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) restart: Lsn,
    pub(crate) active: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) up: Up,
    pub(crate) primary: bool,
    /// Counts starts: sessions of an earlier one are dead.
    pub(crate) boot: u64,
    /// Which of the cluster's writings it goes on with.
    pub(crate) writing: usize,
    pub(crate) history: Vec<HistoryEntry>,
    /// The oldest WAL that it has.
    pub(crate) floor: Lsn,
    /// Where the last checkpoint's replay begins.
    pub(crate) redo: Lsn,
    pub(crate) slot: Option<Slot>,
    /// The slot as it was at the last checkpoint: what a crash leaves of it.
    pub(crate) saved: Option<Slot>,
}

/// WAL up to a position was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) writing: usize,
    pub(crate) from: Lsn,
    pub(crate) to: Lsn,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) hosts: Vec<Host>,
    pub(crate) writings: Vec<Written>,
    /// What was acknowledged; one entry for each writing and beginning.
    pub(crate) promises: Vec<Promise>,
    /// What must never be, and was.
    pub(crate) wrong: Vec<String>,
    sessions: u64,
}

#[derive(Clone)]
pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    reader: Arc<Mutex<Reader>>,
}

impl Cluster {
    /// A primary and its standby; the slot was made at `start`.
    pub(crate) fn new(start: Lsn, reader: Reader) -> Self {
        let host = |primary| Host {
            up: Up::Running,
            primary,
            boot: 0,
            writing: 0,
            history: Vec::new(),
            floor: size().floor(start),
            redo: start,
            slot: primary.then_some(Slot { restart: start, active: None }),
            saved: primary.then_some(Slot { restart: start, active: None }),
        };
        let state = State {
            hosts: vec![host(true), host(false)],
            writings: vec![Written::first(TimelineId::FIRST, start, 1)],
            promises: Vec::new(),
            wrong: Vec::new(),
            sessions: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(0),
            reader: Arc::new(Mutex::new(reader)),
        }
    }

    /// To read.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("one thread")
    }

    /// Changes something, and tells those who wait.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    /// Lets the reader look at what is there at this very moment.
    pub(crate) fn check(&self, how: impl FnOnce(&mut Reader, &State) -> Result<(), String>) {
        let mut state = self.state();
        if let Err(why) = how(&mut self.reader.lock().expect("one thread"), &state) {
            state.wrong.push(why);
        }
    }

    /// What is there, by names.
    pub(crate) fn inventory(&self) -> Arc<Inventory> {
        self.reader.lock().expect("one thread").inventory().expect("readable")
    }

    /// What the repository holds of a timeline: each whole segment and each tail, with the position of its first byte.
    pub(crate) fn held(&self, timeline: TimelineId) -> Vec<(Lsn, Bytes)> {
        self.reader.lock().expect("one thread").held(timeline)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl State {
    pub(crate) fn written(&self, host: usize) -> &Written {
        &self.writings[self.hosts[host].writing]
    }

    pub(crate) fn session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    pub(crate) fn promise(&mut self, promise: Promise) {
        let known = self.promises.iter_mut().find(|known| {
            known.writing == promise.writing && known.from <= promise.from && promise.from <= known.to
        });
        match known {
            Some(known) => known.to = known.to.max(promise.to),
            None => self.promises.push(promise),
        }
    }

    pub(crate) fn crash(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        host.up = Up::Down;
        host.boot += 1;
        host.slot = host.saved.clone();
    }

    pub(crate) fn start(&mut self, host: usize) {
        if self.hosts[host].up == Up::Down {
            self.hosts[host].up = Up::Running;
            self.hosts[host].boot += 1;
        }
    }

    /// The slot is written to disk, and WAL that nobody needs is removed. Answers with the oldest WAL that stays.
    pub(crate) fn checkpoint(&mut self, host: usize, keep: u64) -> Lsn {
        let end = self.written(host).end;
        let host = &mut self.hosts[host];
        host.redo = end;
        host.saved = host.slot.as_ref().map(|slot| Slot { restart: slot.restart, active: None });
        let needed = host.slot.as_ref().map_or(end, |slot| slot.restart.min(end));
        let segment = size().segment_at(needed).0.saturating_sub(keep);
        host.floor = host.floor.max(Lsn(segment * size().bytes()));
        host.floor
    }

    /// A standby that has got to `at` becomes a primary.
    pub(crate) fn promote(&mut self, host: usize, of: usize, timeline: TimelineId, at: Lsn) {
        let (parent, mut history) = (self.written(of).clone(), self.hosts[of].history.clone());
        if timeline != parent.timeline {
            let reason = b"simulated".to_vec();
            history.push(HistoryEntry { timeline: parent.timeline, switch: at, reason });
        }
        // The first hand on timeline n is n; a second one on the same timeline is a stranger.
        let stranger = if timeline == parent.timeline { 100 + self.writings.len() as u64 } else { 0 };
        self.writings.push(parent.fork(timeline, at, u64::from(timeline.get()) + stranger));
        let writing = self.writings.len() - 1;
        let floor = self.hosts[of].floor;
        let host = &mut self.hosts[host];
        host.boot += 1;
        *host = Host {
            up: Up::Running,
            primary: true,
            boot: host.boot,
            writing,
            history,
            floor: host.floor.max(floor),
            redo: at,
            slot: None,
            saved: None,
        };
    }
}
