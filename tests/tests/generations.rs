//! Generations of random change, an incremental backup of either kind after each, while retention lets the oldest go and
//! writes packs anew: the repository is sound after each, and every backup that is left comes back as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::postgres::pg_verifybackup;
use harness::{Agent, Installation, Output, Postgres, Repo, Restless, World, seeds};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// Generations in a round of the ordinary tests, and in one of the long ones.
const FEW: usize = 4;
const MANY: usize = 20;

const HOUR: Duration = Duration::from_secs(3600);

/// The first version with incremental backups of its own.
const NATIVE: u32 = 17;

/// Where a round plays: the store's clock can be set forward, so that retention has something to do.
struct Stage {
    installation: Installation,
    world: World,
    repo: Repo,
    space: PathBuf,
    random: StdRng,
    /// What each backup must give back.
    taken: BTreeMap<String, String>,
    /// Packs that were written anew, and backups that have gone.
    rewritten: usize,
    gone: usize,
}

impl Stage {
    fn new(installation: Installation, seed: u64) -> Result<Stage> {
        let world = World::new()?;
        let repo = Repo::s3(&world)?;
        let space = world.folder("space")?;
        let random = StdRng::seed_from_u64(seed);
        let taken = BTreeMap::new();
        Ok(Stage { installation, world, repo, space, random, taken, rewritten: 0, gone: 0 })
    }

    fn server(&self) -> Result<Postgres> {
        let builder = Postgres::build(&self.installation, "data").conf("autovacuum", "off");
        let builder = match self.installation.major {
            NATIVE.. => builder.conf("summarize_wal", "on"),
            _ => builder,
        };
        builder.env(self.repo.environment()).start(&self.world)
    }

    fn agent(&self, server: &Postgres) -> Result<Agent> {
        let mut agent = Agent::configure(&self.world, server, &self.repo)?;
        agent.set("retention", "window", "\"2d\"")?;
        agent.set("retention", "grace", "\"1d\"")?;
        agent.init()?;
        agent.start()?;
        Ok(agent)
    }

    /// Takes a backup, and notes what it must give back; what it has told.
    fn backup(&mut self, agent: &Agent, server: &Postgres, arguments: &[&str], kind: &str) -> Result<String> {
        let content = server.digest_all()?;
        let done = agent.walkeep(&[&["-v", "backup", "--json"], arguments].concat())?.ok()?;
        let shown = done.json()?;
        ensure!(shown["kind"] == kind, "{shown} is not {kind}: {}", done.stderr);
        ensure!(!done.stderr.contains("WARN"), "there was something to warn of: {}", done.stderr);
        let label = shown["label"].as_str().context("a backup without label")?;
        self.taken.insert(label.to_owned(), content);
        Ok(done.stderr)
    }

    /// An incremental one, of a kind that the version can do; which, the seed says.
    fn incremental(&mut self, agent: &Agent, server: &Postgres) -> Result<()> {
        let by = match self.installation.major >= NATIVE && self.random.random() {
            true => "server",
            false => "content",
        };
        let log = self.backup(agent, server, &["--incremental", "--by", by], "incremental")?;
        ensure!(log.contains(&format!("by=\"{by}\"")), "not by {by}: {log}");
        Ok(())
    }

    /// Some time later: what retention does not keep goes, and every byte of the rest is what was written.
    fn later(&mut self, agent: &Agent) -> Result<()> {
        let hours = self.random.random_range(14..30);
        self.repo.s3_server().pass(HOUR * hours);
        let done: Value = agent.walkeep(&["expire", "--json"])?.ok()?.json()?;
        let branch = &done["branches"][0];
        // The newest manifest of a backup that goes may be younger than the others, by a pack written anew: WAL waits for it.
        let held = branch["held_back"].as_array().context("`held_back` is no list")?;
        ensure!(held.iter().all(|why| why == "no WAL goes before the manifests that need it"), "{done:#}");
        let packs = branch["rewritten"]["packs"].as_array().context("`packs` is no list")?;
        self.rewritten += packs.len();
        let findings: Value = agent.walkeep(&["verify", "--deep", "--json"])?.ok()?.json()?;
        ensure!(findings["ok"] == true, "{findings:#}");
        let listed = agent.labels()?;
        let newest = self.taken.keys().next_back().context("no backup")?;
        ensure!(listed.last() == Some(newest), "{listed:?} lacks the newest, {newest}");
        let before = self.taken.len();
        self.taken.retain(|label, _| listed.contains(label));
        self.gone += before - self.taken.len();
        ensure!(listed.len() == self.taken.len(), "{listed:?} are not those that were taken");
        Ok(())
    }

    /// Restores every backup that is left, as it was at its end.
    fn restore_all(&self, agent: &Agent) -> Result<()> {
        for (label, content) in &self.taken {
            let target = self.world.at(&format!("restored-{label}"));
            let space = self.world.at(&format!("space-{label}"));
            let moved = format!("{}={}", self.space.display(), space.display());
            let immediate = ["--target-immediate", "--target-action", "promote", "--archive", "off"];
            agent
                .restore(&target, &[&["--backup", label, "--tablespace", &moved], &immediate[..]].concat())?
                .ok()?;
            pg_verifybackup(&self.installation, &target)?;
            let restored = self.adopt(label, &target)?;
            ensure!(restored.digest_all()? == *content, "{label} has not come back as it was");
            restored.destroy()?;
            std::fs::remove_dir_all(space)?;
        }
        Ok(())
    }

    fn adopt(&self, name: &str, data: &Path) -> Result<Postgres> {
        let name = format!("{name}.server");
        let restored = Postgres::adopt(&self.installation, &self.world, &name, data)?;
        let restored = restored.with_env(self.repo.environment());
        restored.start()?;
        restored.wait_promoted()?;
        Ok(restored)
    }
}

fn generations(major: u32, count: usize, seed: u64) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    eprintln!("{count} generations on {major}, seed {seed}");
    let mut stage = Stage::new(installation, seed)?;
    let server = stage.server()?;
    let agent = stage.agent(&server)?;
    let mut restless = Restless::new(server, &stage.space, seed)?;
    stage.backup(&agent, &restless.server, &[], "full")?;
    for generation in 0..count {
        restless.change()?;
        // Once in between another full backup begins a family of its own.
        if generation == 10 {
            stage.backup(&agent, &restless.server, &["--full"], "full")?;
        } else {
            stage.incremental(&agent, &restless.server)?;
        }
        stage.later(&agent)?;
    }
    eprintln!("{} packs were written anew, {} backups have gone", stage.rewritten, stage.gone);
    ensure!(stage.gone > 0 && stage.rewritten > 0, "nothing was shown: {} gone", stage.gone);
    stage.restore_all(&agent)
}

macro_rules! generations {
    ($($name:ident: $major:literal, $seed:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            generations($major, FEW, $seed)
        })*
    };
}

generations! {
    pg13: 13, 13;
    pg15: 15, 15;
    pg17: 17, 17;
    pg18: 18, 18;
}

#[test]
#[ignore = "takes half an hour: cargo xtask test --soak generations"]
fn soak() -> Result<()> {
    seeds::each(4, |seed| {
        let major = [13, 15, 17, 18][(seed % 4) as usize];
        generations(major, MANY, seed)
    })
}

/// The server's own backups, each incremental to the one before.
struct Chain<'a> {
    stage: &'a Stage,
    taken: Vec<PathBuf>,
}

impl Chain<'_> {
    fn run(&self, tool: &str, shape: impl FnOnce(&mut Command)) -> Result<()> {
        let path = self.stage.installation.tool(tool).with_context(|| format!("no {tool}"))?;
        let mut command = self.stage.world.account().command(path);
        shape(&mut command);
        Output::of(&mut command)?.ok().map(drop)
    }

    fn backup(&mut self, server: &Postgres) -> Result<()> {
        let target = self.stage.world.at(&format!("own-{}", self.taken.len()));
        let space = format!("{}={}", self.stage.space.display(), space_of(&target).display());
        self.run("pg_basebackup", |command| {
            command.args(["-U", "postgres", "-c", "fast", "-p", &server.port().to_string(), "-T", &space]);
            command.arg("-h").arg(server.socket_folder()).arg("-D").arg(&target);
            if let Some(last) = self.taken.last() {
                command.arg("--incremental").arg(last.join("backup_manifest"));
            }
        })?;
        self.taken.push(target);
        Ok(())
    }

    /// All of them put together by PostgreSQL's own program.
    fn combined(&self) -> Result<PathBuf> {
        let last = self.taken.last().context("no backup")?;
        let target = self.stage.world.at("combined");
        let space = format!("{}={}", space_of(last).display(), space_of(&target).display());
        self.run("pg_combinebackup", |command| {
            command.args(&self.taken).arg("-T").arg(&space).arg("-o").arg(&target);
        })?;
        Ok(target)
    }
}

fn space_of(data: &Path) -> PathBuf {
    data.with_extension("space")
}

/// What PostgreSQL makes of its own incremental backups is the same as what comes back from ours; where it is not, that is
/// where PostgreSQL is known to be wrong (see `truncated_and_extended_pg18`).
fn beside_postgresql(major: u32, count: usize, seed: u64) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let mut stage = Stage::new(installation, seed)?;
    let server = stage.server()?;
    let agent = stage.agent(&server)?;
    let mut restless = Restless::new(server, &stage.space, seed)?;
    stage.backup(&agent, &restless.server, &[], "full")?;
    let mut own = Vec::new();
    for generation in 0..=count {
        if generation > 0 {
            restless.change()?;
            stage.incremental(&agent, &restless.server)?;
        }
        let mut chain = Chain { stage: &stage, taken: own };
        chain.backup(&restless.server)?;
        own = chain.taken;
    }
    let content = restless.server.digest_all()?;
    let combined = Chain { stage: &stage, taken: own }.combined()?;
    let combined = stage.adopt("combined", &combined)?;
    if combined.digest_all()? != content {
        ensure!(restless.has_shortened(), "PostgreSQL has put its backups together to something else");
        eprintln!("seed {seed}: PostgreSQL's own combination is not what its server held");
    }
    combined.destroy()?;
    stage.taken.retain(|_, taken| *taken == content);
    stage.restore_all(&agent)
}

#[test]
fn beside_postgresql_pg18() -> Result<()> {
    beside_postgresql(18, 2, 1)
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak generations"]
fn soak_beside_postgresql() -> Result<()> {
    seeds::each(6, |seed| beside_postgresql(17 + (seed % 2) as u32, 5, seed))
}
