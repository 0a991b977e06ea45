//! The agent is killed at any point; the next run continues, and a backup is whole or not there.

use std::process::Child;
use std::time::Duration;

use anyhow::Result;
use harness::postgres::PATIENCE;
use harness::seeds::generator;
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World, wait_for, workload};
use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};

/// Another one, given in `WALKEEP_SEED`, tells another story.
const SEED: u64 = 0x77a1;

fn killed_while_streaming(store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut random = generator(SEED);
    let world = World::new()?;
    let repo = Repo::of(store, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    workload::init(&server, 1)?;
    agent.backup_full()?;
    for _ in 0..6 {
        workload::transactions(&server, 100)?;
        std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
        agent.kill9()?;
        workload::transactions(&server, 50)?;
        agent.start()?;
    }
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.destroy()?;
    agent.stop()?;

    let gaps = &agent.list()?["gaps"];
    assert_eq!(gaps.as_array().map(Vec::len), Some(0), "{gaps}");
    let restored = world.at("restored");
    agent.restore(&restored, &[])?.ok()?;
    let restored =
        Postgres::adopt(&installation, &world, "restored.server", &restored)?.with_env(repo.environment());
    restored.start()?;
    restored.wait_promoted()?;
    assert_eq!(restored.digest_all()?, end.digest);
    Ok(())
}

fn killed_during_backup(store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut random = generator(SEED);
    let world = World::new()?;
    let repo = Repo::of(store, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    workload::init(&server, 3)?;

    let begun = std::time::Instant::now();
    let first = agent.backup_full()?;
    let whole = begun.elapsed();
    let mut known = vec![first];
    for round in 0..6 {
        let kind = if round % 2 == 0 { "--incremental" } else { "--full" };
        workload::transactions(&server, 20)?;
        let mut backup = agent.spawn("walkeep", &["backup", kind])?;
        std::thread::sleep(whole.mul_f64(random.random_range(0.05..1.0)));
        let _ = backup.kill();
        let finished = backup.wait()?.success();
        let labels = agent.labels()?;
        // It may have been whole without having said so; said so it must be there.
        assert!(labels.starts_with(&known) && labels.len() <= known.len() + 1, "{labels:?} after {known:?}");
        assert!(!finished || labels.len() == known.len() + 1, "a finished backup is not in the list");
        known = labels;
    }
    workload::transactions(&server, 50)?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    // Each backup that the list shows must be good for a restore.
    for (at, label) in known.iter().enumerate() {
        let target = world.at(&format!("restored{at}"));
        agent.restore(&target, &["--backup", label, "--archive", "off"])?.ok()?;
        let restored = Postgres::adopt(&installation, &world, &format!("restored{at}.server"), &target)?
            .with_env(repo.environment());
        restored.start()?;
        restored.wait_promoted()?;
        assert_eq!(restored.digest_all()?, end.digest, "{label}");
        drop(restored);
        std::fs::remove_dir_all(&target)?;
    }
    agent.backup_full()?;
    Ok(())
}

/// Asked to end at any moment, a backup says so in one sentence, whatever it was doing.
fn stopped_during_backup(store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut random = generator(SEED);
    let world = World::new()?;
    let repo = Repo::of(store, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    workload::init(&server, 3)?;
    let begun = std::time::Instant::now();
    agent.backup_full()?;
    let whole = begun.elapsed();
    for _ in 0..6 {
        let mut backup = agent.spawn("walkeep", &["backup", "--full"])?;
        std::thread::sleep(whole.mul_f64(random.random_range(0.1..0.9)));
        kill_process(Pid::from_child(&backup), Signal::TERM)?;
        let status = backup.wait()?;
        // It may have been done already, or not have been listening yet.
        let fine = [Some(0), Some(1), None].contains(&status.code());
        assert!(fine, "it ended with {status}:\n{}", agent.log_text());
    }
    // However those fell, this one is in the middle of it: the server waits for a checkpoint that cannot end.
    let said = |text: &str| text.matches("the backup was stopped by SIGTERM").count();
    let before = said(&agent.log_text());
    let mut backup = begun_and_held(&server, &agent)?;
    kill_process(Pid::from_child(&backup), Signal::TERM)?;
    let status = backup.wait()?;
    kill_process(server.process_of("checkpointer")?, Signal::CONT)?;
    assert_eq!(status.code(), Some(1), "{}", agent.log_text());
    // That nothing has panicked is asserted when the agent is dropped.
    assert_eq!(said(&agent.log_text()), before + 1, "{}", agent.log_text());
    Ok(())
}

/// A backup that cannot go on, since the server's checkpointer is frozen.
fn begun_and_held(server: &Postgres, agent: &Agent) -> Result<Child> {
    // The server goes on for a while with a backup whose client is gone: that one must not be taken for this one.
    wait_for("the server has let go of the backups before", PATIENCE, || {
        Ok((server.sql("SELECT count(*) FROM pg_stat_progress_basebackup")? == "0").then_some(()))
    })?;
    kill_process(server.process_of("checkpointer")?, Signal::STOP)?;
    let backup = agent.spawn("walkeep", &["backup", "--full"])?;
    wait_for("the backup waits for a checkpoint", PATIENCE, || {
        let phase = server.sql("SELECT phase FROM pg_stat_progress_basebackup")?;
        Ok(phase.contains("checkpoint").then_some(()))
    })?;
    Ok(backup)
}

#[test]
fn backup_asked_to_stop_file() -> Result<()> {
    stopped_during_backup(StoreKind::File)
}

#[test]
fn backup_asked_to_stop_s3() -> Result<()> {
    stopped_during_backup(StoreKind::S3)
}

#[test]
fn while_streaming_file() -> Result<()> {
    killed_while_streaming(StoreKind::File)
}

#[test]
fn while_streaming_s3() -> Result<()> {
    killed_while_streaming(StoreKind::S3)
}

#[test]
fn during_backup_file() -> Result<()> {
    killed_during_backup(StoreKind::File)
}

#[test]
fn during_backup_s3() -> Result<()> {
    killed_during_backup(StoreKind::S3)
}
