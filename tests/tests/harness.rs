//! The harness itself: if it lied, every scenario would.

use anyhow::Result;
use harness::servers::MAJORS;
use harness::{Installation, Postgres, Stop, World, skip, workload};

fn server_lives_dies_and_comes_back(major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    assert_eq!(server.sql("SHOW server_version_num")?.parse::<u32>()? / 10_000, major);
    workload::init(&server, 1)?;
    let before = server.digest_all()?;
    workload::transactions(&server, 20)?;
    let after = server.digest_all()?;
    assert_ne!(before, after, "the digest must see a changed row");

    server.kill9()?;
    assert!(server.sql("SELECT 1").is_err(), "a killed server must not answer");
    server.start()?;
    assert_eq!(server.digest_all()?, after, "what was committed must survive the kill");
    server.stop(Stop::Fast)
}

#[test]
fn pg13_server() -> Result<()> {
    server_lives_dies_and_comes_back(13)
}

#[test]
fn pg14_server() -> Result<()> {
    server_lives_dies_and_comes_back(14)
}

#[test]
fn pg15_server() -> Result<()> {
    server_lives_dies_and_comes_back(15)
}

#[test]
fn pg16_server() -> Result<()> {
    server_lives_dies_and_comes_back(16)
}

#[test]
fn pg17_server() -> Result<()> {
    server_lives_dies_and_comes_back(17)
}

#[test]
fn pg18_server() -> Result<()> {
    server_lives_dies_and_comes_back(18)
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let folder = world.path().to_owned();
    let server = Postgres::build(&installation, "data").start(&world)?;
    let port = server.port();
    drop(server);
    drop(world);
    assert!(!folder.exists(), "the folder of a scenario must go with it");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "the server must be gone");
    Ok(())
}

#[test]
fn every_supported_version_is_here() {
    for major in MAJORS {
        if Installation::find(major).is_none() {
            skip(format!("PostgreSQL {major} is not on this machine"));
        }
    }
}
