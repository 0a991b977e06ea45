//! Objects that grow, and the journals in them, where a store has such objects.

use bytes::Bytes;
use proto::{Lsn, ServerTime, SystemId, TimelineId};

use super::branch::{begin, content, facts, segment};
use super::{fresh, noise};
use crate::{Branch, Epoch, EpochFacts, Error, Journal, Sealing, Store, Unsealing};

/// What objects that grow must keep; nothing where objects cannot.
pub async fn check_growing(store: &Store) {
    if !store.can_grow() {
        let refused = store.create_growing(&fresh("growing").child("object"), b"x".to_vec()).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
        return;
    }
    what_was_added_is_there(store).await;
    nobody_takes_over(store).await;
    let (repository, cluster) = begin(store, &Sealing::plain(1), &Unsealing::none()).await;
    let branch = repository.begin_branch(&cluster, SystemId(6), facts()).await.expect("begun");
    assert!(branch.has_journals());
    a_journal_is_a_tail(&branch).await;
    epochs_have_journals_of_their_own(&branch).await;
    damage_is_told(&branch).await;
    let (sealing, unsealing) = super::encrypted();
    let (repository, cluster) = begin(store, &sealing, &unsealing).await;
    let branch = repository.begin_branch(&cluster, SystemId(6), facts()).await.expect("begun");
    assert!(!branch.has_journals(), "what is encrypted is in objects");
}

async fn what_was_added_is_there(store: &Store) {
    let key = fresh("growing").child("a").child("new").child("folder");
    let mut expected = noise(100, 5);
    let mut object = store.create_growing(&key, expected.clone()).await.expect("made");
    // Within the room that there is, at its very end, and far beyond.
    for length in [1, 300, 40_000, 65_536, 3_000_000, 1, 5000] {
        let more = noise(length, 6);
        object.append(more.clone()).await.expect("added");
        assert!(object.is_sound());
        expected.extend(more);
        let read = store.get(&key).await.expect("it can be read at once");
        assert!(read.starts_with(&expected), "{length} bytes are not there");
        assert!(read.len() < expected.len() + (2 << 20), "no more than a step of room");
        let listed = store.list(&key.parent().unwrap_or_default()).await.expect("a list");
        assert_eq!(listed.iter().map(|info| &info.key).collect::<Vec<_>>(), [&key]);
    }
    drop(object);
    assert!(store.get(&key).await.expect("it is there") == expected, "room stays behind the end");
}

async fn nobody_takes_over(store: &Store) {
    let key = fresh("growing").child("object");
    let mut object = store.create_growing(&key, b"mine".to_vec()).await.expect("made");
    let refused = store.create_growing(&key, b"yours".to_vec()).await;
    assert!(refused.is_err(), "two writers have one object");
    object.append(b" still".to_vec()).await.expect("added");
    assert!(store.get(&key).await.expect("it is there").starts_with(b"mine still"));
    // Durable in what nobody can find would be no good.
    store.delete(&key).await.expect("deleted");
    object.append(b" here".to_vec()).await.expect_err("it is gone");
    assert!(!object.is_sound());
    object.append(b" here".to_vec()).await.expect_err("once and for all");
    assert!(!store.exists(&key).await.expect("an answer"));
}

async fn epoch(branch: &Branch) -> Epoch {
    let start = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(4 << 20), slot: None };
    branch.claim_epoch(start).await.expect("an epoch")
}

/// Begins a journal of segment `seg` with these pieces, each a record.
async fn journal(branch: &Branch, epoch: &Epoch, seg: u32, body: &Bytes, ends: &[u32]) -> Journal {
    let piece = |from: u32, to: u32| body.slice(from as usize..to as usize);
    let time = |to: u32| ServerTime(to.into());
    let (from, first) = (ends[0], ends[1]);
    let begun = branch.begin_journal(epoch, segment(seg), from, time(first), &piece(from, first)).await;
    let mut journal = begun.expect("begun");
    for pair in ends[1..].windows(2) {
        journal.append(time(pair[1]), &piece(pair[0], pair[1])).await.expect("added");
        assert_eq!(journal.end(), pair[1]);
    }
    journal
}

async fn a_journal_is_a_tail(branch: &Branch) {
    let (name, body, epoch) = (segment(7), content(7), epoch(branch).await);
    let mut growing = journal(branch, &epoch, 7, &body, &[0, 300, 301]).await;
    for (from, to) in [(301, 9000), (9000, 9001), (9001, 300_000), (300_000, 300_500)] {
        growing.append(ServerTime(to as i64), &body.slice(from..to)).await.expect("added");
        let tail = branch.read_tail(name).await.expect("a tail").expect("its beginning is there");
        assert_eq!((tail.valid as usize, tail.epoch), (to, epoch));
        assert_eq!(tail.server_time, Some(ServerTime(to as i64)));
        assert!(tail.bytes == body[..to]);
    }
    let listing = branch.wal_listing().await.expect("a listing");
    let wal = &listing.timelines[&TimelineId::FIRST];
    assert_eq!((wal.tail_length(name), wal.journals.len(), listing.strays.len()), (300_500, 1, 0));
    assert_eq!(wal.fragments, branch.fragments(name).await.expect("a list"));
    // A fragment of the same epoch goes on where the journal ends, as another journal does.
    let next = body.slice(300_400..400_000);
    branch.put_fragment(&epoch, name, 300_400, 400_000, ServerTime(0), next).await.expect("stored");
    drop(journal(branch, &epoch, 7, &body, &[400_000, 500_000]).await);
    let tail = branch.read_tail(name).await.expect("a tail").expect("its beginning is there");
    assert!(tail.valid == 500_000 && tail.bytes == body[..500_000]);
    // Whole: its journals are listed, and not looked into.
    let digest = proto::Digest::of(&body);
    branch.put_segment(name, digest, None, body).await.expect("stored");
    let wal = branch.folder_listing(TimelineId::FIRST, 0).await.expect("a listing");
    assert_eq!((wal.journals.len(), wal.fragments.len()), (2, 1));
    for (from, length) in [(0, 0), (1 << 20, 1)] {
        let content = Bytes::from(vec![0; length]);
        let refused = branch.begin_journal(&epoch, name, from, ServerTime(0), &content).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{from}, {length} bytes: {refused:?}");
    }
}

async fn epochs_have_journals_of_their_own(branch: &Branch) {
    let (name, body) = (segment(8), content(8));
    let (first, second) = (epoch(branch).await, epoch(branch).await);
    let longer = journal(branch, &first, 8, &body, &[0, 20_000]).await;
    drop(journal(branch, &second, 8, &body, &[0, 5000]).await);
    drop(journal(branch, &second, 8, &body, &[20_000, 30_000]).await);
    let tail = branch.read_tail(name).await.expect("a tail").expect("its beginning is there");
    assert_eq!((tail.valid, tail.epoch), (20_000, first), "epochs are never mixed");
    // Under another epoch's name its records are none.
    let object = branch.store().get(&branch.key(&longer.name().key())).await.expect("there");
    let third = epoch(branch).await;
    let moved = crate::JournalName { epoch: third, ..longer.name() };
    branch.store().put(&branch.key(&moved.key()), object).await.expect("put");
    let tail = branch.read_tail(name).await.expect("a tail").expect("its beginning is there");
    assert_eq!(tail.epoch, first);
    let mut other = body[..10_000].to_vec();
    other[9_999] ^= 1;
    drop(journal(branch, &third, 8, &other.into(), &[0, 10_000]).await);
    let error = branch.read_tail(name).await.expect_err("two servers");
    assert!(matches!(&error, Error::Conflict { found, .. } if found.len() == 2), "{error}");
}

async fn damage_is_told(branch: &Branch) {
    let (name, body, epoch) = (segment(9), content(9), epoch(branch).await);
    let written = journal(branch, &epoch, 9, &body, &[0, 1000, 2000, 3000]).await.name();
    let key = branch.key(&written.key());
    let object = branch.store().get(&key).await.expect("there");
    let put = async |changed: &[u8]| {
        branch.store().put(&key, Bytes::copy_from_slice(changed)).await.expect("put");
    };
    let read = async || branch.read_tail(name).await;
    // Cut off anywhere, it ends with the last record that is whole.
    for cut in (0..object.len()).step_by(41) {
        put(&object[..cut]).await;
        let valid = read().await.expect("an end").map_or(0, |tail| tail.valid);
        assert!(valid.is_multiple_of(1000) && valid < 3000, "{valid}");
    }
    let second = (1024..object.len() - 64).filter(|at| object[*at..].starts_with(b"\x59\x2a\x4d\x18")).nth(1);
    let second = second.expect("a second record");
    for at in [second, second + 4, second + 20, second + 40, second + 64, 5, 30] {
        let mut changed = object.to_vec();
        changed[at] ^= 0x41;
        put(&changed).await;
        let error = read().await.expect_err("good records follow");
        assert!(
            matches!(&error, Error::Corrupt { key: named, .. } if *named == key.as_str()),
            "{at}: {error}"
        );
    }
    let mut changed = object.to_vec();
    changed[second + 40] ^= 0x41;
    put(&changed).await;
    let wal = branch.folder_listing(TimelineId::FIRST, 0).await.expect("damage hides nothing");
    assert_eq!(wal.tail_length(name), 3000);
    branch.store().delete(&key).await.expect("deleted");
    assert_eq!(read().await, Ok(None));
}
