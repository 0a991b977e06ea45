//! Commands, and WAL as it is written.

use std::time::Duration;

use anyhow::Result;
use harness::{Installation, Postgres, Stop};
use proto::client::{Error, SlotLifetime, SlotState, StandbyStatus, WalMessage};
use proto::config::SlotName;
use proto::{Lsn, TimelineId};

use crate::every_version;
use crate::scene::{Scene, connect, soon, streaming};

every_version!(commands_are_answered, wal_streams_while_others_write, wal_that_is_not_there_is_an_error);

fn commands_are_answered(installation: &Installation) -> Result<()> {
    let scene = Scene::start(installation, &[])?;
    let mut session = connect(&scene.unix())?;
    assert_eq!(session.server_version().major(), installation.major);
    let identity = soon(session.identify_system())?;
    assert_eq!(identity.timeline, TimelineId::FIRST);
    assert!(identity.flush_lsn.is_valid());
    let known = scene.server.sql("SELECT system_identifier FROM pg_control_system()")?;
    assert_eq!(identity.system_id.to_string(), known);
    assert_eq!(soon(session.segment_size())?.bytes(), 16 << 20);
    for (name, value) in
        [("wal_level", "replica"), ("wal_sender_timeout", "10min"), ("application_name", "live")]
    {
        assert_eq!(soon(session.show(name))?, value);
    }

    // The session survives the server's refusals, and ours.
    let error = soon(session.show("no_such_setting")).expect_err("no such setting");
    assert_eq!(error.sqlstate(), Some("42704"));
    assert!(matches!(soon(session.show("a; b")), Err(Error::Config(_))));
    assert!(soon(session.timeline_history(TimelineId::FIRST)).is_err());

    let name: SlotName = "keeps_wal".parse()?;
    let knows_slots = installation.major >= 15;
    let absent = if knows_slots { SlotState::Absent } else { SlotState::Unsupported };
    assert_eq!(soon(session.read_slot(&name))?, absent);
    soon(session.create_slot(&name, SlotLifetime::Permanent))?;
    let error = soon(session.create_slot(&name, SlotLifetime::Permanent)).expect_err("it is there");
    assert_eq!(error.sqlstate(), Some("42710"));
    match soon(session.read_slot(&name))? {
        SlotState::Reserved { restart_lsn, timeline } => {
            assert!(restart_lsn.is_valid() && restart_lsn <= identity.flush_lsn);
            assert_eq!(timeline, TimelineId::FIRST);
        }
        SlotState::Unsupported if !knows_slots => {}
        other => panic!("{other:?}"),
    }
    assert!(kept_from(&scene.server, &name)?.is_valid(), "the slot must keep WAL from its creation on");
    soon(session.drop_slot(&name))?;
    assert_eq!(soon(session.read_slot(&name))?, absent);
    assert!(soon(session.drop_slot(&name)).is_err(), "it is gone");
    // A keyword as a name.
    soon(session.create_slot(&"physical".parse()?, SlotLifetime::Temporary))?;
    soon(session.close());
    Ok(())
}

/// From where a slot keeps WAL.
fn kept_from(server: &Postgres, slot: &SlotName) -> Result<Lsn> {
    let query = format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    Ok(server.sql(&query)?.parse()?)
}

fn wal_streams_while_others_write(installation: &Installation) -> Result<()> {
    let scene = Scene::start(installation, &[])?;
    let name: SlotName = "live".parse()?;
    let mut session = connect(&scene.unix())?;
    let identity = soon(session.identify_system())?;
    let from = soon(session.segment_size())?.floor(identity.flush_lsn);
    soon(session.create_slot(&name, SlotLifetime::Permanent))?;
    let mut stream = streaming(session, Some("live"), from, TimelineId::FIRST);
    scene.server.sql("CREATE TABLE t AS SELECT generate_series(1, 300000) AS i")?;
    let until: Lsn = scene.server.sql("SELECT pg_current_wal_flush_lsn()")?.parse()?;
    assert!(until.bytes_since(from) > 16 << 20, "more than a segment");

    // A dropped future loses nothing: every wait is cut off once in a while.
    let (mut at, mut first) = (from, Vec::new());
    soon(async {
        while at < until {
            match tokio::time::timeout(Duration::from_micros(50), stream.next()).await {
                Ok(Ok(WalMessage::Data { start, bytes, .. })) => {
                    assert_eq!(start, at);
                    at = at + bytes.len() as u64;
                    if first.is_empty() {
                        first.extend_from_slice(&bytes);
                    }
                }
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    });
    let magic = [0xD106_u16, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118][installation.major as usize - 13];
    assert_eq!(first[..2], magic.to_ne_bytes(), "a segment's first page");

    // What is reported as flushed is what the slot keeps from.
    let status = StandbyStatus { write: at, flush: at, apply: Lsn::INVALID, reply_requested: true };
    soon(async {
        stream.report(status).await?;
        while !matches!(stream.next().await?, WalMessage::Keepalive { .. }) {}
        Ok::<_, Error>(())
    })?;
    let seen = scene.server.sql("SELECT flush_lsn, application_name FROM pg_stat_replication")?;
    assert_eq!(seen, format!("{at}|live"));
    let (session, next) = soon(stream.finish())?;
    assert_eq!(next, None);
    assert_eq!(kept_from(&scene.server, &name)?, at);

    // The session streams again, and a shutdown waits for our reports and is told.
    let mut stream = streaming(session, Some("live"), from, TimelineId::FIRST);
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| scene.server.stop(Stop::Fast));
        let mut at = from;
        loop {
            match soon(stream.next())? {
                WalMessage::Data { start, bytes, .. } => {
                    assert_eq!(start, at);
                    at = at + bytes.len() as u64;
                }
                WalMessage::Keepalive { reply_requested: false, .. } => {}
                WalMessage::Keepalive { .. } => {
                    let status = StandbyStatus { write: at, flush: at, ..StandbyStatus::default() };
                    soon(stream.report(status))?;
                }
                WalMessage::ServerShutdown => break,
                WalMessage::TimelineEnded => panic!("the timeline does not end"),
            }
        }
        assert!(at > until, "the shutdown's checkpoint belongs to the WAL");
        stop.join().expect("pg_ctl does not panic")
    })?;
    assert_eq!(soon(stream.next())?, WalMessage::ServerShutdown, "it is said again");
    soon(stream.report(StandbyStatus::default()))?;
    assert!(soon(stream.finish()).is_err(), "there is no session left");
    Ok(())
}

fn wal_that_is_not_there_is_an_error(installation: &Installation) -> Result<()> {
    let scene = Scene::start(installation, &[("archive_mode", "off")])?;
    let mut session = connect(&scene.unix())?;
    let identity = soon(session.identify_system())?;
    let mut stream = streaming(session, None, identity.flush_lsn + (1 << 30), TimelineId::FIRST);
    assert!(matches!(soon(stream.next()), Err(Error::Server { .. })), "not written yet");

    // Of the first segments nothing is left after some switches and checkpoints.
    for _ in 0..8 {
        scene.server.switch_wal()?;
        scene.server.sql("CHECKPOINT")?;
    }
    let session = connect(&scene.unix())?;
    let mut stream = streaming(session, None, Lsn(1 << 24), TimelineId::FIRST);
    let error = soon(stream.next()).expect_err("removed");
    assert_eq!(error.sqlstate(), Some("58P01"), "{error}");
    assert!(error.hint().is_some());

    let session = connect(&scene.unix())?;
    let unknown = TimelineId::new(7).expect("not zero");
    assert!(soon(session.start_replication(None, identity.flush_lsn, unknown)).is_err());
    Ok(())
}
