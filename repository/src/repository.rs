//! A repository: any number of clusters in one store.

use std::time::Duration;

use bytes::Bytes;
use proto::SystemId;
use proto::config::{ClusterName, Config};
use serde::{Deserialize, Serialize};

use crate::branch::{Begun, Terms};
use crate::error::OrAbsent;
use crate::sealed::with_signing;
use crate::{Branch, BranchFacts, Error, Key, Kind, Result, Sealing, Store, Unsealing, branch};

/// The object that makes a store a repository.
const MARKER: &str = "walkeep.json";

/// The version of the layout of keys.
const FORMAT: u32 = 1;

/// A store that has not answered for so long is worth a word.
const SILENCE: Duration = Duration::from_secs(4);

/// Nothing under [`MARKER`] is longer.
const LONGEST_MARKER: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Marker {
    walkeep: u32,
    repository: String,
}

/// An opened repository. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    store: Store,
    sealing: Sealing,
    unsealing: Unsealing,
}

impl Repository {
    /// Makes `store` a repository by writing `walkeep.json`; fine if it is one already.
    pub async fn create(store: Store) -> Result<()> {
        match read_marker(&store).await {
            Err(Error::Absent { .. }) => {}
            found => return found.map(|_| ()),
        }
        let id: [u64; 2] = rand::random();
        let marker = Marker { walkeep: FORMAT, repository: format!("{:016x}{:016x}", id[0], id[1]) };
        let json = serde_json::to_vec(&marker).map_err(|error| Error::invalid(MARKER, error))?;
        // The only object that two writers can both write, with another identifier each: whichever stays is
        // right, since nothing refers to it before both have returned.
        store.put(&Key::root().child(MARKER), Bytes::from([&json[..], b"\n"].concat())).await?;
        read_marker(&store).await.map(|_| ())
    }

    /// Opens what [`Repository::create`] has made. An error where `walkeep.json` is absent: so an unmounted
    /// disk is never taken for an empty repository.
    pub async fn open(store: Store, sealing: Sealing, unsealing: Unsealing) -> Result<Self> {
        match read_marker(&store).await {
            Ok(_) => Ok(Self { store, sealing, unsealing }),
            Err(Error::Absent { .. }) => Err(Error::NotBegun {
                what: store.description().to_owned(),
                why: format!("has no {MARKER}, so it is no repository (yet)"),
            }),
            Err(error) => Err(error),
        }
    }

    /// Opens the repository that the configuration names, with its encryption.
    pub async fn from_config(config: &Config) -> Result<Self> {
        let url = config.repository.as_deref().ok_or_else(|| {
            Error::invalid("repository", "it is not set; name one, such as file:///var/lib/walkeep")
        })?;
        let sealing = Sealing::from_config(&config.compression, &config.encryption)?;
        let unsealing = Unsealing::from_config(&config.encryption)?;
        let (sealing, unsealing) = with_signing(sealing, unsealing, &config.signing)?;
        let store = Store::open(url, &config.storage)?;
        let what = store.description().to_owned();
        unless_silent(&what, Box::pin(Self::open(store, sealing, unsealing))).await
    }

    /// The store behind it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The system identifiers under which `cluster` has a branch, in order.
    pub async fn systems(&self, cluster: &ClusterName) -> Result<Vec<SystemId>> {
        Ok(self.begun(cluster).await?.into_iter().map(|(system_id, _)| system_id).collect())
    }

    /// System identifiers with the time when their branch was begun, by the store's clock.
    async fn begun(&self, cluster: &ClusterName) -> Result<Vec<(SystemId, jiff::Timestamp)>> {
        let mut systems = Vec::new();
        for folder in self.store.list_folder(&Key::root().child(cluster)).await?.folders {
            let Ok(system_id) = folder.name().parse::<SystemId>() else { continue };
            let facts = self.store.head(&folder.child(branch::FACTS)).await.or_absent()?;
            systems.extend(facts.map(|facts| (system_id, facts.modified)));
        }
        systems.sort_unstable();
        Ok(systems)
    }

    /// Begins a branch explicitly; fine if it was begun with the same segment size, and as encrypted and signed. The
    /// server's version is the one of the first time.
    pub async fn begin_branch(
        &self,
        cluster: &ClusterName,
        system_id: SystemId,
        facts: BranchFacts,
    ) -> Result<Branch> {
        let begun = Begun { facts, terms: Terms::of(&self.sealing) };
        let json = serde_json::to_vec(&begun);
        let branch = self.assemble(cluster, system_id, begun);
        let name = Key::root().child(branch::FACTS);
        let known = match branch.read_facts().await.or_absent()? {
            Some(known) => known,
            None => {
                let json = json.map_err(|error| Error::invalid(&name, error))?;
                branch.put_sealed(branch.header(Kind::Branch, &name), json.into()).await?;
                // Read back: of two that begin at once, both go on with what is there.
                branch.read_facts().await?
            }
        };
        if known.facts.segment_size != facts.segment_size {
            return Err(Error::Foreign {
                what: format!("branch {} in {}", branch.root(), self.store.description()),
                why: format!(
                    "it was begun with WAL segments of {} bytes, the server has {}",
                    known.facts.segment_size.bytes(),
                    facts.segment_size.bytes()
                ),
            });
        }
        let branch = self.assemble(cluster, system_id, known);
        branch.sealing()?;
        if branch.signs() {
            branch.begin_statements().await?;
        }
        Ok(branch)
    }

    /// A branch that was begun.
    ///
    /// # Errors
    /// [`Error::Foreign`], naming those that are there, if only others were; [`Error::NotBegun`] if none was.
    pub async fn branch(&self, cluster: &ClusterName, system_id: SystemId) -> Result<Branch> {
        // The facts are not known before they are read; nothing else is done with this one.
        let facts = BranchFacts { segment_size: proto::wal::SegmentSize::DEFAULT, server_version: 0 };
        let unknown = Begun { facts, terms: Terms::default() };
        let found = self.assemble(cluster, system_id, unknown).read_facts().await.or_absent()?;
        if let Some(begun) = found {
            return Ok(self.assemble(cluster, system_id, begun));
        }
        let others = self.systems(cluster).await?;
        if others.is_empty() {
            return Err(self.never_begun(cluster));
        }
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        Err(Error::Foreign {
            what: format!("cluster {cluster} in {}", self.store.description()),
            why: format!(
                "it belongs to a server with system identifier {}, not to this one with {system_id}",
                others.join(" or ")
            ),
        })
    }

    /// The branch of a cluster, without a server to ask: the one begun last, by the store's clock, where
    /// there are several.
    pub async fn only_branch(&self, cluster: &ClusterName) -> Result<Branch> {
        self.branch(cluster, self.newest_system(cluster).await?).await
    }

    /// The system identifier of that branch, which need not be readable.
    ///
    /// # Errors
    /// [`Error::NotBegun`] if there is none.
    pub async fn newest_system(&self, cluster: &ClusterName) -> Result<SystemId> {
        let begun = self.begun(cluster).await?;
        let last = begun.into_iter().max_by_key(|(system_id, at)| (*at, *system_id));
        last.map(|(system_id, _)| system_id).ok_or_else(|| self.never_begun(cluster))
    }

    fn never_begun(&self, cluster: &ClusterName) -> Error {
        Error::NotBegun {
            what: format!("cluster {cluster} in {}", self.store.description()),
            why: "has never been begun".to_owned(),
        }
    }

    fn assemble(&self, cluster: &ClusterName, system_id: SystemId, begun: Begun) -> Branch {
        let (sealing, unsealing) = (self.sealing.clone(), self.unsealing.clone());
        Branch::assemble(self.store.clone(), cluster.clone(), system_id, begun, sealing, unsealing)
    }
}

/// Waits for the first answer of a store, and says now and then that it waits: a store that is down is tried again for
/// `retry_timeout`, and whoever sits before a silent program takes it for hung.
async fn unless_silent<T>(what: &str, mut answer: impl Future<Output = T> + Unpin) -> T {
    loop {
        match tokio::time::timeout(SILENCE, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) => tracing::warn!("{what} does not answer yet: still trying"),
        }
    }
}

async fn read_marker(store: &Store) -> Result<Marker> {
    let bytes = store.get_range(&Key::root().child(MARKER), 0..LONGEST_MARKER).await?;
    let foreign = |why: String| Error::Foreign { what: store.description().to_owned(), why };
    let marker: Marker = serde_json::from_slice(&bytes)
        .map_err(|error| foreign(format!("its {MARKER} is not walkeep's: {error}")))?;
    match marker.walkeep {
        FORMAT => Ok(marker),
        newer => Err(foreign(format!("its format is {newer}; this program knows {FORMAT} only"))),
    }
}
