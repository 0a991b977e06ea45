//! What the benchmarks run on: a scratch server, a repository on the same disk, a running agent.

use anyhow::{Context, Result};
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World};

use crate::turns::{Run, cpu_of_children};

/// The version that is measured: the newest that has all of PostgreSQL's own tools on this machine.
const MAJORS: [u32; 3] = [15, 17, 18];

pub(crate) struct Stage {
    // Fields are dropped in this order: the agent before its server, both before their folder.
    pub(crate) agent: Agent,
    pub(crate) server: Postgres,
    pub(crate) repo: Repo,
    pub(crate) world: World,
}

/// How a stage differs from the usual one.
pub(crate) struct Scene {
    pub(crate) store: StoreKind,
    /// Where one version is meant; otherwise it is the first of those that are complete.
    pub(crate) major: Option<u32>,
    pub(crate) segment_mib: u32,
    /// Of `postgresql.conf`.
    pub(crate) conf: &'static [(&'static str, &'static str)],
    /// Section, key and value of the agent's configuration.
    pub(crate) settings: &'static [(&'static str, &'static str, &'static str)],
}

impl Default for Scene {
    fn default() -> Scene {
        Scene { store: StoreKind::File, major: None, segment_mib: 16, conf: &[], settings: &[] }
    }
}

impl Stage {
    /// A server with `walkeep init` done and the agent streaming.
    pub(crate) fn new() -> Result<Stage> {
        let mut stage = Stage::set(&Scene::default())?;
        stage.agent.start()?;
        Ok(stage)
    }

    /// A server with `walkeep init` done. No agent runs.
    pub(crate) fn set(scene: &Scene) -> Result<Stage> {
        let complete = |installation: &Installation| {
            ["pg_basebackup", "pgbench"].iter().all(|tool| installation.tool(tool).is_some())
        };
        let wanted = |major: &u32| scene.major.is_none_or(|wanted| wanted == *major);
        let installation = MAJORS.into_iter().filter(wanted).filter_map(Installation::find).find(complete);
        let installation =
            installation.context("no PostgreSQL with pg_basebackup and pgbench is installed")?;
        let world = World::new()?;
        let mut server = Postgres::build(&installation, "primary")
            .conf("max_wal_size", "8GB")
            .conf("shared_buffers", "512MB")
            .segment_mib(scene.segment_mib);
        for (name, value) in scene.conf {
            server = server.conf(name, value);
        }
        let server = server.start(&world)?;
        let repo = Repo::of(scene.store, &world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        for (section, key, value) in scene.settings {
            agent.set(section, key, value)?;
        }
        agent.init()?.ok()?;
        Ok(Stage { agent, server, repo, world })
    }

    /// Waits until the standby of this name has told the server that it has flushed all up to `lsn`.
    pub(crate) fn wait_flushed(&self, standby: &str, lsn: &str) -> Result<()> {
        // The server asks itself: every two milliseconds, without a process or a connection for each.
        self.server.sql(&format!(
            "SET statement_timeout = '300s';
             DO $$ BEGIN LOOP
                 PERFORM pg_stat_clear_snapshot();
                 EXIT WHEN EXISTS (SELECT FROM pg_stat_replication
                                   WHERE application_name = '{standby}' AND flush_lsn >= '{lsn}');
                 PERFORM pg_sleep(0.002);
             END LOOP; END $$"
        ))?;
        Ok(())
    }

    /// Ends the segment and waits until the standby of this name has flushed it.
    pub(crate) fn catch_up(&self, standby: &str) -> Result<()> {
        self.server.sql("SELECT pg_create_restore_point('end')")?;
        let end = self.server.sql("SELECT pg_switch_wal()")?;
        self.wait_flushed(standby, &end)
    }

    /// What the figures hold for.
    pub(crate) fn describe(&self) -> String {
        let version = self.server.sql("SHOW server_version").unwrap_or_default();
        format!("PostgreSQL {version}, over its Unix socket; repository on the server's disk")
    }

    /// Adds to a run what the server's processes took that have ended with it.
    pub(crate) fn with_server_cpu(&self, run: impl FnOnce() -> Result<Run>) -> Result<Run> {
        let pid = std::fs::read_to_string(self.server.data().join("postmaster.pid"))?;
        let pid = pid.lines().next().unwrap_or_default();
        let before = cpu_of_children(pid)?;
        let run = run()?;
        Ok(Run { cpu: run.cpu + cpu_of_children(pid)?.saturating_sub(before), ..run })
    }
}
