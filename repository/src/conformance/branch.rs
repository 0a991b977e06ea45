//! Branches: segments, fragments, epochs and listings, over whatever store.

use bytes::Bytes;
use futures::stream;
use proto::config::ClusterName;
use proto::wal::{SegmentName, SegmentSize, WalFile};
use proto::{Digest, Lsn, ServerTime, SystemId, TimelineId};

use super::{fresh, noise};
use crate::{Branch, BranchFacts, EpochFacts, Error, Repository, Sealing, Store, Stored, Unsealing};

/// Everything that a branch must keep, sealed this way.
pub async fn check_branch(store: &Store, sealing: &Sealing, unsealing: &Unsealing) {
    let branch = a_branch_is_begun_explicitly(store, sealing, unsealing).await;
    a_segment_is_stored_once(&branch).await;
    two_segments_of_one_name_are_both_kept(&branch).await;
    fragments_make_a_tail(&branch).await;
    small_files_are_all_kept(&branch).await;
    a_listing_tells_all(&branch).await;
}

pub(super) fn facts() -> BranchFacts {
    BranchFacts { segment_size: SegmentSize::new(1 << 20).expect("1 MiB"), server_version: 150_018 }
}

/// A repository of its own within the store: a cluster that nobody else uses.
pub(super) async fn begin(
    store: &Store,
    sealing: &Sealing,
    unsealing: &Unsealing,
) -> (Repository, ClusterName) {
    Repository::create(store.clone()).await.expect("a repository can be made, again too");
    let repository =
        Repository::open(store.clone(), sealing.clone(), unsealing.clone()).await.expect("opened");
    let cluster = fresh("cluster").name().parse().expect("a cluster's name");
    (repository, cluster)
}

pub(super) fn segment(number: u32) -> SegmentName {
    SegmentName { timeline: TimelineId::FIRST, log: 0, seg: number }
}

pub(super) fn content(seed: u64) -> Bytes {
    // Half noise, half zeros, as WAL is.
    let mut content = noise(1 << 19, seed);
    content.resize(1 << 20, 0);
    content.into()
}

async fn a_branch_is_begun_explicitly(store: &Store, sealing: &Sealing, unsealing: &Unsealing) -> Branch {
    let (repository, cluster) = begin(store, sealing, unsealing).await;
    let (old, new, other) =
        (SystemId(7_000_000_000_000_000_001), SystemId(7_000_000_000_000_000_002), SystemId(3));
    let absent = repository.branch(&cluster, old).await.err().expect("never begun");
    assert!(matches!(absent, Error::NotBegun { .. }), "{absent}");
    let absent = repository.only_branch(&cluster).await.err().expect("never begun");
    assert!(matches!(absent, Error::NotBegun { .. }), "{absent}");

    repository.begin_branch(&cluster, old, facts()).await.expect("begun");
    let again = repository.begin_branch(&cluster, old, facts()).await.expect("begun again");
    assert_eq!((again.facts(), again.system_id()), (facts(), old));
    let larger = BranchFacts { segment_size: SegmentSize::DEFAULT, ..facts() };
    let error = repository.begin_branch(&cluster, old, larger).await.err().expect("another segment size");
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    let error = repository.branch(&cluster, other).await.err().expect("another server");
    assert!(
        matches!(error, Error::Foreign { .. }) && error.to_string().contains(&old.to_string()),
        "{error}"
    );

    // The store's clock may have seconds only.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    repository.begin_branch(&cluster, new, facts()).await.expect("a second branch");
    assert_eq!(repository.systems(&cluster).await.expect("systems"), [old, new]);
    assert_eq!(repository.only_branch(&cluster).await.expect("the newest").system_id(), new);
    repository.branch(&cluster, old).await.expect("begun before")
}

async fn a_segment_is_stored_once(branch: &Branch) {
    let (name, body) = (segment(1), content(1));
    let digest = Digest::of(&body);
    let sent = ServerTime::from_unix_micros(1_800_000_000_123_456);
    assert_eq!(branch.segment_digest(name).await.expect("an answer"), None);
    assert!(branch.read_segment(name).await.expect_err("not stored yet").is_absent());

    let refused = branch.put_segment(name, Digest::of(b"else"), None, body.clone()).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let refused = branch.put_segment(name, Digest::of(&body[1..]), None, body.slice(1..)).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    assert_eq!(branch.segment_digest(name).await.expect("an answer"), None);

    let put = |body: Bytes| branch.put_segment(name, digest, Some(sent), body);
    assert_eq!(put(body.clone()).await.expect("stored"), Stored::New);
    assert_eq!(put(body.clone()).await.expect("stored"), Stored::Already);
    assert_eq!(branch.segment_digest(name).await.expect("an answer"), Some(digest));
    assert!(branch.read_segment(name).await.expect("read back") == body);
    let header = branch.peek_segment(name).await.expect("its header");
    assert_eq!((header.from, header.to), (Some(Lsn(1 << 20)), Some(Lsn(2 << 20))));
    assert_eq!((header.server_time, header.timeline), (Some(sent), Some(TimelineId::FIRST)));

    let (name, body) = (segment(2), content(2));
    let pieces = |body: &Bytes, count: usize| {
        let pieces: Vec<_> =
            body.chunks(300_000).take(count).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
        stream::iter(pieces)
    };
    for (digest, count) in [(Digest::of(b"else"), 9), (Digest::of(&body), 2)] {
        let refused = branch.put_segment_stream(name, digest, None, pieces(&body, count)).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    let broken = stream::iter([Ok(body.slice(..1000)), Err(std::io::Error::other("the disk is gone"))]);
    let refused = branch.put_segment_stream(name, Digest::of(&body), None, broken).await;
    assert!(refused.expect_err("a broken source").to_string().contains("the disk is gone"));
    assert_eq!(branch.segment_digest(name).await.expect("an answer"), None);
    let stored = branch.put_segment_stream(name, Digest::of(&body), None, pieces(&body, 9)).await;
    assert_eq!(stored.expect("stored"), Stored::New);
    let file = tempfile();
    let length = branch.read_segment_to(name, file.1).await.expect("read back");
    assert!(length == 1 << 20 && *file.0.lock().expect("one writer") == body);
}

/// A writer that can be looked into afterwards.
type Shared = std::sync::Arc<std::sync::Mutex<Vec<u8>>>;

struct SharedWriter(Shared);

impl std::io::Write for SharedWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn tempfile() -> (Shared, SharedWriter) {
    let shared = Shared::default();
    (shared.clone(), SharedWriter(shared))
}

async fn two_segments_of_one_name_are_both_kept(branch: &Branch) {
    let name = segment(3);
    let (one, two) = (content(31), content(32));
    let digests = [Digest::of(&one), Digest::of(&two)];
    branch.put_segment(name, digests[0], None, one.clone()).await.expect("the first");
    let conflict = |error: Error| {
        let Error::Conflict { found, .. } = &error else { panic!("a conflict was expected: {error}") };
        for digest in digests {
            assert!(
                found.iter().any(|key| key.ends_with(&digest.to_string())),
                "{digest} is not named: {error}"
            );
        }
    };
    conflict(branch.put_segment(name, digests[1], None, two.clone()).await.expect_err("another content"));
    conflict(branch.put_segment(name, digests[0], None, one.clone()).await.expect_err("no longer certain"));
    conflict(branch.segment_digest(name).await.expect_err("two"));
    conflict(branch.read_segment(name).await.expect_err("which?"));
    let listing = branch.folder_listing(TimelineId::FIRST, 0).await.expect("a listing");
    let mut kept = listing.segments[&name].clone();
    kept.sort_unstable();
    let mut both = digests.to_vec();
    both.sort_unstable();
    assert_eq!(kept, both);
}

async fn fragments_make_a_tail(branch: &Branch) {
    let (name, body) = (segment(4), content(4));
    let start = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(4 << 20), slot: Some("walkeep".into()) };
    let first = branch.claim_epoch(start.clone()).await.expect("an epoch");
    let second = branch.claim_epoch(start.clone()).await.expect("another");
    assert!(second.number == first.number + 1 && first.writer == branch.writer());
    assert_eq!(branch.epochs().await.expect("epochs"), [first, second]);
    assert_eq!(branch.read_epoch(&first).await.expect("its facts"), start);

    let put = |epoch, from: u32, to: u32| {
        let content = body.slice(from as usize..to as usize);
        branch.put_fragment(epoch, name, from, to, ServerTime(to.into()), content)
    };
    assert_eq!(branch.read_tail(name).await.expect("no tail"), None);
    put(&first, 8192, 20_000).await.expect("a fragment");
    assert_eq!(branch.read_tail(name).await.expect("no beginning"), None);
    put(&first, 0, 8192).await.expect("a fragment");
    put(&first, 30_000, 40_000).await.expect("a fragment after a hole");
    put(&second, 0, 12_000).await.expect("a fragment of another epoch");
    let tail = branch.read_tail(name).await.expect("a tail").expect("its beginning is there");
    assert_eq!((tail.valid, tail.epoch, tail.server_time), (20_000, first, Some(ServerTime(20_000))));
    assert!(tail.bytes == body[..20_000]);
    // Merged, and beyond the hole: the other epoch is longer now.
    put(&second, 0, 25_000).await.expect("a merged fragment");
    put(&second, 25_000, 35_000).await.expect("a fragment");
    let tail = branch.read_tail(name).await.expect("a tail").expect("its beginning is there");
    assert_eq!((tail.valid, tail.epoch), (35_000, second));
    assert!(tail.bytes == body[..35_000]);
    assert_eq!(branch.newest_wal(TimelineId::FIRST).await.expect("names"), Some(Lsn((4 << 20) + 35_000)));
    let nothing = branch.newest_wal(TimelineId::new(9).expect("9")).await.expect("names");
    assert_eq!(nothing, None);

    for (from, to) in [(0, 0), (5, 4), (0, (1 << 20) + 1)] {
        let refused = branch.put_fragment(&first, name, from, to, ServerTime(0), Bytes::new()).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{from}..{to}: {refused:?}");
    }

    // A third epoch from another server: it agrees for a while only.
    let third = branch.claim_epoch(start).await.expect("a third epoch");
    let mut other = body[..10_000].to_vec();
    other[9_999] ^= 1;
    branch.put_fragment(&third, name, 0, 10_000, ServerTime(0), other.into()).await.expect("a fragment");
    let error = branch.read_tail(name).await.expect_err("two servers");
    let Error::Conflict { found, .. } = &error else { panic!("a conflict was expected: {error}") };
    assert!(found.iter().any(|epoch| epoch.contains(&third.to_string())), "{error}");
}

async fn small_files_are_all_kept(branch: &Branch) {
    let two = TimelineId::new(2).expect("2");
    let history = WalFile::History(two);
    let text = |switch: &str, reason: &str| Bytes::from(format!("1\t{switch}\t{reason}\n"));
    let put = |file, content: Bytes| async move { branch.put_wal_file(file, content).await.expect("stored") };
    assert!(branch.read_history(two).await.expect("none").is_none());
    assert_eq!(put(history, text("0/300000", "one")).await, Stored::New);
    assert_eq!(put(history, text("0/300000", "one")).await, Stored::Already);
    assert_eq!(put(history, text("0/300000", "another reason")).await, Stored::New);
    let known = branch.read_history(two).await.expect("they agree").expect("it is there");
    assert_eq!(known.switch_from(TimelineId::FIRST), Some(Lsn(0x300_000)));

    let three = TimelineId::new(3).expect("3");
    put(WalFile::History(three), text("0/300000", "")).await;
    put(WalFile::History(three), text("0/400000", "")).await;
    let error = branch.read_history(three).await.expect_err("two lineages");
    assert!(matches!(&error, Error::Conflict { found, .. } if found.len() == 2), "{error}");

    for file in [WalFile::Partial(segment(5)), WalFile::Backup(segment(5), 0x28)] {
        assert_eq!(put(file, content(51)).await, Stored::New);
        assert_eq!(put(file, content(52)).await, Stored::New);
        assert_eq!(put(file, content(51)).await, Stored::Already);
        let kept = branch.read_wal_file(file).await.expect("both");
        assert!(kept.len() == 2 && kept.iter().any(|kept| kept.content == content(52)));
    }

    // In pieces: the same object, and only if it is what was announced.
    let file = WalFile::Partial(segment(6));
    let (digest, length) = (Digest::of(&content(61)), content(61).len() as u64);
    let pieces = |number| {
        let (first, second) = (content(number).slice(..1000), content(number).slice(1000..));
        stream::iter([Ok(first), Ok(second)])
    };
    let wrong = branch.put_wal_file_stream(file, length, digest, pieces(62)).await;
    assert!(matches!(wrong, Err(Error::Invalid { .. })), "{wrong:?}");
    assert_eq!(branch.read_wal_file(file).await.expect("none"), []);
    let put = async || branch.put_wal_file_stream(file, length, digest, pieces(61)).await;
    assert_eq!(put().await, Ok(Stored::New));
    assert_eq!(put().await, Ok(Stored::Already));
    assert_eq!(branch.read_wal_file(file).await.expect("one")[0].content, content(61));
}

async fn a_listing_tells_all(branch: &Branch) {
    let stray = branch.root().child("wal").child("00000001").child("notes.txt");
    branch.store().put(&stray, Bytes::from_static(b"whose?")).await.expect("put");
    let listing = branch.wal_listing().await.expect("a listing");
    assert_eq!(listing.strays, [stray]);
    let timeline = &listing.timelines[&TimelineId::FIRST];
    assert_eq!(timeline.segments.keys().map(|name| name.seg).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(timeline.segments[&segment(3)].len(), 2);
    assert_eq!(timeline.fragments.len(), 7);
    assert!(timeline.fragments.is_sorted());
    assert_eq!((timeline.tail_length(segment(4)), timeline.tail_length(segment(1))), (35_000, 0));
    assert_eq!(timeline.files.values().map(Vec::len).sum::<usize>(), 5);
    assert_eq!(listing.histories.values().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    let folder = branch.folder_listing(TimelineId::FIRST, 0).await.expect("a folder");
    assert_eq!((&folder.segments, &folder.fragments), (&timeline.segments, &timeline.fragments));
}
