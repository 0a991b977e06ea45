//! Bad input and faults: one clear sentence, what to do, the right exit code, and nothing is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::objects::{Object, fingerprint};
use harness::s3::SECRET_KEY;
use harness::{Agent, Installation, Postgres, Repo, World, bad, workload};

/// A protected server with one backup.
struct Protected {
    server: Postgres,
    agent: Agent,
    repo: Repo,
    world: World,
}

impl Protected {
    fn start(installation: &Installation) -> Result<Protected> {
        let world = World::new()?;
        let repo = Repo::file(&world)?;
        let server = Postgres::build(installation, "data").start(&world)?;
        let agent = Agent::configure(&world, &server, &repo)?;
        agent.init()?;
        Ok(Protected { server, agent, repo, world })
    }

    /// With a backup and all WAL after it in the repository.
    fn backed_up(installation: &Installation) -> Result<Protected> {
        let mut protected = Protected::start(installation)?;
        workload::init(&protected.server, 1)?;
        protected.agent.start()?;
        protected.agent.backup_full()?;
        workload::transactions(&protected.server, 20)?;
        let end = protected.server.lsn()?;
        protected.agent.wait_durable(&end)?;
        Ok(protected)
    }

    /// A whole segment that the server has just ended, copied out of its way.
    fn ended_segment(&self) -> Result<PathBuf> {
        let name = self.server.switch_wal()?;
        let copy = self.world.folder("wal")?.join(&name);
        fs::copy(self.server.data().join("pg_wal").join(&name), &copy).context("cannot copy a segment")?;
        self.world.account().own(&copy)?;
        Ok(copy)
    }

    /// The objects of the repository's WAL.
    fn wal(&self) -> Result<Vec<Object>> {
        Ok(self.repo.objects()?.into_iter().filter(|object| object.key.contains("/wal/")).collect())
    }
}

/// A server and a configuration, with nothing set up yet.
fn unprotected(
    installation: &Installation,
    conf: &[(&str, &str)],
    hba: Option<&str>,
) -> Result<(Agent, Postgres, Repo, World)> {
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let mut server = Postgres::build(installation, "data");
    for (name, value) in conf {
        server = server.conf(name, value);
    }
    if let Some(text) = hba {
        server = server.hba(text);
    }
    let server = server.start(&world)?;
    let agent = Agent::configure(&world, &server, &repo)?;
    Ok((agent, server, repo, world))
}

#[test]
fn an_unknown_configuration_key_is_named_with_its_nearest() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let (mut agent, _server, _repo, _world) = unprotected(&installation, &[], None)?;
    agent.set("stream", "flush_intervall", "\"1s\"")?;
    agent
        .walkeep(&["init"])?
        .failed(1, &["flush_intervall", "did you mean", "flush_interval", "walkeep.toml"]);
    agent.restore_cmd(&["restore", "--pgdata", "/nowhere"])?.failed(1, &["flush_intervall"]);
    Ok(())
}

#[test]
fn an_unknown_scheme_is_told_which_there_are() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let (mut agent, _server, _repo, _world) = unprotected(&installation, &[], None)?;
    agent.set("", "repository", "\"ftp://backups/here\"")?;
    agent.walkeep(&["init"])?.failed(1, &["ftp", "s3://"]);
    Ok(())
}

#[test]
fn a_host_that_does_not_exist_is_named() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let (mut agent, _server, repo, _world) = unprotected(&installation, &[], None)?;
    agent.set("", "postgres", "\"host=db.invalid user=walkeep connect_timeout=5\"")?;
    agent.walkeep(&["init"])?.refused(1, &["db.invalid"]);
    assert!(repo.objects()?.iter().all(|object| object.key == "walkeep.json"), "nothing more may be made");
    Ok(())
}

#[test]
fn a_store_that_does_not_exist_is_unreachable_and_not_empty() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.set("storage", "retry_timeout", "\"2s\"")?;
    repo.s3_server().down();
    agent.walkeep(&["list"])?.refused(1, &["reach"]);
    Ok(())
}

#[test]
fn a_wrong_password_is_refused_and_never_printed() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let (mut agent, server, _repo, _world) = unprotected(&installation, &[], None)?;
    let port = server.port();
    let conninfo =
        format!("\"host=127.0.0.1 port={port} user=walkeep password=not-this-one dbname=postgres\"");
    agent.set("", "postgres", &conninfo)?;
    let told = agent.walkeep(&["init"])?;
    told.refused(1, &["password", "walkeep"]);
    assert!(!told.stderr.contains("not-this-one"), "the password is in the message");
    Ok(())
}

#[test]
fn wrong_keys_of_the_store_are_refused_and_never_printed() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    let wrong = format!("{SECRET_KEY}-wrong");
    agent.set_env("AWS_SECRET_ACCESS_KEY", &wrong);
    let told = agent.walkeep(&["init"])?;
    told.refused(1, &["denied"]);
    assert!(!told.stderr.contains(SECRET_KEY), "the secret is in the message");
    Ok(())
}

#[test]
fn a_missing_pg_hba_line_is_printed_for_the_user_to_add() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let (agent, _server, _repo, _world) = unprotected(&installation, &[], Some("local all all trust\n"))?;
    agent.walkeep(&["init"])?.refused(1, &["pg_hba.conf", "replication"]);
    Ok(())
}

#[test]
fn wal_level_minimal_is_refused() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let minimal = [("wal_level", "minimal"), ("max_wal_senders", "0"), ("archive_mode", "off")];
    let (agent, _server, _repo, _world) = unprotected(&installation, &minimal, None)?;
    let told = agent.walkeep(&["init"])?;
    assert_eq!(told.code, Some(1), "{}", told.stderr);
    // The server itself refuses a replication connection first: either setting must be named.
    assert!(told.stderr.contains("wal_level") || told.stderr.contains("max_wal_senders"), "{}", told.stderr);
    Ok(())
}

#[test]
fn a_role_without_replication_is_told_how_to_get_it() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let (agent, server, _repo, _world) = unprotected(&installation, &[], None)?;
    server.sql("ALTER ROLE walkeep NOREPLICATION")?;
    agent.walkeep(&["init"])?.refused(1, &["replication", "alter role"]);
    Ok(())
}

#[test]
fn a_repository_that_cannot_be_written_is_refused() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let (agent, _server, repo, _world) = unprotected(&installation, &[], None)?;
    fs::set_permissions(repo.folder(), fs::Permissions::from_mode(0o500))?;
    let told = agent.walkeep(&["init"])?;
    fs::set_permissions(repo.folder(), fs::Permissions::from_mode(0o700))?;
    told.refused(1, &["repository", "permission"]);
    assert!(repo.objects()?.is_empty());
    Ok(())
}

#[test]
fn a_store_that_refuses_writes_is_no_success() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    let before = repo.objects()?;
    repo.s3_server().faults().read_only(true);
    agent.walkeep(&["backup", "--full"])?.refused(1, &["denied"]);
    assert_eq!(repo.objects()?, before, "nothing may have changed");
    Ok(())
}

#[test]
fn archive_cmd_takes_nothing_that_is_no_wal() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let protected = Protected::start(&installation)?;
    let (agent, world) = (&protected.agent, &protected.world);
    let folder = world.folder("wal")?;
    let name = "0000000100000000000000AA";

    let missing = agent.archive_cmd(&folder.join(name))?;
    assert!((1..=125).contains(&missing.code.unwrap_or(0)), "{:?} {}", missing.code, missing.stderr);
    assert!(missing.stderr.contains(name), "{}", missing.stderr);

    let zeros = world.write(&format!("wal/{name}"), vec![0; 16 << 20])?;
    let told = agent.archive_cmd(&zeros)?;
    assert!((1..=125).contains(&told.code.unwrap_or(0)), "{:?} {}", told.code, told.stderr);

    let short = protected.ended_segment()?;
    let whole = fs::read(&short)?;
    fs::write(&short, &whole[..whole.len() / 2])?;
    let told = agent.archive_cmd(&short)?;
    assert!((1..=125).contains(&told.code.unwrap_or(0)), "{:?} {}", told.code, told.stderr);
    assert!(protected.wal()?.is_empty(), "nothing of it may be in the repository: {:?}", protected.wal()?);
    Ok(())
}

#[test]
fn archive_cmd_refuses_the_segment_of_another_cluster() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let protected = Protected::start(&installation)?;
    let other = Protected::start(&installation)?;
    let foreign = other.ended_segment()?;
    // The account may enter the other scenario's folder, as it is the same account.
    let told = protected.agent.archive_cmd(&foreign)?;
    assert!((1..=125).contains(&told.code.unwrap_or(0)), "{:?} {}", told.code, told.stderr);
    assert!(told.stderr.contains("system identifier"), "{}", told.stderr);
    assert!(protected.wal()?.is_empty(), "nothing of it may be in the repository");
    Ok(())
}

#[test]
fn the_same_segment_twice_is_a_success_and_a_different_one_is_not() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let protected = Protected::start(&installation)?;
    let segment = protected.ended_segment()?;
    protected.agent.archive_cmd(&segment)?.ok()?;
    protected.agent.archive_cmd(&segment)?.ok()?;
    let before = fingerprint(&protected.wal()?)?;
    assert_eq!(before.len(), 1, "one object: {before:?}");

    // Still a sound page header, but another content.
    bad::flip_byte(&segment, 300)?;
    let told = protected.agent.archive_cmd(&segment)?;
    assert!((1..=125).contains(&told.code.unwrap_or(0)), "{:?} {}", told.code, told.stderr);
    let after = fingerprint(&protected.wal()?)?;
    assert!(before.iter().all(|object| after.contains(object)), "what was there must stay as it was");
    Ok(())
}

#[test]
fn a_directory_in_use_is_not_touched() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let protected = Protected::backed_up(&installation)?;
    let full = protected.world.folder("full")?;
    protected.world.write("full/precious", "do not lose me")?;
    protected.agent.restore(&full, &[])?.refused(1, &["not empty"]);
    assert_eq!(fs::read_to_string(full.join("precious"))?, "do not lose me");
    assert_eq!(fs::read_dir(&full)?.count(), 1, "nothing may have been added");

    let content = protected.server.digest_all()?;
    protected.agent.restore(protected.server.data(), &[])?.refused(1, &["a server runs in"]);
    protected.agent.restore(protected.server.data(), &["--force"])?.refused(1, &["a server runs in"]);
    protected.server.restart()?;
    assert_eq!(protected.server.digest_all()?, content);
    Ok(())
}

#[test]
fn a_target_outside_the_window_is_refused_before_copying() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let protected = Protected::backed_up(&installation)?;
    let target = protected.world.at("restored");
    for outside in [["--target-time", "2001-01-01 00:00:00Z"], ["--target-lsn", "7FFF/0"]] {
        let told = protected.agent.restore(&target, &outside)?;
        told.refused(1, &["can be restored from"]);
        let empty = !target.exists() || fs::read_dir(&target)?.next().is_none();
        assert!(empty, "{outside:?}: nothing may have been copied");
    }
    let late = protected.agent.restore(&target, &["--target-time", "2099-01-01 00:00:00Z"])?;
    late.refused(1, &["can be restored from"]);
    Ok(())
}

#[test]
fn a_damaged_object_is_named_and_nothing_is_half_restored() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let protected = Protected::backed_up(&installation)?;
    let objects = protected.repo.objects()?;
    let pack = objects.iter().filter(|object| object.key.contains("/pack/")).max_by_key(|pack| pack.size);
    let pack = pack.context("the backup has no pack")?;
    bad::flip_byte(&pack.path, pack.size / 2)?;

    let target = protected.world.at("restored");
    let told = protected.agent.restore(&target, &[])?;
    told.refused(1, &[&pack.key]);
    assert!(!target.join("global/pg_control").exists(), "such a directory must not be startable");
    Ok(())
}
