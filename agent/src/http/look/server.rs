//! What the server says of its slot, its archiver and its WAL.

use std::time::Duration;

use anyhow::Context;
use proto::Lsn;
use proto::config::SlotName;
use proto::conninfo::ConnInfo;
use tokio::time::timeout;

use crate::backup::facts::Sql;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was found. `None`: the role may not see it, or there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct ServerFacts {
    /// The end of its WAL: on a standby, of what it has received.
    pub(in crate::http) lsn: Option<Lsn>,
    /// The slot of the configuration, if it exists.
    pub(in crate::http) slot: Option<SlotFacts>,
    /// Files that wait for the archiver.
    pub(in crate::http) backlog: Option<u64>,
    /// Failures that the archiver has counted.
    pub(in crate::http) archiver_failures: Option<u64>,
}

/// A slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct SlotFacts {
    pub(in crate::http) active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub(in crate::http) wal_status: String,
    /// WAL that the server keeps for it.
    pub(in crate::http) retained: Option<u64>,
    /// WAL that can still be written before the slot is in danger; `None` if there is no limit.
    pub(in crate::http) safe: Option<u64>,
}

/// Asks it.
pub(in crate::http) async fn look(info: &ConnInfo, slot: &SlotName) -> Result<ServerFacts, String> {
    match timeout(PATIENCE, Box::pin(ask(info, slot))).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("the server has not answered within {} s", PATIENCE.as_secs())),
    }
}

async fn ask(info: &ConnInfo, slot: &SlotName) -> anyhow::Result<ServerFacts> {
    let sql = Sql::connect(info).await?;
    let rows = sql
        .rows(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END, \
             has_function_privilege('pg_ls_archive_statusdir()', 'execute'), \
             (SELECT failed_count FROM pg_stat_archiver)",
        )
        .await?;
    let row = rows.into_iter().next().context("the server gave no answer")?;
    let text = |at: usize| row.get(at).cloned().flatten();
    let lsn: Option<Lsn> = text(0).and_then(|text| text.parse().ok());
    let may_see_backlog = text(1).as_deref() == Some("t");
    let archiver_failures = text(2).and_then(|text| text.parse().ok());
    let mut backlog = None;
    if may_see_backlog {
        let waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        let rows = sql.rows(waiting).await?;
        backlog = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok());
    }
    // A slot's name has letters, digits and underscores only.
    let of_slot = format!(
        "SELECT active, coalesce(wal_status, 'lost'), restart_lsn, safe_wal_size FROM pg_replication_slots \
         WHERE slot_name = '{slot}' AND slot_type = 'physical'"
    );
    let rows = sql.rows(&of_slot).await?;
    let slot = rows.first().map(|row| {
        let text = |at: usize| row.get(at).cloned().flatten();
        let restart: Option<Lsn> = text(2).and_then(|text| text.parse().ok());
        SlotFacts {
            active: text(0).as_deref() == Some("t"),
            wal_status: text(1).unwrap_or_default(),
            retained: restart.zip(lsn).map(|(restart, lsn)| lsn.bytes_since(restart)),
            // Less than nothing: the slot is in danger already.
            safe: text(3).and_then(|text| text.parse::<i64>().ok()).map(|safe| safe.max(0) as u64),
        }
    });
    Ok(ServerFacts { lsn, slot, backlog, archiver_failures })
}
