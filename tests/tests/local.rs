//! Backups that read the files of a server beside them: taken under load, restored and compared.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use harness::postgres::pg_verifybackup;
use harness::{Agent, Installation, Postgres, Repo, Restless, World, workload};
use serde_json::Value;

/// The first version with incremental backups of its own.
const NATIVE: u32 = 17;

fn grant(server: &Postgres) -> Result<()> {
    let functions = match server.major() {
        ..15 => "pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)",
        _ => "pg_backup_start(text, boolean), pg_backup_stop(boolean)",
    };
    server.sql(&format!("GRANT EXECUTE ON FUNCTION {functions} TO walkeep")).map(|_| ())
}

/// Takes a backup, which must say how the files were read; what it shows.
fn backup(agent: &Agent, arguments: &[&str], local: bool) -> Result<Value> {
    let done = agent.walkeep(&[&["-v", "backup", "--json"], arguments].concat())?.ok()?;
    ensure!(done.stderr.contains(&format!("local={local}")), "{}", done.stderr);
    done.json()
}

fn beside_the_server(major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let space = world.folder("space")?;
    let builder = Postgres::build(&installation, "data").checksums(true);
    let builder = if major >= NATIVE { builder.conf("summarize_wal", "on") } else { builder };
    let server = builder.start(&world)?;
    grant(&server)?;
    workload::init(&server, 2)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    let mut restless = Restless::new(server, &space, 0x10ca)?;

    // Files come, go, grow and shrink while they are read.
    let done = AtomicBool::new(false);
    let full = std::thread::scope(|scope| -> Result<Value> {
        let changes = scope.spawn(|| -> Result<u32> {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                restless.change()?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let full = backup(&agent, &["--full", "--source", "local"], true);
        done.store(true, Ordering::Relaxed);
        let rounds = changes.join().expect("no panic")?;
        ensure!(rounds > 0, "nothing has changed meanwhile");
        full
    })?;
    restless.change()?;
    let server = &restless.server;
    workload::transactions(server, 100)?;
    let by_content = backup(&agent, &["--incremental", "--source", "local"], true)?;
    ensure!(by_content["kind"] == "incremental", "{by_content}");
    workload::transactions(server, 100)?;
    // Where the server can tell what has changed, it does, from a parent that it has not sent.
    let automatic = backup(&agent, &["--incremental", "--source", "auto"], major < NATIVE)?;
    ensure!(automatic["kind"] == "incremental", "{automatic}");
    workload::transactions(server, 50)?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.destroy()?;
    agent.stop()?;
    agent.walkeep(&["verify", "--deep"])?.ok()?;

    for shown in [&full, &by_content, &automatic] {
        let label = shown["label"].as_str().context("no label")?;
        let data = world.at(&format!("restored-{label}"));
        let moved = format!("{}={}", space.display(), world.at(&format!("space-{label}")).display());
        agent.restore(&data, &["--backup", label, "--tablespace", &moved, "--archive", "off"])?.ok()?;
        pg_verifybackup(&installation, &data)?;
        let restored = Postgres::adopt(&installation, &world, &format!("{label}.server"), &data)?;
        restored.start()?;
        restored.wait_promoted()?;
        ensure!(restored.digest_all()? == end.digest, "{label} is not what the server had");
    }
    Ok(())
}

#[test]
fn pg13() -> Result<()> {
    beside_the_server(13)
}

#[test]
fn pg18() -> Result<()> {
    beside_the_server(18)
}

#[test]
#[ignore = "long: the versions between; `cargo xtask test --soak local`"]
fn versions_between() -> Result<()> {
    (14..18).try_for_each(beside_the_server)
}
