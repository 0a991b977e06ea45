//! Asking the server: a session for each database, one after another, none of which waits for long.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use jiff::Timestamp;
use proto::config::HealthConfig;
use proto::conninfo::ConnInfo;
use repository::look::LogPosition;
use serde::Deserialize;

use super::observed::{Checkpoints, Connections, Database, Disk, Observed, Server, Statement, Statements};
use super::{log, queries};
use crate::backup::facts::Sql;
use crate::check::{is_remote, space};

/// So many databases are looked into, the largest ones.
const MOST_DATABASES: usize = 50;

/// Looks at the server. `read`: how far its log was read the last time.
///
/// # Errors
/// It cannot be reached, or refuses to answer.
pub(super) async fn gather(
    info: &ConnInfo,
    config: &HealthConfig,
    read: Option<LogPosition>,
) -> anyhow::Result<Observed> {
    let begun = Instant::now();
    let sql = session(info, &info.dbname).await?;
    let server: Server = sql.one(queries::SERVER).await?;
    let mut databases: Vec<Database> = sql.many(queries::DATABASES).await?;
    let open_for = config.long_transaction.min(config.idle_in_transaction);
    let mut observed = Observed {
        at: Timestamp::now(),
        took_seconds: 0.0,
        connections: connections(&sql).await?,
        sessions: sql.many(&queries::sessions(open_for)).await?,
        standbys: sql.many(&queries::standbys()).await?,
        slots: sql.many(&queries::slots()).await?,
        checkpoints: sql.one::<Checkpoints>(queries::checkpoints(server.major())).await?,
        databases: Vec::new(),
        log: None,
        disk: None,
        earlier: None,
        earlier_unknown: None,
        server,
    };
    look_around(info, &mut observed, read).await;
    statements(&sql, &mut databases).await;
    let mut open: Vec<&mut Database> = databases.iter_mut().filter(|database| database.open).collect();
    for database in open.iter_mut().skip(MOST_DATABASES) {
        database.trouble = Some(format!("only the {MOST_DATABASES} largest are looked into"));
    }
    for database in open.into_iter().take(MOST_DATABASES) {
        // One that cannot be looked into is told, and keeps none of the others from being so.
        if let Err(error) = look_into(info, &sql, database).await {
            database.trouble = Some(format!("{error:#}"));
        }
    }
    observed.databases = databases;
    observed.took_seconds = begun.elapsed().as_secs_f64();
    Ok(observed)
}

/// A session that changes nothing, and waits for nobody.
async fn session(info: &ConnInfo, database: &str) -> anyhow::Result<Sql> {
    let sql = Sql::connect(&ConnInfo { dbname: database.to_owned(), ..info.clone() }).await?;
    sql.rows(queries::SETTINGS).await?;
    Ok(sql)
}

async fn connections(sql: &Sql) -> anyhow::Result<Connections> {
    #[derive(Deserialize)]
    struct Limit {
        connections: u32,
    }
    #[derive(Deserialize)]
    struct InState {
        state: String,
        connections: u32,
    }
    let limit: Limit = sql.one(queries::LIMIT).await?;
    let states: Vec<InState> = sql.many(queries::CONNECTIONS).await?;
    Ok(Connections {
        limit: limit.connections,
        used: states.iter().map(|state| state.connections).sum(),
        by_state: states.into_iter().map(|state| (state.state, state.connections)).collect(),
    })
}

/// What can be seen of a server on this machine: its log, and its disk.
async fn look_around(info: &ConnInfo, observed: &mut Observed, read: Option<LogPosition>) {
    let Some(data) = observed.server.data_directory.as_ref().map(PathBuf::from) else { return };
    if is_remote(info) {
        return;
    }
    observed.disk =
        space(&data).map(|space| Disk { place: space.place, free: space.free, total: space.total });
    let look = tokio::task::spawn_blocking(move || log::look(&data, read.as_ref()));
    observed.log = look.await.ok().flatten();
}

/// `pg_stat_statements`, where it is installed in the database of the configuration. Where it is not loaded its view only
/// says so.
async fn statements(sql: &Sql, databases: &mut [Database]) {
    #[derive(Deserialize)]
    struct Schema {
        schema: String,
    }
    #[derive(Deserialize)]
    struct Row {
        database: String,
        calls: u64,
        seconds: f64,
        slowest: Vec<Statement>,
    }
    let found: anyhow::Result<Vec<Row>> = async {
        match sql.many::<Schema>(queries::HAS_STATEMENTS).await?.first() {
            Some(found) => sql.many(&queries::statements(&found.schema)).await,
            None => Ok(Vec::new()),
        }
    }
    .await;
    match found {
        Ok(rows) => {
            for Row { database, calls, seconds, slowest } in rows {
                if let Some(known) = databases.iter_mut().find(|known| known.name == database) {
                    known.statements = Some(Statements { calls, seconds, slowest });
                }
            }
        }
        Err(error) => tracing::debug!("pg_stat_statements does not answer: {error:#}"),
    }
}

async fn look_into(info: &ConnInfo, sql: &Sql, database: &mut Database) -> anyhow::Result<()> {
    // Not tried: each time it would be an error in the server's log.
    if !database.admits {
        bail!("the role may not connect");
    }
    let other = match database.name == info.dbname {
        true => None,
        false => Some(session(info, &database.name).await?),
    };
    let sql = other.as_ref().unwrap_or(sql);
    database.tables = sql.many(&queries::tables()).await?;
    database.indexes = sql.many(&queries::indexes()).await?;
    Ok(())
}

/// How long all of it may take at most. Each statement has a limit of its own; this one is for a server that says nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
