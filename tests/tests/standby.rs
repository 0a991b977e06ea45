//! Backups that are read from a standby: restored and compared, and what is refused is refused with a sentence.

use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::agent::lsn_number;
use harness::postgres::{Builder, pg_verifybackup};
use harness::{Agent, Installation, Mark, Postgres, Repo, StoreKind, World, skip, wait_for, workload};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// A primary, its standby, and a configuration for each.
struct Scene {
    installation: Installation,
    world: World,
    repo: Repo,
    primary: Postgres,
    standby: Postgres,
    /// Knows the primary alone.
    agent: Agent,
    /// Knows both, and reads backups from the standby.
    aside: Agent,
}

impl Scene {
    /// `None` where the machine lacks what it takes.
    fn new(major: u32, shape: impl FnOnce(Builder) -> Builder) -> Result<Option<Scene>> {
        let Some(installation) = Installation::or_skip(major) else { return Ok(None) };
        let world = World::new()?;
        let repo = Repo::of(StoreKind::File, &world)?;
        let builder = Postgres::build(&installation, "primary").conf("wal_keep_size", "512MB");
        let primary = shape(builder).start(&world)?;
        workload::init(&primary, 1)?;
        let Some(standby) = primary.standby(&world, "standby")? else {
            skip(format!("no pg_basebackup for PostgreSQL {major} is on this machine"));
            return Ok(None);
        };
        let agent = Agent::named(&world, "walkeep", &primary.conninfo(), &repo)?;
        agent.init()?;
        let place = |server: &Postgres| (server.socket_folder().display().to_string(), server.port());
        let ((at, port), (other_at, other_port)) = (place(&primary), place(&standby));
        let hosts = format!("host={at},{other_at} port={port},{other_port} user=walkeep dbname=postgres");
        let mut aside = Agent::named(&world, "aside", &hosts, &repo)?;
        aside.set("backup", "from", "\"standby\"")?;
        Ok(Some(Scene { installation, world, repo, primary, standby, agent, aside }))
    }

    /// Waits until the standby has replayed all that the primary has written.
    fn replayed(&self) -> Result<()> {
        let lsn = self.primary.lsn()?;
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        wait_for("the standby has replayed it", PATIENCE, || {
            Ok((self.standby.sql(&replayed)? == "t").then_some(()))
        })
    }

    /// Takes a backup from the standby, which says so; what it shows, and what it has logged.
    fn backup(&self, arguments: &[&str]) -> Result<(Value, String)> {
        let done = self.aside.walkeep(&[&["-v", "backup", "--json"], arguments].concat())?.ok()?;
        let shown = done.json()?;
        ensure!(shown["from_standby"] == true, "it was not read from the standby: {shown}");
        Ok((shown, done.stderr))
    }

    /// Restores, and starts the server.
    fn restored(&self, name: &str, target: &[&str]) -> Result<Postgres> {
        let data = self.world.at(name);
        self.agent.restore(&data, &[&["--archive", "off"], target].concat())?.ok()?;
        pg_verifybackup(&self.installation, &data)?;
        let server = Postgres::adopt(&self.installation, &self.world, &format!("{name}.server"), &data)?;
        server.start()?;
        server.wait_promoted()?;
        Ok(server)
    }

    /// Starts a backup that takes so long that something can happen meanwhile, and waits until it is sent.
    fn slow_backup(&self) -> Result<Child> {
        let mut child = self.aside.spawn("walkeep", &["backup", "--full", "--max-rate", "64KiB"])?;
        let running = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%'";
        wait_for("the backup is sent", PATIENCE, || {
            if let Some(ended) = child.try_wait()? {
                panic!("it ended before, with {ended}: {}", self.aside.log_text());
            }
            Ok((self.standby.sql(running)? == "1").then_some(()))
        })?;
        Ok(child)
    }
}

fn label(shown: &Value) -> Result<&str> {
    shown["label"].as_str().context("a backup without label")
}

/// The agent streams from the primary; a full and an incremental backup come from the standby.
fn with_an_agent(major: u32) -> Result<()> {
    let native = major >= 17;
    let shape = |builder: Builder| match native {
        true => builder.conf("summarize_wal", "on"),
        false => builder,
    };
    let Some(mut scene) = Scene::new(major, shape)? else { return Ok(()) };
    scene.agent.start()?;
    scene.agent.wait_durable(&scene.primary.lsn()?)?;
    scene.replayed()?;
    let (full, log) = scene.backup(&["--full", "--label-note", "from the side"])?;
    assert!(log.contains("Elsewhere"), "the agent brings the WAL: {log}");
    workload::transactions(&scene.primary, 200)?;
    // A backup of a standby begins where that last made a checkpoint, and it can make one only where its primary has.
    scene.primary.sql("CHECKPOINT")?;
    scene.replayed()?;
    let (incremental, log) = scene.backup(&["--incremental"])?;
    assert_eq!(incremental["kind"], "incremental", "{log}");
    assert_eq!(log.contains("by=\"server\""), native, "{log}");
    let bytes = |shown: &Value| shown["stored_bytes"].as_u64();
    assert!(bytes(&incremental) < bytes(&full), "{incremental} {full}");
    workload::transactions(&scene.primary, 20)?;
    let mark = scene.primary.mark()?;
    scene.agent.wait_durable(&mark.lsn)?;

    let list = scene.agent.list()?;
    assert_eq!(
        (list["gaps"].as_array().map(Vec::len), list["backups"][1]["restorable"].as_bool()),
        (Some(0), Some(true))
    );
    let told = scene.agent.walkeep(&["list"])?.ok()?.stdout;
    assert!(told.contains("from the side") && told.contains("taken from a standby"), "{told}");
    scene.agent.stop()?;
    scene.primary.destroy()?;
    scene.standby.destroy()?;
    same(&scene.restored("latest", &["--backup", label(&incremental)?])?, &mark)?;
    same(&scene.restored("from-full", &["--backup", label(&full)?])?, &mark)?;
    // As it was where the backup ends, before which nothing is consistent.
    let server = scene.restored(
        "immediate",
        &["--backup", label(&incremental)?, "--target-immediate", "--target-action", "promote"],
    )?;
    assert_eq!(server.sql("SELECT count(*) FROM pgbench_history")?, "200");
    Ok(())
}

fn same(server: &Postgres, mark: &Mark) -> Result<()> {
    ensure!(server.digest_all()? == mark.digest, "the content is another");
    Ok(())
}

#[test]
fn pg13_a_standby_beside_an_agent() -> Result<()> {
    with_an_agent(13)
}

#[test]
fn pg18_a_standby_beside_an_agent() -> Result<()> {
    with_an_agent(18)
}

#[test]
#[ignore = "one version more: run by `cargo xtask test --soak`"]
fn pg15_a_standby_beside_an_agent() -> Result<()> {
    with_an_agent(15)
}

#[test]
#[ignore = "one version more: run by `cargo xtask test --soak`"]
fn pg17_a_standby_beside_an_agent() -> Result<()> {
    with_an_agent(17)
}

/// Nobody protects the primary: the standby sends the WAL, too, and no further than its backup needs.
#[test]
fn pg15_a_standby_alone() -> Result<()> {
    let Some(scene) = Scene::new(15, |builder| builder.conf("archive_mode", "off"))? else { return Ok(()) };
    workload::transactions(&scene.primary, 100)?;
    scene.replayed()?;
    let mark = scene.primary.mark()?;
    let (shown, log) = scene.backup(&[])?;
    assert!(log.contains("Ourselves"), "{log}");
    let stop = shown["stop_lsn"].as_str().context("where it ends")?;
    assert!(lsn_number(stop)? <= lsn_number(&scene.primary.lsn()?)?, "a standby ends no segment: {shown}");
    assert_eq!(scene.agent.list()?["backups"][0]["restorable"], true);
    scene.primary.destroy()?;
    same(&scene.restored("restored", &[])?, &mark)?;
    // A quiet standby cannot begin another backup behind the end of this one; by content that is no matter.
    let (again, _) = scene.backup(&["--incremental"])?;
    assert_eq!(again["kind"], "incremental");
    assert!(again["stored_bytes"].as_u64() < Some(100_000), "{again}");
    Ok(())
}

/// Only the primary's archiver ships, and what it has not yet comes from the standby.
#[test]
fn pg18_a_standby_of_an_archiving_primary() -> Result<()> {
    let Some(mut scene) = Scene::new(18, |builder| builder)? else { return Ok(()) };
    scene.primary.archive_with(&scene.agent.archive_command()?)?;
    for agent in [&mut scene.agent, &mut scene.aside] {
        agent.set("stream", "enabled", "false")?;
    }
    let ended = scene.primary.switch_wal()?;
    wait_for("the archiver has shipped", PATIENCE, || {
        Ok(scene.repo.objects()?.iter().any(|object| object.key.contains(&ended)).then_some(()))
    })?;
    workload::transactions(&scene.primary, 50)?;
    scene.replayed()?;
    let mark = scene.primary.mark()?;
    let (_, log) = scene.backup(&[])?;
    assert!(log.contains("Elsewhere") && log.contains("receiving it from the standby"), "{log}");
    scene.primary.destroy()?;
    same(&scene.restored("restored", &[])?, &mark)
}

/// Who holds whom off, by name; and a standby that is promoted meanwhile.
#[test]
fn pg15_one_backup_at_a_time_whichever_server_is_read() -> Result<()> {
    let Some(scene) = Scene::new(15, |builder| builder)? else { return Ok(()) };
    let mut backup = scene.slow_backup()?;
    // From the primary, which knows nothing of the standby's sessions; and from the standby again.
    for (agent, words) in [(&scene.agent, "from another server"), (&scene.aside, "")] {
        let refused = agent.walkeep(&["backup", "--full"])?;
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        for words in ["another backup of this cluster is running", &format!("process {}", backup.id()), words]
        {
            assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
        }
    }
    // A backup that is killed blocks nobody.
    backup.kill()?;
    backup.wait()?;
    scene.agent.backup_full()?;

    let mut backup = scene.slow_backup()?;
    scene.standby.promote()?;
    let status = wait_for("the backup ends", PATIENCE, || Ok(backup.try_wait()?))?;
    let log = scene.aside.log_text();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("promoted during online backup"), "{log}");
    assert_eq!(scene.agent.labels()?.len(), 1, "nothing of it is listed");
    Ok(())
}

/// Without whole pages in the WAL nothing mends what a backup reads torn: a standby can only refuse.
#[test]
fn pg15_a_standby_without_full_pages_is_refused() -> Result<()> {
    let Some(scene) = Scene::new(15, |builder| builder.conf("full_page_writes", "off"))? else {
        return Ok(());
    };
    workload::transactions(&scene.primary, 20)?;
    scene.primary.sql("CHECKPOINT")?;
    scene.replayed()?;
    let refused = scene.aside.walkeep(&["backup"])?;
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    for words in ["full_page_writes=off", "on the primary"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert_eq!(scene.agent.labels()?.len(), 0);
    Ok(())
}

/// A limit is a least time: however slow the machine is, no backup may be quicker.
#[test]
fn pg15_a_limited_backup_takes_its_time() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(StoreKind::File, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    // Nothing that could be compressed.
    server.sql(
        "CREATE TABLE noise AS SELECT string_agg(decode(md5(n::text || k::text), 'hex'), '') AS bytes
         FROM generate_series(1, 4000) n, generate_series(1, 120) k GROUP BY n",
    )?;
    let timed = |arguments: &[&str]| -> Result<(Value, f64)> {
        let begun = Instant::now();
        let done = agent.walkeep(&[&["backup", "--full", "--json"], arguments].concat())?.ok()?;
        Ok((done.json()?, begun.elapsed().as_secs_f64()))
    };
    let rate = f64::from(8 << 20);
    for (flag, bytes) in [("--max-rate", "size_bytes"), ("--max-upload-rate", "stored_bytes")] {
        let (shown, took) = timed(&[flag, "8MiB"])?;
        let moved = shown[bytes].as_f64().context("how much")?;
        assert!(moved > rate, "it is worth measuring: {shown}");
        assert!(took > 0.7 * moved / rate, "{moved} bytes in {took} s by {flag}");
    }
    let wrong = agent.walkeep(&["backup", "--max-rate", "8"])?;
    assert!(wrong.code == Some(2) && wrong.stderr.contains("a size with its unit"), "{}", wrong.stderr);
    Ok(())
}
