//! Comparing content, and marking a moment.

use anyhow::{Context, Result};
use futures::{TryStreamExt, pin_mut};

use super::Postgres;
use crate::runtime;

/// A moment of a server to which it shall come back.
#[derive(Clone, Debug)]
pub struct Mark {
    /// The server's clock, with its zone.
    pub time: String,
    /// The write position.
    pub lsn: String,
    /// The digest over all rows.
    pub digest: String,
}

const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' \
    AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1";

impl Postgres {
    /// A digest over all rows of all logged user tables of all databases, the same for the same content.
    ///
    /// Unlogged tables are left out, since recovery empties them by design.
    pub fn digest_all(&self) -> Result<String> {
        let databases =
            self.sql("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")?;
        let mut hasher = blake3::Hasher::new();
        for database in databases.lines() {
            hasher.update(format!("database {database}\n").as_bytes());
            for table in self.sql_in(database, TABLES)?.lines() {
                hasher.update(format!("table {table}\n").as_bytes());
                runtime().block_on(self.digest_table(database, table, &mut hasher))?;
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    async fn digest_table(&self, database: &str, table: &str, hasher: &mut blake3::Hasher) -> Result<()> {
        let client = self.connect(database).await?;
        let query = format!("COPY (SELECT t::text FROM {table} t ORDER BY t::text COLLATE \"C\") TO STDOUT");
        let rows = client.copy_out(&query).await.with_context(|| format!("cannot read {table}"))?;
        pin_mut!(rows);
        while let Some(bytes) = rows.try_next().await.with_context(|| format!("cannot read {table}"))? {
            hasher.update(&bytes);
        }
        Ok(())
    }

    /// Marks this moment. Nobody else may write meanwhile, or the digest means nothing.
    pub fn mark(&self) -> Result<Mark> {
        let digest = self.digest_all()?;
        let now = self.sql("SELECT clock_timestamp(), pg_current_wal_insert_lsn()")?;
        let (time, lsn) = now.split_once('|').context("two fields were asked for")?;
        Ok(Mark { time: time.to_owned(), lsn: lsn.to_owned(), digest })
    }
}
