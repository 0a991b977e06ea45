//! pgbench's tables and transactions, by `pgbench` where the machine has one, else by SQL of the same kind.

use anyhow::Result;

use crate::{Postgres, servers};

/// Makes the tables and fills them: 100,000 accounts for each unit of `scale`.
pub fn init(server: &Postgres, scale: u32) -> Result<()> {
    if servers::client_tool("pgbench", 13).is_some() {
        server.client("pgbench", &["-i", "-q", "-s", &scale.to_string(), "postgres"])?;
        return Ok(());
    }
    server.sql(&format!(
        "CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
         CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
         CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
         CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
         INSERT INTO pgbench_branches SELECT n, 0, '' FROM generate_series(1, {scale}) n;
         INSERT INTO pgbench_tellers SELECT n, (n - 1) / 10 + 1, 0, '' FROM generate_series(1, {scale} * 10) n;
         INSERT INTO pgbench_accounts SELECT n, (n - 1) / 100000 + 1, 0, '' FROM generate_series(1, {scale} * 100000) n"
    ))?;
    Ok(())
}

/// Runs so many transactions, each its own commit.
pub fn transactions(server: &Postgres, count: u32) -> Result<()> {
    if servers::client_tool("pgbench", 13).is_some() {
        server.client("pgbench", &["-n", "-c", "2", "-t", &count.div_ceil(2).to_string(), "postgres"])?;
        return Ok(());
    }
    server.sql(&format!(
        "DO $$ BEGIN FOR n IN 1..{count} LOOP
             UPDATE pgbench_accounts SET abalance = abalance + n WHERE aid = 1 + (n * 7919) % 100000;
             INSERT INTO pgbench_history VALUES (1, 1, 1 + (n * 7919) % 100000, n, clock_timestamp(), '');
             COMMIT;
         END LOOP; END $$"
    ))?;
    Ok(())
}
