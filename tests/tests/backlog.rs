//! After an outage many segments wait: they are stored ahead of the archiver, side by side, and it finds them done.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Postgres, Repo, World, objects, wait_for, workload};

/// 60 segments at a second each would fit in, so that nothing here is a question of speed.
const PATIENCE: Duration = Duration::from_secs(240);

/// What waits in `pg_wal/archive_status`.
fn waiting(server: &Postgres) -> Result<usize> {
    let status = server.data().join("pg_wal/archive_status");
    let names = std::fs::read_dir(status)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.ends_with(".ready")).count())
}

/// The segments that the agent stored.
fn stored(log: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains(" archived "));
    lines.filter_map(|line| Some(line.split_once("segment=")?.1.get(..24)?.to_owned())).collect()
}

#[test]
fn sixty_segments_behind_a_slow_store() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let server =
        Postgres::build(&installation, "data").segment_mib(1).env(repo.environment()).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "enabled", "false")?;
    // A call that fails shall do so soon, or the outage takes long.
    agent.set("storage", "retry_timeout", "\"2s\"")?;
    agent.init()?;
    agent.launch()?;
    agent.wait_status("the agent answers", |_| true)?;
    let store = repo.s3_server();
    store.down();
    server.archive_with(&agent.archive_command()?)?;
    for number in 0..60 {
        server.sql(&format!("SELECT pg_logical_emit_message(false, 'backlog', '{number}')"))?;
        server.sql("SELECT pg_switch_wal()")?;
    }
    let behind = waiting(&server)?;
    ensure!(behind >= 59, "only {behind} segments wait");

    store.faults().latency(Duration::from_millis(200));
    store.up()?;
    let begun = Instant::now();
    // It looks again by itself after a minute; a new segment wakes it.
    server.sql("SELECT pg_logical_emit_message(false, 'backlog', 'the last one'), pg_switch_wal()")?;
    wait_for("the backlog is drained", PATIENCE, || Ok((waiting(&server)? == 0).then_some(())))
        .with_context(|| agent.log_text())?;
    let (took, at_once) = (begun.elapsed(), store.faults().most_puts_at_once());
    let stored = stored(&agent.log_text());
    println!("{} segments in {took:.1?}, {at_once} puts at once", stored.len());

    ensure!((2..=4).contains(&at_once), "{at_once} puts were under way at once");
    ensure!(stored.len() >= behind, "{} segments stored of {behind}", stored.len());
    let mut in_order = stored.clone();
    in_order.sort_unstable();
    in_order.dedup();
    ensure!(in_order.len() == stored.len(), "a segment was stored twice: {stored:?}");
    // Everything that the archiver was told is stored is so.
    let archived = server.sql("SELECT last_archived_wal FROM pg_stat_archiver")?;
    store.faults().latency(Duration::ZERO);
    for segment in in_order.iter().filter(|segment| **segment <= archived).step_by(6) {
        let to = world.at("fetched");
        agent.restore_cmd(&["fetch", segment, &to.display().to_string()])?.ok()?;
        let ours = std::fs::read(&to)?;
        ensure!(ours.len() == 1 << 20, "{segment} has {} bytes", ours.len());
    }
    Ok(())
}

/// Server and agent die, and the server's disk is lost, while later segments are stored and an earlier one is not: nobody was
/// told that any of them is, and so what was acknowledged is all there and can be restored to its end.
#[test]
fn what_was_stored_ahead_of_a_lost_segment_is_no_hole() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let server =
        Postgres::build(&installation, "data").segment_mib(1).env(repo.environment()).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "enabled", "false")?;
    agent.set("storage", "retry_timeout", "\"2s\"")?;
    agent.init()?;
    agent.launch()?;
    agent.wait_status("the agent answers", |_| true)?;
    server.archive_with(&agent.archive_command()?)?;
    workload::init(&server, 1)?;
    agent.backup_full()?;
    workload::transactions(&server, 50)?;
    let acknowledged = server.mark()?;
    let last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")?;
    wait_for("the marked WAL is archived", PATIENCE, || {
        Ok((server.sql("SELECT last_archived_wal FROM pg_stat_archiver")? >= last).then_some(()))
    })?;

    let store = repo.s3_server();
    store.down();
    let mut lost = Vec::new();
    for number in 0..6 {
        server.sql(&format!("SELECT pg_logical_emit_message(false, 'backlog', '{number}')"))?;
        lost.push(server.sql("SELECT pg_walfile_name(pg_switch_wal())")?);
    }
    // The second never comes; the first wakes the look ahead.
    store.faults().hold_puts(Some(&lost[1]));
    store.up()?;
    server.sql("SELECT pg_logical_emit_message(false, 'backlog', 'the last one'), pg_switch_wal()")?;
    let is_stored = |segment: &str| -> Result<bool> {
        let objects = objects::list(&store.bucket_folder())?;
        Ok(objects.iter().any(|object| object.key.contains(&format!("/{segment}-"))))
    };
    wait_for("later segments are stored", PATIENCE, || Ok(is_stored(&lost[3])?.then_some(())))
        .with_context(|| agent.log_text())?;
    let told = server.sql("SELECT last_archived_wal FROM pg_stat_archiver")?;
    ensure!(told < lost[1], "{told} was acknowledged although {} is not stored", lost[1]);
    ensure!(!is_stored(&lost[1])?, "nothing was held");
    server.destroy()?;
    agent.kill9()?;
    store.faults().hold_puts(None);

    let list = agent.list()?;
    ensure!(list["gaps"].as_array().is_some_and(Vec::is_empty), "a gap is shown: {}", list["gaps"]);
    let to = world.at("fetched");
    let fetched = agent.restore_cmd(&["fetch", &lost[1], &to.display().to_string()])?;
    ensure!(fetched.code == Some(1), "it was never acknowledged, and nothing behind it: {fetched:?}");
    let data = world.at("restored");
    agent.restore(&data, &["--archive", "off"])?.ok()?;
    let restored =
        Postgres::adopt(&installation, &world, "restored.server", &data)?.with_env(repo.environment());
    restored.start()?;
    restored.wait_promoted()?;
    ensure!(restored.digest_all()? == acknowledged.digest, "what came back is not what was there");
    Ok(())
}

/// However many wait, no more than a few are in memory.
#[test]
fn a_backlog_of_large_segments_takes_little_memory() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let server =
        Postgres::build(&installation, "data").segment_mib(16).env(repo.environment()).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "enabled", "false")?;
    agent.set("storage", "retry_timeout", "\"2s\"")?;
    agent.init()?;
    agent.launch()?;
    agent.wait_status("the agent answers", |_| true)?;
    repo.s3_server().down();
    server.archive_with(&agent.archive_command()?)?;
    for _ in 0..16 {
        // 12 MiB that compress badly.
        server.sql(
            "SELECT pg_logical_emit_message(false, 'backlog', string_agg(md5(random()::text), '')) \
             FROM generate_series(1, 400000)",
        )?;
        server.sql("SELECT pg_switch_wal()")?;
    }
    repo.s3_server().up()?;
    server.sql("SELECT pg_logical_emit_message(false, 'backlog', 'the last one'), pg_switch_wal()")?;
    wait_for("the backlog is drained", PATIENCE, || Ok((waiting(&server)? == 0).then_some(())))
        .with_context(|| agent.log_text())?;
    let peak = agent.peak_memory_mib()?;
    println!("16 segments of 16 MiB: {peak} MiB at most");
    // Four segments as they are, and as they are stored.
    ensure!(peak < 256, "the agent has used {peak} MiB");
    Ok(())
}
