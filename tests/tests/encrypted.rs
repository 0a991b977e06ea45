//! The main job with an encrypted and signed repository: the database's host can write and cannot read, and where restores
//! are run there is no server.

use anyhow::{Context, Result, ensure};
use harness::keys::{LATER_RECIPIENT, RECIPIENT};
use harness::postgres::pg_verifybackup;
use harness::{Agent, Holder, Installation, Mark, Postgres, Repo, StoreKind, World, workload};
use serde_json::Value;

/// Restores a copy and compares it.
fn restored(
    installation: &Installation,
    world: &World,
    repo: &Repo,
    vault: &Agent,
    (name, target): (&str, &[&str]),
    mark: &Mark,
) -> Result<()> {
    let data = world.at(name);
    let done = vault.restore(&data, target)?.ok()?;
    ensure!(!done.stdout.contains("was stated"), "{}", done.stdout);
    pg_verifybackup(installation, &data)?;
    let server = Postgres::adopt(installation, world, &format!("{name}.server"), &data)?
        .with_env(repo.environment())
        .with_setting("archive_mode", "off");
    server.start()?;
    server.wait_promoted()?;
    assert_eq!(server.digest_all()?, mark.digest, "{name}");
    Ok(())
}

/// Takes an incremental backup, how it was taken, and what was warned of.
fn incremental(agent: &Agent) -> Result<(Value, String)> {
    let done = agent.walkeep(&["-v", "backup", "--incremental", "--json"])?.ok()?;
    Ok((done.json()?, done.stderr))
}

fn the_main_job_in_the_dark(major: u32, store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let Some(repo) = Repo::or_skip(store, &world)? else { return Ok(()) };
    let mut builder = Postgres::build(&installation, "data").env(repo.environment());
    if major >= 17 {
        builder = builder.conf("summarize_wal", "on");
    }
    let server = builder.start(&world)?;
    let mut host = Agent::configure(&world, &server, &repo)?;
    host.hold(&world, Holder::Host)?;
    host.set("drill", "scratch", &format!("{:?}", world.folder("scratch")?.display().to_string()))?;
    let mut vault = Agent::named(&world, "vault", "host=/nowhere", &repo)?;
    vault.hold(&world, Holder::Vault)?;
    vault.set("drill", "scratch", &format!("{:?}", world.folder("vault-scratch")?.display().to_string()))?;
    host.init()?;
    server.archive_with(&host.archive_command()?)?;
    host.start()?;

    workload::init(&server, 2)?;
    host.backup_full()?;
    workload::transactions(&server, 300)?;
    // The lists of files are open to the host: so it can compare.
    let (second, log) = incremental(&host)?;
    ensure!(second["kind"] == "incremental", "{second}: {log}");
    workload::transactions(&server, 300)?;
    let good = server.mark()?;
    server.sql("DELETE FROM pgbench_accounts WHERE aid % 3 = 0")?;
    server.sql("CREATE TABLE last_words AS SELECT 'still here' AS said")?;
    let end = server.mark()?;
    host.wait_durable(&end.lsn)?;
    ensure!(host.walkeep(&["verify", "--json"])?.ok()?.json()?["ok"] == true);
    // Nothing of the data is open to it, and each says so.
    let programs = installation.bin.display().to_string();
    for arguments in [&["drill", "--bindir", &programs][..], &["find"]] {
        let refused = host.walkeep(arguments)?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("is encrypted"), "{refused:?}");
    }
    server.destroy()?;
    host.stop()?;

    let deep = vault.walkeep(&["verify", "--deep", "--json"])?.ok()?.json()?;
    ensure!(deep["ok"] == true, "{deep:#}");
    let drop = vault.walkeep(&["find", "--kind", "delete", "--json"])?.ok()?;
    ensure!(drop.stdout.contains("pgbench_accounts"), "{}", drop.stdout);
    let moment = ("moment", &["--target-time", &good.time, "--target-action", "promote"][..]);
    restored(&installation, &world, &repo, &vault, moment, &good)?;
    restored(&installation, &world, &repo, &vault, ("latest", &[]), &end)
}

macro_rules! in_the_dark {
    ($($(#[$attribute:meta])? $name:ident: $major:literal, $store:ident;)*) => {
        $($(#[$attribute])?
        #[test]
        fn $name() -> Result<()> {
            the_main_job_in_the_dark($major, StoreKind::$store)
        })*
    };
}

in_the_dark! {
    pg15_file: 15, File;
    pg18_s3: 18, S3;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg13_file: 13, File;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg14_s3: 14, S3;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg15_s3: 15, S3;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg15_gcs: 15, Gcs;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg15_azurite: 15, Azurite;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg16_file: 16, File;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg17_s3: 17, S3;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg18_file: 18, File;
    #[ignore = "one of the long runs: the other stores and versions"] soak_pg18_moto: 18, Moto;
}

/// One who comes later sees the backups after `rekey`, and restores those that are taken from then on. A cluster stays as it
/// was begun.
#[test]
fn recipients_come_later_and_terms_stay() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").segment_mib(1).start(&world)?;
    let mut host = Agent::configure(&world, &server, &repo)?;
    host.hold(&world, Holder::Host)?;
    host.init()?;
    host.start()?;
    workload::init(&server, 1)?;
    let first = host.backup_full()?;
    host.walkeep(&["keep", &first])?.ok()?;
    host.stop()?;

    // Nothing of another kind is put beside it.
    let before = repo.objects()?.len();
    let mut other = Agent::named(&world, "other", &server.conninfo(), &repo)?;
    for arguments in [&["init"][..], &["backup"], &["run"], &["expire"]] {
        let refused = other.walkeep(arguments)?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("no `recipients` are set"), "{refused:?}");
    }
    other.set("encryption", "recipients", &format!("[{RECIPIENT:?}]"))?;
    let refused = other.walkeep(&["run"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("no `key_file` is set"), "{refused:?}");
    assert_eq!(repo.objects()?.len(), before);

    let mut later = Agent::named(&world, "later", "host=/nowhere", &repo)?;
    later.hold(&world, Holder::LaterVault)?;
    let both = format!("[{RECIPIENT:?}, {LATER_RECIPIENT:?}]");
    host.set("encryption", "recipients", &both)?;
    later.set("encryption", "recipients", &both)?;
    ensure!(later.labels()?.is_empty(), "it cannot be read before");
    let plan = host.walkeep(&["rekey", "--dry-run"])?.ok()?;
    ensure!(plan.stdout.contains(&first) && plan.stdout.contains("1 to do, 0 done"), "{}", plan.stdout);
    let refused = later.walkeep(&["rekey"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("--no-metadata"), "{refused:?}");
    let done = host.walkeep(&["rekey"])?.ok()?;
    ensure!(done.stdout.contains("1 backups, 0 done already"), "{}", done.stdout);
    ensure!(done.stdout.contains("cannot\nrestore them"), "{}", done.stdout);
    let again = host.walkeep(&["rekey"])?.ok()?;
    ensure!(again.stdout.contains("0 backups, 1 done already"), "{}", again.stdout);
    assert_eq!(later.labels()?, std::slice::from_ref(&first));
    let kept = later.walkeep(&["expire", "--dry-run"])?.ok()?;
    ensure!(kept.stdout.contains("to be kept for ever"), "{}", kept.stdout);
    let refused = later.restore(&world.at("closed"), &["--target-immediate"])?;
    ensure!(
        refused.code == Some(1) && refused.stderr.contains("none of the configured identities"),
        "{refused:?}"
    );

    host.start()?;
    workload::transactions(&server, 100)?;
    host.backup_full()?;
    let end = server.mark()?;
    host.wait_durable(&end.lsn)?;
    host.stop()?;
    server.destroy()?;
    let mut vault = Agent::named(&world, "vault", "host=/nowhere", &repo)?;
    vault.hold(&world, Holder::Vault)?;
    // By a command, whose output is nobody else's.
    let identity = world.at("identity.txt").display().to_string();
    let section = std::fs::read_to_string(vault.config())?;
    ensure!(section.contains("identity_file"));
    for (name, agent) in [("by-the-later", &later), ("by-the-first", &vault)] {
        restored(&installation, &world, &repo, agent, (name, &[]), &end)?;
    }
    later.set("encryption", "identity_command", &format!("[\"cat\", {identity:?}]"))?;
    let refused = later.walkeep(&["list"])?;
    ensure!(refused.stderr.contains("exclude each other"), "{refused:?}");
    let mut command = Agent::named(&world, "command", "host=/nowhere", &repo)?;
    command.set("encryption", "identity_command", &format!("[\"cat\", {identity:?}]"))?;
    let listed = command.list()?;
    ensure!(listed["backups"].as_array().context("no list")?.len() == 2, "{listed:#}");
    let verified = command.walkeep(&["verify"])?.ok()?;
    ensure!(verified.stdout.contains("no key is trusted here"), "{}", verified.stdout);
    Ok(())
}
