//! What is damaged, closed, or not there at all.

use bytes::Bytes;
use proto::{Digest, SystemId};

use super::branch::{begin, content, facts, segment};
use crate::{Error, Key, Repository, Sealing, Store, Unsealing};

/// A damaged object is noticed, and named.
pub async fn check_damage(store: &Store, sealing: &Sealing, unsealing: &Unsealing) {
    let (repository, cluster) = begin(store, sealing, unsealing).await;
    let branch = repository.begin_branch(&cluster, SystemId(5), facts()).await.expect("begun");
    let (name, body) = (segment(1), content(1));
    branch.put_segment(name, Digest::of(&body), None, body.clone()).await.expect("stored");
    let folder = branch.root().child("wal").child("00000001").child("00000000");
    let key = store.list_folder(&folder).await.expect("a folder").objects[0].key.clone();
    let object = store.get(&key).await.expect("the object");

    let length = object.len();
    let cuts = [0, 1, 1000, 1024, 1025, length / 2, length - 1025, length - 1024, length - 1];
    for cut in cuts {
        store.put(&key, object.slice(..cut)).await.expect("put");
        let error = branch.read_segment(name).await.expect_err("it was cut off");
        assert!(
            matches!(&error, Error::Corrupt { key: named, .. } if *named == key.as_str()),
            "{cut}: {error}"
        );
    }
    let extended = [&object[..], b"more"].concat();
    let joined = [&object[..], &object[..]].concat();
    let mut damaged: Vec<Vec<u8>> = vec![extended, joined];
    for place in (0..length).step_by(length / 100).chain([3, 9, 1030, length - 1020, length - 2]) {
        let mut flipped = object.to_vec();
        flipped[place] ^= 0x55;
        damaged.push(flipped);
    }
    for (number, damaged) in damaged.into_iter().enumerate() {
        store.put(&key, damaged.into()).await.expect("put");
        match branch.read_segment(name).await {
            Err(Error::Corrupt { key: named, .. }) => assert_eq!(named, key.as_str()),
            // What is damaged may be the list of those who can open it.
            Err(Error::Locked { what, .. }) if sealing.encrypts() => assert!(what.contains(key.as_str())),
            Err(error) => panic!("damage {number} is told as {error}"),
            // Blanks in the header's padding mean nothing.
            Ok(read) => assert!(read == body, "damage {number} was not noticed"),
        }
    }

    // One object in another's place: right in itself, and wrong there.
    let other = content(2);
    branch.put_segment(segment(2), Digest::of(&other), None, other.clone()).await.expect("stored");
    let there = store.list_starting(&folder, &segment(2).to_string()).await.expect("a list")[0].key.clone();
    store.put(&there, object.clone()).await.expect("put");
    let error = branch.read_segment(segment(2)).await.expect_err("it is another segment");
    assert!(matches!(&error, Error::Corrupt { key, .. } if *key == there.as_str()), "{error}");

    if sealing.encrypts() {
        store.put(&key, object).await.expect("put");
        let closed =
            Repository::open(store.clone(), sealing.clone(), Unsealing::none()).await.expect("opened");
        let closed = closed.branch(&cluster, SystemId(5)).await.expect("a branch opens without an identity");
        let error = closed.read_segment(name).await.expect_err("no identity");
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        let (_, stranger) = super::encrypted();
        let closed = Repository::open(store.clone(), sealing.clone(), stranger).await.expect("opened");
        let closed = closed.branch(&cluster, SystemId(5)).await.expect("a branch");
        let error = closed.read_segment(name).await.expect_err("another identity");
        assert!(matches!(error, Error::Locked { .. }), "{error}");
    }
}

/// All that a store can be asked for; each answer.
async fn everything(store: &Store) -> Vec<(&'static str, Result<(), Error>)> {
    let key = Key::root().child("conformance").child("object");
    let upload = async {
        let mut upload = store.upload(&key).await?;
        upload.write(vec![0; 9 << 20].into()).await?;
        upload.finish().await.map(drop)
    };
    vec![
        ("get", store.get(&key).await.map(drop)),
        ("get_range", store.get_range(&key, 0..10).await.map(drop)),
        ("get_stream", store.get_stream(&key, 0).await.map(drop)),
        ("head", store.head(&key).await.map(drop)),
        ("list", store.list(&Key::root()).await.map(drop)),
        ("list_folder", store.list_folder(&Key::root()).await.map(drop)),
        ("list_starting", store.list_starting(&Key::root(), "x").await.map(drop)),
        ("put", store.put(&key, Bytes::from_static(b"x")).await),
        ("upload", upload.await),
        ("open", Repository::open(store.clone(), Sealing::plain(1), Unsealing::none()).await.map(drop)),
    ]
}

/// A store that does not answer: nothing of it is absent. Give it short time-outs.
pub async fn check_unreachable(store: &Store) {
    for (what, answer) in everything(store).await {
        let error = answer.expect_err(what);
        assert!(matches!(error, Error::Unreachable { .. }), "{what}: {error}");
        assert!(error.to_string().contains(store.description()), "{what}: {error}");
        assert!(error.hint().is_some());
    }
}

/// A store that answers "you may not", as with wrong credentials.
pub async fn check_refused(store: &Store) {
    for (what, answer) in everything(store).await {
        let error = answer.expect_err(what);
        assert!(matches!(error, Error::Refused { .. }), "{what}: {error}");
        assert!(error.to_string().contains(store.description()), "{what}: {error}");
    }
}

/// A bucket that does not exist says nothing about objects.
pub async fn check_missing_bucket(store: &Store) {
    for (what, answer) in everything(store).await {
        let error = answer.expect_err(what);
        assert!(matches!(&error, Error::Refused { why, .. } if why.contains("bucket")), "{what}: {error}");
    }
}
