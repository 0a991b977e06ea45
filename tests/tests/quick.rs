//! `walkeep init --quick`: a server that runs, and the programs; nothing else is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use anyhow::{Context, Result};
use harness::{Agent, Installation, Postgres, Repo, World, workload};

struct Untouched {
    agent: Agent,
    server: Postgres,
    repo: Repo,
    world: World,
}

impl Untouched {
    fn start(archive_mode: &str, archive_command: &str) -> Result<Option<Untouched>> {
        let Some(installation) = Installation::any_or_skip() else { return Ok(None) };
        let world = World::new()?;
        let server = Postgres::build(&installation, "data")
            // As a server is that somebody means.
            .conf("fsync", "on")
            .conf("archive_mode", archive_mode)
            .conf("archive_command", archive_command)
            .start(&world)?;
        let repo = Repo::file(&world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        fs::remove_file(agent.config())?;
        agent.set_env("PGHOST", &server.socket_folder().display().to_string());
        agent.set_env("PGUSER", "postgres");
        Ok(Some(Untouched { agent, server, repo, world }))
    }
}

#[test]
fn a_new_user_is_protected_with_three_commands() -> Result<()> {
    let Some(mut new) = Untouched::start("off", "")? else { return Ok(()) };
    let begun = Instant::now();
    let told =
        new.agent.walkeep(&["init", "--quick", "--apply", "--repository", new.repo.url()])?.ok()?.stdout;
    for words in [
        "walkeep.toml written",
        "set         archive_command",
        "restart the server: archive_mode",
        "walkeep check",
    ] {
        assert!(told.contains(words), "\"{words}\" is not said:\n{told}");
    }
    let mode = fs::metadata(new.agent.config())?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    new.server.restart()?;
    new.agent.start()?;
    new.agent.walkeep(&["backup"])?.ok()?;
    let findings = new.agent.walkeep(&["check", "--json"])?.ok().context("check is not content")?.json()?;
    assert_eq!(findings["ok"], true, "{findings:#}");
    println!("protected after {:.1?}", begun.elapsed());

    workload::init(&new.server, 1)?;
    let end = new.server.lsn()?;
    let before = new.server.digest_all()?;
    new.agent.wait_durable(&end)?;
    new.server.kill9()?;
    let data = new.world.at("restored");
    new.agent.restore(&data, &["--archive", "off"])?.ok()?;
    let restored = Postgres::adopt(new.server.installation(), &new.world, "restored.server", &data)?;
    restored.start()?;
    restored.wait_promoted()?;
    assert_eq!(restored.digest_all()?, before);
    Ok(())
}

/// What is there is left as it is, and said.
#[test]
fn neither_a_configuration_nor_an_archiver_is_replaced() -> Result<()> {
    let Some(new) = Untouched::start("on", "cp %p /somewhere/%f")? else { return Ok(()) };
    let quick = ["init", "--quick", "--apply", "--repository", new.repo.url()];
    new.agent
        .walkeep(&quick)?
        .refused(1, &["archived by something else", "cp %p /somewhere/%f", "ALTER SYSTEM SET"]);
    assert_eq!(new.server.sql("SHOW archive_command")?, "cp %p /somewhere/%f");
    let written = fs::read_to_string(new.agent.config())?;
    let told = new.agent.walkeep(&["init", "--quick"])?.ok()?.stdout;
    assert!(told.contains("as it is") && told.contains("archive_command = "), "{told}");
    assert_eq!(fs::read_to_string(new.agent.config())?, written);
    Ok(())
}

#[test]
fn no_server_is_no_guess() -> Result<()> {
    let Some(mut new) = Untouched::start("off", "")? else { return Ok(()) };
    new.agent.set_env("PGPORT", "1");
    new.agent.walkeep(&["init", "--quick"])?.refused(1, &["no PostgreSQL server answers", "--postgres"]);
    assert!(!new.agent.config().exists());
    Ok(())
}
