//! The client against a real PostgreSQL 15, where one is installed.

mod cluster;
mod tls;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::Cluster;
use proto::client::{
    BackupMessage, BaseBackupOptions, Error, Replication, SessionOptions, SlotLifetime, SlotState,
    StandbyStatus, Start, WalMessage, WalStream, sql,
};
use proto::config::SlotName;
use proto::conninfo::ConnInfo;
use proto::{Lsn, TimelineId};

fn info(text: &str) -> ConnInfo {
    ConnInfo::resolve(text).expect("a connection string")
}

async fn connect(text: &str) -> Result<Replication, Error> {
    let timeout = Some(Duration::from_secs(20));
    let options = SessionOptions { application_name: "live".to_owned(), wal_sender_timeout: timeout };
    Replication::connect(&info(text), &options).await
}

async fn refused(text: &str) -> Error {
    connect(text).await.map(drop).expect_err(text)
}

async fn client(cluster: &Cluster) -> tokio_postgres::Client {
    sql(&info(&cluster.unix()), "live").await.expect("an SQL session")
}

fn slot(name: &str) -> SlotName {
    name.parse().expect("a slot's name")
}

/// What every wait ends after: a hang is a failure, not a time-out of the whole run.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("an answer within a minute")
}

/// A stream from the start of the segment that is being written.
async fn stream_current(cluster: &Cluster, slot: Option<&SlotName>) -> (WalStream, Lsn) {
    let mut session = connect(&cluster.unix()).await.expect("a session");
    let identity = session.identify_system().await.expect("an identity");
    let from = session.segment_size().await.expect("a size").floor(identity.flush_lsn);
    if let Some(slot) = slot {
        session.create_slot(slot, SlotLifetime::Permanent).await.expect("a slot");
    }
    (streaming(session, slot, from).await, from)
}

async fn streaming(session: Replication, slot: Option<&SlotName>, from: Lsn) -> WalStream {
    match soon(session.start_replication(slot, from, TimelineId::FIRST)).await.expect("a stream") {
        Start::Streaming(stream) => stream,
        Start::TimelineEnded { .. } => panic!("the current timeline does not end"),
    }
}

#[tokio::test]
async fn a_session_answers_commands() {
    let Some(cluster) = Cluster::start("") else { return };
    let mut session = connect(&cluster.unix()).await.expect("a session");
    assert_eq!(session.server_version().major(), 15);
    let identity = session.identify_system().await.expect("an identity");
    assert_eq!(identity.timeline, TimelineId::FIRST);
    assert!(identity.flush_lsn.is_valid());
    assert_eq!(session.segment_size().await.expect("a size").bytes(), 16 << 20);
    assert_eq!(session.show("wal_level").await.expect("a value"), "replica");
    assert_eq!(session.show("wal_sender_timeout").await.expect("a value"), "20s");
    assert_eq!(session.show("application_name").await.expect("a value"), "live");

    // The session survives the server's refusals, and ours.
    let error = session.show("no_such_setting").await.expect_err("no such setting");
    assert_eq!(error.sqlstate(), Some("42704"));
    assert!(matches!(session.show("a; b").await, Err(Error::Config(_))));
    assert!(session.timeline_history(TimelineId::FIRST).await.is_err());

    let name = slot("keeps_wal");
    assert_eq!(session.read_slot(&name).await.expect("a state"), SlotState::Absent);
    session.create_slot(&name, SlotLifetime::Permanent).await.expect("a slot");
    let error = session.create_slot(&name, SlotLifetime::Permanent).await.expect_err("it is there");
    assert_eq!(error.sqlstate(), Some("42710"));
    match session.read_slot(&name).await.expect("a state") {
        SlotState::Reserved { restart_lsn, timeline } => {
            assert!(restart_lsn.is_valid() && restart_lsn <= identity.flush_lsn);
            assert_eq!(timeline, TimelineId::FIRST);
        }
        other => panic!("{other:?}"),
    }
    session.drop_slot(&name).await.expect("dropped");
    assert_eq!(session.read_slot(&name).await.expect("a state"), SlotState::Absent);
    session.create_slot(&slot("physical"), SlotLifetime::Temporary).await.expect("a keyword as name");
    session.close().await;
}

#[tokio::test]
async fn wal_streams_from_a_segments_start_while_others_write() {
    let Some(cluster) = Cluster::start("") else { return };
    let name = slot("live");
    let (mut stream, from) = stream_current(&cluster, Some(&name)).await;
    let client = client(&cluster).await;
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 300000) AS i").await.expect("a table");
    let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.expect("a position");
    let until: Lsn = row.get::<_, String>(0).parse().expect("a position");
    assert!(until.bytes_since(from) > 16 << 20, "more than a segment");

    // A dropped future loses nothing: every wait is cut off once in a while.
    let (mut at, mut cut, mut first) = (from, 0, Vec::new());
    while at < until {
        match tokio::time::timeout(Duration::from_micros(50), stream.next()).await {
            Ok(Ok(WalMessage::Data { start, bytes, .. })) => {
                assert_eq!(start, at);
                at = at + bytes.len() as u64;
                if first.is_empty() {
                    first.extend_from_slice(&bytes);
                }
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => cut += 1,
        }
        assert!(cut < 100_000, "WAL arrives");
    }
    assert_eq!(first[..2], 0xD110u16.to_ne_bytes(), "a segment's first page");

    // What is reported as flushed is what the slot keeps from.
    stream
        .report(StandbyStatus { write: at, flush: at, apply: Lsn::INVALID, reply_requested: true })
        .await
        .expect("a report");
    while !matches!(soon(stream.next()).await.expect("a message"), WalMessage::Keepalive { .. }) {}
    let query = "SELECT flush_lsn::text, application_name FROM pg_stat_replication";
    let row = client.query_one(query, &[]).await.expect("the walsender");
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), (at.to_string(), "live".to_owned()));

    let (mut session, next) = soon(stream.finish()).await.expect("a session");
    assert_eq!(next, None);
    match session.read_slot(&name).await.expect("a state") {
        SlotState::Reserved { restart_lsn, .. } => assert_eq!(restart_lsn, at),
        other => panic!("{other:?}"),
    }
    // The session streams again.
    let mut stream = streaming(session, Some(&name), from).await;
    assert!(
        matches!(soon(stream.next()).await.expect("a message"), WalMessage::Data { start, .. } if start == from)
    );
}

#[tokio::test]
async fn a_shutdown_waits_for_our_report_and_is_told() {
    let Some(mut cluster) = Cluster::start("") else { return };
    let (mut stream, from) = stream_current(&cluster, None).await;
    let mut stop = cluster.stop_in_background();
    let mut at = from;
    loop {
        match soon(stream.next()).await.expect("a message") {
            WalMessage::Data { start, bytes, .. } => {
                assert_eq!(start, at);
                at = at + bytes.len() as u64;
            }
            WalMessage::Keepalive { reply_requested: false, .. } => {}
            WalMessage::Keepalive { .. } => {
                let status = StandbyStatus { write: at, flush: at, ..StandbyStatus::default() };
                stream.report(status).await.expect("a report");
            }
            WalMessage::ServerShutdown => break,
            WalMessage::TimelineEnded => panic!("the timeline does not end"),
        }
    }
    assert_eq!(soon(stream.next()).await.expect("again"), WalMessage::ServerShutdown);
    stream.report(StandbyStatus::default()).await.expect("nobody listens, and that is fine");
    assert!(stop.wait().expect("pg_ctl").success());
    assert!(soon(stream.finish()).await.is_err(), "there is no session left");
}

#[tokio::test]
async fn wal_that_is_not_there_is_an_error() {
    let Some(cluster) = Cluster::start("") else { return };
    let mut session = connect(&cluster.unix()).await.expect("a session");
    let identity = session.identify_system().await.expect("an identity");
    let mut stream = streaming(session, None, identity.flush_lsn + (1 << 30)).await;
    assert!(matches!(soon(stream.next()).await, Err(Error::Server { .. })), "not written yet");

    // Of the first segments nothing is left after some switches and checkpoints.
    let client = client(&cluster).await;
    client.batch_execute("CREATE TABLE s (i int)").await.expect("a table");
    for _ in 0..8 {
        client.batch_execute("INSERT INTO s VALUES (1)").await.expect("a row");
        client.batch_execute("SELECT pg_switch_wal()").await.expect("a switch");
        client.batch_execute("CHECKPOINT").await.expect("a checkpoint");
    }
    let session = connect(&cluster.unix()).await.expect("a session");
    let mut stream = streaming(session, None, Lsn(1 << 24)).await;
    let error = soon(stream.next()).await.expect_err("removed");
    assert_eq!(error.sqlstate(), Some("58P01"), "{error}");
    assert!(error.hint().is_some());

    let session = connect(&cluster.unix()).await.expect("a session");
    let unknown = TimelineId::new(7).expect("not zero");
    assert!(session.start_replication(None, identity.flush_lsn, unknown).await.is_err());
}

#[tokio::test]
async fn a_base_backup_comes_whole() {
    let Some(cluster) = Cluster::start("") else { return };
    let client = client(&cluster).await;
    let location = cluster.directory("tablespace");
    let create = format!("CREATE TABLESPACE ts LOCATION '{}'", location.display());
    client.batch_execute(&create).await.expect("a tablespace");
    client
        .batch_execute("CREATE TABLE big TABLESPACE ts AS SELECT generate_series(1, 100000) i")
        .await
        .expect("made");

    let session = connect(&cluster.tcp("postgres", "secret")).await.expect("a session");
    let options = BaseBackupOptions { label: "it's a test".to_owned(), ..BaseBackupOptions::default() };
    let mut backup = soon(session.base_backup(&options)).await.expect("a backup");
    let start = backup.start().clone();
    assert!(start.lsn.is_valid());
    assert_eq!(start.tablespaces.len(), 2);
    assert_eq!(start.tablespaces[0].location.as_deref(), location.to_str().map(str::as_bytes));
    assert_eq!(start.tablespaces[1].oid, None);

    let (mut archives, mut manifest, mut progress) = (BTreeMap::<String, Vec<u8>>::new(), Vec::new(), 0);
    let mut current = None;
    let (end, timeline) = loop {
        match soon(backup.next()).await.expect("a message") {
            BackupMessage::Archive { tablespace, name } => {
                assert_eq!(current, None, "archives do not overlap");
                assert_eq!(tablespace.expect("listed").oid.is_none(), name == "base.tar");
                current = Some(name);
            }
            BackupMessage::ArchiveData(bytes) => {
                let name = current.clone().expect("an archive has begun");
                archives.entry(name).or_default().extend_from_slice(&bytes);
            }
            BackupMessage::ArchiveEnd => assert!(current.take().is_some()),
            BackupMessage::Manifest => assert_eq!(current, None),
            BackupMessage::ManifestData(bytes) => manifest.extend_from_slice(&bytes),
            BackupMessage::Progress(done) => progress = done,
            BackupMessage::Notice(_) => {}
            BackupMessage::End { lsn, timeline, checksum_failures } => {
                assert_eq!(checksum_failures, None);
                break (lsn, timeline);
            }
        }
    };
    assert!(end > start.lsn);
    assert_eq!(timeline, start.timeline);
    assert_eq!(archives.len(), 2);
    for (name, archive) in &archives {
        assert_eq!(archive.len() % 512, 0, "{name}");
        assert!(archive.ends_with(&[0; 1024]), "{name}");
    }
    // The server counts the bytes of its archives: none was lost on the way.
    let total: usize = archives.values().map(Vec::len).sum();
    assert_eq!(progress, total as u64);
    let manifest = String::from_utf8(manifest).expect("JSON");
    assert!(manifest.starts_with("{ \"PostgreSQL-Backup-Manifest-Version\": 1") && manifest.ends_with("}\n"));
    let label = &archives["base.tar"][512..1024];
    assert!(label.windows(18).any(|window| window == b"LABEL: it's a test"));

    // The session goes on, and can make another.
    let mut session = backup.into_session().expect("complete");
    session.identify_system().await.expect("an identity");
    let backup = soon(session.base_backup(&options)).await.expect("a second backup");
    assert!(backup.into_session().is_err(), "it still runs");
}

#[tokio::test]
async fn damaged_pages_are_told_with_the_end() {
    let Some(mut cluster) = Cluster::start("--data-checksums") else { return };
    let client = client(&cluster).await;
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 10000) i").await.expect("made");
    let row = client.query_one("SELECT pg_relation_filepath('t')", &[]).await.expect("a path");
    drop(client);
    assert!(cluster.stop_in_background().wait().expect("pg_ctl").success());
    cluster.damage(row.get(0), 8192 + 4000);
    cluster.restart();

    let session = connect(&cluster.unix()).await.expect("a session");
    let mut backup = soon(session.base_backup(&BaseBackupOptions::default())).await.expect("a backup");
    let mut notices = Vec::new();
    let failures = loop {
        match soon(backup.next()).await.expect("a message") {
            BackupMessage::Notice(notice) => notices.push(notice),
            BackupMessage::End { checksum_failures, .. } => break checksum_failures,
            _ => {}
        }
    };
    assert!(failures.is_some());
    assert!(notices.iter().any(|notice| notice.contains("checksum")), "{notices:?}");
    backup.into_session().expect("the session is fine").identify_system().await.expect("an identity");
}

#[tokio::test]
async fn passwords_are_proven_by_every_method() {
    let Some(cluster) = Cluster::start("") else { return };
    let users = [
        ("postgres", "scram-sha-256"),
        ("md5_user", "md5"),
        ("clear_user", "password"),
        ("ident_user", "none"),
    ];
    for (user, method) in users {
        let text = cluster.tcp(user, "secret");
        sql(&info(&text), "live").await.unwrap_or_else(|error| panic!("{user}: {error}"));
        for text in [text.clone(), format!("{text} require_auth={method}")] {
            connect(&text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        for more in [format!("require_auth=!{method}"), "channel_binding=require".to_owned()] {
            let text = format!("{text} {more}");
            assert!(matches!(refused(&text).await, Error::Authentication { .. }), "{text}");
            let error = sql(&info(&text), "live").await.map(drop).expect_err(&text);
            assert!(matches!(error, Error::Authentication { .. }), "{text}: {error}");
        }
        if method != "none" {
            let error = refused(&cluster.tcp(user, "guesswork")).await;
            assert_eq!(error.sqlstate(), Some("28P01"), "{user}: {error}");
            assert!(!format!("{error} {error:?}").contains("guesswork"), "{error:?}");
            let error = refused(&cluster.tcp(user, "")).await;
            assert!(matches!(error, Error::Authentication { .. }), "{user}: {error}");
        }
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let Some(cluster) = Cluster::start("") else { return };
    let hint = refused(&cluster.tcp("no_line", "secret")).await.hint().expect("a hint");
    assert!(hint.ends_with("host replication no_line 127.0.0.1/32 scram-sha-256"), "{hint}");
    let error = refused(&cluster.tcp("no_repl", "secret")).await;
    assert_eq!(error.hint().as_deref(), Some("run on the server: ALTER ROLE no_repl REPLICATION"));

    let error = refused(&format!("host=127.0.0.1 port={} user=x", cluster::free_port())).await;
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error}");
    let error = refused("host=/nowhere user=x").await;
    assert!(error.hint().expect("a hint").contains("unix_socket_directories"));
    let error = refused("host=no-such-host.invalid user=x").await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_first_host_of_the_wanted_kind_is_taken() {
    let Some(cluster) = Cluster::start("") else { return };
    let nobody = cluster::free_port();
    let two =
        format!("host=127.0.0.1,127.0.0.1 port={nobody},{} user=postgres password=secret", cluster.port);
    for kind in ["any", "read-write", "primary", "prefer-standby"] {
        let text = format!("{two} target_session_attrs={kind}");
        connect(&text).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
        sql(&info(&text), "live").await.expect(kind);
    }
    for kind in ["read-only", "standby"] {
        match refused(&format!("{two} target_session_attrs={kind}")).await {
            Error::AllHosts(errors) => {
                assert!(matches!(errors[0], Error::Unreachable { .. }));
                assert!(matches!(errors[1], Error::WrongKind { .. }));
            }
            other => panic!("{kind}: {other}"),
        }
    }
    // A primary whose sessions are read-only by default is a primary all the same.
    let read_only = format!("{two} options='-c default_transaction_read_only=on'");
    connect(&format!("{read_only} target_session_attrs=primary")).await.expect("a primary");
    assert!(connect(&format!("{read_only} target_session_attrs=read-write")).await.is_err());
}
