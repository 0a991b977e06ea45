//! Agents as processes that can be started, killed and frozen. What runs in them is the real stream.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use agent::archive::KnownSegments;
use agent::backup::facts::Slot;
use agent::stream::{Servers, StreamOptions, StreamState, follow};
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::client::{Error, Replication, ServerVersion, SessionOptions};
use proto::config::SlotName;
use proto::conninfo::ConnInfo;
use repository::{Branch, Repository, Sealing, Unsealing, chance};
use tokio::io::duplex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cluster::{Cluster, SLOT, SYSTEM, Up};
use crate::gate::{Gate, Gated};
use crate::growing;
use crate::store::Network;
use crate::walsender::serve;

pub(crate) const CLUSTER: &str = "main";

/// The version that is spoken.
const VERSION: ServerVersion = ServerVersion(150_018);

/// How one process reaches the servers.
struct Way {
    cluster: Cluster,
    gate: Gate,
}

impl Way {
    /// Which of the servers, by its port.
    fn host(info: &ConnInfo) -> usize {
        usize::from(info.hosts[0].port - 5432)
    }

    /// What a request takes.
    async fn travel(&self) {
        self.gate.pass().await;
        sleep(Duration::from_millis(chance::random::<u64>() % 20)).await;
        self.gate.pass().await;
    }

    fn look(&self, host: usize) -> Option<Slot> {
        let state = self.cluster.state();
        let slot = state.hosts[host].slot.as_ref()?;
        let restart_lsn = Some(slot.restart);
        Some(Slot { physical: true, active: slot.active.is_some(), lost: false, restart_lsn })
    }
}

impl Servers for Way {
    fn replication<'a>(
        &'a self,
        info: &'a ConnInfo,
        _options: &'a SessionOptions,
    ) -> BoxFuture<'a, Result<Replication, Error>> {
        async {
            self.travel().await;
            let host = Self::host(info);
            let name = format!("server {host}");
            let serves = {
                let host = &self.cluster.state().hosts[host];
                host.up == Up::Running && host.primary
            };
            if !serves {
                return Err(Error::Unreachable { host: name, source: ErrorKind::ConnectionRefused.into() });
            }
            let (ours, theirs) = duplex(1 << 18);
            tokio::spawn(serve(self.cluster.clone(), host, theirs));
            let gated = Gated { gate: self.gate.clone(), io: ours };
            Ok(Replication::on(gated, &name, VERSION))
        }
        .boxed()
    }

    fn slot<'a>(
        &'a self,
        info: &'a ConnInfo,
        _slot: &'a SlotName,
    ) -> BoxFuture<'a, anyhow::Result<Option<Slot>>> {
        async {
            self.travel().await;
            Ok(self.look(Self::host(info)))
        }
        .boxed()
    }

    fn slot_is_free<'a>(&'a self, info: &'a ConnInfo, _slot: &'a SlotName) -> BoxFuture<'a, ()> {
        async {
            for _ in 0..120 {
                self.travel().await;
                if !self.look(Self::host(info)).is_some_and(|slot| slot.active) {
                    break;
                }
                sleep(Duration::from_millis(500)).await;
            }
        }
        .boxed()
    }
}

/// A branch as one process sees it, once the store answers.
pub(crate) async fn open(network: Arc<Network>, gate: Gate, journals: bool) -> Repository {
    let store = growing::store(network, gate, journals);
    loop {
        match Repository::open(store.clone(), Sealing::plain(1), Unsealing::none()).await {
            Ok(repository) => return repository,
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

/// The branch, once the store answers.
pub(crate) async fn branch(repository: &Repository) -> Branch {
    loop {
        match repository.branch(&CLUSTER.parse().expect("a name"), proto::SystemId(SYSTEM)).await {
            Ok(branch) => return branch,
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

#[derive(Default)]
pub(crate) struct Agent {
    pub(crate) gate: Gate,
    pub(crate) state: StreamState,
    /// Told when WAL is missing for good.
    pub(crate) gaps: Option<Arc<Notify>>,
    process: Option<(JoinHandle<()>, watch::Sender<bool>)>,
}

impl Agent {
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn start(
        &mut self,
        cluster: &Cluster,
        network: &Arc<Network>,
        postgres: &ConnInfo,
        synchronous: bool,
        journals: bool,
    ) {
        if self.runs() {
            return;
        }
        self.gate = Gate::default();
        let (stop, stopped) = watch::channel(false);
        let gaps = Arc::<Notify>::default();
        self.gaps = Some(gaps.clone());
        let way = Way { cluster: cluster.clone(), gate: self.gate.clone() };
        let options = StreamOptions {
            servers: Arc::new(way),
            postgres: postgres.clone(),
            cluster: CLUSTER.parse().expect("a name"),
            slot: SLOT.parse().expect("a name"),
            flush_interval: Duration::from_millis(500),
            synchronous,
            shutdown_grace: Duration::from_secs(30),
            gaps,
        };
        self.state = StreamState::default();
        let (network, gate, state) = (network.clone(), self.gate.clone(), self.state.clone());
        let process = async move {
            let repository = open(network, gate, journals).await;
            follow(repository, options, state, KnownSegments::default(), stopped).await;
        };
        self.process = Some((tokio::spawn(process), stop));
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        let Some((process, _)) = self.process.take() else { return Ok(()) };
        process.abort();
        match process.await {
            Err(error) if error.is_panic() => Err(format!("an agent panicked: {error}")),
            _ => Ok(()),
        }
    }

    /// SIGTERM.
    pub(crate) async fn stop(&mut self) -> Result<(), String> {
        let Some((process, stop)) = self.process.take() else { return Ok(()) };
        self.gate.open();
        stop.send_replace(true);
        let aborted = process.abort_handle();
        match tokio::time::timeout(Duration::from_secs(60), process).await {
            Ok(Err(error)) if error.is_panic() => Err(format!("an agent panicked: {error}")),
            Ok(_) => Ok(()),
            Err(_) => {
                aborted.abort();
                Ok(())
            }
        }
    }
}
