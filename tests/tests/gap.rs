//! The slot is lost while the agent is away, and WAL with it: noticed, told, shown, and healed by a new backup.

use anyhow::{Context, Result, ensure};
use harness::postgres::PATIENCE;
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World, wait_for, workload};

/// Moves the server so far on that it takes the slot's WAL away.
fn lose_the_slot(server: &Postgres) -> Result<()> {
    for (name, value) in [("max_slot_wal_keep_size", "2MB"), ("wal_keep_size", "0"), ("max_wal_size", "4MB")]
    {
        server.sql(&format!("ALTER SYSTEM SET {name} = '{value}'"))?;
    }
    server.sql("SELECT pg_reload_conf()")?;
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'walkeep'";
    wait_for("the slot is lost", PATIENCE, || {
        workload::transactions(server, 500)?;
        server.sql("SELECT pg_switch_wal()")?;
        server.sql("CHECKPOINT")?;
        Ok((server.sql(status)? == "lost").then_some(()))
    })?;
    // Or a fast machine takes the new slot's WAL away, too, before the agent has stored it.
    server.sql("ALTER SYSTEM RESET max_slot_wal_keep_size")?;
    server.sql("SELECT pg_reload_conf()").map(|_| ())
}

fn gap(major: u32, store: StoreKind, backup_after_gap: bool) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(store, &world)?;
    let server = Postgres::build(&installation, "data")
        .segment_mib(1)
        .env(repo.environment())
        .conf("archive_mode", "off")
        .start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "backup_after_gap", if backup_after_gap { "true" } else { "false" })?;
    agent.init()?;
    agent.start()?;
    workload::init(&server, 1)?;
    let first = agent.backup_full()?;
    agent.wait_durable(&server.lsn()?)?;
    agent.kill9()?;
    lose_the_slot(&server)?;

    agent.start()?;
    for words in ["had been invalidated", "made anew", "neither in the repository nor on the server any more"]
    {
        // The server is asked for what the slot did not keep, before a gap is called one.
        wait_for(&format!("{words:?} is told"), PATIENCE, || {
            Ok(agent.log_text().contains(words).then_some(()))
        })
        .with_context(|| agent.log_text())?;
    }
    agent.wait_status("the agent streams", |status| status["stream"]["state"] == "streaming")?;
    ensure!(
        server.sql("SELECT wal_status FROM pg_replication_slots")? == "reserved",
        "the slot keeps nothing"
    );
    workload::transactions(&server, 50)?;
    agent.wait_durable(&server.lsn()?)?;
    let gaps = agent.list()?["gaps"].clone();
    ensure!(gaps.as_array().is_some_and(|gaps| gaps.len() == 1), "one gap is shown: {gaps}");

    if backup_after_gap {
        agent.wait_status("the agent takes a backup by itself", |status| {
            status["last_backup"]["label"].as_str().is_some_and(|label| label != first)
        })?;
    } else {
        ensure!(agent.labels()? == [first.clone()], "a backup that nobody asked for");
        agent.backup_full()?;
    }
    workload::transactions(&server, 50)?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.destroy()?;
    agent.kill9()?;
    let windows = agent.list()?["windows"].clone();
    ensure!(windows.as_array().is_some_and(|windows| windows.len() == 2), "one on each side: {windows}");
    let data = world.at("restored");
    let restored = agent.restore(&data, &["--archive", "off"])?.ok();
    restored.with_context(|| format!("{:#}", agent.list().unwrap_or_default()))?;
    let restored =
        Postgres::adopt(&installation, &world, "restored.server", &data)?.with_env(repo.environment());
    restored.start()?;
    restored.wait_promoted()?;
    ensure!(restored.digest_all()? == end.digest, "what came back is not what was there");
    Ok(())
}

#[test]
fn told_and_healed_by_hand_pg13() -> Result<()> {
    gap(13, StoreKind::File, false).context("PostgreSQL 13")
}

#[test]
fn healed_by_the_agent_pg18() -> Result<()> {
    gap(18, StoreKind::S3, true).context("PostgreSQL 18")
}
