//! Incremental backups where they could go wrong: while others write, and where tables were cut short.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::postgres::pg_verifybackup;
use harness::{Agent, Installation, Postgres, Repo, World};

/// Where a round plays.
struct Stage {
    installation: Installation,
    world: World,
    repo: Repo,
    space: PathBuf,
}

impl Stage {
    fn new(installation: Installation) -> Result<Stage> {
        let world = World::new()?;
        let repo = Repo::file(&world)?;
        let space = world.folder("space")?;
        Ok(Stage { installation, world, repo, space })
    }

    fn agent(&self, server: &Postgres) -> Result<Agent> {
        let mut agent = Agent::configure(&self.world, server, &self.repo)?;
        agent.init()?;
        agent.start()?;
        Ok(agent)
    }

    /// Takes a backup, whose kind must be that one; its label.
    fn backup(&self, agent: &Agent, arguments: &[&str], kind: &str) -> Result<String> {
        let done = agent.walkeep(&[&["backup", "--json"], arguments].concat())?.ok()?;
        let shown = done.json()?;
        ensure!(shown["kind"] == kind, "{shown} is not {kind}: {}", done.stderr);
        Ok(shown["label"].as_str().context("a backup without label")?.to_owned())
    }

    /// Takes an incremental backup, for which the server must be asked; its label.
    fn incremental(&self, agent: &Agent) -> Result<String> {
        // With its reasons, should it be the other way.
        let done = agent.walkeep(&["-v", "backup", "--json", "--incremental"])?.ok()?;
        let shown = done.json()?;
        let log = &done.stderr;
        ensure!(shown["kind"] == "incremental", "{shown} is not incremental: {log}");
        ensure!(log.contains("by=\"server\""), "the server was not asked: {log}");
        ensure!(!log.contains("WARN"), "there was something to warn of: {log}");
        Ok(shown["label"].as_str().context("a backup without label")?.to_owned())
    }

    /// Restores a backup as it was at its end.
    fn restored(&self, agent: &Agent, label: &str) -> Result<Postgres> {
        let target = self.world.at(&format!("restored-{label}"));
        let moved =
            format!("{}={}", self.space.display(), self.world.at(&format!("space-{label}")).display());
        let immediate = ["--target-immediate", "--target-action", "promote", "--archive", "off"];
        agent
            .restore(&target, &[&["--backup", label, "--tablespace", &moved], &immediate[..]].concat())?
            .ok()?;
        pg_verifybackup(&self.installation, &target)?;
        let name = format!("{label}.server");
        let restored = Postgres::adopt(&self.installation, &self.world, &name, &target)?;
        restored.start()?;
        restored.wait_promoted()?;
        Ok(restored)
    }
}

/// While others write: what the stream brings is torn between moments, and replay mends it.
#[test]
fn under_load() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let stage = Stage::new(installation)?;
    let server = Postgres::build(&stage.installation, "data").start(&stage.world)?;
    let mut agent = stage.agent(&server)?;
    harness::workload::init(&server, 2)?;
    stage.backup(&agent, &[], "full")?;
    std::thread::scope(|scope| -> Result<()> {
        let work = scope.spawn(|| harness::workload::transactions(&server, 3000));
        let first = stage.backup(&agent, &[], "incremental");
        let second = stage.backup(&agent, &[], "incremental");
        work.join().expect("the workload does not panic")?;
        first.and(second).map(drop)
    })?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.destroy()?;
    agent.stop()?;
    let target = stage.world.at("restored");
    agent.restore(&target, &[])?.ok()?;
    pg_verifybackup(&stage.installation, &target)?;
    let restored = Postgres::adopt(&stage.installation, &stage.world, "restored.server", &target)?;
    restored.start()?;
    restored.wait_promoted()?;
    assert_eq!(restored.digest_all()?, end.digest);
    Ok(())
}

/// Tables are cut short and then extended in bulk, which leaves pages that no WAL record names. PostgreSQL's own
/// combination of backups takes the parent's pages for them, and deleted rows come back; and where one summary tells that a
/// table was cut short, and a later one what was added, the server may forget the latter. Many sizes, one server.
fn truncated_and_extended(major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let stage = Stage::new(installation)?;
    let builder = Postgres::build(&stage.installation, "data").conf("autovacuum", "off");
    let server = builder.conf("summarize_wal", "on").start(&stage.world)?;
    let agent = stage.agent(&server)?;
    server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", stage.space.display()))?;
    let sizes: Vec<u32> = (0..24).map(|at| 150 + at * 113).collect();
    for size in &sizes {
        let space = if size % 2 == 0 { "elsewhere" } else { "pg_default" };
        server.sql(&format!(
            "CREATE TABLE s{size} (n int, filler text) TABLESPACE {space};
             INSERT INTO s{size} SELECT n, repeat('x', 300) FROM generate_series(1, 3500) n"
        ))?;
    }
    // So that the parent has the pages as they are now.
    server.sql("CHECKPOINT")?;
    stage.backup(&agent, &[], "full")?;
    let rows = |from: u32, size: u32| -> Result<String> {
        let rows: String = (0..size).map(|n| format!("{}\t{}\n", from + n, "y".repeat(300))).collect();
        Ok(stage.world.write(&format!("rows-{from}-{size}"), rows)?.display().to_string())
    };
    let cut = |size: u32| -> Result<()> {
        server.sql(&format!("DELETE FROM s{size} WHERE n > 700"))?;
        server.sql(&format!("VACUUM s{size}"))?;
        // Each COPY leaves empty pages behind its rows.
        server.sql(&format!("COPY s{size} FROM '{}'", rows(10_000, size)?))?;
        server.sql(&format!("COPY s{size} FROM '{}'", rows(20_000, size)?))?;
        Ok(())
    };
    let early: Vec<u32> = sizes.iter().copied().step_by(2).collect();
    early.iter().try_for_each(|size| cut(*size))?;
    // Each CHECKPOINT ends a summary, and the server puts them together in any order. Tables grow on, or are cut short
    // again, but not as far.
    for round in 0..4 {
        server.sql("CHECKPOINT")?;
        for size in early.iter().skip(round % 2).step_by(2) {
            if round > 1 {
                server.sql(&format!("DELETE FROM s{size} WHERE n >= 20000 + {size} / 2"))?;
                server.sql(&format!("VACUUM s{size}"))?;
            }
            server.sql(&format!("COPY s{size} FROM '{}'", rows(10_000, *size)?))?;
        }
    }
    // The last summary ends when the backup begins: nobody knows of these before.
    sizes.iter().skip(1).step_by(2).try_for_each(|size| cut(*size))?;
    let content = server.digest_all()?;
    let label = stage.incremental(&agent)?;
    let restored = stage.restored(&agent, &label)?;
    for size in &sizes {
        let count = format!("SELECT count(*) FROM s{size}");
        let (rows, there) = (restored.sql(&count)?, server.sql(&count)?);
        ensure!(rows == there, "{rows} rows after COPYs of {size}, and not {there}");
    }
    ensure!(restored.digest_all()? == content, "the content is another");
    Ok(())
}

#[test]
fn truncated_and_extended_pg17() -> Result<()> {
    truncated_and_extended(17)
}

#[test]
fn truncated_and_extended_pg18() -> Result<()> {
    truncated_and_extended(18)
}
