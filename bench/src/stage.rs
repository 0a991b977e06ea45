//! What the benchmarks run on: a scratch server, a repository on the same disk, a running agent.

use anyhow::{Context, Result};
use harness::{Agent, Installation, Postgres, Repo, World};

/// The version that is measured: the newest that has all of PostgreSQL's own tools on this machine.
const MAJORS: [u32; 3] = [15, 17, 18];

pub(crate) struct Stage {
    // Fields are dropped in this order: the agent before its server, both before their folder.
    pub(crate) agent: Agent,
    pub(crate) server: Postgres,
    pub(crate) world: World,
}

impl Stage {
    /// A server with `walkeep init` done and the agent streaming.
    pub(crate) fn new() -> Result<Stage> {
        let complete = |installation: &Installation| {
            ["pg_basebackup", "pgbench"].iter().all(|tool| installation.tool(tool).is_some())
        };
        let installation = MAJORS.into_iter().filter_map(Installation::find).find(complete);
        let installation =
            installation.context("no PostgreSQL with pg_basebackup and pgbench is installed")?;
        let world = World::new()?;
        let server = Postgres::build(&installation, "primary")
            .conf("max_wal_size", "8GB")
            .conf("shared_buffers", "512MB")
            .start(&world)?;
        let repo = Repo::file(&world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        agent.init()?.ok()?;
        agent.start()?;
        Ok(Stage { agent, server, world })
    }
}
