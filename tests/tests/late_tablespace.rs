//! A tablespace that was made after the backup: replay makes it again at its own place, and there may be somebody's files.

use std::fs;

use anyhow::{Result, ensure};
use harness::{Agent, Installation, Postgres, Repo, World, workload};

#[test]
fn it_is_made_again_only_where_nothing_is() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    workload::init(&server, 1)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    agent.backup_full()?;
    let before = server.lsn()?;
    workload::transactions(&server, 5)?;
    let late = world.folder("late disk")?;
    server.sql(&format!("CREATE TABLESPACE late LOCATION '{}'", late.display()))?;
    server.sql("CREATE TABLE quick TABLESPACE late AS SELECT n FROM generate_series(1, 5000) n")?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.sql("CHECKPOINT")?;

    // The original lives.
    let target = world.at("restored");
    let place = late.display().to_string();
    let words = [place.as_str(), "after the backup had begun", "holds the files of a server"];
    agent.restore(&target, &["--archive", "off"])?.refused(1, &words);
    agent.restore(&target, &["--dry-run"])?.refused(1, &words);
    ensure!(!target.exists(), "something was copied");
    // Recovery does not come to it.
    let dry = agent.restore(&target, &["--dry-run", "--target-lsn", &before])?.ok()?;
    ensure!(!dry.stdout.contains(&place), "{}", dry.stdout);
    agent.restore(&target, &["--dry-run", "--no-tablespace-check"])?.ok()?;

    // The original is lost, and has left its files: pages of another time.
    server.destroy()?;
    agent.stop()?;
    ensure!(fs::read_dir(&late)?.next().is_some(), "the tablespace went with the server");
    agent.restore(&target, &[])?.refused(1, &words);
    for entry in fs::read_dir(&late)? {
        fs::remove_dir_all(entry?.path())?;
    }
    let told = agent.restore(&target, &[])?.ok()?;
    ensure!(told.stdout.contains("replay makes it again there"), "{}", told.stdout);
    let restored = Postgres::adopt(&installation, &world, "restored.server", &target)?;
    restored.start()?;
    restored.wait_promoted()?;
    ensure!(restored.digest_all()? == end.digest, "the content is another");
    Ok(())
}
