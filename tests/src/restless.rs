//! A server whose content changes at random, in all the ways that trouble an incremental backup.

use std::path::Path;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::Postgres;

const TABLES: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// Filled anew each time: what it held before is needed by older backups alone.
const FLEETING: &str = "fleeting";

/// The server, and what has become of it.
#[derive(Debug)]
pub struct Restless {
    /// The server.
    pub server: Postgres,
    random: StdRng,
    databases: Vec<String>,
    made: usize,
    shortened: bool,
}

impl Restless {
    /// Makes some tables, and a tablespace in `space`. The seed decides what will happen.
    pub fn new(server: Postgres, space: &Path, seed: u64) -> Result<Restless> {
        server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", space.display()))?;
        server.sql(&format!("CREATE TABLE {FLEETING} (n int, filler text)"))?;
        let random = StdRng::seed_from_u64(seed);
        let restless = Restless { server, random, databases: Vec::new(), made: 0, shortened: false };
        TABLES.iter().try_for_each(|table| restless.create(table, 20_000))?;
        Ok(restless)
    }

    /// Whether a table's file was cut short and has grown again. PostgreSQL's own combination of backups may then bring
    /// back what was deleted.
    pub fn has_shortened(&self) -> bool {
        self.shortened
    }

    fn create(&self, table: &str, rows: u32) -> Result<()> {
        self.sql(&format!(
            "CREATE TABLE {table} (n int PRIMARY KEY, v int, filler text);
             INSERT INTO {table} SELECT n, 0, repeat(md5(n::text), 3) FROM generate_series(1, {rows}) n"
        ))
    }

    fn insert(&mut self, table: &str) -> Result<()> {
        let rows = self.random.random_range(1..8_000);
        self.sql(&format!(
            "INSERT INTO {table} SELECT top + n, {rows}, repeat(md5(n::text), 3)
             FROM (SELECT coalesce(max(n), 0) AS top FROM {table}) a, generate_series(1, {rows}) n"
        ))
    }

    fn database(&mut self) -> Result<()> {
        if self.databases.len() > 1 {
            let gone = self.databases.remove(0);
            self.sql(&format!("DROP DATABASE {gone}"))?;
        }
        self.made += 1;
        let name = format!("d{}", self.made);
        let strategy = match (self.server.major(), self.made % 2) {
            (..15, _) => "",
            (_, 0) => "STRATEGY file_copy",
            (_, _) => "STRATEGY wal_log",
        };
        self.sql(&format!("CREATE DATABASE {name} {strategy}"))?;
        self.server.sql_in(&name, "CREATE TABLE own AS SELECT n FROM generate_series(1, 3000) n")?;
        self.databases.push(name);
        Ok(())
    }

    /// Some changes, one after another.
    pub fn change(&mut self) -> Result<()> {
        for _ in 0..4 {
            let table = *TABLES.choose(&mut self.random).context("there are tables")?;
            let rest = self.random.random_range(0..50);
            match self.random.random_range(0..10) {
                0 => self.insert(table)?,
                1 => self.sql(&format!("UPDATE {table} SET v = v + 1 WHERE n % 50 = {rest}"))?,
                2 => self.sql(&format!("DELETE FROM {table} WHERE n % 50 = {rest}"))?,
                3 => {
                    // The vacuum gives the end of the file back; what follows extends it again.
                    let keep = self.random.random_range(0..15_000);
                    self.sql(&format!("DELETE FROM {table} WHERE n > {keep}"))?;
                    self.sql(&format!("VACUUM {table}"))?;
                    self.insert(table)?;
                    self.shortened = true;
                }
                4 => {
                    self.sql(&format!("TRUNCATE {table}"))?;
                    self.insert(table)?;
                }
                5 => self.sql(&format!("VACUUM FULL {table}"))?,
                6 => {
                    self.sql(&format!("DROP TABLE {table}"))?;
                    self.create(table, 5_000)?;
                }
                7 => self.sql(&format!("REINDEX TABLE {table}"))?,
                8 => self.database()?,
                _ => {
                    let space = if rest % 2 == 0 { "elsewhere" } else { "pg_default" };
                    self.sql(&format!("ALTER TABLE {table} SET TABLESPACE {space}"))?;
                }
            }
        }
        self.sql(&format!(
            "TRUNCATE {FLEETING};
             INSERT INTO {FLEETING} SELECT n, md5(random()::text) || md5(random()::text) || md5(random()::text)
             FROM generate_series(1, 100000) n"
        ))
    }

    fn sql(&self, text: &str) -> Result<()> {
        self.server.sql(text).map(drop)
    }
}
