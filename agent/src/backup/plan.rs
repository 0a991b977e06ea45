//! Everything that is decided before the first byte is asked for.

use anyhow::Context;
use proto::client::{Replication, ServerVersion, SystemIdentity};
use proto::config::Config;
use proto::conninfo::ConnInfo;
use proto::wal::TimelineHistory;
use proto::{SystemId, TimelineId};
use repository::Branch;
use restore::program::failure;

use super::damage::Judge;
use super::facts::{Facts, Sql};

/// Who is to bring the backup's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalPlan {
    /// A running agent streams it.
    Agent,
    /// The archiver hands it over.
    Archiver,
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
    /// Threads that compress.
    pub jobs: usize,
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
    if facts.in_recovery {
        return Err(failure(
            "the server is a standby, and backups are taken from a primary",
            "name the primary in `postgres`; with several hosts it is found by itself",
        ));
    }
    facts.check_wal_level()?;
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
    let slot = match config.stream.enabled {
        true => sql.slot(&config.stream.slot).await?,
        false => None,
    };
    Ok(Plan {
        info,
        branch,
        version: replication.server_version(),
        identity,
        history,
        wal: wal_plan(slot.is_some_and(|slot| slot.active), facts.archives_to_us()),
        judge: if facts.may_read_files { Judge::Reread } else { Judge::Server },
        facts,
        note,
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
