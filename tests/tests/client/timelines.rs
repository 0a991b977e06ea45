//! A primary and its standby: which of several hosts is taken, and where a timeline ends.

use anyhow::Result;
use harness::{Installation, skip};
use proto::client::{Error, NextTimeline, Start, WalMessage, sql};
use proto::wal::TimelineHistory;
use proto::{Lsn, TimelineId};

use crate::every_version;
use crate::scene::{Scene, connect, info, refused, soon, streaming, unix};

every_version!(a_primary_and_its_standby);

fn a_primary_and_its_standby(installation: &Installation) -> Result<()> {
    let scene = Scene::start(installation, &[("wal_keep_size", "512MB")])?;
    let Some(standby) = scene.server.standby(&scene.world, "standby")? else {
        skip(format!("no pg_basebackup for PostgreSQL {} is on this machine", installation.major));
        return Ok(());
    };
    let (primary_port, standby_port) = (scene.server.port(), standby.port());
    let nobody = harness::Port::reserve()?;
    for ports in [[primary_port, standby_port], [standby_port, primary_port]] {
        let text = |kind: &str| {
            let [first, second] = ports;
            format!(
                "host=127.0.0.1,127.0.0.1,127.0.0.1 port={nobody},{first},{second} user=postgres \
                 password=secret dbname=postgres target_session_attrs={kind}"
            )
        };
        for (kind, port) in [
            ("any", ports[0]),
            ("read-write", primary_port),
            ("primary", primary_port),
            ("read-only", standby_port),
            ("standby", standby_port),
            ("prefer-standby", standby_port),
        ] {
            let text = text(kind);
            let mut session = connect(&text)?;
            assert_eq!(session.host(), format!("127.0.0.1:{port}"), "{kind}");
            let client = soon(sql(&info(&text), "live"))?;
            let answer = soon(client.query_one("SHOW port", &[]))?;
            assert_eq!(answer.get::<_, String>(0), port.to_string(), "{kind}");
            assert_eq!(soon(session.identify_system())?.timeline, TimelineId::FIRST);
        }
    }
    none_will_do(&scene)?;

    // WAL from the standby, which is promoted in the middle: the session lives on.
    let mut session = connect(&unix(&standby))?;
    let identity = soon(session.identify_system())?;
    let size = soon(session.segment_size())?;
    let from = size.floor(identity.flush_lsn);
    let mut stream = streaming(session, None, from, TimelineId::FIRST);
    scene.server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")?;
    let written: Lsn = scene.server.lsn()?.parse()?;
    let mut at = from;
    while at < written {
        if let WalMessage::Data { start, bytes, .. } = soon(stream.next())? {
            assert_eq!(start, at);
            at = at + bytes.len() as u64;
        }
    }
    scene.server.kill9()?;
    standby.promote()?;
    while soon(stream.next())? != WalMessage::TimelineEnded {}
    let (mut session, next) = soon(stream.finish())?;
    let second = TimelineId::new(2).expect("not zero");
    let next = next.expect("the promoted server goes on");
    assert!(next.timeline == second && next.start >= written, "{next:?}");

    let history = TimelineHistory::parse(second, &soon(session.timeline_history(second))?)?;
    assert_eq!(history.switch_from(TimelineId::FIRST), Some(next.start));
    assert_eq!(soon(session.identify_system())?.timeline, second);

    // Where the old timeline ends there is no stream, only the answer where to go on.
    let session = match soon(session.start_replication(None, next.start, TimelineId::FIRST))? {
        Start::TimelineEnded { session, next: again } => {
            assert_eq!(again, NextTimeline { timeline: second, start: next.start });
            session
        }
        Start::Streaming(_) => panic!("timeline 1 has nothing behind {}", next.start),
    };
    // Its beginning can still be had, and ends at the same place.
    let mut stream = streaming(session, None, from, TimelineId::FIRST);
    let mut at = from;
    loop {
        match soon(stream.next())? {
            WalMessage::Data { bytes, .. } => at = at + bytes.len() as u64,
            WalMessage::TimelineEnded => break,
            _ => {}
        }
    }
    assert_eq!(at, next.start);
    let (session, again) = soon(stream.finish())?;
    assert_eq!(again, Some(next));
    let mut stream = streaming(session, None, size.floor(next.start), second);
    let first = soon(stream.next())?;
    assert!(matches!(first, WalMessage::Data { start, .. } if start == size.floor(next.start)), "{first:?}");
    Ok(())
}

/// A primary alone, where a standby is wanted, or where sessions cannot write.
fn none_will_do(scene: &Scene) -> Result<()> {
    let nobody = harness::Port::reserve()?;
    let two = format!(
        "host=127.0.0.1,127.0.0.1 port={nobody},{} user=postgres password=secret",
        scene.server.port()
    );
    for kind in ["read-only", "standby"] {
        match refused(&format!("{two} target_session_attrs={kind}")) {
            Error::AllHosts(errors) => {
                assert!(matches!(errors[0], Error::Unreachable { .. }), "{kind}: {}", errors[0]);
                assert!(matches!(errors[1], Error::WrongKind { .. }), "{kind}: {}", errors[1]);
            }
            other => panic!("{kind}: {other}"),
        }
    }
    // A primary whose sessions are read-only by default is a primary all the same.
    let read_only = format!("{two} options='-c default_transaction_read_only=on'");
    connect(&format!("{read_only} target_session_attrs=primary"))?;
    refused(&format!("{read_only} target_session_attrs=read-write"));
    Ok(())
}
