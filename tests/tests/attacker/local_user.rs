//! Another user of the database's host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Result, ensure};
use harness::programs::program;
use harness::skip::skip_check;
use harness::{Account, Agent, Installation, Output, Postgres, Repo, World, workload};

const PASSWORD: &str = "a-password-that-nobody-sees";

/// A user whom nothing belongs to, but of the agent's group.
fn stranger(world: &World) -> Option<Account> {
    if !rustix::process::geteuid().is_root() {
        skip_check("only root can call as another user");
        return None;
    }
    Some(Account { uid: 61_234, gid: world.account().gid })
}

fn status_as(account: Account, agent: &Agent) -> Result<Output> {
    let mut command = account.command(program("walkeep")?);
    Output::of(command.args(["status", "--json"]).env("WALKEEP_CONFIG", agent.config()))
}

#[test]
fn nothing_is_given_out() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").segment_mib(1).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    let conninfo = format!("{} password={PASSWORD}", server.conninfo());
    agent.set("", "postgres", &format!("{conninfo:?}"))?;
    agent.set("log", "level", "\"debug\"")?;
    agent.init()?;
    server.archive_with(&agent.archive_command()?)?;
    agent.start()?;
    workload::init(&server, 1)?;
    agent.backup_full()?;

    // What it writes is its own.
    let socket = fs::metadata(world.at("walkeep.sock"))?;
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
    for folder in fs::read_dir(repo.folder())? {
        let facts = folder?.metadata()?;
        ensure!(!facts.is_dir() || facts.permissions().mode() & 0o077 == 0, "{facts:?}");
    }
    // Nothing secret is where every user can read it.
    let log = agent.log_text();
    ensure!(!log.contains(PASSWORD), "the password is in the log");
    for process in fs::read_dir("/proc")?.flatten() {
        // A process that has ended meanwhile gives nothing out.
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        ensure!(!String::from_utf8_lossy(&line).contains(PASSWORD), "{}", process.path().display());
    }
    // Nor can its memory be had: by a core dump, or by looking in.
    let process = Path::new("/proc").join(agent.pid()?.to_string());
    let limits = fs::read_to_string(process.join("limits"))?;
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    ensure!(cores.split_whitespace().filter(|word| *word == "0").count() == 2, "{cores}");
    if world.account().is_other() {
        assert_eq!(fs::metadata(process.join("environ"))?.uid(), 0, "the kernel keeps it for root");
    }

    let Some(stranger) = stranger(&world) else { return Ok(()) };
    // Where no users are named, the socket's file decides: the agent's group, and nobody else.
    let nobody = Account { uid: 61_235, gid: 61_235 };
    let refused = status_as(nobody, &agent)?;
    ensure!(refused.code == Some(1), "{refused:?}");
    status_as(stranger, &agent)?.ok()?;
    status_as(world.account(), &agent)?.ok()?;
    agent.stop()?;
    agent.set("", "socket_users", "[\"61234\"]")?;
    agent.start()?;
    status_as(stranger, &agent)?.ok()?;
    // Where some are, the group is no way in.
    for stranger in [nobody, Account { uid: 61_235, ..stranger }] {
        let refused = status_as(stranger, &agent)?;
        ensure!(
            refused.code == Some(1) && refused.stderr.contains("user 61235 may not call this agent"),
            "{refused:?}"
        );
    }
    agent.stop()?;
    Ok(())
}
