//! The replication slot: where it stands, and making it anew where it keeps nothing.
//!
//! Slots do not follow a failover, and a server may take a slot's WAL away (`max_slot_wal_keep_size`). In both cases
//! a slot is made at once, so that the server keeps WAL from now on; whether something is missing before it is found
//! out from what the repository has, and told.

use proto::Lsn;
use proto::client::{Replication, SlotLifetime, SlotState};
use proto::config::SlotName;
use proto::conninfo::ConnInfo;

use super::error::StreamError;
use super::servers::Servers;
use crate::backup::facts::Slot;

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
    servers: &dyn Servers,
    session: &mut Replication,
    info: &ConnInfo,
    slot: &SlotName,
    distrust: bool,
) -> Result<Ready, StreamError> {
    let made = match look(servers, session, info, slot).await? {
        Found::Keeps(restart_lsn) if !distrust => return Ok(Ready { restart_lsn, made: Made::Already }),
        Found::Absent => Made::New,
        Found::Keeps(_) | Found::KeepsNothing => {
            // A slot for logical replication is somebody else's. The server refuses to drop one that is in use.
            if look_by_sql(servers, info, slot).await?.is_some_and(|found| !found.physical) {
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
    match look(servers, session, info, slot).await? {
        Found::Keeps(restart_lsn) => Ok(Ready { restart_lsn, made }),
        Found::KeepsNothing | Found::Absent => Err(StreamError::SlotUnusable(slot.clone())),
    }
}

async fn look(
    servers: &dyn Servers,
    session: &mut Replication,
    info: &ConnInfo,
    slot: &SlotName,
) -> Result<Found, StreamError> {
    Ok(match session.read_slot(slot).await? {
        SlotState::Reserved { restart_lsn, .. } => Found::Keeps(restart_lsn),
        SlotState::Absent => Found::Absent,
        SlotState::Lost => Found::KeepsNothing,
        SlotState::Unsupported => match look_by_sql(servers, info, slot).await? {
            None => Found::Absent,
            Some(found) if found.lost => Found::KeepsNothing,
            Some(found) => match found.restart_lsn {
                Some(restart_lsn) => Found::Keeps(restart_lsn),
                None => Found::KeepsNothing,
            },
        },
    })
}

async fn look_by_sql(
    servers: &dyn Servers,
    info: &ConnInfo,
    slot: &SlotName,
) -> Result<Option<Slot>, StreamError> {
    servers.slot(info, slot).await.map_err(|error| StreamError::Sql(format!("{error:#}")))
}
