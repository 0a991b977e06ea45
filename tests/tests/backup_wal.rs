//! The WAL of a backup that nobody else brings.

use std::process::Child;
use std::time::Duration;

use anyhow::{Result, bail};
use harness::{Agent, Installation, Postgres, Repo, Stop, StoreKind, World, wait_for, workload};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The process that sends the base backup, held still.
struct Held(Pid);

impl Held {
    /// Starts a backup and holds its sender while it is at it. A small cluster may be sent before that: then again.
    fn hold(server: &Postgres, agent: &Agent) -> Result<(Child, Held)> {
        for _ in 0..20 {
            let mut backup = agent.spawn("walkeep", &["backup", "--full"])?;
            while backup.try_wait()?.is_none() {
                let pids = "SELECT pid FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%'";
                let Some(pid) = server.sql(pids)?.parse().ok().and_then(Pid::from_raw) else { continue };
                if kill_process(pid, Signal::STOP).is_ok() {
                    return Ok((backup, Held(pid)));
                }
            }
        }
        bail!("no backup could be held while it was sent:\n{}", agent.log_text());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// The server keeps 16 MiB for slots, and writes three times that while the backup is taken, with checkpoints that
/// recycle.
fn busy_while_it_is_backed_up(major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(StoreKind::File, &world)?;
    let server = Postgres::build(&installation, "data")
        .segment_mib(1)
        .conf("max_slot_wal_keep_size", "16MB")
        .conf("min_wal_size", "2MB")
        .conf("max_wal_size", "4MB")
        .conf("archive_mode", "off")
        .start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "enabled", "false")?;
    agent.init()?;
    workload::init(&server, 4)?;
    let (mut backup, held) = Held::hold(&server, &agent)?;
    server.sql("CREATE TABLE noise (n int, t text)")?;
    for round in 0..10 {
        let rows = format!("SELECT n, md5(n::text || '{round}') FROM generate_series(1, 40000) AS n");
        server.sql(&format!("INSERT INTO noise {rows}"))?;
        server.switch_wal()?;
        // It must not be a race who is quicker: a slot may be given up only if its owner does not read.
        let end = server.lsn()?;
        wait_for("the WAL is received beside the backup", PATIENCE, || {
            let sent = format!("SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= '{end}'");
            Ok((server.sql(&sent)? == "1").then_some(()))
        })?;
        server.sql("CHECKPOINT")?;
    }
    drop(held);
    let status = wait_for("the backup ends", PATIENCE, || Ok(backup.try_wait()?))?;
    assert!(status.success(), "{}", agent.log_text());
    let end = server.mark()?;
    server.destroy()?;
    let list = agent.list()?;
    assert_eq!(list["gaps"].as_array().map(Vec::len), Some(0), "{list}");
    let restored = world.at("restored");
    agent.restore(&restored, &[])?.ok()?;
    let restored = Postgres::adopt(&installation, &world, "restored.server", &restored)?;
    restored.start()?;
    restored.wait_promoted()?;
    let rows = restored.sql("SELECT count(*) FROM noise")?;
    assert_eq!(rows, "400000", "all that was written while the backup was held, of {}", end.lsn);
    Ok(())
}

#[test]
fn pg13_a_long_backup_of_a_busy_server_loses_no_wal() -> Result<()> {
    busy_while_it_is_backed_up(13)
}

#[test]
fn pg18_a_long_backup_of_a_busy_server_loses_no_wal() -> Result<()> {
    busy_while_it_is_backed_up(18)
}

/// An archiver that was relied on, and is silent: after a minute the WAL is received without it.
#[test]
fn pg15_a_silent_archiver_is_replaced() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(StoreKind::File, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "enabled", "false")?;
    agent.init()?;
    // It looks like ours, and never succeeds.
    server.archive_with("false archive-cmd %p")?;
    workload::init(&server, 1)?;
    let mut backup = agent.spawn("walkeep", &["backup", "--full"])?;
    let status = wait_for("the backup ends", Duration::from_secs(240), || Ok(backup.try_wait()?))?;
    let log = agent.log_text();
    assert!(status.success() && log.contains("the archiver does not bring WAL segment"), "{log}");
    let list = agent.list()?;
    assert_eq!(list["backups"][0]["restorable"], true, "{list}");
    Ok(())
}

/// A copy of the server archives into the same repository, and is ahead: its segments have the names that the backup waits for.
#[test]
fn pg15_the_wal_of_a_copy_completes_no_backup() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(StoreKind::File, &world)?;
    let server = Postgres::build(&installation, "data").segment_mib(1).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "enabled", "false")?;
    agent.init()?;
    server.stop(Stop::Fast)?;
    let copied = world.account().command("cp").arg("-a").arg(server.data()).arg(world.at("copy")).status()?;
    assert!(copied.success());
    server.start()?;
    // It looks like ours, and brings nothing.
    server.archive_with("false archive-cmd %p")?;
    let copy = Postgres::adopt(&installation, &world, "copy.server", &world.at("copy"))?;
    copy.start()?;
    copy.sql("CREATE TABLE elsewhere AS SELECT 'another life' AS t")?;
    copy.archive_with(&agent.archive_command()?)?;
    let mut last = String::new();
    for _ in 0..8 {
        copy.sql("INSERT INTO elsewhere SELECT t FROM elsewhere")?;
        last = copy.switch_wal()?;
    }
    let archived = format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver");
    wait_for("the copy has archived", PATIENCE, || Ok((copy.sql(&archived)? == "t").then_some(())))?;
    let taken = agent.walkeep(&["backup", "--full"])?;
    assert!(taken.code == Some(1) && taken.stderr.contains("is not this server's"), "{taken:?}");
    assert_eq!(agent.list()?["backups"].as_array().map(Vec::len), Some(0));
    Ok(())
}
