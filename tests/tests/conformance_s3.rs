//! The conformance suite on a real S3 server: in working order, with faults, and where it is not what it should be.

use std::time::Duration;

use anyhow::Result;
use harness::s3::BUCKET;
use harness::{Repo, World, runtime};
use proto::config::StorageConfig;
use repository::conformance::{
    check_missing_bucket, check_objects, check_refused, check_store, check_unreachable,
};
use repository::{Store, WriterId};

fn storage(repo: &Repo) -> StorageConfig {
    StorageConfig {
        endpoint: Some(repo.s3_server().endpoint()),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        allow_http: true,
        ..StorageConfig::default()
    }
}

fn open(repo: &Repo, url: &str) -> Result<Store> {
    Ok(Store::open_in(url, &storage(repo), repo.environment())?)
}

#[test]
fn s3_keeps_the_rules() -> Result<()> {
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let store = open(&repo, repo.url())?;
    runtime().block_on(check_store(&store));
    Ok(())
}

#[test]
fn s3_that_ignores_conditions_keeps_the_rules() -> Result<()> {
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    repo.s3_server().faults().ignore_conditions(true);
    let store = open(&repo, repo.url())?;
    runtime().block_on(check_store(&store));
    Ok(())
}

#[test]
fn s3_that_stumbles_keeps_the_rules() -> Result<()> {
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let store = open(&repo, repo.url())?;
    let faults = repo.s3_server().faults();
    faults.latency(Duration::from_millis(1));
    faults.stumble(20);
    runtime().block_on(check_objects(&store));
    assert!(faults.injected() > 20, "{} faults prove nothing", faults.injected());
    Ok(())
}

#[test]
fn s3_that_is_down_is_unreachable_and_comes_back() -> Result<()> {
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let hasty = StorageConfig {
        connect_timeout: Duration::from_millis(500),
        retry_timeout: Duration::from_millis(300),
        ..storage(&repo)
    };
    let store = Store::open_in(repo.url(), &hasty, repo.environment())?;
    repo.s3_server().down();
    runtime().block_on(check_unreachable(&store));
    repo.s3_server().up()?;
    runtime().block_on(check_objects(&store));
    Ok(())
}

#[test]
fn wrong_keys_are_refused() -> Result<()> {
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let wrong: Vec<_> =
        repo.environment().iter().map(|(name, _)| (name.clone(), "wrong".to_owned())).collect();
    let store = Store::open_in(repo.url(), &storage(&repo), &wrong)?;
    runtime().block_on(check_refused(&store));
    Ok(())
}

#[test]
fn a_missing_bucket_says_nothing_about_objects() -> Result<()> {
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let store = open(&repo, &format!("s3://not-{BUCKET}/walkeep"))?;
    runtime().block_on(check_missing_bucket(&store));
    Ok(())
}

/// The bucket's root, without a prefix, is a repository as good as any.
#[test]
fn a_bucket_without_prefix_keeps_the_rules() -> Result<()> {
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let store = open(&repo, &format!("s3://{BUCKET}"))?;
    runtime().block_on(check_objects(&store));
    let key = repository::Key::root().child(WriterId::random());
    assert!(matches!(runtime().block_on(store.head(&key)), Err(repository::Error::Absent { .. })));
    Ok(())
}
