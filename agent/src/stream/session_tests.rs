//! A session with a server that says nothing.

use std::sync::Arc;

use object_store::memory::InMemory;
use proto::client::{ServerVersion, Start};
use proto::{SystemId, TimelineId};
use repository::{BranchFacts, EpochFacts, Repository, Sealing, Store, Unsealing};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::pace::Flush;
use super::super::tail::TailStart;
use super::*;

/// A walsender that streams nothing at all. It answers who asks for an answer, or is as mute as a host that is gone.
async fn walsender(mut io: DuplexStream, answers: bool) {
    let message = async |io: &mut DuplexStream| {
        let tag = io.read_u8().await.ok()?;
        let mut body = vec![0; io.read_u32().await.ok()? as usize - 4];
        io.read_exact(&mut body).await.ok()?;
        Some((tag, body))
    };
    assert_eq!(message(&mut io).await.expect("IDENTIFY_SYSTEM").0, b'Q');
    let row: Vec<u8> = ["7", "1", "0/100000", "x"]
        .iter()
        .flat_map(|value| [&(value.len() as u32).to_be_bytes()[..], value.as_bytes()].concat())
        .collect();
    for (tag, body) in
        [(b'T', &[0, 0][..]), (b'D', &[&[0, 4], &row[..]].concat()), (b'C', b"x\0"), (b'Z', b"I")]
    {
        io.write_u8(tag).await.unwrap();
        io.write_u32(body.len() as u32 + 4).await.unwrap();
        io.write_all(body).await.unwrap();
    }
    assert_eq!(message(&mut io).await.expect("START_REPLICATION").0, b'Q');
    io.write_all(b"W\x00\x00\x00\x07\x00\x00\x00").await.unwrap();
    while let Some((_, body)) = message(&mut io).await {
        match (body.first(), body.last()) {
            (Some(b'r'), Some(1)) if answers => {
                let keepalive = [&b"d\x00\x00\x00\x16k"[..], &[0; 17]].concat();
                io.write_all(&keepalive).await.unwrap();
            }
            (Some(b'r'), _) => {}
            // Our farewell.
            _ => return,
        }
    }
}

async fn session(answers: bool) -> Session {
    let segment_size = SegmentSize::new(1 << 20).unwrap();
    let store = Store::over(Arc::new(InMemory::new()), "memory");
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::default()).await.unwrap();
    let facts = BranchFacts { segment_size, server_version: 150_018 };
    let branch = repository.begin_branch(&"test".parse().unwrap(), SystemId(7), facts).await.unwrap();
    let (timeline, start) = (TimelineId::FIRST, Lsn(1 << 20));
    let epoch = branch.claim_epoch(EpochFacts { timeline, start, slot: None }).await.unwrap();

    let (ours, theirs) = duplex(1 << 16);
    tokio::spawn(walsender(theirs, answers));
    let replication = Replication::on(ours, "mute", ServerVersion(150_018));
    let Start::Streaming(wal) = replication.start_replication(None, start, timeline).await.unwrap() else {
        panic!("it streams");
    };
    let flush = Flush::Every(Duration::from_secs(1));
    let tail =
        Tail::new(TailStart { timeline, segment_size, start, flush, known: Vec::new(), journals: false });
    let (known, state) = (KnownSegments::default(), StreamState::default());
    let sink = Sink::new(branch, epoch, known.clone(), state.clone());
    let limits = Limits { segment_size, shutdown_grace: Duration::from_secs(60), report_floor: start };
    Session::new(wal, tail, sink, limits, state, known)
}

#[tokio::test(start_paused = true)]
async fn a_host_that_vanished_is_noticed_within_half_a_minute() {
    let session = session(false).await;
    let (_stop, mut stopped) = watch::channel(false);
    let begun = Instant::now();
    let ended = timeout(Duration::from_secs(600), session.run(&mut stopped)).await.expect("it is noticed");
    assert!(matches!(ended, Err(StreamError::Silent { .. })), "{:?}", ended.err());
    let took = begun.elapsed().as_secs();
    assert!((20..=40).contains(&took), "after {took} s of the paused clock");
}

#[tokio::test(start_paused = true)]
async fn an_idle_server_that_answers_is_kept() {
    let session = session(true).await;
    let (stop, mut stopped) = watch::channel(false);
    let run = session.run(&mut stopped);
    tokio::pin!(run);
    assert!(timeout(Duration::from_secs(600), &mut run).await.is_err(), "it goes on");
    stop.send(true).unwrap();
    assert!(matches!(run.await, Ok(Ended::Stopped)));
}
