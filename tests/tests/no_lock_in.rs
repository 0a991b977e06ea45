//! What walkeep stores can be read without walkeep.

use std::process::Command;

use anyhow::{Context, Result};
use harness::{Agent, Installation, Output, Postgres, Repo, World, skip, workload};

fn has_program(name: &str) -> bool {
    let found = Command::new(name).arg("--version").output().is_ok();
    if !found {
        skip(format!("the program {name} is not on this machine"));
    }
    found
}

#[test]
fn every_object_opens_with_zstd() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    if !has_program("zstd") {
        return Ok(());
    }
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    workload::init(&server, 1)?;
    agent.backup_full()?;
    workload::transactions(&server, 50)?;
    let end = server.lsn()?;
    agent.wait_durable(&end)?;
    agent.stop()?;

    let objects = repo.objects()?;
    for kind in ["/wal/", "/tail/", "/pack/", "/block-digests/", "/manifest-"] {
        assert!(objects.iter().any(|object| object.key.contains(kind)), "no object of kind {kind}");
    }
    // walkeep.json is meant to be read as it is.
    for object in objects.iter().filter(|object| object.key != "walkeep.json") {
        Output::of(Command::new("zstd").args(["-q", "-d", "-c", "-o", "/dev/null", "-f"]).arg(&object.path))?
            .ok()
            .with_context(|| object.key.clone())?;
    }
    Ok(())
}

#[test]
fn a_shell_rebuilds_the_cluster() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    if !has_program("zstd") {
        return Ok(());
    }
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    workload::init(&server, 1)?;
    agent.backup_full()?;
    workload::transactions(&server, 50)?;
    // Its bytes lie in the packs of two backups.
    agent.walkeep(&["backup", "--incremental"])?.ok()?;
    let label = agent.labels()?.pop().context("the backup is not in the list")?;
    workload::transactions(&server, 50)?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.destroy()?;
    agent.stop()?;

    let rebuilt = world.at("rebuilt");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rebuild.sh");
    // The script is read by root and fed to the account's shell: the checkout may be closed to it.
    let text = std::fs::read(script).context("docs/rebuild.sh is missing")?;
    let script = world.write("rebuild.sh", text)?;
    let mut shell = world.account().command("bash");
    shell.arg(script).arg(repo.folder()).arg("main").arg(&label).arg(&rebuilt);
    Output::of(&mut shell)?.ok()?;

    let rebuilt = Postgres::adopt(&installation, &world, "rebuilt.server", &rebuilt)?;
    rebuilt.start()?;
    rebuilt.wait_promoted()?;
    assert_eq!(rebuilt.digest_all()?, end.digest);
    Ok(())
}
