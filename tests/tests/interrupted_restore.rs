//! A restore is killed at any point: no server starts on what it leaves, and `--delta` goes on from there.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Agent, Installation, Output, Postgres, Repo, StoreKind, World, workload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Another seed, given in `WALKEEP_SEED`, tells another story; the one that was used is printed.
fn generator() -> StdRng {
    let seed = std::env::var("WALKEEP_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x77a2);
    eprintln!("WALKEEP_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn killed_at_any_point(store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut random = generator();
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
        let mut restore = agent.spawn("restore-cmd", &arguments)?;
        std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * random.random_range(0.0..1.0)));
        restore.kill().context("cannot kill the restore")?;
        restore.wait()?;
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
    eprintln!("{cut_off} of 8 restores were cut off before their end");
    agent.restore(&data, &["--delta"])?.ok()?;
    let restored =
        Postgres::adopt(&installation, &world, "restored.server", &data)?.with_env(repo.environment());
    restored.start()?;
    restored.wait_promoted()?;
    assert_eq!(restored.digest_all()?, end.digest);
    Ok(())
}

/// LESSONS 32
#[test]
fn killed_at_any_point_file() -> Result<()> {
    killed_at_any_point(StoreKind::File)
}

#[test]
fn killed_at_any_point_s3() -> Result<()> {
    killed_at_any_point(StoreKind::S3)
}
