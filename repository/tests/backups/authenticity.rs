//! Signatures, statements and recipients that come later.

use std::time::Duration;

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
