//! The way to the servers, and the only one: a simulation brings servers of its own.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use proto::client::{Error, Replication, SessionOptions};
use proto::config::SlotName;
use proto::conninfo::ConnInfo;
use tokio::time::sleep;

use crate::backup::facts::{Slot, Sql};

/// Between looks at a slot that another session uses.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Looks, until the whole attempt is made again.
const LOOKS: u32 = 120;

/// How a server is asked.
pub trait Servers: Send + Sync {
    /// Opens a replication session.
    fn replication<'a>(
        &'a self,
        info: &'a ConnInfo,
        options: &'a SessionOptions,
    ) -> BoxFuture<'a, Result<Replication, Error>>;

    /// The slot as plain SQL shows it, if there is one of this name.
    fn slot<'a>(
        &'a self,
        info: &'a ConnInfo,
        slot: &'a SlotName,
    ) -> BoxFuture<'a, anyhow::Result<Option<Slot>>>;

    /// Waits until nobody uses the slot any more, or for a while.
    fn slot_is_free<'a>(&'a self, info: &'a ConnInfo, slot: &'a SlotName) -> BoxFuture<'a, ()>;
}

/// PostgreSQL's servers.
#[derive(Debug, Clone, Copy)]
pub struct PostgreSql;

impl Servers for PostgreSql {
    fn replication<'a>(
        &'a self,
        info: &'a ConnInfo,
        options: &'a SessionOptions,
    ) -> BoxFuture<'a, Result<Replication, Error>> {
        Replication::connect(info, options).boxed()
    }

    fn slot<'a>(
        &'a self,
        info: &'a ConnInfo,
        slot: &'a SlotName,
    ) -> BoxFuture<'a, anyhow::Result<Option<Slot>>> {
        async move { Sql::connect(info).await?.slot(slot).await }.boxed()
    }

    /// One session asks, instead of attempt after attempt.
    fn slot_is_free<'a>(&'a self, info: &'a ConnInfo, slot: &'a SlotName) -> BoxFuture<'a, ()> {
        let looks = async move {
            let Ok(sql) = Sql::connect(info).await else { return };
            for _ in 0..LOOKS {
                match sql.slot(slot).await {
                    Ok(Some(slot)) if slot.active => sleep(LOOK_AGAIN).await,
                    _ => return,
                }
            }
        };
        looks.boxed()
    }
}
