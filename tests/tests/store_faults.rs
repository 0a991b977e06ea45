//! The store is slow, stumbles, is away, refuses, is full: nothing is acknowledged that it does not hold, nothing is called
//! absent that was not proven to be, and all goes on by itself when the store does.
//!
//! Outages of minutes: `cargo xtask test --soak store_faults`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::agent::lsn_number;
use harness::{
    Agent, Audit, Installation, Ledger, Output, Postgres, Repo, Stop, StoreKind, World, skip, wait_for,
};

/// The archiver looks again after a minute, and what failed in the agent after some seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The port is closed.
    Away,
    /// 403 for whatever changes something.
    ReadOnly,
    /// 507 for whatever needs room.
    Full,
    /// 300 ms for each request, and every fourth one is answered by 503, a reset, or half of a body.
    Bad,
}

impl Fault {
    fn begin(self, repo: &Repo) {
        let server = repo.s3_server();
        match self {
            Fault::Away => server.down(),
            Fault::ReadOnly => server.faults().read_only(true),
            Fault::Full => server.faults().full(true),
            Fault::Bad => {
                server.faults().latency(Duration::from_millis(300));
                server.faults().stumble(4);
            }
        }
    }

    fn end(self, repo: &Repo) -> Result<()> {
        let server = repo.s3_server();
        match self {
            Fault::Away => server.up()?,
            Fault::ReadOnly => server.faults().read_only(false),
            Fault::Full => server.faults().full(false),
            Fault::Bad => {
                server.faults().latency(Duration::ZERO);
                server.faults().stumble(0);
            }
        }
        Ok(())
    }

    /// Whether nothing at all can be stored.
    fn is_total(self) -> bool {
        self != Fault::Bad
    }
}

/// Commits go on while the store is in trouble, for so long; then it recovers, and so does everything else. In the next
/// trouble all is lost but the store.
fn trouble(fault: Fault, length: Duration, major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(StoreKind::S3, &world)?;
    let server = Postgres::build(&installation, "data")
        .segment_mib(1)
        .env(repo.environment())
        .conf("autovacuum", "off")
        .start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    server.archive_with(&agent.archive_command()?)?;
    agent.start()?;
    Ledger::create(&server)?;
    agent.backup_full()?;
    let ledger = Ledger::open(&server, 1, 7);
    ledger.wait_for_more(100)?;

    fault.begin(&repo);
    let begun = Instant::now();
    while begun.elapsed() < length {
        ledger.wait_for_more(20)?;
        nothing_is_called_absent(&world, &server, &agent, fault)?;
    }
    if fault.is_total() {
        // Told while it lasts, to whoever looks.
        let told = agent.wait_status("the trouble is told", |status| status["last_error"].is_string())?;
        ensure!(told["last_error"].as_str().is_some_and(|text| text.contains("s3://")), "{told}");
    }
    fault.end(&repo)?;

    recovers(&server, &mut agent)?;
    let gaps = &agent.list()?["gaps"];
    ensure!(gaps.as_array().is_some_and(Vec::is_empty), "{gaps}");

    fault.begin(&repo);
    ledger.wait_for_more(50)?;
    let promised = promised(&server)?;
    server.destroy()?;
    agent.kill9()?;
    let notes = ledger.close()?;
    if fault.is_total() {
        fault.end(&repo)?;
    }
    // Restored through the stumbling store, where it still gives answers.
    repo.s3_server().faults().latency(Duration::ZERO);
    let data = world.at("restored");
    let outcome = agent.restore(&data, &[])?;
    if let Some(end) = hole(&outcome) {
        // What is stored side by side may have a hole when all ends at once. Nobody was told that it is there.
        ensure!(fault == Fault::Bad, "{}", outcome.stderr);
        ensure!(promised <= end, "WAL up to {promised:X} was said to be durable:\n{}", outcome.stderr);
        return Ok(());
    }
    outcome.ok()?;
    let restored = start(&world, &installation, &repo, &data)?;
    let audit = Audit::of(&restored, &notes)?;
    println!(
        "{fault:?}: {} acknowledged, {} lost with the server, {} faults",
        notes.len(),
        audit.lost.len(),
        repo.s3_server().faults().injected()
    );
    audit.holds_up_to(promised).with_context(|| agent.log_text())
}

/// `fetch` must not tell a recovering server that WAL has ended: 1 would mean that it is proven absent.
fn nothing_is_called_absent(world: &World, server: &Postgres, agent: &Agent, fault: Fault) -> Result<()> {
    if fault != Fault::Away {
        return Ok(());
    }
    let segment = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")?;
    let to = world.at("fetched");
    let fetched = agent.restore_cmd(&["fetch", &segment, &to.display().to_string()])?;
    ensure!(fetched.code == Some(126), "fetch ended with {:?}: {}", fetched.code, fetched.stderr);
    Ok(())
}

/// Everything written is stored, and the archiver gets on: without a hand.
fn recovers(server: &Postgres, agent: &mut Agent) -> Result<()> {
    let end = server.lsn()?;
    let wanted = lsn_number(&end)?;
    wait_for(&format!("WAL up to {end} is durable"), PATIENCE, || {
        let status = agent.status()?;
        let durable = status["stream"]["durable_lsn"].as_str().context("no position")?;
        Ok((lsn_number(durable)? >= wanted).then_some(()))
    })
    .with_context(|| agent.log_text())?;
    let archived = server.sql("SELECT archived_count FROM pg_stat_archiver")?;
    wait_for("the archiver works again", PATIENCE, || {
        server.sql("SELECT pg_switch_wal()")?;
        Ok((server.sql("SELECT archived_count FROM pg_stat_archiver")? != archived).then_some(()))
    })
}

/// The position up to which the server, or its archiver, was told that WAL is stored.
fn promised(server: &Postgres) -> Result<u64> {
    let streamed = lsn_number(&server.sql("SELECT coalesce(restart_lsn, '0/0') FROM pg_replication_slots")?)?;
    let name = server.sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")?;
    let mut archived = 0;
    if name.len() == 24 {
        let number = |part: &str| u64::from_str_radix(part, 16);
        archived = (number(&name[8..16])? << 32) + ((number(&name[16..])? + 1) << 20);
    }
    let promised = streamed.max(archived);
    ensure!(promised > 0, "nobody was promised anything");
    Ok(promised)
}

/// Where the WAL ends that a refused restore has found.
fn hole(outcome: &Output) -> Option<u64> {
    let (_, from) = outcome.stderr.split_once("WAL is missing from ")?;
    lsn_number(from.split_whitespace().next()?).ok()
}

fn start(world: &World, installation: &Installation, repo: &Repo, data: &Path) -> Result<Postgres> {
    let restored = Postgres::adopt(installation, world, "restored.server", data)?
        .with_env(repo.environment())
        .with_setting("archive_mode", "off");
    restored.start()?;
    restored.wait_promoted()?;
    Ok(restored)
}

/// A small disk of its own; taken away when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, aloud, where this process may not mount.
    fn at(folder: &Path, mib: u32) -> Result<Option<SmallDisk>> {
        let size = format!("size={mib}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder);
        if Output::of(&mut mount).and_then(Output::ok).is_err() {
            skip("this process may not mount a small disk");
            return Ok(None);
        }
        Ok(Some(SmallDisk(folder.to_owned())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.arg("--lazy").arg(&self.0);
        if let Err(error) = Output::of(&mut umount).and_then(Output::ok) {
            eprintln!("a small disk stays: {error:#}");
        }
    }
}

/// A repository on a disk that is full: nothing is stored by halves, and all goes on when there is room again.
#[test]
fn full_disk_pg15() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let Some(disk) = SmallDisk::at(repo.folder(), 64)? else { return Ok(()) };
    world.account().own(repo.folder())?;
    let server =
        Postgres::build(&installation, "data").segment_mib(1).conf("autovacuum", "off").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    server.archive_with(&agent.archive_command()?)?;
    agent.start()?;
    Ledger::create(&server)?;
    agent.backup_full()?;
    let ledger = Ledger::open(&server, 1, 7);
    ledger.wait_for_more(50)?;
    let filler = repo.folder().join("filler");
    fill(&filler)?;
    let told = agent.wait_status("the full disk is told", |status| status["last_error"].is_string())?;
    ensure!(told["last_error"].as_str().is_some_and(|text| text.contains("space")), "{told}");
    ledger.wait_for_more(50)?;
    fs::remove_file(&filler)?;
    recovers(&server, &mut agent)?;

    fill(&filler)?;
    ledger.wait_for_more(50)?;
    let promised = promised(&server)?;
    server.destroy()?;
    agent.kill9()?;
    let notes = ledger.close()?;
    let data = world.at("restored");
    agent.restore(&data, &[])?.ok()?;
    let restored = start(&world, &installation, &repo, &data)?;
    Audit::of(&restored, &notes)?.holds_up_to(promised).with_context(|| agent.log_text())?;
    drop(restored);
    drop(disk);
    Ok(())
}

/// Takes all the room that is left.
fn fill(file: &Path) -> Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(file)?;
    let piece = vec![1; 64 << 10];
    while file.write_all(&piece).is_ok() {}
    Ok(())
}

/// A primary that is to stop does so although the store is away: the agent lets go of it without having acknowledged
/// anything, and the slot keeps what is missing until both are back.
fn shutdown(major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(StoreKind::S3, &world)?;
    let server = Postgres::build(&installation, "data")
        .segment_mib(1)
        .conf("archive_mode", "off")
        .conf("autovacuum", "off")
        .start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "shutdown_grace", "\"3s\"")?;
    agent.init()?;
    agent.start()?;
    Ledger::create(&server)?;
    agent.backup_full()?;
    let ledger = Ledger::open(&server, 1, 7);
    ledger.wait_for_more(50)?;
    repo.s3_server().down();
    ledger.wait_for_more(50)?;
    let notes = ledger.close()?;
    let promised = promised(&server)?;
    server.stop(Stop::Fast).with_context(|| agent.log_text())?;
    ensure!(agent.log_text().contains("let go of the server"), "{}", agent.log_text());

    repo.s3_server().up()?;
    server.start()?;
    ensure!(promised <= lsn_number(&server.lsn()?)?, "the server went back");
    let last = server.mark()?;
    let wanted = lsn_number(&last.lsn)?;
    wait_for("all is durable", PATIENCE, || {
        let status = agent.status()?;
        let durable = status["stream"]["durable_lsn"].as_str().context("no position")?;
        Ok((lsn_number(durable)? >= wanted).then_some(()))
    })
    .with_context(|| agent.log_text())?;
    server.destroy()?;
    agent.stop()?;
    let data = world.at("restored");
    agent.restore(&data, &[])?.ok()?;
    let restored = start(&world, &installation, &repo, &data)?;
    ensure!(Audit::of(&restored, &notes)?.lost.is_empty(), "acknowledged commits are lost");
    ensure!(restored.digest_all()? == last.digest, "what came back is not what was there");
    Ok(())
}

#[test]
fn shutdown_pg13() -> Result<()> {
    shutdown(13)
}

#[test]
fn shutdown_pg18() -> Result<()> {
    shutdown(18)
}

#[test]
fn outage_pg15() -> Result<()> {
    trouble(Fault::Away, Duration::from_secs(20), 15)
}

#[test]
fn read_only_pg18() -> Result<()> {
    trouble(Fault::ReadOnly, Duration::from_secs(8), 18)
}

#[test]
fn full_store_pg15() -> Result<()> {
    trouble(Fault::Full, Duration::from_secs(8), 15)
}

#[test]
fn slow_and_stumbling_pg18() -> Result<()> {
    trouble(Fault::Bad, Duration::from_secs(10), 18)
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak store_faults"]
fn soak() -> Result<()> {
    trouble(Fault::Away, Duration::from_secs(600), 15)
}
