//! Plain SQL, for scenarios that are plain functions.

use anyhow::{Context, Result};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::Postgres;
use crate::runtime;

impl Postgres {
    /// Runs SQL in the database `postgres` as the superuser. Rows come as lines, fields parted by `|`.
    pub fn sql(&self, text: &str) -> Result<String> {
        self.sql_in("postgres", text)
    }

    /// Runs SQL in a database as the superuser.
    pub fn sql_in(&self, database: &str, text: &str) -> Result<String> {
        runtime().block_on(async {
            let client = self.connect(database).await?;
            let messages = client.simple_query(text).await.map_err(|error| explain(&error, text))?;
            let rows = messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let line = |row: &tokio_postgres::SimpleQueryRow| {
                (0..row.len())
                    .map(|at| row.get(at).unwrap_or_default().to_owned())
                    .collect::<Vec<_>>()
                    .join("|")
            };
            Ok(rows.map(line).collect::<Vec<_>>().join("\n"))
        })
    }

    /// A connection as the superuser, over the Unix socket. It lives on the harness's runtime.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(&self.run).port(self.port()).user("postgres").dbname(database);
        let (client, connection) = config.connect(NoTls).await.context("cannot connect to the server")?;
        runtime().spawn(async move {
            // Its end is seen by whoever uses the client.
            let _ = connection.await;
        });
        Ok(client)
    }
}

fn explain(error: &tokio_postgres::Error, text: &str) -> anyhow::Error {
    let why = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    let short: String = text.chars().take(120).collect();
    anyhow::anyhow!("{why} (in: {short})")
}
