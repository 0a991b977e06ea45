//! The targets that a restore can be given, and what the server does when it has reached one: by transaction, by name, and
//! `--target-action`.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Agent, Installation, Postgres, Repo, World, wait_for};

const PATIENCE: Duration = Duration::from_secs(90);

/// Rows 1, 2 and 3, each of a transaction of its own; behind the second one is a restore point.
struct Scene {
    agent: Agent,
    server: Postgres,
    second: String,
    world: World,
    _repo: Repo,
}

impl Scene {
    fn make(installation: &Installation) -> Result<Scene> {
        let world = World::new()?;
        let repo = Repo::file(&world)?;
        let server = Postgres::build(installation, "data").start(&world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        agent.init()?;
        agent.start()?;
        server.sql("CREATE TABLE told (n int)")?;
        agent.backup_full()?;
        let mut transactions = Vec::new();
        for n in 1..=3 {
            let told = format!("INSERT INTO told VALUES ({n}) RETURNING txid_current()");
            transactions.push(server.sql(&told)?.lines().next().unwrap_or_default().to_owned());
            if n == 2 {
                server.sql("SELECT pg_create_restore_point('before the third')")?;
            }
        }
        let end = server.lsn()?;
        agent.wait_durable(&end)?;
        Ok(Scene { agent, server, second: transactions[1].clone(), world, _repo: repo })
    }

    /// Restores, and launches a server on it, which nobody waits for yet.
    fn restored(&self, name: &str, target: &[&str]) -> Result<Postgres> {
        let data = self.world.at(name);
        self.agent.restore(&data, &[target, &["--archive", "off"]].concat())?.ok()?;
        let copy = format!("{name}.server");
        let restored = Postgres::adopt(self.server.installation(), &self.world, &copy, &data)?;
        restored.launch()?;
        Ok(restored)
    }

    /// What is told in a server that has opened.
    fn told(&self, name: &str, target: &[&str]) -> Result<String> {
        let restored = self.restored(name, target)?;
        wait_for("the server answers", PATIENCE, || Ok(restored.sql("SELECT 1").ok()))?;
        restored.wait_promoted()?;
        restored.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM told")
    }
}

#[test]
fn by_transaction_and_by_name() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let scene = Scene::make(&installation)?;
    assert_eq!(scene.told("with", &["--target-xid", &scene.second])?, "1 2");
    assert_eq!(scene.told("without", &["--target-xid", &scene.second, "--target-exclusive"])?, "1");
    assert_eq!(scene.told("named", &["--target-name", "before the third"])?, "1 2");
    Ok(())
}

#[test]
fn the_server_pauses_or_shuts_down_there() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let scene = Scene::make(&installation)?;
    let there = ["--target-name", "before the third", "--target-action"];

    let paused = scene.restored("paused", &[&there[..], &["pause"]].concat())?;
    wait_for("recovery pauses", PATIENCE, || {
        let state = paused.sql("SELECT pg_is_in_recovery() AND pg_is_wal_replay_paused()");
        Ok(state.ok().filter(|state| state == "t"))
    })?;
    assert_eq!(paused.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM told")?, "1 2");
    paused.sql("SELECT pg_wal_replay_resume()")?;
    paused.wait_promoted()?;

    let ended = scene.restored("ended", &[&there[..], &["shutdown"]].concat())?;
    wait_for("the server has shut down", PATIENCE, || {
        Ok(ended.log_text().contains("database system is shut down").then_some(()))
    })?;
    ensure!(ended.sql("SELECT 1").is_err(), "it answers");
    assert!(ended.log_text().contains("shutdown at recovery target"), "{}", ended.log_text());
    Ok(())
}
