//! Two agents for one server: one streams, the other waits for the slot. The one that streams is frozen, and wakes up
//! when the other has long taken over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World, wait_for, workload};

/// The sessions ask the server for a `wal_sender_timeout` of 20 s. A dead agent's slot is free at once, a frozen one's
/// after that; then the other one needs a moment, and the machine may be busy.
const FROZEN: Duration = Duration::from_secs(90);

struct Scene {
    server: Postgres,
    first: Agent,
    second: Agent,
    world: World,
    repo: Repo,
}

fn scene(installation: &Installation, synchronous: bool) -> Result<Scene> {
    let world = World::new()?;
    let repo = Repo::of(StoreKind::File, &world)?;
    let server = Postgres::build(installation, "data").segment_mib(1).start(&world)?;
    let mut first = Agent::named(&world, "first", &server.conninfo(), &repo)?;
    let mut second = Agent::named(&world, "second", &server.conninfo(), &repo)?;
    for agent in [&mut first, &mut second] {
        agent.set("stream", "synchronous", if synchronous { "true" } else { "false" })?;
    }
    first.init()?;
    first.start()?;
    workload::init(&server, 1)?;
    first.backup_full()?;
    second.launch()?;
    second.wait_status("the second agent waits", |status| status["stream"]["state"] == "waiting")?;
    Ok(Scene { server, first, second, world, repo })
}

/// Segments that the repository has with more than one content.
fn twice(repo: &Repo) -> Result<Vec<String>> {
    let mut contents: BTreeMap<String, u32> = BTreeMap::new();
    for object in repo.objects()? {
        let name = object.key.rsplit('/').next().unwrap_or_default();
        if let Some((segment, _)) = name.split_once('-').filter(|(segment, _)| segment.len() == 24) {
            *contents.entry(segment.to_owned()).or_default() += 1;
        }
    }
    Ok(contents.into_iter().filter(|(_, count)| *count > 1).map(|(segment, _)| segment).collect())
}

impl Scene {
    fn takes_over(&mut self, what: &str, lsn: &str) -> Result<Duration> {
        let begun = Instant::now();
        wait_for(what, FROZEN, || {
            let status = self.second.status()?;
            Ok((status["stream"]["state"] == "streaming").then_some(()))
        })
        .with_context(|| self.second.log_text())?;
        let took = begun.elapsed();
        self.second.wait_durable(lsn)?;
        Ok(took)
    }

    /// Everything is lost; what comes back is what was there.
    fn restores(mut self) -> Result<()> {
        let end = self.server.mark()?;
        self.second.wait_durable(&end.lsn)?;
        self.server.destroy()?;
        let twice = twice(&self.repo)?;
        ensure!(twice.is_empty(), "segments with two contents: {twice:?}");
        let list = self.second.list()?;
        ensure!(list["gaps"].as_array().is_some_and(Vec::is_empty), "{list}");
        let data = self.world.at("restored");
        self.second.restore(&data, &[])?.ok()?;
        let installation = Installation::any_or_skip().context("the installation is gone")?;
        let restored = Postgres::adopt(&installation, &self.world, "restored.server", &data)?
            .with_env(self.repo.environment())
            .with_setting("archive_mode", "off");
        restored.start()?;
        restored.wait_promoted()?;
        ensure!(restored.digest_all()? == end.digest, "another content came back");
        Ok(())
    }
}

#[test]
fn a_frozen_agent_wakes_up_and_does_no_harm() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut scene = scene(&installation, true)?;
    workload::transactions(&scene.server, 50)?;
    scene.first.freeze()?;
    workload::transactions(&scene.server, 200)?;
    let lsn = scene.server.lsn()?;
    let took = scene.takes_over("the second agent takes over from a frozen one", &lsn)?;
    println!("took over from a frozen agent in {took:.1?}");
    // The server has gone on with the other one for several segments when the first one wakes up.
    for _ in 0..3 {
        workload::transactions(&scene.server, 100)?;
        scene.server.switch_wal()?;
    }
    scene.first.thaw()?;
    workload::transactions(&scene.server, 100)?;
    scene.first.wait_status("the first agent waits now", |status| status["stream"]["state"] == "waiting")?;
    scene.restores()
}

#[test]
fn a_dead_agent_is_followed_by_the_other() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut scene = scene(&installation, false)?;
    workload::transactions(&scene.server, 50)?;
    scene.first.kill9()?;
    workload::transactions(&scene.server, 50)?;
    let lsn = scene.server.lsn()?;
    let took = scene.takes_over("the second agent takes over from a dead one", &lsn)?;
    println!("took over from a dead agent in {took:.1?}");
    scene.restores()
}
