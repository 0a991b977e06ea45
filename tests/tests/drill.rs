//! Drills: a restore that is proven for real, recorded, and leaves nothing behind. The original is not harmed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::postgres::Builder;
use harness::{Agent, Installation, Output, Postgres, Repo, Stop, StoreKind, World, bad, wait_for, workload};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// A protected server, and a place for copies of it.
struct Stage {
    server: Postgres,
    agent: Agent,
    repo: Repo,
    installation: Installation,
    scratch: PathBuf,
    world: World,
}

impl Stage {
    fn set(
        installation: &Installation,
        store: StoreKind,
        shape: impl FnOnce(Builder) -> Builder,
        prepare: impl FnOnce(&Postgres, &World) -> Result<()>,
    ) -> Result<Stage> {
        let world = World::new()?;
        let repo = Repo::of(store, &world)?;
        let server = shape(Postgres::build(installation, "data")).start(&world)?;
        prepare(&server, &world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        agent.init()?;
        agent.start()?;
        agent.backup_full()?;
        let scratch = world.folder("scratch")?;
        Ok(Stage { server, agent, repo, installation: installation.clone(), scratch, world })
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (scratch, bin) =
            (self.scratch.display().to_string(), self.installation.bin.display().to_string());
        let first = ["drill", "--scratch", &scratch, "--bindir", &bin];
        first.iter().chain(more).map(|&word| word.to_owned()).collect()
    }

    fn drill(&self, more: &[&str]) -> Result<Output> {
        let arguments = self.arguments(more);
        self.agent.walkeep(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Nothing of a copy is there any more.
    fn is_swept(&self) -> Result<()> {
        let left: Vec<_> =
            fs::read_dir(&self.scratch)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// The names of the proofs.
    fn proofs(&self) -> Result<Vec<String>> {
        let keys = self.repo.objects()?.into_iter().map(|object| object.key);
        Ok(keys.filter(|key| key.contains("/drill/")).collect())
    }

    /// Writes, and waits until it is in the repository; the position.
    fn work(&mut self) -> Result<String> {
        workload::transactions(&self.server, 50)?;
        let end = self.server.lsn()?;
        self.agent.wait_durable(&end)?;
        Ok(end)
    }

    /// The only folder of a copy.
    fn copy(&self) -> Result<Option<PathBuf>> {
        Ok(fs::read_dir(&self.scratch)?.next().transpose()?.map(|entry| entry.path()))
    }
}

fn small(server: &Postgres, _: &World) -> Result<()> {
    workload::init(server, 1)
}

fn checks(proof: &Value) -> Vec<(&str, Option<bool>)> {
    let checks = proof["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    checks
        .iter()
        .map(|check| (check["name"].as_str().unwrap_or_default(), check["passed"].as_bool()))
        .collect()
}

/// Its settings would start on no computer of this kind, its configuration lies elsewhere, and so does a tablespace; the
/// original runs on beside the drill.
fn a_drill_passes_and_harms_nothing(major: u32, store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let mut stage = Stage::set(&installation, store, Builder::configuration_outside, |server, world| {
        small(server, world)?;
        let fast = world.folder("fast disk")?;
        server.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display()))?;
        server.sql("CREATE TABLE quick TABLESPACE fast AS SELECT n FROM generate_series(1, 5000) n")?;
        for (name, value) in [
            ("shared_preload_libraries", "no_such_library"),
            ("shared_buffers", "900GB"),
            ("huge_pages", "on"),
            ("ssl", "on"),
            ("ssl_cert_file", "/nonexistent/server.crt"),
            ("synchronous_standby_names", "nobody"),
            ("log_directory", "/nonexistent"),
            ("archive_command", "false"),
        ] {
            server.sql(&format!("ALTER SYSTEM SET {name} = '{value}'"))?;
        }
        server.sql("CREATE DATABASE \"an odd 'name'\"")?;
        server
            .sql_in("an odd 'name'", "CREATE TABLE \"odd, too\" AS SELECT n FROM generate_series(1, 10) n")
            .map(drop)
    })?;
    fs::remove_dir_all(stage.world.at("data.etc"))?;
    let end = stage.work()?;
    let content = stage.server.digest_all()?;
    let objects = stage.repo.objects()?.len();
    assert!(stage.agent.list()?["last_drill"].is_null());

    let statements = [
        "SELECT count(*) = 100000 FROM pgbench_accounts",
        "SELECT current_setting('max_logical_replication_workers') = '0' AND current_setting('work_mem') = '7MB'",
        "CREATE TABLE of_the_drill (n int)",
        "SELECT count(*) FROM quick",
    ];
    let sql: Vec<&str> = statements.iter().flat_map(|&statement| ["--sql", statement]).collect();
    let output = stage.drill(&[&["--json", "--setting", "work_mem=7MB"], sql.as_slice()].concat())?.ok()?;
    let proof = output.json()?;
    assert_eq!(proof["verdict"], "passed", "{proof}");
    assert!(proof["failure"].is_null() && proof["recovery_seconds"].as_f64().is_some_and(|time| time > 0.0));
    assert_eq!(proof["backup"]["label"], stage.agent.labels()?[0]);
    let found = checks(&proof);
    let amcheck = installation.tool("pg_amcheck").map(|_| true);
    assert_eq!(found, [("relations", Some(true)), ("amcheck", amcheck), ("sql", Some(true))], "{proof}");
    let reached = harness::agent::lsn_number(proof["reached"]["lsn"].as_str().context("no position")?)?;
    assert!(reached >= harness::agent::lsn_number(&end)?, "{proof}");
    stage.is_swept()?;

    // It added its proof, and nothing else: it has not archived.
    let proofs = stage.proofs()?;
    assert!(proofs.len() == 1 && proofs[0].contains("-passed-"), "{proofs:?}");
    assert!(
        stage.repo.objects()?.len() <= objects + 1 || stage.agent.status()?["stream"]["state"] == "streaming"
    );
    let list = stage.agent.list()?;
    assert_eq!(list["last_drill"]["verdict"], "passed", "{list}");
    assert_eq!(list["last_drill"], list["last_passed_drill"]);
    assert!(
        list["last_drill"]["age_seconds"].is_u64()
            && proofs[0].ends_with(list["last_drill"]["object"].as_str().context("no object")?)
    );
    assert!(stage.agent.walkeep(&["list"])?.ok()?.stdout.contains("last drill passed"));
    stage
        .agent
        .wait_status("the agent tells of the drill", |status| status["last_drill"]["verdict"] == "passed")?;

    let random = stage.drill(&["--random", "--json"])?.ok()?.json()?;
    assert_eq!(
        (&random["verdict"], &random["target"]["random"]),
        (&"passed".into(), &true.into()),
        "{random}"
    );
    // The original has seen nothing of all that.
    assert_eq!(stage.server.digest_all()?, content);
    Ok(())
}

#[test]
fn pg15_file() -> Result<()> {
    a_drill_passes_and_harms_nothing(15, StoreKind::File)
}

#[test]
fn pg18_s3() -> Result<()> {
    a_drill_passes_and_harms_nothing(18, StoreKind::S3)
}

#[test]
#[ignore = "the same on more versions and stores: cargo xtask test --soak drill"]
fn soak() -> Result<()> {
    for (major, store) in [
        (13, StoreKind::File),
        (14, StoreKind::S3),
        (16, StoreKind::S3),
        (17, StoreKind::File),
        (18, StoreKind::File),
    ] {
        a_drill_passes_and_harms_nothing(major, store)?;
    }
    Ok(())
}

/// A page that cannot be read any more, and later a pack that cannot: each is found, named, and recorded.
#[test]
fn what_cannot_be_restored_or_read_is_found() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let stage = Stage::set(
        &installation,
        StoreKind::File,
        |builder| builder,
        |server, world| {
            small(server, world)?;
            server.sql("CREATE TABLE rotten AS SELECT n FROM generate_series(1, 5000) n")?;
            let path = server.sql("SELECT pg_relation_filepath('rotten')")?;
            server.stop(Stop::Fast)?;
            bad::flip_byte(&server.data().join(path), 3 * 8192 + 5000)?;
            server.start()
        },
    )?;
    let output = stage.drill(&["--json"])?;
    output.refused(1, &["the drill has failed", "public.rotten", "invalid page"]);
    let proof = output.json()?;
    assert_eq!(
        (&proof["verdict"], checks(&proof)[0]),
        (&"failed".into(), ("relations", Some(false))),
        "{proof}"
    );
    assert!(proof["recovery_seconds"].is_number(), "it was recovered: {proof}");
    stage.is_swept()?;

    // Without the table all is well, but for a statement that is not true.
    stage.server.sql("DROP TABLE rotten")?;
    stage.agent.backup_full()?;
    let output = stage.drill(&["--no-amcheck", "--sql", "SELECT count(*) = 7 FROM pgbench_branches"])?;
    output.refused(1, &["sql", "the answer is not true"]);
    stage.drill(&["--no-amcheck", "--sql", "SELECT count(*) = 1 FROM pgbench_branches"])?.ok()?;

    // Of every pack the first frame is damaged.
    for object in stage.repo.objects()?.into_iter().filter(|object| object.key.contains("/pack/")) {
        bad::flip_byte(&stage.repo.folder().join(&object.key), 1024 + 500)?;
    }
    let output = stage.drill(&[])?;
    output.refused(1, &["the drill has failed", "pack/"]);
    stage.is_swept()?;
    let list = stage.agent.list()?;
    assert_eq!(
        (&list["last_drill"]["verdict"], &list["last_passed_drill"]["verdict"]),
        (&"failed".into(), &"passed".into())
    );
    assert!(list["last_drill"]["failure"].as_str().is_some_and(|why| why.contains("pack/")), "{list}");
    assert_eq!(stage.proofs()?.len(), 4);
    Ok(())
}

/// What says nothing about the repository is no proof: it is refused, and nothing is recorded.
#[test]
fn what_this_computer_cannot_do_is_refused_and_not_recorded() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let stage = Stage::set(&installation, StoreKind::File, |builder| builder, small)?;
    let empty = stage.world.folder("empty")?.display().to_string();
    let scratch = stage.scratch.display().to_string();
    let output = stage.agent.walkeep(&["drill", "--scratch", &scratch, "--bindir", &empty])?;
    output.refused(1, &["no postgresql", &empty]);
    stage.drill(&["--target-lsn", "FF/0"])?.refused(1, &["lies after the last WAL"]);
    stage.agent.walkeep(&["drill", "--scratch", "/nonexistent/place"])?.refused(1, &["/nonexistent/place"]);
    let output = stage.drill(&["--setting", "no_such_setting=1"])?;
    output.refused(1, &["does not take the copy's settings", "no_such_setting"]);
    stage.drill(&["--random", "--target-immediate"])?.failed(2, &[]);
    stage.is_swept()?;
    assert!(stage.proofs()?.is_empty(), "none of these came to a restore");
    Ok(())
}

/// Replay would make the tablespace again, at its own place: that of the living one.
#[test]
fn a_tablespace_that_was_made_after_the_backup_is_not_touched() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut stage = Stage::set(&installation, StoreKind::File, |builder| builder, small)?;
    let before = stage.server.sql("SELECT clock_timestamp()")?;
    workload::transactions(&stage.server, 2)?;
    let late = stage.world.folder("late")?;
    stage.server.sql(&format!("CREATE TABLESPACE late LOCATION '{}'", late.display()))?;
    stage.server.sql("CREATE TABLE quick TABLESPACE late AS SELECT n FROM generate_series(1, 5000) n")?;
    stage.work()?;
    stage.server.sql("CHECKPOINT")?;
    let content = stage.server.digest_all()?;
    stage.drill(&[])?.refused(1, &[&late.display().to_string(), "after the backup had begun"]);
    stage.drill(&["--no-amcheck", "--target-time", &before])?.ok()?;
    stage.is_swept()?;
    assert_eq!(stage.proofs()?.len(), 1, "the first said nothing about the repository");
    stage.agent.backup_full()?;
    stage.drill(&["--no-amcheck", "--sql", "SELECT count(*) = 5000 FROM quick"])?.ok()?;
    stage.server.restart()?;
    assert_eq!(stage.server.digest_all()?, content);
    Ok(())
}

/// Waits until the copy's server runs; its process.
fn running(stage: &Stage) -> Result<Pid> {
    wait_for("the copy's server runs", PATIENCE, || {
        let Some(copy) = stage.copy()? else { return Ok(None) };
        let Ok(text) = fs::read_to_string(copy.join("data/postmaster.pid")) else { return Ok(None) };
        Ok(text.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw))
    })
}

fn gone(pid: Pid) -> bool {
    // A process that nobody has waited for yet is gone as well.
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    test_kill_process(pid).is_err() || status.contains(") Z ")
}

fn wait_gone(pid: Pid) -> Result<()> {
    wait_for("the copy's server is gone", PATIENCE, || Ok(gone(pid).then_some(())))
}

/// A statement that holds a drill up until it is killed.
const LONG: [&str; 3] = ["--no-amcheck", "--sql", "SELECT pg_sleep(600)"];

#[test]
fn a_killed_drill_leaves_nothing_after_the_next() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let stage = Stage::set(&installation, StoreKind::File, |builder| builder, small)?;
    let arguments = stage.arguments(&LONG);
    let mut killed =
        stage.agent.spawn("walkeep", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    let server = running(&stage)?;
    let left = stage.copy()?.context("the copy is gone")?;
    killed.kill()?;
    killed.wait()?;
    assert!(left.exists(), "nobody could have removed it");
    stage.drill(&["--no-amcheck"])?.ok()?;
    wait_gone(server)?;
    stage.is_swept()?;
    let proofs = stage.proofs()?;
    assert!(proofs.len() == 1 && proofs[0].contains("-passed-"), "{proofs:?}");
    Ok(())
}

#[test]
fn a_drill_that_is_told_to_stop_removes_its_copy() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let stage = Stage::set(&installation, StoreKind::File, |builder| builder, small)?;
    let arguments = stage.arguments(&LONG);
    let mut stopped =
        stage.agent.spawn("walkeep", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    let server = running(&stage)?;
    kill_process(Pid::from_child(&stopped), Signal::TERM)?;
    let status = wait_for("the drill ends", PATIENCE, || Ok(stopped.try_wait()?))?;
    assert_eq!(status.code(), Some(1));
    wait_gone(server)?;
    stage.is_swept()?;
    assert!(stage.proofs()?.is_empty(), "it has no verdict");
    Ok(())
}

/// As root the program becomes the server's user by itself.
#[test]
fn root_becomes_the_servers_user() -> Result<()> {
    if !harness::Account::current().is_other() {
        harness::skip("only root can become another user");
        return Ok(());
    }
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let stage = Stage::set(&installation, StoreKind::File, |builder| builder, small)?;
    let arguments = stage.arguments(&["--no-amcheck", "--run-as", &user(harness::Account::current().uid)?]);
    let mut command = harness::Account::ourselves().command(harness::programs::program("walkeep")?);
    command.args(arguments).env("WALKEEP_CONFIG", stage.agent.config());
    Output::of(&mut command)?.ok()?;
    stage.is_swept()?;
    assert_eq!(stage.proofs()?.len(), 1);
    Ok(())
}

/// The name behind a number.
fn user(uid: u32) -> Result<String> {
    let known = fs::read_to_string(Path::new("/etc/passwd"))?;
    let line = known.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()));
    line.and_then(|line| line.split(':').next()).map(str::to_owned).context("a user without a name")
}
