//! The conformance suite on the stores that need no server: memory and directories. Those that do are tested
//! with the same suite where their servers are.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::memory::InMemory;
use proto::config::StorageConfig;
use repository::conformance::{check_refused, check_store, check_unreachable};
use repository::{Error, Key, Repository, Sealing, Store, Unsealing};

fn directory(path: &std::path::Path) -> Store {
    Store::create(&format!("file://{}", path.display()), &StorageConfig::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_rules() {
    check_store(&Store::over(Arc::new(InMemory::new()), "memory://")).await;
}

#[tokio::test]
async fn one_thread_is_enough() {
    let (sealing, unsealing) = repository::conformance::encrypted();
    let store = Store::over(Arc::new(InMemory::new()), "memory://");
    repository::conformance::check_branch(&store, &sealing, &unsealing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_rules() {
    let outer = tempfile::tempdir().unwrap();
    let store = directory(&outer.path().join("a/new/directory"));
    check_store(&store).await;
    // Only here is a folder anything at all, and still it is no object.
    let folder = Key::new("conformance").unwrap();
    for answer in [store.get(&folder).await.map(drop), store.head(&folder).await.map(drop)] {
        assert!(matches!(answer, Err(Error::Absent { .. })), "{answer:?}");
    }
    assert!(store.leftovers(&Key::root()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_upload_leaves_is_hidden_and_can_be_swept() {
    let outer = tempfile::tempdir().unwrap();
    let store = directory(outer.path());
    let key = Key::new("folder/object").unwrap();
    store.put(&key, "x".into()).await.unwrap();
    fs::write(outer.path().join("folder/object#1"), "half").unwrap();
    fs::write(outer.path().join("folder/other#12"), "half").unwrap();
    fs::write(outer.path().join("folder/not a key"), "whose?").unwrap();
    assert_eq!(store.list(&Key::root()).await.unwrap().len(), 1);
    // A leftover in the way is no obstacle.
    store.put(&key, "x".into()).await.unwrap();
    let leftovers = store.leftovers(&Key::root()).await.unwrap();
    assert_eq!(leftovers.iter().map(|leftover| leftover.size).collect::<Vec<_>>(), [4, 4]);
    for leftover in &leftovers {
        store.remove_leftover(leftover).await.unwrap();
        store.remove_leftover(leftover).await.unwrap();
    }
    assert!(store.leftovers(&Key::root()).await.unwrap().is_empty());
    assert_eq!(&store.get(&key).await.unwrap()[..], b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_unmounted_is_neither_empty_nor_absent() {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("mounted");
    let store = directory(&path);
    let key = Key::new("object").unwrap();
    store.put(&key, "x".into()).await.unwrap();
    fs::rename(&path, outer.path().join("elsewhere")).unwrap();
    for remade in [false, true] {
        if remade {
            fs::create_dir(&path).unwrap();
        }
        check_refused(&store).await;
        assert!(matches!(store.delete(&key).await, Err(Error::Refused { .. })));
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "something was written into the wrong directory");
}

/// "Not listed" means "not there", so what cannot be looked at must be an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_leaves_nothing_out() {
    let outer = tempfile::tempdir().unwrap();
    let store = directory(outer.path());
    let key = |text: &str| Key::new(text).unwrap();
    store.put(&key("folder/wal/a"), "x".into()).await.unwrap();
    std::os::unix::fs::symlink("a", outer.path().join("folder/wal/b")).unwrap();
    assert_eq!(store.list(&key("folder")).await.unwrap().len(), 2, "links are followed");
    let leaf = outer.path().join("folder/wal");
    let all_fail = async |what: &str| {
        let wal = key("folder/wal");
        assert!(store.list(&Key::root()).await.is_err(), "{what}: list");
        assert!(store.list(&wal).await.is_err(), "{what}: list the folder itself");
        assert!(store.list_folder(&wal).await.is_err(), "{what}: list_folder");
        assert!(store.list_starting(&wal, "a").await.is_err(), "{what}: list_starting");
    };
    for (what, target) in [("a link that leads nowhere", "gone"), ("a link to itself", "a1")] {
        let link = leaf.join("a1");
        std::os::unix::fs::symlink(target, &link).unwrap();
        all_fail(what).await;
        assert!(store.list_starting(&key("folder/wal"), "b").await.is_ok());
        fs::remove_file(link).unwrap();
    }
    std::os::unix::fs::symlink("..", leaf.join("up")).unwrap();
    assert!(store.list(&Key::root()).await.is_err(), "a link that leads back");
    fs::remove_file(leaf.join("up")).unwrap();
    assert_eq!(store.list(&Key::root()).await.unwrap().len(), 2);
    // Names can be read, and nothing else. Root may look at everything, so as root this tells nothing.
    fs::set_permissions(&leaf, Permissions::from_mode(0o444)).unwrap();
    if fs::metadata(leaf.join("a")).is_err() {
        all_fail("a folder that may not be entered").await;
    }
    fs::set_permissions(&leaf, Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_the_marker_is_no_repository() {
    let outer = tempfile::tempdir().unwrap();
    let store = directory(outer.path());
    let open = || Repository::open(store.clone(), Sealing::plain(1), Unsealing::none());
    let error = open().await.err().unwrap();
    assert!(
        matches!(error, Error::NotBegun { .. }) && error.hint().unwrap().contains("walkeep init"),
        "{error}"
    );
    for marker in ["", "{}", "{\"walkeep\":2,\"repository\":\"x\"}"] {
        fs::write(outer.path().join("walkeep.json"), marker).unwrap();
        assert!(matches!(open().await.err().unwrap(), Error::Foreign { .. }), "{marker:?}");
        assert!(Repository::create(store.clone()).await.is_err(), "{marker:?} was overwritten");
        assert_eq!(fs::read_to_string(outer.path().join("walkeep.json")).unwrap(), marker);
    }
}

/// Root may write everywhere, so as root this tells nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_may_not_be_written_is_named() {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("closed");
    let store = directory(&path);
    fs::set_permissions(&path, Permissions::from_mode(0o500)).unwrap();
    if fs::write(path.join("probe"), "").is_ok() {
        eprintln!("SKIPPED: this user may write everywhere");
        return;
    }
    for key in ["object", "folder/object"] {
        let error = store.put(&Key::new(key).unwrap(), "x".into()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().contains("closed"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_listen_is_unreachable() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let storage = StorageConfig {
        endpoint: Some(format!("http://{closed}")),
        path_style: true,
        allow_http: true,
        connect_timeout: Duration::from_millis(500),
        retry_timeout: Duration::from_millis(300),
        ..StorageConfig::default()
    };
    let environment = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "test"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "dGVzdA=="),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    for url in ["s3://bucket/prefix", "az://container"] {
        let begun = Instant::now();
        check_unreachable(&Store::open_in(url, &storage, &environment).unwrap()).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{url} took {:?}", begun.elapsed());
    }
}
