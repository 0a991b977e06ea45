//! Backup and expiry are killed at any point, the writing anew of packs included: nothing that was kept is lost, and what
//! they leave goes at the next sweep.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Postgres, Repo, Restless, World, seeds, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

const HOUR: Duration = Duration::from_secs(3600);

/// Kills in a story of the ordinary tests. The long ones have ten stories of ten.
const FEW: usize = 6;
const MANY: usize = 10;

struct Story {
    installation: Installation,
    world: World,
    repo: Repo,
    agent: Agent,
    restless: Restless,
    random: StdRng,
    /// What each backup must give back.
    taken: BTreeMap<String, String>,
    /// How long each takes that is not killed.
    backup: Duration,
    expire: Duration,
}

impl Story {
    fn new(installation: Installation, seed: u64) -> Result<Story> {
        let world = World::new()?;
        let repo = Repo::s3(&world)?;
        let space = world.folder("space")?;
        let builder = Postgres::build(&installation, "data").conf("autovacuum", "off");
        let server = builder.env(repo.environment()).start(&world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        agent.set("retention", "window", "\"2d\"")?;
        agent.set("retention", "grace", "\"1d\"")?;
        agent.init()?;
        agent.start()?;
        let restless = Restless::new(server, &space, seed)?;
        let (random, taken) = (StdRng::seed_from_u64(seed), BTreeMap::new());
        let (backup, expire) = Default::default();
        let mut story = Story { installation, world, repo, agent, restless, random, taken, backup, expire };
        for _ in 0..3 {
            story.change_and_back_up()?;
        }
        story.expire = story.expire()?.1;
        Ok(story)
    }

    fn change_and_back_up(&mut self) -> Result<()> {
        self.restless.change()?;
        let content = self.restless.server.digest_all()?;
        let begun = Instant::now();
        self.agent.walkeep(&["backup"])?.ok()?;
        self.backup = begun.elapsed();
        self.note(&content)?;
        self.pass();
        Ok(())
    }

    /// The newest backup that is listed gives back that, unless it is known already.
    fn note(&mut self, content: &str) -> Result<()> {
        let newest = self.agent.labels()?.pop().context("no backup")?;
        self.taken.entry(newest).or_insert_with(|| content.to_owned());
        Ok(())
    }

    fn pass(&mut self) {
        let hours = self.random.random_range(8..26);
        self.repo.s3_server().pass(HOUR * hours);
    }

    fn expire(&self) -> Result<(Value, Duration)> {
        let begun = Instant::now();
        let done: Value = self.agent.walkeep(&["expire", "--json"])?.ok()?.json()?;
        Ok((done["branches"][0].clone(), begun.elapsed()))
    }

    /// Starts one of the two, and kills it after any part of the time that it takes.
    fn kill_one(&mut self) -> Result<()> {
        let kept: Vec<String> = self.agent.labels()?;
        self.restless.change()?;
        let content = self.restless.server.digest_all()?;
        let (arguments, whole, reach) = match self.random.random_range(0..5) {
            0 => (&["backup", "--full"][..], self.backup, 1.1),
            1 => (&["backup"][..], self.backup, 1.1),
            _ => {
                // So that there is something to write anew.
                self.agent.walkeep(&["backup"])?.ok()?;
                self.note(&content)?;
                // It takes longer where packs are written anew than when it was measured.
                (&["expire"][..], self.expire, 5.0)
            }
        };
        let part = self.random.random_range(0.0..reach);
        let mut process = self.agent.spawn("walkeep", arguments)?;
        std::thread::sleep(whole.mul_f64(part));
        let _ = process.kill();
        let finished = process.wait()?.success();
        eprintln!("{arguments:?}, {part:.2} of {whole:?}, finished: {finished}");
        let listed = self.agent.labels()?;
        if arguments[0] == "backup" {
            // It may have been whole without having said so.
            ensure!(listed.starts_with(&kept) && listed.len() <= kept.len() + 1, "{listed:?} after {kept:?}");
            ensure!(!finished || listed.len() > kept.len(), "a finished backup is not in the list");
            self.note(&content)?;
        } else {
            let newest = self.taken.keys().next_back();
            ensure!(listed.last() == newest && !listed.is_empty(), "{listed:?} has not the newest");
        }
        self.check(&[])?;
        self.pass();
        Ok(())
    }

    /// All that is listed is whole.
    fn check(&self, how: &[&str]) -> Result<()> {
        let findings: Value = self.agent.walkeep(&[&["verify", "--json"], how].concat())?.json()?;
        ensure!(findings["ok"] == true, "{findings:#}");
        Ok(())
    }

    /// Nobody is killed any more. In the end nothing is left to be deleted, and nothing is there that nobody knows.
    fn settle(&mut self) -> Result<()> {
        wait_for("nothing is left to go", Duration::from_secs(120), || {
            self.repo.s3_server().pass(HOUR * 25);
            let (done, _) = self.expire()?;
            // WAL waits for the manifests that need it, which go later where a pack was written anew.
            let held = done["held_back"].as_array().context("`held_back` is no list")?;
            ensure!(
                held.iter().all(|why| why == "no WAL goes before the manifests that need it"),
                "{done:#}"
            );
            let going = done["removals"].as_array().context("`removals` is no list")?.len();
            let rewritten = done["rewritten"]["packs"].as_array().context("`packs` is no list")?.len();
            Ok((going == 0 && rewritten == 0 && held.is_empty()).then_some(()))
        })?;
        self.check(&["--deep"])?;
        let listed = self.agent.labels()?;
        for object in self.repo.objects()? {
            let of = object.key.split_once("/backup/").and_then(|(_, rest)| rest.split_once('/'));
            let known = of.is_none_or(|(label, _)| listed.iter().any(|listed| listed == label));
            ensure!(known, "{} is left of a backup that is none", object.key);
        }
        Ok(())
    }

    fn restore(&self, label: &str) -> Result<()> {
        let target = self.world.at(&format!("restored-{label}"));
        let space = self.world.at(&format!("space-{label}"));
        let moved = format!("{}={}", self.world.at("space").display(), space.display());
        let arguments = ["--backup", label, "--target-immediate", "--target-action", "promote"];
        self.agent
            .restore(&target, &[&arguments[..], &["--archive", "off", "--tablespace", &moved]].concat())?
            .ok()?;
        let name = format!("{label}.server");
        let restored = Postgres::adopt(&self.installation, &self.world, &name, &target)?;
        let restored = restored.with_env(self.repo.environment());
        restored.start()?;
        restored.wait_promoted()?;
        ensure!(restored.digest_all()? == self.taken[label], "{label} has not come back as it was");
        restored.destroy()
    }
}

fn killed(major: u32, kills: usize, seed: u64) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    eprintln!("{kills} kills on {major}, seed {seed}");
    let mut story = Story::new(installation, seed)?;
    for _ in 0..kills {
        story.kill_one()?;
    }
    let oldest = story.agent.labels()?.into_iter().next().context("no backup")?;
    story.restore(&oldest)?;
    story.settle()?;
    let newest = story.agent.labels()?.pop().context("no backup")?;
    story.restore(&newest)
}

#[test]
fn pg15() -> Result<()> {
    killed(15, FEW, 15)
}

#[test]
#[ignore = "takes half an hour: cargo xtask test --soak kill_upkeep"]
fn soak() -> Result<()> {
    seeds::each(10, |seed| killed([13, 15, 17, 18][(seed % 4) as usize], MANY, seed))
}
