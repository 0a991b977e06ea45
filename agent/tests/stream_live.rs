//! The agent beside a real server: what it stores is what the server wrote, whatever is killed.
//!
//! Needs PostgreSQL 15: `cargo xtask servers` fetches it. Where it is missing the tests are skipped, and counted as that.

#[allow(dead_code, reason = "shared with other tests, which use other parts of it")]
mod server;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proto::wal::SegmentName;
use proto::{Lsn, TimelineId};
use serde_json::Value;
use server::agent::{Agent, compare, flushed, load, slot_position, start};
use server::{Server, run, tool, unprivileged, until};

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_the_server_writes_is_stored_as_it_is() {
    let Some(server) = start(&["--wal-segsize=1"], &[]) else { return };
    server.init();
    let from = slot_position(&server);
    let agent = Agent::start(&server, "agent", "");
    server.pgbench(5);
    load(&server, 3).wait().expect("it ends");
    let end = flushed(&server);
    agent.reaches(end).await;
    assert!(slot_position(&server) <= agent.durable());
    let branch = server.branch().await;
    let whole = compare(&branch, &server.data(), TimelineId::FIRST, from, end).await;
    assert!(whole > 20, "{whole} segments");

    let status = agent.status().expect("it answers");
    assert_eq!(status["stream"]["state"], "streaming", "{status}");
    assert_eq!(status["stream"]["timeline"], 1);
    assert_eq!(status["last_error"], Value::Null);
    // The server knows what is durable, and nothing of replay.
    until("the server has heard of it", async || {
        server.sql(&format!("SELECT flush_lsn >= '{end}' FROM pg_stat_replication")) == "t"
    })
    .await;
    let seen = server
        .sql("SELECT application_name, write_lsn = flush_lsn, replay_lsn IS NULL FROM pg_stat_replication");
    assert_eq!(seen, "walkeep|t|t");
    let words = run(&mut agent.walkeep(&["status"]));
    assert!(String::from_utf8_lossy(&words.stdout).contains("streaming, timeline 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_server_leaves_few_objects_and_loses_nothing() {
    let Some(server) = start(&[], &[]) else { return };
    server.init();
    let agent = Agent::start(&server, "agent", "synchronous = true");
    server.sql("CREATE TABLE t (n int)");
    agent.reaches(flushed(&server)).await;
    let from = server.sql("SELECT pg_switch_wal()").parse().expect("an LSN");
    for n in 0..150 {
        server.sql(&format!("INSERT INTO t VALUES ({n})"));
    }
    let end = flushed(&server);
    agent.reaches(end).await;
    let branch = server.branch().await;
    let last = SegmentName::at(TimelineId::FIRST, end, branch.segment_size());
    let listing = branch.folder_listing(last.timeline, last.log).await.expect("listed");
    let objects = listing.journals.iter().filter(|journal| journal.segment == last).count();
    assert_eq!(objects, 1, "one journal, however many commits");
    compare(&branch, &server.data(), TimelineId::FIRST, from, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_commit_waits_for_the_repository() {
    let Some(server) = start(&[], &["synchronous_standby_names = 'walkeep'"]) else { return };
    server.init();
    let mut agent = Agent::start(&server, "agent", "synchronous = true");
    agent.is_in_state("streaming").await;
    until("the server takes it for synchronous", async || {
        server.sql("SELECT sync_state FROM pg_stat_replication") == "sync"
    })
    .await;
    server.sql("CREATE TABLE ledger (n int)");
    for n in 0..20 {
        let committed =
            server.sql(&format!("INSERT INTO ledger VALUES ({n}); SELECT pg_current_wal_insert_lsn()"));
        let _: Lsn = committed.parse().expect("an LSN");
    }
    let end = flushed(&server);
    // Whatever was committed is there the moment that the agent dies.
    agent.kill();
    let branch = server.branch().await;
    let commit: Lsn = server.sql("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN");
    assert_eq!(commit, end);
    let last = SegmentName::at(TimelineId::FIRST, end, branch.segment_size());
    let tail = branch.read_tail(last).await.expect("sound").expect("there");
    let start = last.number(branch.segment_size()).expect("a name").start(branch.segment_size());
    assert!(start + u64::from(tail.valid) >= end - 1024, "{} of {end}", start + u64::from(tail.valid));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_loses_nothing_and_contradicts_nothing() {
    let Some(server) = start(&["--wal-segsize=1"], &[]) else { return };
    server.init();
    let from = slot_position(&server);
    server.pgbench(2);
    let mut writer = load(&server, 14);
    for round in 0..6u64 {
        let mut agent =
            Agent::start(&server, "agent", if round % 2 == 0 { "" } else { "synchronous = true" });
        agent.is_in_state("streaming").await;
        let durable = agent.durable();
        until("some progress", async || agent.durable() > durable).await;
        tokio::time::sleep(Duration::from_millis(37 * round)).await;
        agent.kill();
        let stored = slot_position(&server);
        // Acknowledged, so durable: even though the agent is dead.
        let branch = server.branch().await;
        compare(&branch, &server.data(), TimelineId::FIRST, from, stored).await;
    }
    writer.wait().expect("it ends");
    let mut agent = Agent::start(&server, "agent", "");
    let end = flushed(&server);
    agent.reaches(end).await;
    compare(&server.branch().await, &server.data(), TimelineId::FIRST, from, end).await;
    let epochs = server.branch().await.epochs().await.expect("listed");
    assert!(epochs.len() >= 7, "{epochs:?}");
    assert!(agent.terminate(), "SIGTERM is a success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_is_prompt_and_its_last_record_is_stored() {
    let Some(server) = start(&[], &[]) else { return };
    server.init();
    // Were the last record not acknowledged, the server would wait that long.
    let agent = Agent::start(&server, "agent", "shutdown_grace = \"300s\"");
    server.pgbench(1);
    agent.is_in_state("streaming").await;
    let begun = Instant::now();
    server.stop();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
    let control = run(Command::new(tool("pg_controldata")).arg(server.data()));
    let control = String::from_utf8_lossy(&control.stdout).into_owned();
    assert!(control.contains("shut down\n"), "{control}");
    let field = |name: &str| -> Lsn {
        let line = control.lines().find(|line| line.starts_with(name)).expect("the field");
        line.rsplit(' ').next().expect("a value").parse().expect("an LSN")
    };
    let checkpoint = field("Latest checkpoint location");
    let branch = server.branch().await;
    // The record is 120 bytes long at most.
    compare(&branch, &server.data(), TimelineId::FIRST, checkpoint, checkpoint + 100).await;
    agent.is_in_state("waiting").await;
    server.boot();
    server.sql("CREATE TABLE after_the_break (n int)");
    agent.reaches(flushed(&server)).await;
}

/// Puts the repository out of reach, or back: what an unmounted disk looks like.
fn move_repository(server: &Server, from: &str, to: &str) {
    let path = |name: &str| format!("{}/{name}", server.path());
    std::fs::rename(path(from), path(to)).expect("renamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_repository_is_away_nothing_is_acknowledged_and_then_all_is_stored() {
    let Some(server) = start(&["--wal-segsize=1"], &[]) else { return };
    server.init();
    let from = slot_position(&server);
    let agent = Agent::start(&server, "agent", "");
    agent.reaches(flushed(&server)).await;
    move_repository(&server, "repository", "elsewhere");
    server.sql("CREATE TABLE unseen AS SELECT generate_series(1, 1000) AS n");
    until("it is told", async || agent.status().is_some_and(|status| status["last_error"].is_string())).await;
    // From here on nothing can become durable; what was the server knows soon.
    let durable = agent.durable();
    until("the slot stands there", async || slot_position(&server) == durable).await;
    server.pgbench(8);
    until("WAL waits", async || {
        let lag = agent.status().and_then(|status| status["stream"]["lag_bytes"].as_u64());
        lag > Some(1 << 20)
    })
    .await;
    assert_eq!(slot_position(&server), durable, "acknowledged without a repository");
    assert!(!Path::new(&format!("{}/repository", server.path())).exists(), "made a new one in its place");
    move_repository(&server, "elsewhere", "repository");
    let end = flushed(&server);
    agent.reaches(end).await;
    compare(&server.branch().await, &server.data(), TimelineId::FIRST, from, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_a_lost_repository_no_longer_than_the_grace() {
    let Some(server) = start(&[], &[]) else { return };
    server.init();
    let agent = Agent::start(&server, "agent", "shutdown_grace = \"3s\"");
    agent.reaches(flushed(&server)).await;
    move_repository(&server, "repository", "elsewhere");
    server.sql("CREATE TABLE unseen AS SELECT generate_series(1, 1000) AS n");
    let begun = Instant::now();
    server.stop();
    let took = begun.elapsed();
    assert!((2..120).contains(&took.as_secs()), "{took:?}");
    move_repository(&server, "elsewhere", "repository");
    server.boot();
    let end = flushed(&server);
    agent.reaches(end).await;
    compare(&server.branch().await, &server.data(), TimelineId::FIRST, end - 1000, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_under_a_bulk_load() {
    let Some(server) = start(&[], &[]) else { return };
    server.init();
    let from = slot_position(&server);
    let agent = Agent::start(&server, "agent", "");
    server.pgbench(15);
    let end = flushed(&server);
    agent.reaches(end).await;
    assert!(compare(&server.branch().await, &server.data(), TimelineId::FIRST, from, end).await > 5);
    let peak = agent.peak_memory_mib();
    assert!(peak < 128, "{peak} MiB of memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_segments_are_put_together_from_their_fragments() {
    let Some(server) = start(&["--wal-segsize=64"], &[]) else { return };
    server.init();
    let from = slot_position(&server);
    let mut agent = Agent::start(&server, "agent", "");
    server.pgbench(6);
    agent.is_in_state("streaming").await;
    agent.kill();
    let agent = Agent::start(&server, "agent", "");
    server.pgbench(6);
    let end = flushed(&server);
    agent.reaches(end).await;
    let branch = server.branch().await;
    let first = SegmentName::at(TimelineId::FIRST, from, branch.segment_size());
    until("the first segment is whole", async || {
        branch.segment_digest(first).await.is_ok_and(|d| d.is_some())
    })
    .await;
    assert!(compare(&branch, &server.data(), TimelineId::FIRST, from, end).await > 0);
    let peak = agent.peak_memory_mib();
    assert!(peak < 192, "{peak} MiB of memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_takes_over_when_the_first_one_dies() {
    let Some(server) = start(&["--wal-segsize=1"], &[]) else { return };
    server.init();
    let from = slot_position(&server);
    let mut first = Agent::start(&server, "first", "");
    first.is_in_state("streaming").await;
    let second = Agent::start(&server, "second", "");
    second.is_in_state("waiting").await;
    server.pgbench(1);
    first.reaches(flushed(&server)).await;
    first.kill();
    second.is_in_state("streaming").await;
    server.pgbench(1);
    let end = flushed(&server);
    second.reaches(end).await;
    compare(&server.branch().await, &server.data(), TimelineId::FIRST, from, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_followed_and_the_forks_history_is_stored() {
    let Some(primary) = start(&["--wal-segsize=1"], &[]) else { return };
    primary.pgbench(1);
    let standby = primary.directory("standby");
    run(unprivileged(tool("pg_basebackup"))
        .args(["-h", primary.path(), "-U", "postgres", "-R", "-c", "fast", "-D"])
        .arg(&standby));
    let socket = primary.directory("socket");
    let mut conf =
        std::fs::OpenOptions::new().append(true).open(standby.join("postgresql.conf")).expect("conf");
    writeln!(conf, "unix_socket_directories = '{}'", socket.display()).expect("written");
    let pg_ctl = |args: &[&str]| {
        run(unprivileged(tool("pg_ctl"))
            .args(args)
            .args(["-w", "-s", "-D"])
            .arg(&standby)
            .args(["-l", &format!("{}/standby.log", primary.path())])
            .stdout(Stdio::null()));
    };
    pg_ctl(&["start"]);
    let home = socket.display().to_string();
    let sql = |query: &str| {
        let mut command = unprivileged(tool("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", &home, "-c", query]);
        String::from_utf8_lossy(&run(&mut command).stdout).trim().to_owned()
    };
    primary.init();
    sql("SELECT pg_create_physical_replication_slot('walkeep', true)");
    let from: Lsn = sql("SELECT restart_lsn FROM pg_replication_slots").parse().expect("an LSN");
    let agent = Agent::start_at(&primary, &home, "agent", "");
    let mut writer = load(&primary, 3);
    agent.is_in_state("streaming").await;
    writer.wait().expect("it ends");
    // The primary is gone without a word; its standby takes over in the middle of a segment.
    primary.sql("CREATE TABLE before_the_fork (n int)");
    let written = flushed(&primary);
    until("the standby has it", async || {
        sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")) == "t"
    })
    .await;
    pg_ctl(&["promote"]);
    sql("CREATE TABLE after_the_fork AS SELECT generate_series(1, 50000) AS n");
    let end: Lsn = sql("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN");
    until("the new timeline", async || {
        agent.status().is_some_and(|status| status["stream"]["timeline"] == 2) && agent.durable() >= end
    })
    .await;
    let branch = primary.branch().await;
    let second = TimelineId::new(2).expect("2");
    let history = branch.read_history(second).await.expect("one history").expect("stored");
    let fork = history.switch_from(TimelineId::FIRST).expect("it came from timeline 1");
    assert!(fork >= written);
    let size = branch.segment_size();
    compare(&branch, &standby, second, size.floor(fork), end).await;
    // The old timeline is there up to the fork: its pages live on in the new one's first segment.
    let last = SegmentName::at(TimelineId::FIRST, fork - 1, size);
    let tail = branch.read_tail(last).await.expect("sound").expect("the old timeline's last bytes");
    assert!(size.floor(fork) + u64::from(tail.valid) >= fork);
    assert!(from < size.floor(fork));
    compare(&branch, &standby, TimelineId::FIRST, from, size.floor(fork)).await;
    pg_ctl(&["stop", "-m", "fast"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_under_the_same_names_is_refused() {
    let Some(server) = start(&[], &[]) else { return };
    server.init();
    server.pgbench(1);
    server.stop();
    let copy = server.directory("copy");
    run(unprivileged("/bin/cp").arg("-a").arg(server.data()).arg(&copy));
    server.boot();
    let mut agent = Agent::start(&server, "agent", "");
    server.sql("CREATE TABLE first AS SELECT generate_series(1, 1000) AS n");
    let end = flushed(&server);
    agent.reaches(end).await;
    agent.kill();
    server.stop();
    // The server as it was before; it writes something else, on the same timeline.
    run(unprivileged("/bin/rm").arg("-rf").arg(server.data()));
    run(unprivileged("/bin/mv").arg(copy.join("data")).arg(server.data()));
    server.boot();
    server.sql("CREATE TABLE second AS SELECT generate_series(1, 30000) AS n");
    let before = objects(&server);
    let agent = Agent::start(&server, "agent", "synchronous = true");
    let status = agent.is_in_state("stopped").await;
    assert!(status["last_error"].as_str().expect("told").contains("differs"), "{status}");
    assert!(slot_position(&server) < end, "nothing is acknowledged");
    let new: Vec<String> = objects(&server).into_iter().filter(|object| !before.contains(object)).collect();
    assert!(new.iter().all(|object| object.contains("/epoch/")), "nothing is stored: {new:?}");
}

fn objects(server: &Server) -> Vec<String> {
    let root = format!("{}/repository", server.path());
    let found = run(Command::new("find").args([&root, "-type", "f"]));
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_told_and_made_anew() {
    let Some(server) = start(&["--wal-segsize=1"], &[]) else { return };
    server.init();
    server.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '2MB'");
    server.sql("ALTER SYSTEM SET wal_keep_size = 0");
    server.sql("ALTER SYSTEM SET max_wal_size = '4MB'");
    server.sql("SELECT pg_reload_conf()");
    server.pgbench(2);
    server.sql("CHECKPOINT");
    server.sql("SELECT pg_switch_wal()");
    server.sql("CHECKPOINT");
    let state = || server.sql("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'walkeep'");
    assert_eq!(state(), "lost");
    let agent = Agent::start(&server, "agent", "");
    // From the beginning of a segment that the server still has: the lost slot was not brought back by our reports.
    let status = agent.is_in_state("streaming").await;
    let message = status["last_error"].as_str().expect("told");
    assert!(message.contains("invalidated") && message.contains("made anew"), "{message}");
    assert_eq!(state(), "reserved");
}
