//! One schedule: what happens when, all of it decided by a seed.

mod others;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use object_store::memory::InMemory;
use proto::conninfo::ConnInfo;
use proto::wal::SegmentNo;
use proto::{Lsn, SystemId, TimelineId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use repository::catalogue::Inventory;
use repository::{BranchFacts, Repository, Sealing, Store, Unsealing, chance};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use crate::agents::{Agent, CLUSTER};
use crate::cluster::{Cluster, SYSTEM, Up};
use crate::reader::{Reader, has_strangers};
use crate::store::{CALM, Network, Weather};
use crate::wal::size;

type Result<T = ()> = std::result::Result<T, String>;

/// How long all may take to come to rest once nothing fails any more.
const REST: Duration = Duration::from_secs(600);

pub(crate) struct World {
    random: StdRng,
    cluster: Cluster,
    network: Arc<Network>,
    agents: [Agent; 2],
    postgres: ConnInfo,
    begun: Instant,
    start: Lsn,
    /// The server that the cluster goes on with.
    primary: usize,
    timelines: u32,
    /// WAL was removed that nobody had fetched: then there may be a gap.
    gap: bool,
    /// WAL was removed when nothing was stored yet: then nobody can know that there is a gap.
    unknowable: bool,
    /// Whether two servers may come to write one timeline.
    strangers: bool,
    /// Each agent knows one server only. A copy of the first one is promoted without a new timeline, and both go on.
    split: bool,
    /// Whether the store's objects can grow, so that tails are journals.
    journals: bool,
    /// The most that is written at once.
    burst: u64,
    /// Told by agents: WAL is missing for good.
    gaps_told: Vec<Arc<Notify>>,
    /// What has happened, for whoever looks into a failure.
    story: Vec<String>,
}

/// Plays one schedule from its beginning to its end.
pub(crate) fn play(seed: u64, postgres: &ConnInfo) -> (Result, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    chance::seed(seed);
    let schedule = async {
        let mut world = World::new(seed, postgres.clone()).await;
        let result = world.run().await;
        (result, world.story)
    };
    LocalSet::new().block_on(&runtime.expect("a runtime"), schedule)
}

impl World {
    async fn new(seed: u64, postgres: ConnInfo) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let objects = Arc::new(InMemory::new());
        let store = Store::over(objects.clone(), "memory");
        Repository::create(store.clone()).await.expect("made");
        let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.expect("opened");
        let facts = BranchFacts { segment_size: size(), server_version: 150_018 };
        let name = CLUSTER.parse().expect("a name");
        let branch = repository.begin_branch(&name, SystemId(SYSTEM), facts).await.expect("begun");
        // Near the end of a segment, or near its beginning, where there is less to send again and again.
        let into = match random.random_range(0..6) {
            0 => size().bytes() - random.random_range(1..100_000),
            _ => random.random_range(0..20_000),
        };
        let start = SegmentNo(7).start(size()) + into;
        let split = random.random_range(0..8) == 0;
        let network = Network::new(objects, seed);
        Self {
            cluster: Cluster::new(start, Reader::new(branch, network.clone())),
            network,
            agents: Default::default(),
            postgres,
            begun: Instant::now(),
            start,
            primary: 0,
            timelines: 1,
            gap: false,
            unknowable: false,
            strangers: !split && random.random_range(0..8) == 0,
            split,
            journals: random.random(),
            burst: if random.random_range(0..6) == 0 { 500_000 } else { 9_000 },
            gaps_told: Vec::new(),
            story: Vec::new(),
            random,
        }
    }

    fn tell(&mut self, what: String) {
        let at = self.begun.elapsed().as_secs_f32();
        self.story.push(format!("{at:8.3} s: {what}"));
    }

    async fn run(&mut self) -> Result {
        self.start_agent(0);
        let chatter = (self.random.random_range(0..3) == 0).then(|| self.chatter());
        let onlooker = (self.random.random_range(0..8) == 0).then(|| self.onlooker());
        if self.split {
            self.split().await;
        }
        for _ in 0..self.random.random_range(8..30) {
            self.event().await?;
            let pause = match self.random.random_range(0..12) {
                0 => self.random.random_range(5_000..40_000),
                1..4 => self.random.random_range(500..2_000),
                _ => self.random.random_range(0..300),
            };
            sleep(Duration::from_millis(pause)).await;
            self.judge()?;
        }
        self.look()?;
        for task in [chatter, onlooker].into_iter().flatten() {
            task.abort();
        }
        self.rest().await?;
        self.look()
    }

    fn judge(&mut self) -> Result {
        match self.cluster.state().wrong.first() {
            Some(wrong) => Err(wrong.clone()),
            None => Ok(()),
        }
    }

    fn look(&mut self) -> Result {
        self.cluster.check(Reader::look);
        self.judge()
    }

    async fn event(&mut self) -> Result {
        match self.random.random_range(0..100) {
            0..40 => self.write(),
            40..50 => self.weather(),
            50..58 => {
                let which = self.random.random_range(0..2);
                self.tell(format!("agent {which} is killed"));
                self.agents[which].kill().await?;
            }
            58..68 => {
                let which = self.random.random_range(0..2);
                self.start_agent(which);
            }
            68..74 => self.freeze(),
            74..76 => {
                let which = self.random.random_range(0..2);
                self.tell(format!("agent {which} is asked to stop"));
                self.agents[which].stop().await?;
            }
            76..82 => self.crash_or_start(),
            82..84 => self.shut_down().await,
            84..88 => self.checkpoint(),
            88..92 if !self.split => self.fail_over(),
            92..95 => self.archive(),
            95..98 => self.read(),
            _ => self.look()?,
        }
        Ok(())
    }

    fn start_agent(&mut self, which: usize) {
        let synchronous = self.random.random();
        self.tell(format!("agent {which} is started, synchronous: {synchronous}"));
        let (cluster, network) = (self.cluster.clone(), self.network.clone());
        let mut postgres = self.postgres.clone();
        if self.split {
            postgres.hosts = vec![postgres.hosts[which].clone()];
        }
        self.agents[which].start(&cluster, &network, &postgres, synchronous, self.journals);
        self.gaps_told.extend(self.agents[which].gaps.clone());
    }

    /// Two servers with one past write one timeline, each with an agent of its own, which finds nothing wrong: not yet.
    async fn split(&mut self) {
        for _ in 0..self.random.random_range(1..4) {
            self.write();
            sleep(Duration::from_millis(self.random.random_range(0..1500))).await;
        }
        let at = self.cluster.change(|state| {
            let (timeline, end) = (state.written(0).timeline, state.written(0).end);
            state.promote(1, 0, timeline, end);
            end
        });
        self.tell(format!("a copy of server 0 is promoted at {at} without a new timeline"));
        if self.random.random() {
            self.start_agent(1);
            sleep(Duration::from_millis(self.random.random_range(0..1500))).await;
        }
    }

    /// Every primary that runs writes something.
    fn write(&mut self) {
        let most = if self.random.random() { 400 } else { self.burst };
        let mut length = self.random.random_range(1..=most);
        let full = self.random.random_range(0..15) == 0;
        let writes = self.cluster.change(|state| {
            let mut writes = Vec::new();
            for host in 0..state.hosts.len() {
                let (up, primary, writing) =
                    (state.hosts[host].up, state.hosts[host].primary, state.hosts[host].writing);
                if up == Up::Running && primary {
                    let written = &mut state.writings[writing];
                    let segment = size().segment_at(written.end).end(size());
                    let near = segment.bytes_since(written.end) < self.burst.max(100_000);
                    if full && near {
                        length = segment.bytes_since(written.end);
                    }
                    written.end = written.end + length;
                    writes.push((host, written.end));
                }
            }
            writes
        });
        self.tell(format!("written up to {writes:?}"));
    }

    fn weather(&mut self) {
        let mut weather = CALM;
        match self.random.random_range(0..10) {
            0..3 => {}
            3..5 => weather.slow = 300,
            5 => weather.slow = 3000,
            6..8 => weather = Weather { slow: 50, fails: 10, loses: 10, repeats: 10, ..CALM },
            8 => weather.outage = true,
            _ => weather.locked = true,
        }
        self.tell(format!("{weather:?}"));
        self.network.set(weather);
    }

    fn freeze(&mut self) {
        let which = self.random.random_range(0..2);
        let gate = self.agents[which].gate.clone();
        if gate.is_shut() {
            self.tell(format!("agent {which} wakes up"));
            gate.open();
        } else if self.agents[which].runs() {
            self.tell(format!("agent {which} is frozen"));
            gate.shut();
        }
    }

    fn crash_or_start(&mut self) {
        let host = self.random.random_range(0..2);
        let (up, primary) = {
            let host = &self.cluster.state().hosts[host];
            (host.up, host.primary)
        };
        if !primary {
            return;
        }
        if up == Up::Down {
            self.tell(format!("server {host} is started"));
            self.cluster.change(|state| state.start(host));
        } else {
            self.tell(format!("server {host} crashes"));
            self.cluster.change(|state| state.crash(host));
        }
    }

    /// A fast shutdown writes a last record, waits for those who stream, and is followed by a start.
    async fn shut_down(&mut self) {
        let host = self.primary;
        if self.cluster.state().hosts[host].up != Up::Running {
            return;
        }
        self.tell(format!("server {host} is shut down"));
        self.cluster.change(|state| {
            let writing = state.hosts[host].writing;
            state.writings[writing].end = state.writings[writing].end + 120;
            state.hosts[host].up = Up::Stopping;
        });
        for _ in 0..240 {
            sleep(Duration::from_millis(500)).await;
            let state = self.cluster.state();
            if state.hosts[host].slot.as_ref().is_none_or(|slot| slot.active.is_none()) {
                break;
            }
        }
        self.tell(format!("server {host} is down"));
        self.cluster.change(|state| {
            state.hosts[host].saved = state.hosts[host].slot.clone();
            if let Some(saved) = &mut state.hosts[host].saved {
                saved.active = None;
            }
            state.crash(host);
            if self.random.random_range(0..3) > 0 {
                state.start(host);
            }
        });
    }

    fn checkpoint(&mut self) {
        let host = self.random.random_range(0..2);
        {
            let host = &self.cluster.state().hosts[host];
            if host.up != Up::Running || !host.primary {
                return;
            }
        }
        let keep = self.random.random_range(0..3);
        let (floor, timeline) = self.cluster.change(|state| {
            let floor = state.checkpoint(host, keep);
            (floor, state.written(host).timeline)
        });
        self.tell(format!("server {host} has a checkpoint, and WAL from {floor} on"));
        let inventory = self.cluster.inventory();
        let lineage = inventory.lineage(timeline);
        if inventory.wal_complete(&lineage, self.start, floor.max(self.start)).is_err() {
            self.gap = true;
            self.unknowable |= has_nothing(&inventory);
        }
    }

    /// The standby becomes a primary: where the old one was, or before.
    fn fail_over(&mut self) {
        let (old, new) = (self.primary, 1 - self.primary);
        let (floor, other_floor, timeline, begin, end) = {
            let state = self.cluster.state();
            let (written, other_floor) = (state.written(old), state.hosts[new].floor);
            (
                state.hosts[old].floor.max(self.start),
                other_floor,
                written.timeline,
                written.begin,
                written.end,
            )
        };
        let first = floor.max(begin).max(self.start);
        // Where nothing was ever stored, nobody can know that something is missing.
        let nothing = has_nothing(&self.cluster.inventory());
        self.gap |= nothing;
        self.unknowable |= nothing;
        if other_floor > floor {
            // It was a primary once, and has removed what it has not taken over from this one.
            let inventory = self.cluster.inventory();
            self.gap |=
                inventory.wal_complete(&inventory.lineage(timeline), self.start, other_floor).is_err();
        }
        let at = match self.random.random_range(0..4) {
            0 => end,
            1 => size().floor(end).max(first),
            _ => Lsn(end.0.saturating_sub(self.random.random_range(0..3000))).max(first),
        };
        if at > end {
            return;
        }
        // Somebody promotes a copy without a new timeline: what must be found, and refused.
        let stranger = self.strangers && self.random.random();
        if !stranger {
            self.timelines += self.random.random_range(1..3);
        }
        let stays = self.random.random_range(0..3) == 0;
        self.cluster.change(|state| {
            let timeline = match stranger {
                true => state.written(old).timeline,
                false => TimelineId::new(self.timelines).expect("not zero"),
            };
            state.promote(new, old, timeline, at);
            if !stays {
                state.crash(old);
            }
        });
        self.primary = new;
        self.tell(format!(
            "server {new} is promoted at {at}; a stranger: {stranger}; the old one stays: {stays}"
        ));
    }

    /// Nothing fails any more: all of the WAL arrives, and is acknowledged.
    async fn rest(&mut self) -> Result {
        self.tell("nothing fails any more".to_owned());
        self.network.set(CALM);
        for agent in &mut self.agents {
            agent.kill().await?;
        }
        let (primary, other) = (self.primary, 1 - self.primary);
        self.cluster.change(|state| {
            state.crash(other);
            state.hosts[primary].up = Up::Down;
            state.start(primary);
        });
        self.start_agent(0);
        let strangers = has_strangers(&self.cluster.state());
        let begun = Instant::now();
        loop {
            sleep(Duration::from_secs(1)).await;
            self.judge()?;
            let state = self.cluster.state();
            let end = state.written(primary).end;
            // A new slot begins where the last checkpoint was, which may be the very end: it proves nothing by itself.
            let is_stored = self.agents[0].state.status().durable_lsn.is_some_and(|durable| durable >= end);
            if is_stored && state.hosts[primary].slot.as_ref().is_some_and(|slot| slot.restart >= end) {
                break;
            }
            if strangers && begun.elapsed() > Duration::from_secs(90) {
                return Ok(());
            }
            if begun.elapsed() > REST {
                let (agent, host) = (self.agents[0].state.last_error(), &state.hosts[primary]);
                return Err(format!("it does not come to rest: {agent:?}; {host:?}, written up to {end}"));
            }
        }
        if strangers || self.unknowable {
            return Ok(());
        }
        let (timeline, end) = {
            let state = self.cluster.state();
            (state.written(primary).timeline, state.written(primary).end)
        };
        let inventory = self.cluster.inventory();
        let Err(at) = inventory.wal_complete(&inventory.lineage(timeline), self.start, end) else {
            return Ok(());
        };
        if !self.gap {
            return Err(format!("{at} is missing, and no server has ever removed it"));
        }
        match self.gaps_told.iter().any(|told| told.notified().now_or_never().is_some()) {
            true => Ok(()),
            false => Err(format!("{at} is missing, and no agent has told of a gap")),
        }
    }
}

/// Whether no WAL is stored at all: a timeline may be known by nothing but a fork or an epoch.
fn has_nothing(inventory: &Inventory) -> bool {
    inventory.coverage.values().all(|coverage| coverage.ranges().is_empty())
}
