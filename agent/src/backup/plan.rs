//! Everything that is decided before the first byte is asked for.

use std::path::PathBuf;

use anyhow::Context;
use proto::client::{Replication, ServerVersion, SystemIdentity};
use proto::config::{Config, ReadRate, UploadRate};
use proto::conninfo::ConnInfo;
use proto::wal::{SegmentSize, TimelineHistory};
use proto::{Lsn, SystemId, TimelineId};
use repository::Branch;

use super::damage::Judge;
use restore::program::failure;

use super::facts::{Facts, Sql};

/// Who is to bring the backup's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalPlan {
    /// A running agent streams it.
    Agent,
    /// The archiver hands it over.
    Archiver,
    /// The server is a standby: its primary's agent or archiver brings it.
    Elsewhere,
    /// This program receives it.
    Ourselves,
}

/// The history of the server's timeline.
pub struct History {
    /// The file, as the server has it.
    pub content: Vec<u8>,
    /// What it says.
    pub parsed: TimelineHistory,
}

/// A backup that may begin.
pub struct Plan {
    /// How to reach the server.
    pub info: ConnInfo,
    /// Where the backup goes.
    pub branch: Branch,
    /// The server's version.
    pub version: ServerVersion,
    /// The cluster and its timeline.
    pub identity: SystemIdentity,
    /// Where the server's timeline came from; `None` for the first one.
    pub history: Option<History>,
    /// The server's settings.
    pub facts: Facts,
    /// Who brings the WAL.
    pub wal: WalPlan,
    /// Who judges suspect pages.
    pub judge: Judge,
    /// The user's note.
    pub note: Option<String>,
    /// How fast the server may be read.
    pub read_rate: Option<ReadRate>,
    /// How fast packs may be stored.
    pub upload_rate: Option<UploadRate>,
    /// Threads that compress; so many files are read side by side.
    pub jobs: usize,
    /// The server's data directory, if it is to be read here. `None`: the server sends it.
    pub directory: Option<PathBuf>,
}

/// Looks at server and repository. `replication` is used for questions only.
pub async fn plan(
    config: &Config,
    info: ConnInfo,
    sql: &Sql,
    mut replication: Replication,
    branch: impl AsyncFnOnce(SystemId) -> repository::Result<Branch>,
    note: Option<String>,
) -> anyhow::Result<Plan> {
    let facts = sql.facts().await?;
    if !facts.in_recovery {
        facts.check_wal_level()?;
    }
    check_tablespaces(sql, replication.server_version()).await?;
    let identity = replication.identify_system().await?;
    let branch = branch(identity.system_id).await.context("the repository does not know this cluster")?;
    let history = history(&mut replication, identity.timeline).await?;
    let segment_size = replication.segment_size().await?;
    anyhow::ensure!(
        segment_size == branch.segment_size(),
        "the server's WAL segments have {} bytes, but {} when `walkeep init` was run: pg_resetwal has changed it",
        segment_size.bytes(),
        branch.segment_size().bytes()
    );
    let wal = if facts.in_recovery {
        let newest = branch.newest_wal(identity.timeline).await?;
        wal_plan_on_standby(newest, identity.flush_lsn, segment_size)
    } else {
        let slot = match config.stream.enabled {
            true => sql.slot(&config.stream.slot).await?,
            false => None,
        };
        wal_plan(slot.is_some_and(|slot| slot.active), facts.archives_to_us())
    };
    Ok(Plan {
        info,
        branch,
        version: replication.server_version(),
        identity,
        history,
        wal,
        judge: if facts.may_read_files { Judge::Reread } else { Judge::Server },
        facts,
        note,
        read_rate: None,
        upload_rate: None,
        directory: None,
        jobs: std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8),
    })
}

/// Before version 16 a server that is asked for its map of tablespaces leaves out what lies in place of a link.
async fn check_tablespaces(sql: &Sql, version: ServerVersion) -> anyhow::Result<()> {
    const SENDS_THEM: u32 = 16;
    if version.major() >= SENDS_THEM {
        return Ok(());
    }
    let inside = sql.in_place_tablespaces().await?;
    if inside.is_empty() {
        return Ok(());
    }
    Err(failure(
        format!(
            "PostgreSQL {} leaves the content of tablespaces in the data directory itself out of a backup: {}",
            version.major(),
            inside.join(", ")
        ),
        "move what is in there to other tablespaces, and drop them; allow_in_place_tablespaces is for tests",
    ))
}

async fn history(session: &mut Replication, timeline: TimelineId) -> anyhow::Result<Option<History>> {
    if timeline == TimelineId::FIRST {
        return Ok(None);
    }
    let content = session.timeline_history(timeline).await?;
    let parsed = TimelineHistory::parse(timeline, &content)
        .with_context(|| format!("the server's history file of timeline {timeline} cannot be used"))?;
    Ok(Some(History { content, parsed }))
}

fn wal_plan(agent_streams: bool, archiver_ships: bool) -> WalPlan {
    match (agent_streams, archiver_ships) {
        (true, _) => WalPlan::Agent,
        (false, true) => WalPlan::Archiver,
        (false, false) => WalPlan::Ourselves,
    }
}

/// A standby cannot tell who protects its primary; the repository can. Whoever brings WAL has brought the segment before
/// the one that is being written, at least: an archiver cannot have more.
fn wal_plan_on_standby(newest: Option<Lsn>, received: Lsn, size: SegmentSize) -> WalPlan {
    match newest {
        Some(newest) if newest + size.bytes() > size.floor(received) => WalPlan::Elsewhere,
        _ => WalPlan::Ourselves,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_somebody_brings_a_standby_s_wal_is_seen_in_the_repository() {
        let size = SegmentSize::DEFAULT;
        let segment = size.bytes();
        let plan = |newest: u64, received: u64| wal_plan_on_standby(Some(Lsn(newest)), Lsn(received), size);
        assert_eq!(wal_plan_on_standby(None, Lsn(segment), size), WalPlan::Ourselves);
        assert_eq!(
            plan(7 * segment, 7 * segment + 100),
            WalPlan::Elsewhere,
            "archived up to the open segment"
        );
        assert_eq!(plan(7 * segment + 50, 7 * segment + 100), WalPlan::Elsewhere, "streamed");
        assert_eq!(plan(9 * segment, 7 * segment + 100), WalPlan::Elsewhere, "the standby is behind");
        assert_eq!(plan(6 * segment + 1, 7 * segment + 100), WalPlan::Elsewhere, "one segment is on its way");
        assert_eq!(plan(6 * segment, 7 * segment + 100), WalPlan::Ourselves, "nothing has come for a while");
    }
}
