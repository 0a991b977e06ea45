//! The conformance suite on object stores: our own servers with faults, and those of other makers.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::s3::BUCKET;
use harness::{Repo, StoreKind, World, runtime};
use proto::config::StorageConfig;
use repository::conformance::{
    check_missing_bucket, check_objects, check_refused, check_store, check_unreachable,
};
use repository::{Store, WriterId};

fn storage(repo: &Repo) -> Result<StorageConfig> {
    let (_, endpoint) = repo.storage().iter().find(|(key, _)| *key == "endpoint").context("no endpoint")?;
    Ok(StorageConfig {
        endpoint: Some(endpoint.trim_matches('"').to_owned()),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        allow_http: true,
        ..StorageConfig::default()
    })
}

fn open(repo: &Repo, url: &str) -> Result<Store> {
    Ok(Store::open_in(url, &storage(repo)?, repo.environment())?)
}

/// With time-outs that end soon.
fn hasty(repo: &Repo) -> Result<Store> {
    let storage = StorageConfig {
        connect_timeout: Duration::from_millis(500),
        retry_timeout: Duration::from_millis(300),
        ..storage(repo)?
    };
    Ok(Store::open_in(repo.url(), &storage, repo.environment())?)
}

fn keeps_the_rules(kind: StoreKind) -> Result<()> {
    let world = World::new()?;
    let Some(repo) = Repo::or_skip(kind, &world)? else { return Ok(()) };
    runtime().block_on(check_store(&open(&repo, repo.url())?));
    Ok(())
}

/// Wrong keys, a bucket that is not there, and at last no server: never "absent", and each told as what it is.
fn refuses_and_falls_silent(kind: StoreKind) -> Result<()> {
    let world = World::new()?;
    let Some(repo) = Repo::or_skip(kind, &world)? else { return Ok(()) };
    let wrong = Store::open_in(repo.url(), &storage(&repo)?, &repo.wrong_environment())?;
    runtime().block_on(check_refused(&wrong));
    let elsewhere = open(&repo, &repo.url().replace(BUCKET, &format!("not-{BUCKET}")))?;
    runtime().block_on(check_missing_bucket(&elsewhere));
    let store = hasty(&repo)?;
    repo.down()?;
    runtime().block_on(check_unreachable(&store));
    Ok(())
}

macro_rules! conformance {
    ($($keeps:ident, $refuses:ident: $store:ident;)*) => {
        $(#[test]
        fn $keeps() -> Result<()> {
            keeps_the_rules(StoreKind::$store)
        }

        #[test]
        fn $refuses() -> Result<()> {
            refuses_and_falls_silent(StoreKind::$store)
        })*
    };
}

conformance! {
    s3_keeps_the_rules, s3_refuses_and_falls_silent: S3;
    gcs_keeps_the_rules, gcs_refuses_and_falls_silent: Gcs;
    moto_keeps_the_rules, moto_refuses_and_falls_silent: Moto;
    rclone_keeps_the_rules, rclone_refuses_and_falls_silent: Rclone;
    azurite_keeps_the_rules, azurite_refuses_and_falls_silent: Azurite;
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

fn stumbles(kind: StoreKind) -> Result<()> {
    let world = World::new()?;
    let Some(repo) = Repo::or_skip(kind, &world)? else { return Ok(()) };
    let store = open(&repo, repo.url())?;
    let faults = repo.s3_server().faults();
    faults.latency(Duration::from_millis(1));
    faults.stumble(20);
    runtime().block_on(check_objects(&store));
    assert!(faults.injected() > 20, "{} faults prove nothing", faults.injected());
    Ok(())
}

#[test]
fn s3_that_stumbles_keeps_the_rules() -> Result<()> {
    stumbles(StoreKind::S3)
}

#[test]
fn gcs_that_stumbles_keeps_the_rules() -> Result<()> {
    stumbles(StoreKind::Gcs)
}

#[test]
fn s3_that_was_down_comes_back() -> Result<()> {
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let store = hasty(&repo)?;
    repo.s3_server().down();
    runtime().block_on(check_unreachable(&store));
    repo.s3_server().up()?;
    runtime().block_on(check_objects(&store));
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
