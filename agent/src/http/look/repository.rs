//! What the repository has of the cluster.

use jiff::Timestamp;
use proto::config::ClusterName;
use proto::{Lsn, SystemId, TimelineId};
use repository::catalogue::{BackupSummary, Gap, Inventory, Window};
use repository::drill::Verdict;
use repository::{Branch, Repository};

use crate::drill::LastDrills;

/// Drills that are shown in the picture.
const DRILLS: usize = 100;

/// What was found.
#[derive(Debug, Clone)]
pub(in crate::http) struct RepositoryFacts {
    pub(in crate::http) system_id: SystemId,
    /// Oldest first.
    pub(in crate::http) backups: Vec<BackupSummary>,
    /// Backups whose manifests cannot be used.
    pub(in crate::http) unreadable: usize,
    /// By timeline, then by position.
    pub(in crate::http) windows: Vec<Window>,
    /// By timeline, then by position.
    pub(in crate::http) gaps: Vec<Gap>,
    /// Where each timeline but the first was forked from the one before, as far as that is known.
    pub(in crate::http) forks: Vec<(TimelineId, Lsn)>,
    /// What is there in fragments only.
    pub(in crate::http) tails: Vec<Tail>,
    /// How many logical backups there are, and when the newest of them began.
    pub(in crate::http) dumps: (usize, Option<Timestamp>),
    pub(in crate::http) drills: LastDrills,
    /// When the last drills began, and how they ended, oldest first.
    pub(in crate::http) drill_times: Vec<(Timestamp, Verdict)>,
}

/// The end of a timeline's WAL that no whole segment holds yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Tail {
    pub(in crate::http) timeline: TimelineId,
    pub(in crate::http) from: Lsn,
    pub(in crate::http) to: Lsn,
    /// Fragments and journals.
    pub(in crate::http) objects: usize,
}

/// Looks at it.
pub(in crate::http) async fn look(
    repository: &Repository,
    cluster: &ClusterName,
) -> Result<RepositoryFacts, String> {
    let looking = async {
        let branch = repository.only_branch(cluster).await?;
        let inventory = Inventory::load(&branch).await?;
        let dumps = branch.dumps().await?;
        let dumps = (dumps.len(), dumps.last().map(|label| label.started()));
        let proofs = branch.proofs().await?;
        let drills = LastDrills::of(&branch, Timestamp::now()).await?;
        let last = proofs.len().saturating_sub(DRILLS);
        let drill_times = proofs[last..].iter().map(|proof| (proof.started_at, proof.verdict)).collect();
        Ok(facts((&branch, cluster), &inventory, dumps, drills, drill_times))
    };
    Box::pin(looking).await.map_err(|error: repository::Error| error.to_string())
}

fn facts(
    (branch, cluster): (&Branch, &ClusterName),
    inventory: &Inventory,
    dumps: (usize, Option<Timestamp>),
    drills: LastDrills,
    drill_times: Vec<(Timestamp, Verdict)>,
) -> RepositoryFacts {
    let listing = inventory.listing(cluster, branch.system_id());
    let forks =
        |timeline: &TimelineId| Some((*timeline, inventory.histories.get(timeline)?.entries.last()?.switch));
    RepositoryFacts {
        system_id: branch.system_id(),
        backups: listing.backups,
        unreadable: inventory.unreadable.len(),
        windows: listing.windows,
        gaps: listing.gaps,
        forks: inventory.timelines().iter().filter_map(forks).collect(),
        tails: tails(inventory),
        dumps,
        drills,
        drill_times,
    }
}

/// The last segment of each timeline, where it is not whole.
fn tails(inventory: &Inventory) -> Vec<Tail> {
    let size = inventory.segment_size();
    let of = |(timeline, wal): (&TimelineId, &repository::TimelineWal)| {
        let segment = wal.fragments.last()?.segment;
        if wal.segments.contains_key(&segment) {
            return None;
        }
        let from = segment.number(size).ok()?.start(size);
        let objects = wal.fragments.iter().filter(|fragment| fragment.segment == segment).count();
        let length = u64::from(wal.tail_length(segment));
        (length > 0).then(|| Tail { timeline: *timeline, from, to: from + length, objects })
    };
    inventory.wal.timelines.iter().filter_map(of).collect()
}
