//! What the benchmarks run on: a scratch server, a repository on the same disk, a running agent.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Agent, Installation, Postgres, Repo, World};

use crate::turns::cpu_of_children;

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

    /// What the figures hold for.
    pub(crate) fn describe(&self) -> String {
        let version = self.server.sql("SHOW server_version").unwrap_or_default();
        format!("PostgreSQL {version}, over its Unix socket; repository on the server's disk")
    }

    /// Processor time of the server's processes that have ended, and of those that they had waited for.
    pub(crate) fn server_cpu(&self) -> Result<Duration> {
        let pid = std::fs::read_to_string(self.server.data().join("postmaster.pid"))?;
        cpu_of_children(pid.lines().next().unwrap_or_default())
    }
}
