//! The replication slot: where it stands, and making it anew where it keeps nothing.
//!
//! Slots do not follow a failover, and a server may take a slot's WAL away (`max_slot_wal_keep_size`). In both cases
//! a slot is made at once, so that the server keeps WAL from now on; whether something is missing before it is found
//! out from what the repository has, and told.

use std::time::Duration;

use proto::Lsn;
use proto::client::{Replication, SlotLifetime, SlotState};
use proto::config::SlotName;
use proto::conninfo::ConnInfo;
use tokio::time::sleep;

use super::error::StreamError;
use crate::backup::facts::{Slot, Sql};

/// Between looks at a slot that another session uses.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Looks, until the whole attempt is made again.
const LOOKS: u32 = 120;

/// What was done to the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// Nothing: it is there and keeps WAL.
    Already,
    /// There was none.
    New,
    /// It was there and kept nothing.
    Anew,
}

/// A slot that keeps WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) restart_lsn: Lsn,
    pub(super) made: Made,
}

enum Found {
    Keeps(Lsn),
    KeepsNothing,
    Absent,
}

/// Sees to it that the slot is there and keeps WAL. `distrust`: the server did not have what it promised, so it is made
/// anew whatever it says.
///
/// A slot that keeps nothing must be found before it is used: up to 17 the server lets us start behind the hole, and
/// then calls the slot healthy again.
pub(super) async fn ready(
    session: &mut Replication,
    info: &ConnInfo,
    slot: &SlotName,
    distrust: bool,
) -> Result<Ready, StreamError> {
    let made = match look(session, info, slot).await? {
        Found::Keeps(restart_lsn) if !distrust => return Ok(Ready { restart_lsn, made: Made::Already }),
        Found::Absent => Made::New,
        Found::Keeps(_) | Found::KeepsNothing => {
            // A slot for logical replication is somebody else's. The server refuses to drop one that is in use.
            if look_by_sql(info, slot).await?.is_some_and(|found| !found.physical) {
                return Err(StreamError::SlotForeign(slot.clone()));
            }
            session.drop_slot(slot).await?;
            Made::Anew
        }
    };
    match session.create_slot(slot, SlotLifetime::Permanent).await {
        // Another agent was quicker.
        Err(error) if error.sqlstate() == Some("42710") => {}
        created => created?,
    }
    match look(session, info, slot).await? {
        Found::Keeps(restart_lsn) => Ok(Ready { restart_lsn, made }),
        Found::KeepsNothing | Found::Absent => Err(StreamError::SlotUnusable(slot.clone())),
    }
}

async fn look(session: &mut Replication, info: &ConnInfo, slot: &SlotName) -> Result<Found, StreamError> {
    Ok(match session.read_slot(slot).await? {
        SlotState::Reserved { restart_lsn, .. } => Found::Keeps(restart_lsn),
        SlotState::Absent => Found::Absent,
        SlotState::Lost => Found::KeepsNothing,
        SlotState::Unsupported => match look_by_sql(info, slot).await? {
            None => Found::Absent,
            Some(found) if found.lost => Found::KeepsNothing,
            Some(found) => match found.restart_lsn.and_then(|lsn| lsn.parse().ok()) {
                Some(restart_lsn) => Found::Keeps(restart_lsn),
                None => Found::KeepsNothing,
            },
        },
    })
}

async fn look_by_sql(info: &ConnInfo, slot: &SlotName) -> Result<Option<Slot>, StreamError> {
    let failed = |error: anyhow::Error| StreamError::Sql(format!("{error:#}"));
    Sql::connect(info).await.map_err(failed)?.slot(slot).await.map_err(failed)
}

/// Waits until nobody uses the slot any more, or for a while. One session asks, instead of attempt after attempt.
pub(super) async fn wait_until_free(info: &ConnInfo, slot: &SlotName) {
    if let Ok(sql) = Sql::connect(info).await {
        for _ in 0..LOOKS {
            match sql.slot(slot).await {
                Ok(Some(slot)) if slot.active => sleep(LOOK_AGAIN).await,
                Ok(_) => return,
                Err(_) => break,
            }
        }
    }
    sleep(LOOK_AGAIN).await;
}
