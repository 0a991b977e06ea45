//! A look at the server that is to be dumped.

use anyhow::Context;
use proto::SystemId;
use proto::conninfo::{ConnInfo, TargetSession};
use restore::program::failure;
use restore::scratch::sql_message;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::backup::facts::APPLICATION_NAME;

/// What was found.
#[derive(Debug, Clone)]
pub struct Server {
    /// How to reach this very server: its host is the only one.
    pub info: ConnInfo,
    /// Whose branch of the repository it is.
    pub system_id: SystemId,
    /// As `server_version_num`.
    pub version: u32,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Databases that let somebody in, but templates, by name.
    pub databases: Vec<String>,
}

const FACTS: &str = "SELECT (SELECT system_identifier::text FROM pg_control_system()), \
                     current_setting('server_version_num')::int, pg_is_in_recovery(), \
                     ARRAY(SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname)";

/// What the largest tables take, with what is stored beside them.
const LARGEST: &str = "SELECT coalesce(sum(size), 0)::bigint FROM (SELECT pg_table_size(oid) AS size FROM pg_class \
                       WHERE relkind IN ('r', 'm') ORDER BY 1 DESC LIMIT $1) AS largest";

/// The same as statistics know it, which takes no locks.
const ESTIMATED: &str = "SELECT coalesce(sum(size), 0)::bigint FROM (SELECT current_setting('block_size')::bigint * \
                         (c.relpages + coalesce(t.relpages, 0)) AS size FROM pg_class c \
                         LEFT JOIN pg_class t ON t.oid = c.reltoastrelid \
                         WHERE c.relkind IN ('r', 'm') ORDER BY 1 DESC LIMIT $1) AS largest";

/// To ask for a table's size is to wait for its lock: so long, and no longer.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'";

impl Server {
    /// Looks at the server that the text names; of several hosts at the first that is of the wanted kind.
    ///
    /// # Errors
    /// No host answers, or it does not tell.
    pub async fn look(info: ConnInfo) -> anyhow::Result<Self> {
        let (client, info) = reach(info).await?;
        let told = |error: tokio_postgres::Error| anyhow::anyhow!(sql_message(&error));
        let row =
            client.query_one(FACTS, &[]).await.map_err(told).context("the server does not tell who it is")?;
        let system_id: String = row.try_get(0)?;
        let version: i32 = row.try_get(1)?;
        Ok(Self {
            info,
            system_id: system_id.parse().context("the server's system identifier is no number")?,
            version: version.try_into().context("the server's version is no number")?,
            in_recovery: row.try_get(2)?,
            databases: row.try_get(3)?,
        })
    }

    /// 13 to 18.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// Bytes of the largest tables of a database, so many of them.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn largest_tables(&self, database: &str, count: u16) -> anyhow::Result<u64> {
        let info = ConnInfo { dbname: database.to_owned(), ..self.info.clone() };
        let (client, _) = reach(info).await?;
        let count = i64::from(count);
        let asked = async {
            client.batch_execute(LOCK_TIMEOUT).await?;
            match client.query_one(LARGEST, &[&count]).await {
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    client.query_one(ESTIMATED, &[&count]).await
                }
                answer => answer,
            }
        };
        let row = asked.await.map_err(|error| anyhow::anyhow!(sql_message(&error)));
        let bytes: i64 =
            row.with_context(|| format!("cannot look at the tables of {database}"))?.try_get(0)?;
        Ok(bytes.try_into().unwrap_or_default())
    }
}

/// A session, and the one host that it is with: the tools have to reach the same.
async fn reach(info: ConnInfo) -> anyhow::Result<(Client, ConnInfo)> {
    let kinds = match info.target_session_attrs {
        TargetSession::PreferStandby => vec![TargetSession::Standby, TargetSession::Any],
        // Several sessions have to reach the same one, so of several hosts the primary is meant.
        TargetSession::Any if info.hosts.len() > 1 => vec![TargetSession::Primary],
        kind => vec![kind],
    };
    let mut last = None;
    for kind in kinds {
        for host in &info.hosts {
            let one = ConnInfo { hosts: vec![host.clone()], target_session_attrs: kind, ..info.clone() };
            match proto::client::sql(&one, APPLICATION_NAME).await {
                Ok(client) => return Ok((client, one)),
                Err(error) => last = Some(error),
            }
        }
    }
    match last {
        Some(error) => {
            Err(anyhow::Error::new(error).context("cannot connect to the server that is to be dumped"))
        }
        None => Err(failure("no host is named", "set `postgres` in [dump], or at the top level")),
    }
}
