//! Signatures, statements and recipients that come later.

use std::time::Duration;

use proto::Digest;
use proto::wal::{SegmentName, SegmentNo};
use repository::retention::Keep;
use repository::statement::{Discrepancy, Examined};
use repository::{Key, Signer};

use super::manifests::back_up;
use super::*;

/// A branch in `store` that `signer` writes, read by whoever trusts `trusted`; encrypted to these.
async fn signed(
    store: &Store,
    signer: &Signer,
    trusted: &[&Signer],
    to: &[Identity],
) -> Result<Branch, Error> {
    Repository::create(store.clone()).await?;
    let recipients: Vec<_> = to.iter().map(Identity::to_public).collect();
    let sealing = Sealing::to(1, &recipients, &[]).signed_by(signer.clone());
    let unsealing = Unsealing::with(to.to_vec());
    let unsealing = unsealing.trusting(trusted.iter().map(|signer| signer.public_key()).collect());
    let repository = Repository::open(store.clone(), sealing, unsealing).await?;
    let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
    repository.begin_branch(&CLUSTER.parse().unwrap(), SystemId(42), facts).await
}

/// What is not as it was stated, but for the beginning, which is later than the made-up times of these backups.
async fn discrepancies(branch: &Branch) -> Vec<Discrepancy> {
    let inventory = Inventory::load(branch).await.unwrap();
    match branch.examine_statements(&inventory, Timestamp::now()).await.unwrap() {
        Examined::Known { mut discrepancies, .. } => {
            discrepancies.retain(|found| !matches!(found, Discrepancy::BegunAnew { .. }));
            discrepancies
        }
        Examined::Unknown { .. } => panic!("keys are trusted here"),
    }
}

/// Objects that mark the first backup.
async fn marks(branch: &Branch) -> usize {
    let folder = branch.key(&Key::root().child("backup").child(label(1)));
    let objects = branch.store().list(&folder).await.unwrap();
    objects.iter().filter(|object| object.key.name().starts_with("keep-")).count()
}

/// What was stored and stated after an inventory was loaded is not missing because it is not in that one.
#[tokio::test]
async fn what_comes_while_somebody_looks_is_not_missed() {
    let (store, signer) = (memory(), Signer::generate().unwrap());
    let branch = signed(&store, &signer, &[&signer], &[]).await.unwrap();
    back_up(&branch, &label(1), &content(1000, 1)).await;
    branch.state(None).await.unwrap().unwrap();
    let earlier = Inventory::load(&branch).await.unwrap();

    let size = SegmentSize::DEFAULT;
    let segment = SegmentName::new(TimelineId::FIRST, SegmentNo(7), size);
    let wal = Bytes::from(vec![7; size.bytes() as usize]);
    branch.put_segment(segment, Digest::of(&wal), None, wal).await.unwrap();
    branch.state(None).await.unwrap().unwrap();
    let missing = |found: &Discrepancy| !matches!(found, Discrepancy::BegunAnew { .. });
    match branch.examine_statements(&earlier, Timestamp::now()).await.unwrap() {
        Examined::Known { discrepancies, .. } => {
            assert!(!discrepancies.iter().any(missing), "{discrepancies:?}");
        }
        Examined::Unknown { .. } => panic!("keys are trusted here"),
    }
    let accepted = branch.accept_losses(&earlier).await.unwrap();
    assert!(!accepted.iter().any(missing), "{accepted:?}");

    // It was stated for good: if it goes now, that is told.
    let listed = branch.store().list(&branch.key(&"wal".parse::<Key>().unwrap())).await.unwrap();
    for object in listed {
        branch.store().delete(&object.key).await.unwrap();
    }
    let found = discrepancies(&branch).await;
    let is_wal = |found: &Discrepancy| matches!(found, Discrepancy::Wal(_));
    assert!(!found.is_empty() && found.iter().all(is_wal), "{found:?}");
}

/// Whoever sets [signing] for a cluster that was begun without it hears what that may mean, not that everything is forged.
#[tokio::test]
async fn signing_that_is_set_later_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/repository", folder.path().display());
    let store = Store::create(&url, &Default::default()).unwrap();
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
    let (cluster, facts) = (
        "main".parse().unwrap(),
        BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 },
    );
    repository.begin_branch(&cluster, SystemId(42), facts).await.unwrap();

    let trusted = Signer::generate().unwrap().public_key();
    let text = format!("repository = {url:?}\n[signing]\ntrusted_keys = [\"{trusted}\"]\n");
    let config = proto::config::Config::parse(&text).unwrap();
    let repository = Repository::from_config(&config).await.unwrap();
    for error in [
        repository.branch(&cluster, SystemId(42)).await.map(drop).unwrap_err(),
        repository.only_branch(&cluster).await.map(drop).unwrap_err(),
        repository.begin_branch(&cluster, SystemId(42), facts).await.map(drop).unwrap_err(),
    ] {
        let told = error.to_string();
        assert!(matches!(error, Error::Foreign { .. }), "{told}");
        assert!(told.contains("begun without signatures") && told.contains("replaced"), "{told}");
    }
}

#[tokio::test]
async fn an_older_manifest_is_not_taken_for_the_newest() {
    let (store, signer) = (memory(), Signer::generate().unwrap());
    let first = [Identity::generate()];
    let branch = signed(&store, &signer, &[&signer], &first).await.unwrap();
    back_up(&branch, &label(1), &content(1000, 1)).await;
    branch.state(None).await.unwrap().unwrap();
    assert_eq!(discrepancies(&branch).await, []);

    // Somebody else is to read it, too: each backup gets a manifest for both.
    let both = [first[0].clone(), Identity::generate()];
    let branch = signed(&store, &signer, &[&signer], &both).await.unwrap();
    let rekeyed = branch.rekey(Duration::from_secs(3600), |_| {}).await.unwrap();
    assert_eq!((rekeyed.done.len(), rekeyed.already.len()), (1, 0));
    let again = branch.rekey(Duration::from_secs(3600), |_| {}).await.unwrap();
    assert_eq!((again.done.len(), again.already.as_slice()), (0, &[label(1)][..]));
    let later = signed(&store, &signer, &[&signer], &both[1..]).await.unwrap();
    assert_eq!(later.read_manifest(&rekeyed.done[0]).await.unwrap().head.label, label(1));

    // Marks have readers of their own: one that a run before has left out is renewed though no manifest is due.
    let keep = Keep { until: None };
    let first_only = signed(&store, &signer, &[&signer], &first).await.unwrap();
    first_only.keep_backup(&label(1), keep, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(marks(&branch).await, 1);
    // Marks are named by the millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    for _ in 0..2 {
        let again = branch.rekey(Duration::from_secs(3600), |_| {}).await.unwrap();
        assert_eq!((again.done.len(), marks(&branch).await), (0, 2));
    }

    branch.state(None).await.unwrap().unwrap();
    assert_eq!(discrepancies(&branch).await, []);
    let name = format!("manifest-{}", rekeyed.done[0].generation);
    let key = branch.key(&Key::root().child("backup").child(label(1)).child(name));
    branch.store().delete(&key).await.unwrap();
    let found = discrepancies(&branch).await;
    assert!(
        matches!(found.as_slice(), [Discrepancy::Generation { label: of, .. }] if *of == label(1)),
        "{found:?}"
    );
}

#[tokio::test]
async fn nothing_is_taken_that_nobody_trusted_has_signed() {
    let (store, signer, other) = (memory(), Signer::generate().unwrap(), Signer::generate().unwrap());
    let branch = signed(&store, &signer, &[&signer], &[]).await.unwrap();
    back_up(&branch, &label(1), &content(1000, 1)).await;
    let distrusts = signed(&store, &other, &[&other], &[]).await.map(drop).unwrap_err();
    assert!(distrusts.to_string().contains("none of the `trusted_keys`"), "{distrusts}");

    // A line of a manifest is checked without the rest: by whoever lists.
    let backup = branch.backup(&label(1)).await.unwrap();
    branch.read_manifest_head(&backup).await.unwrap();
    let forger = signed(&store, &other, &[&other, &signer], &[]).await.unwrap();
    let manifest = Manifest { head: head(&label(2)), packs: Vec::new(), entries: Vec::new() };
    let forged = forger.put_manifest(&manifest).await.unwrap();
    for error in [
        branch.read_manifest_head(&forged).await.map(drop).unwrap_err(),
        branch.read_manifest(&forged).await.map(drop).unwrap_err(),
        branch.index_manifest(&forged).await.map(drop).unwrap_err(),
    ] {
        assert!(error.to_string().contains("none of the `trusted_keys`"), "{error}");
    }
    let inventory = Inventory::load(&branch).await.unwrap();
    assert_eq!((inventory.backups.len(), inventory.unreadable.len()), (1, 1));
    // Nor is it stated.
    branch.state(None).await.unwrap().unwrap();
    branch
        .store()
        .delete(&branch.key(&"backup".parse::<Key>().unwrap().child(label(2)).child("manifest-00000001")))
        .await
        .unwrap();
    assert_eq!(discrepancies(&branch).await, []);
}

#[tokio::test]
async fn a_branch_stays_as_it_was_begun() {
    let (store, signer) = (memory(), Signer::generate().unwrap());
    let identity = Identity::generate();
    let branch = signed(&store, &signer, &[&signer], std::slice::from_ref(&identity)).await.unwrap();
    drop(branch);
    for (sealing, why) in [
        (Sealing::plain(1), "no `recipients` are set"),
        (Sealing::plain(1).signed_by(signer.clone()), "no `recipients` are set"),
        (Sealing::to(1, &[identity.to_public()], &[]), "no `key_file` is set"),
    ] {
        let repository = Repository::open(store.clone(), sealing, Unsealing::none()).await.unwrap();
        let branch = repository.only_branch(&CLUSTER.parse().unwrap()).await.unwrap();
        let error = branch.sealing().map(drop).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        let before = store.list(&Key::root()).await.unwrap().len();
        assert!(branch.store_time().await.is_err(), "it writes");
        assert_eq!(store.list(&Key::root()).await.unwrap().len(), before);
    }
    let store = memory();
    branch_over(store.clone(), Sealing::plain(1), Unsealing::none()).await;
    for (sealing, why) in [
        (Sealing::to(1, &[identity.to_public()], &[]), "begun in clear"),
        (Sealing::plain(1).signed_by(signer), "begun without signatures"),
    ] {
        let repository = Repository::open(store.clone(), sealing, Unsealing::none()).await.unwrap();
        let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
        let error = repository.begin_branch(&CLUSTER.parse().unwrap(), SystemId(42), facts).await;
        let error = error.map(drop).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}
