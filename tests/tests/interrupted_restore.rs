//! A restore is killed at any point: no server starts on what it leaves, and `--delta` goes on from there.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::postgres::PATIENCE;
use harness::seeds::generator;
use harness::{Agent, Installation, Output, Postgres, Repo, StoreKind, World, wait_for, workload};
use rand::Rng;
use rustix::fs::{CWD, Mode, mkfifoat};

/// Another one, given in `WALKEEP_SEED`, tells another story.
const SEED: u64 = 0x77a2;

/// What stands in a directory that a restore has not finished.
const MARK: &str = "walkeep-restore-unfinished";

/// Packs that cannot be read, and who reads them waits. They can be again when it is dropped.
struct Held<'a> {
    repo: &'a Repo,
    /// Packs of a folder, set aside: in the place of each is a pipe into which nobody writes.
    aside: Vec<(PathBuf, PathBuf)>,
}

impl Held<'_> {
    fn packs(repo: &Repo) -> Result<Held<'_>> {
        let mut held = Held { repo, aside: Vec::new() };
        if repo.url().starts_with("s3:") {
            repo.s3_server().faults().hold_gets(Some("/pack/"));
            return Ok(held);
        }
        for object in repo.objects()?.into_iter().filter(|object| object.key.contains("/pack/")) {
            let (pack, aside) = (object.path.clone(), object.path.with_extension("aside"));
            fs::rename(&pack, &aside)?;
            mkfifoat(CWD, &pack, Mode::from_raw_mode(0o666))?;
            held.aside.push((aside, pack));
        }
        assert!(!held.aside.is_empty(), "a backup has packs");
        Ok(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.repo.url().starts_with("s3:") {
            self.repo.s3_server().faults().hold_gets(None);
        }
        for (aside, pack) in &self.aside {
            fs::rename(aside, pack).expect("what was set aside comes back");
        }
    }
}

fn killed_at_any_point(store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut random = generator(SEED);
    let world = World::new()?;
    let repo = Repo::of(store, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    workload::init(&server, 5)?;
    agent.backup_full()?;
    workload::transactions(&server, 50)?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.destroy()?;
    agent.stop()?;

    let data = world.at("restored");
    let pgdata = data.display().to_string();
    // How long one takes, so that the kills are spread over all of it.
    let took = agent.restore(&data, &[])?.ok()?.took;
    std::fs::remove_dir_all(&data)?;
    let mut cut_off = 0;
    for round in 0..8 {
        let delta = if round == 0 { None } else { Some("--delta") };
        let arguments: Vec<&str> = ["restore", "--pgdata", &pgdata].into_iter().chain(delta).collect();
        // The first one is in the middle of it for sure: its packs cannot be read.
        let held = if round == 0 { Some(Held::packs(&repo)?) } else { None };
        let mut restore = agent.spawn("restore-cmd", &arguments)?;
        match held {
            Some(_) => {
                wait_for("the restore has begun", PATIENCE, || Ok(data.join(MARK).exists().then_some(())))?
            }
            None => std::thread::sleep(took.mul_f64(random.random_range(0.0..1.0))),
        }
        restore.kill().context("cannot kill the restore")?;
        restore.wait()?;
        drop(held);
        let finished = data.join("global/pg_control").exists();
        if finished || !data.exists() {
            continue;
        }
        cut_off += 1;
        let mut start = world.account().command(installation.bin.join("postgres"));
        let started = Output::of(start.arg("-D").arg(&data).args(["-c", "listen_addresses="]))?;
        assert_ne!(started.code, Some(0), "a server ran on half a restore: {}", started.stderr);
        assert!(!data.join("postmaster.pid").exists(), "{}", started.stderr);
    }
    assert!(cut_off > 0, "no restore was cut off before its end");
    agent.restore(&data, &["--delta"])?.ok()?;
    let restored =
        Postgres::adopt(&installation, &world, "restored.server", &data)?.with_env(repo.environment());
    restored.start()?;
    restored.wait_promoted()?;
    assert_eq!(restored.digest_all()?, end.digest);
    Ok(())
}

#[test]
fn killed_at_any_point_file() -> Result<()> {
    killed_at_any_point(StoreKind::File)
}

#[test]
fn killed_at_any_point_s3() -> Result<()> {
    killed_at_any_point(StoreKind::S3)
}
