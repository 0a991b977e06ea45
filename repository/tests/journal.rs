//! Journals on a real file system: read while they grow, cut off, retained, and deleted.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use proto::wal::{SegmentName, SegmentSize};
use proto::{Lsn, ServerTime, SystemId, TimelineId};
use repository::{Branch, BranchFacts, Epoch, EpochFacts, Repository, Sealing, Store, Unsealing};

const SEGMENT: SegmentName = SegmentName { timeline: TimelineId::FIRST, log: 0, seg: 1 };

fn wal() -> Bytes {
    let mut bytes = vec![0; 1 << 20];
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"wal");
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// The branch as a process of its own has it.
async fn open(directory: &Path) -> Branch {
    let url = format!("file://{}", directory.display());
    let store = Store::create(&url, &Default::default()).unwrap();
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::new(1 << 20).unwrap(), server_version: 150_018 };
    repository.begin_branch(&"main".parse().unwrap(), SystemId(1), facts).await.unwrap()
}

async fn epoch(branch: &Branch) -> Epoch {
    let facts = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(1 << 20), slot: None };
    branch.claim_epoch(facts).await.unwrap()
}

/// Readers that come at any moment see whole records, ever more of them, and no damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_journal_is_read_while_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let writer = open(folder.path()).await;
    let epoch = epoch(&writer).await;
    let time = ServerTime(0);
    let mut journal = writer.begin_journal(&epoch, SEGMENT, 0, time, &wal().slice(..400)).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (branch, done) = (open(folder.path()).await, done.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        move || {
            let (mut before, mut reads) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let tail = runtime.block_on(branch.read_tail(SEGMENT)).unwrap().unwrap();
                assert!(tail.valid >= before && tail.bytes == wal().slice(..tail.valid as usize));
                assert!(tail.valid.is_multiple_of(400), "{} is in the middle of a record", tail.valid);
                (before, reads) = (tail.valid, reads + 1);
            }
            reads
        }
    });
    for from in (400..400_000).step_by(400) {
        journal.append(time, &wal().slice(from..from + 400)).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
    let tail = writer.read_tail(SEGMENT).await.unwrap().unwrap();
    assert_eq!(tail.valid, 400_000);
}

/// An append whose caller has gone may be written or not; the journal is not used on, and what was there stays.
#[tokio::test]
async fn an_append_that_was_given_up_ends_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let branch = open(folder.path()).await;
    let epoch = epoch(&branch).await;
    let time = ServerTime(0);
    let mut journal = branch.begin_journal(&epoch, SEGMENT, 0, time, &wal().slice(..400)).await.unwrap();
    assert!(journal.append(time, &wal().slice(400..800)).now_or_never().is_none());
    assert!(!journal.is_sound());
    journal.append(time, &wal().slice(400..800)).await.unwrap_err();
    let tail = branch.read_tail(SEGMENT).await.unwrap().unwrap();
    assert!(tail.valid >= 400 && tail.bytes == wal().slice(..tail.valid as usize));
}
