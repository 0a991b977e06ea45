//! Generations of random change, an incremental backup after each: every one of them comes back as it was, also when
//! others are gone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::postgres::{Builder, pg_verifybackup};
use harness::{Agent, Installation, Postgres, Repo, World, seeds};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Generations in a round of the ordinary tests, and in one of the long ones.
const GENERATIONS: usize = 5;
const MANY: usize = 20;

const TABLES: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// A server that changes at random.
struct Restless {
    server: Postgres,
    random: StdRng,
    databases: Vec<String>,
    made: usize,
}

impl Restless {
    fn new(server: Postgres, space: &Path, seed: u64) -> Result<Restless> {
        server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", space.display()))?;
        let restless =
            Restless { server, random: StdRng::seed_from_u64(seed), databases: Vec::new(), made: 0 };
        TABLES.iter().try_for_each(|table| restless.create(table, 20_000))?;
        Ok(restless)
    }

    fn create(&self, table: &str, rows: u32) -> Result<()> {
        self.server.sql(&format!(
            "CREATE TABLE {table} (n int PRIMARY KEY, v int, filler text);
             INSERT INTO {table} SELECT n, 0, repeat(md5(n::text), 3) FROM generate_series(1, {rows}) n"
        ))?;
        Ok(())
    }

    fn insert(&mut self, table: &str) -> Result<()> {
        let rows = self.random.random_range(1..8_000);
        self.server.sql(&format!(
            "INSERT INTO {table} SELECT top + n, {rows}, repeat(md5(n::text), 3)
             FROM (SELECT coalesce(max(n), 0) AS top FROM {table}) a, generate_series(1, {rows}) n"
        ))?;
        Ok(())
    }

    fn database(&mut self) -> Result<()> {
        if self.databases.len() > 1 {
            let gone = self.databases.remove(0);
            self.server.sql(&format!("DROP DATABASE {gone}"))?;
        }
        self.made += 1;
        let name = format!("d{}", self.made);
        let strategy = match (self.server.major(), self.made % 2) {
            (..15, _) => "",
            (_, 0) => "STRATEGY file_copy",
            (_, _) => "STRATEGY wal_log",
        };
        self.server.sql(&format!("CREATE DATABASE {name} {strategy}"))?;
        self.server.sql_in(&name, "CREATE TABLE own AS SELECT n FROM generate_series(1, 3000) n")?;
        self.databases.push(name);
        Ok(())
    }

    /// Some changes, one after another.
    fn change(&mut self) -> Result<()> {
        for _ in 0..4 {
            let table = *TABLES.choose(&mut self.random).context("there are tables")?;
            let rest = self.random.random_range(0..50);
            match self.random.random_range(0..10) {
                0 => self.insert(table)?,
                1 => self.sql(&format!("UPDATE {table} SET v = v + 1 WHERE n % 50 = {rest}"))?,
                2 => self.sql(&format!("DELETE FROM {table} WHERE n % 50 = {rest}"))?,
                3 => {
                    // The vacuum gives the end of the file back; what follows extends it again.
                    let keep = self.random.random_range(0..15_000);
                    self.sql(&format!("DELETE FROM {table} WHERE n > {keep}"))?;
                    self.sql(&format!("VACUUM {table}"))?;
                    self.insert(table)?;
                }
                4 => {
                    self.sql(&format!("TRUNCATE {table}"))?;
                    self.insert(table)?;
                }
                5 => self.sql(&format!("VACUUM FULL {table}"))?,
                6 => {
                    self.sql(&format!("DROP TABLE {table}"))?;
                    self.create(table, 5_000)?;
                }
                7 => self.sql(&format!("REINDEX TABLE {table}"))?,
                8 => self.database()?,
                _ => {
                    let space = if rest % 2 == 0 { "elsewhere" } else { "pg_default" };
                    self.sql(&format!("ALTER TABLE {table} SET TABLESPACE {space}"))?;
                }
            }
        }
        Ok(())
    }

    fn sql(&self, text: &str) -> Result<()> {
        self.server.sql(text).map(drop)
    }
}

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

    /// Takes an incremental backup, which must find what has changed in that way; its label.
    fn incremental(&self, agent: &Agent, by: By) -> Result<String> {
        // With its reasons, should it be the other way.
        let done = agent.walkeep(&["-v", "backup", "--json", "--incremental"])?.ok()?;
        let shown = done.json()?;
        let log = &done.stderr;
        ensure!(shown["kind"] == "incremental", "{shown} is not incremental: {log}");
        ensure!(log.contains("by=\"server\"") == (by == By::Server), "not by {by:?}: {log}");
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

    /// Takes a backup out of the repository as an expiry would: its manifest alone.
    fn forget(&self, label: &str) -> Result<()> {
        let objects = self.repo.objects()?;
        let found = objects.iter().find(|object| object.key.contains(&format!("backup/{label}/manifest-")));
        Ok(fs::remove_file(&found.context("no manifest")?.path)?)
    }
}

/// How the blocks that changed are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Content,
    Server,
}

impl By {
    /// The server can be asked only if it keeps summaries.
    fn shape(self, builder: Builder) -> Builder {
        match self {
            By::Content => builder,
            By::Server => builder.conf("summarize_wal", "on"),
        }
    }
}

fn generations(major: u32, by: By, count: usize, seed: u64) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    eprintln!("{by:?}, {count} generations, seed {seed}");
    let stage = Stage::new(installation)?;
    let builder = Postgres::build(&stage.installation, "data").conf("autovacuum", "off");
    let server = by.shape(builder).start(&stage.world)?;
    let agent = stage.agent(&server)?;
    let mut restless = Restless::new(server, &stage.space, seed)?;
    let first = stage.backup(&agent, &[], "full")?;
    let mut taken = vec![(first, restless.server.digest_all()?)];
    for _ in 0..count {
        restless.change()?;
        let content = restless.server.digest_all()?;
        taken.push((stage.incremental(&agent, by)?, content));
        // Some go, the one that everything began with first; the newest is the next one's parent, and stays.
        if taken.len() % 3 == 0 {
            let (gone, _) = taken.remove(0);
            stage.forget(&gone)?;
        }
    }
    for (label, content) in &taken {
        let restored = stage.restored(&agent, label)?;
        ensure!(restored.digest_all()? == *content, "{label} has not come back as it was");
        restored.destroy()?;
    }
    Ok(())
}

macro_rules! generations {
    ($($name:ident: $major:literal, $by:ident, $seed:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            generations($major, By::$by, GENERATIONS, $seed)
        })*
    };
}

generations! {
    pg13_by_content: 13, Content, 13;
    pg15_by_content: 15, Content, 15;
    pg17_by_content: 17, Content, 17;
    pg18_by_content: 18, Content, 18;
    pg17_by_server: 17, Server, 170;
    pg18_by_server: 18, Server, 180;
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak incremental"]
fn soak() -> Result<()> {
    use By::{Content, Server};
    let kinds = [(13, Content), (15, Content), (17, Content), (18, Content), (17, Server), (18, Server)];
    seeds::each(12, |seed| {
        let (major, by) = kinds[(seed % 6) as usize];
        generations(major, by, MANY, seed)
    })
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
/// combination of backups takes the parent's pages for them, and deleted rows come back. Many sizes, one server.
fn truncated_and_extended(major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let stage = Stage::new(installation)?;
    let builder = Postgres::build(&stage.installation, "data").conf("autovacuum", "off");
    let server = By::Server.shape(builder).start(&stage.world)?;
    let agent = stage.agent(&server)?;
    server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", stage.space.display()))?;
    let sizes: Vec<u32> = (0..48).map(|at| 150 + at * 57).collect();
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
    for size in &sizes {
        let rows: String = (0..*size).map(|n| format!("{}\t{}\n", 10_000 + n, "y".repeat(300))).collect();
        let file = stage.world.write(&format!("rows-{size}"), rows)?;
        server.sql(&format!("DELETE FROM s{size} WHERE n > 700"))?;
        server.sql(&format!("VACUUM s{size}"))?;
        server.sql(&format!("COPY s{size} FROM '{}'", file.display()))?;
    }
    let content = server.digest_all()?;
    let label = stage.incremental(&agent, By::Server)?;
    let restored = stage.restored(&agent, &label)?;
    for size in &sizes {
        let rows = restored.sql(&format!("SELECT count(*) FROM s{size}"))?;
        ensure!(
            rows == (700 + size).to_string(),
            "{rows} rows after a COPY of {size}, and not {}",
            700 + size
        );
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
