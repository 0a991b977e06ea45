//! Objects: whole or not at all, listed at once, read in parts.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{fresh, noise};
use crate::{Key, Store};

/// More than two parts of an upload.
const BIG: usize = 20 << 20;

/// More than one page of a listing.
const MANY: usize = 1100;

/// What any store must keep, without anything of ours in the objects.
pub async fn check_objects(store: &Store) {
    reads_back_what_was_put(store).await;
    an_equal_overwrite_is_harmless(store).await;
    ranges_are_exact(store).await;
    what_is_not_there_is_absent(store).await;
    odd_names_are_names(store).await;
    a_listing_shows_what_is_there(store).await;
    a_long_listing_is_whole(store).await;
    a_big_object_is_whole(store).await;
    nothing_shows_before_it_is_finished(store).await;
    a_removed_object_is_gone(store).await;
}

async fn reads_back_what_was_put(store: &Store) {
    let folder = fresh("put");
    for length in [0, 1, 1000, 100_000] {
        let key = folder.child(length);
        let body = Bytes::from(noise(length, 1));
        store.put(&key, body.clone()).await.expect("an object can be put");
        assert_eq!(store.get(&key).await.expect("it can be read at once"), body);
        let info = store.head(&key).await.expect("the store knows it");
        assert_eq!((&info.key, info.size), (&key, length as u64));
        let age = jiff::Timestamp::now().duration_since(info.modified).unsigned_abs();
        assert!(age < Duration::from_secs(600), "the store's clock is {age:?} away");
    }
}

async fn an_equal_overwrite_is_harmless(store: &Store) {
    let key = fresh("overwrite").child("object");
    for _ in 0..2 {
        store.put(&key, Bytes::from_static(b"the same")).await.expect("an object can be put again");
        assert_eq!(&store.get(&key).await.expect("it is there")[..], b"the same");
    }
    let writers = (0..8).map(|_| store.put(&key, Bytes::from_static(b"the same")));
    futures::future::try_join_all(writers).await.expect("equal writers do not disturb each other");
    assert_eq!(&store.get(&key).await.expect("it is there")[..], b"the same");
    let listed = store.list(&key.parent().unwrap_or_default()).await.expect("a list");
    assert_eq!(listed.iter().map(|object| &object.key).collect::<Vec<_>>(), [&key]);
}

async fn ranges_are_exact(store: &Store) {
    let key = fresh("range").child("object");
    let body = noise(10_000, 2);
    store.put(&key, body.clone().into()).await.expect("put");
    for (from, to) in [(0, 1), (0, 10_000), (9_999, 10_000), (5, 5), (1234, 5678), (9_000, 20_000)] {
        let read = store.get_range(&key, from as u64..to as u64).await.expect("a range");
        assert_eq!(read, body[from..to.min(10_000)], "{from}..{to}");
    }
    for (from, to) in [(10_000, 10_001), (20_000, 30_000)] {
        let read = store.get_range(&key, from..to).await.expect("a range beyond the end is empty");
        assert!(read.is_empty(), "{from}..{to}");
    }
    for from in [0, 1, 9_999] {
        let read: Vec<Bytes> =
            store.get_stream(&key, from).await.expect("a stream").try_collect().await.expect("its pieces");
        assert_eq!(read.concat(), body[from as usize..], "from {from}");
    }
}

async fn what_is_not_there_is_absent(store: &Store) {
    let folder = fresh("absent");
    store.put(&folder.child("there"), Bytes::from_static(b"x")).await.expect("put");
    for key in [folder.child("none"), folder.child("no").child("folder")] {
        let answers = [
            store.get(&key).await.map(drop),
            store.get_range(&key, 0..1).await.map(drop),
            store.get_range(&key, 5..9).await.map(drop),
            store.get_stream(&key, 0).await.map(drop),
            store.head(&key).await.map(drop),
        ];
        for answer in answers {
            let error = answer.expect_err("it was never put");
            assert!(error.is_absent(), "{key}: {error}");
            assert!(error.to_string().contains(key.as_str()), "{key} is not named: {error}");
        }
        assert!(!store.exists(&key).await.expect("an answer"));
    }
    assert!(store.list(&folder.child("none")).await.expect("an empty list").is_empty());
    let empty = store.list_folder(&folder.child("none")).await.expect("an empty folder");
    assert!(empty.folders.is_empty() && empty.objects.is_empty());
}

async fn odd_names_are_names(store: &Store) {
    let folder = fresh("odd");
    let longest = "x".repeat(200);
    let names = ["a+b", "a=b", "@,:()", "..a", "a..", "-", "_.~"];
    let mut keys: Vec<Key> = names.iter().chain(&[longest.as_str()]).map(|name| folder.child(name)).collect();
    for key in &keys {
        store.put(key, key.to_string().into()).await.expect("an odd name");
    }
    for key in &keys {
        assert_eq!(store.get(key).await.expect("it is there"), key.as_str());
    }
    keys.sort_unstable();
    let listed: Vec<Key> =
        store.list(&folder).await.expect("a list").into_iter().map(|info| info.key).collect();
    assert_eq!(listed, keys);
}

async fn a_listing_shows_what_is_there(store: &Store) {
    let folder = fresh("list");
    // A folder's name that another's begins with, and an object of the same name beside it.
    let names = ["a/1", "a/2", "a/deep/3", "ab/4", "a-5", "b"];
    for name in names {
        let key = folder.join(&Key::new(name).expect("a key"));
        store.put(&key, Bytes::from_static(b"x")).await.expect("put");
        let listed = store.list(&folder).await.expect("a list");
        assert!(listed.iter().any(|info| info.key == key), "{name} is not listed right after it was put");
    }
    let below = |keys: Vec<Key>| -> Vec<String> {
        keys.iter().filter_map(|key| key.below(&folder).map(str::to_owned)).collect()
    };
    let keys = |infos: Vec<crate::ObjectInfo>| below(infos.into_iter().map(|info| info.key).collect());
    let mut all = names.to_vec();
    all.sort_unstable();
    assert_eq!(keys(store.list(&folder).await.expect("a list")), all);
    assert_eq!(keys(store.list(&folder.child("a")).await.expect("a list")), ["a/1", "a/2", "a/deep/3"]);
    let top = store.list_folder(&folder).await.expect("a folder");
    assert_eq!(
        (below(top.folders), keys(top.objects)),
        (vec!["a".into(), "ab".into()], vec!["a-5".into(), "b".into()])
    );
    let starting =
        |name: &'static str| async { keys(store.list_starting(&folder, name).await.expect("a list")) };
    assert_eq!(starting("a").await, ["a-5"]);
    assert_eq!(starting("").await, ["a-5", "b"]);
    assert!(starting("c").await.is_empty());
}

async fn a_long_listing_is_whole(store: &Store) {
    let folder = fresh("many");
    let keys: Vec<Key> = (0..MANY).map(|number| folder.child(format_args!("{number:06}"))).collect();
    let puts = stream::iter(&keys).map(|key| store.put(key, Bytes::from_static(b"x")));
    puts.buffer_unordered(32).try_collect::<()>().await.expect("many objects");
    let listed: Vec<Key> =
        store.list(&folder).await.expect("a list").into_iter().map(|info| info.key).collect();
    assert_eq!(listed, keys);
    assert_eq!(store.list_folder(&folder).await.expect("a folder").objects.len(), MANY);
    assert_eq!(store.list_starting(&folder, "0010").await.expect("a list").len(), 100);
    // Too many to leave in the way of whatever lists after this.
    let deletes = stream::iter(&keys).map(|key| store.delete(key));
    deletes.buffer_unordered(32).try_collect::<()>().await.expect("they can be removed");
    assert!(store.list(&folder).await.expect("a list").is_empty());
}

async fn a_big_object_is_whole(store: &Store) {
    let folder = fresh("big");
    let body = noise(BIG, 3);
    let (streamed, at_once) = (folder.child("streamed"), folder.child("at-once"));
    let mut upload = store.upload(&streamed).await.expect("an upload");
    // Pieces that fit nowhere.
    for piece in body.chunks(1_234_567) {
        upload.write(Bytes::copy_from_slice(piece)).await.expect("a piece");
    }
    assert_eq!(upload.finish().await.expect("the end"), BIG as u64);
    store.put(&at_once, body.clone().into()).await.expect("put");
    for key in [streamed, at_once] {
        assert_eq!(store.head(&key).await.expect("it is there").size, BIG as u64);
        assert!(store.get(&key).await.expect("all of it") == body, "{key} came back changed");
        let edge = (8 << 20) - 100;
        let range = store.get_range(&key, edge..edge + 200).await.expect("a range across parts");
        assert_eq!(range, body[edge as usize..edge as usize + 200]);
        let rest: Vec<Bytes> =
            store.get_stream(&key, edge).await.expect("a stream").try_collect().await.expect("its pieces");
        assert!(rest.concat() == body[edge as usize..], "{key} streamed back changed");
    }
}

async fn nothing_shows_before_it_is_finished(store: &Store) {
    let folder = fresh("unfinished");
    for (length, aborted) in [(1000, true), (1000, false), (BIG, true), (BIG, false)] {
        let key = folder.child(format_args!("{length}-{aborted}"));
        let mut upload = store.upload(&key).await.expect("an upload");
        upload.write(noise(length, 4).into()).await.expect("a piece");
        assert_eq!(upload.written(), length as u64);
        let hidden = async || {
            assert!(
                !store.exists(&key).await.expect("an answer"),
                "{key} shows although it was not finished"
            );
            assert!(store.list(&folder).await.expect("a list").is_empty());
        };
        hidden().await;
        if aborted {
            upload.abort().await
        } else {
            drop(upload)
        }
        hidden().await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !store.leftovers(&folder).await.expect("leftovers").is_empty() {
        assert!(Instant::now() < deadline, "an upload that was given up has left a file behind");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_removed_object_is_gone(store: &Store) {
    let folder = fresh("delete");
    let key = folder.child("object");
    store.put(&key, Bytes::from_static(b"x")).await.expect("put");
    for _ in 0..2 {
        store.delete(&key).await.expect("to remove what is absent is fine");
        assert!(store.get(&key).await.expect_err("it was removed").is_absent());
        assert!(store.list(&folder).await.expect("a list").is_empty());
    }
    store.delete(&folder.child("none").child("object")).await.expect("fine in a missing folder too");
}
