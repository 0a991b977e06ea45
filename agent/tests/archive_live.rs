//! The agent's socket beside a real server: `archive_command` is answered, by one agent per socket.
//!
//! Needs PostgreSQL 15: `cargo xtask servers` fetches it. Where it is missing the tests are skipped, and counted as that.

#[allow(dead_code, reason = "shared with other tests, which use other parts of it")]
mod server;

use proto::socket::Response;
use proto::wal::{SegmentName, SegmentNo, SegmentSize};
use proto::{Digest, TimelineId};
use server::agent::{Agent, flushed, slot_position, start};
use server::run;

#[tokio::test(flavor = "multi_thread")]
async fn archive_command_is_answered_from_what_is_durable() {
    let Some(server) = start(&["--wal-segsize=1"], &[]) else { return };
    server.init();
    let from = slot_position(&server);
    let agent = Agent::start(&server, "agent", "");
    server.pgbench(1);
    agent.reaches(flushed(&server)).await;
    let size = SegmentSize::new(1 << 20).expect("1 MiB");
    let name = SegmentName::at(TimelineId::FIRST, from, size);
    let path = server.data().join("pg_wal").join(name.to_string());
    let content = std::fs::read(&path).expect("the server keeps it");
    assert_eq!(agent.offer(&path, Digest::of(&content)), Response::Stored);

    // The same name with another content.
    let copy = server.directory("other").join(name.to_string());
    let mut other = content.clone();
    other[500_000] ^= 1;
    std::fs::write(&copy, &other).expect("written");
    let Response::Failed { message } = agent.offer(&copy, Digest::of(&other)) else { panic!("it must fail") };
    assert!(message.contains(&Digest::of(&content).to_string()), "{message}");
    assert!(message.contains(&Digest::of(&other).to_string()), "{message}");
    let status = agent.status().expect("it answers");
    assert_eq!(status["archive"]["failed"], 1);
    assert_eq!(status["archive"]["last_segment"], name.to_string());
    assert!(server.branch().await.segment_digest(name).await.is_ok(), "one content only");
}

#[tokio::test(flavor = "multi_thread")]
async fn archiving_alone_protects_the_server() {
    let Some(server) = start(&["--wal-segsize=1"], &[]) else { return };
    server.init();
    let from = slot_position(&server);
    server.pgbench(1);
    let agent = Agent::start(&server, "agent", "enabled = false");
    agent.is_in_state("stopped").await;
    let size = SegmentSize::new(1 << 20).expect("1 MiB");
    let segment = |n: u64| {
        let name = SegmentName::new(TimelineId::FIRST, SegmentNo(size.segment_at(from).0 + n), size);
        (name, server.data().join("pg_wal").join(name.to_string()))
    };
    let (first, path) = segment(0);
    let content = std::fs::read(&path).expect("there");
    // Not what the caller has digested: the file changed meanwhile.
    let Response::Failed { message } = agent.offer(&path, Digest::of(b"other")) else {
        panic!("it must fail")
    };
    assert!(message.contains("changed"), "{message}");
    assert_eq!(server.branch().await.segment_digest(first).await, Ok(None));
    assert_eq!(agent.offer(&path, Digest::of(&content)), Response::Stored);
    assert_eq!(agent.offer(&path, Digest::of(&content)), Response::Stored);
    let branch = server.branch().await;
    assert!(branch.read_segment(first).await.expect("stored") == content);

    // Without an agent: the same work by `walkeep push`.
    let (second, path) = segment(1);
    run(agent.walkeep(&["push"]).arg(&path));
    run(agent.walkeep(&["push"]).arg(&path));
    assert!(branch.read_segment(second).await.expect("stored") == std::fs::read(&path).expect("there"));

    // A part, under the whole's name.
    let (_, third) = segment(2);
    let cut = server.directory("cut").join(third.file_name().expect("a name"));
    std::fs::write(&cut, &std::fs::read(&third).expect("there")[..300_000]).expect("written");
    let refused = agent.walkeep(&["push"]).arg(&cut).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1));

    // Another cluster's segment.
    let Some(stranger) = start(&["--wal-segsize=1"], &[]) else { return };
    let name = stranger.sql("SELECT pg_walfile_name(pg_switch_wal())");
    let path = stranger.data().join("pg_wal").join(name);
    let content = std::fs::read(&path).expect("there");
    let Response::Failed { message } = agent.offer(&path, Digest::of(&content)) else {
        panic!("it must fail")
    };
    assert!(message.contains("hint:"), "{message}");
    assert_eq!(agent.status().expect("it answers")["archive"]["failed"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_agent_per_socket_and_a_dead_ones_socket_is_replaced() {
    let Some(server) = start(&[], &[]) else { return };
    server.init();
    let mut first = Agent::start(&server, "agent", "");
    first.is_in_state("streaming").await;
    let second = first.walkeep(&["run"]).output().expect("it runs");
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("already listening"));
    first.kill();
    assert!(first.socket.exists());
    let third = Agent::start(&server, "agent", "");
    third.is_in_state("streaming").await;
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&third.socket).expect("it").permissions());
    assert_eq!(mode & 0o777, 0o660);
    drop(third);
    let nobody = first.walkeep(&["status"]).output().expect("it runs");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no agent answers"));
}
