//! `walkeep check`: each finding is provoked by breaking that very setting, and cured by pasting the fix that it prints.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Agent, Installation, Output, Postgres, Repo, StoreKind, World, wait_for};
use serde_json::Value;

/// An archiver that has failed looks again after a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// About the machine that the test runs on, and the servers that it happens to have.
const OF_THE_MACHINE: [&str; 3] = ["version", "wal_space", "repository_space"];

/// What the settings review has to say: servers of tests log where the harness wants it, and trust it.
const OF_THE_REVIEW: [&str; 10] = [
    "autovacuum",
    "log_collector",
    "log_connections",
    "log_durations",
    "log_events",
    "pg_hba",
    "pg_hba_address",
    "pg_hba_md5",
    "pg_hba_trust",
    "server_tls",
];

/// A server that has everything, and an agent beside it.
struct Scene {
    world: World,
    server: Postgres,
    repo: Repo,
    agent: Agent,
}

/// The findings of one run.
struct Found(Vec<Value>);

impl Found {
    fn severity(&self, code: &str) -> &str {
        let found = self.0.iter().find(|finding| finding["code"] == code);
        found.and_then(|finding| finding["severity"].as_str()).unwrap_or("none")
    }

    fn fix(&self, code: &str) -> Result<String> {
        let found = self.0.iter().find(|finding| finding["code"] == code).context("no such finding")?;
        Ok(found["fix"].as_str().context("no fix")?.to_owned())
    }

    fn bad(&self) -> Vec<&Value> {
        let ok = |finding: &&Value| finding["severity"] != "ok";
        let ours = |finding: &&Value| {
            OF_THE_MACHINE.iter().chain(&OF_THE_REVIEW).all(|code| finding["code"] != *code)
        };
        self.0.iter().filter(ok).filter(ours).collect()
    }
}

impl Scene {
    fn of(major: u32, kind: StoreKind) -> Result<Option<Scene>> {
        let Some(installation) = Installation::or_skip(major) else { return Ok(None) };
        let world = World::new()?;
        let repo = Repo::of(kind, &world)?;
        let mut server = Postgres::build(&installation, "data")
            .segment_mib(1)
            .env(repo.environment())
            .conf("fsync", "on")
            .conf("max_slot_wal_keep_size", "1GB");
        if major >= 17 {
            server = server.conf("summarize_wal", "on");
        }
        let server = server.start(&world)?;
        server.sql("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO walkeep")?;
        server.sql("GRANT SELECT ON pg_hba_file_rules TO walkeep")?;
        server.sql("GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO walkeep")?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        agent.set("retention", "window", "\"14d\"")?;
        agent.init()?;
        server.archive_with(&agent.archive_command()?)?;
        agent.start()?;
        agent.backup_full()?;
        Ok(Some(Scene { world, server, repo, agent }))
    }

    /// `walkeep check --json`; the exit code says the same as the findings.
    fn check(&self) -> Result<Found> {
        let output = self.agent.walkeep(&["check", "--json"])?;
        let json = output.json().with_context(|| output.stderr.clone())?;
        let findings = json["findings"].as_array().context("no findings")?.clone();
        let ok = findings.iter().all(|finding| finding["severity"] != "error");
        ensure!(
            json["ok"] == ok && output.code == Some(i32::from(!ok)),
            "ended with {:?}: {json}",
            output.code
        );
        let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
        let manual = fs::read_to_string(manual).context(manual)?;
        for finding in &findings {
            let code = finding["code"].as_str().context("no code")?;
            ensure!(
                !OF_THE_REVIEW.contains(&code) || manual.contains(&format!("`{code}`")),
                "docs/operations.md does not tell of {code}"
            );
            let needs_fix = finding["severity"] != "ok";
            ensure!(needs_fix == finding["fix"].is_string(), "a fix where one is needed: {finding}");
        }
        Ok(Found(findings))
    }

    /// Waits until each of these findings has its severity: settings take effect a moment after they were changed.
    fn wait(&self, wanted: &[(&str, &str)]) -> Result<Found> {
        wait_for(&format!("the findings are {wanted:?}"), PATIENCE, || {
            let found = self.check()?;
            let other = wanted.iter().find(|(code, severity)| found.severity(code) != *severity);
            match other {
                None => Ok(Some(found)),
                Some((code, _)) => bail!("{code} is {}: {:?}", found.severity(code), found.bad()),
            }
        })
    }

    fn wait_healthy(&self) -> Result<()> {
        wait_for("nothing is found", PATIENCE, || {
            let found = self.check()?;
            let bad = found.bad();
            if bad.is_empty() { Ok(Some(())) } else { bail!("found {bad:?}") }
        })
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        self.server.sql(&format!("ALTER SYSTEM SET {name} = '{value}'")).map(drop)
    }

    fn reload(&self) -> Result<()> {
        self.server.sql("SELECT pg_reload_conf()").map(drop)
    }

    /// Does what a fix says, line by line, as somebody would who pastes it. Whether a restart is due.
    fn paste(&mut self, fix: &str) -> Result<bool> {
        let mut restart = false;
        let mut section = None;
        for line in fix.lines() {
            restart |= line.contains("restart PostgreSQL");
            let line = line.split("  -- ").next().unwrap_or(line).split("  # ").next().unwrap_or(line).trim();
            let first = line.split(' ').next().unwrap_or_default();
            match first {
                "ALTER" | "SELECT" | "GRANT" => drop(self.server.sql(line)?),
                // Who may be whom: a line for pg_ident.conf.
                "walkeep" if line.starts_with("walkeep   ") => {
                    append(&self.server.data().join("pg_ident.conf"), line)?;
                }
                "walkeep" if line == "walkeep run" => self.agent.start()?,
                "walkeep" => {
                    let words: Vec<&str> = line.split(' ').skip(1).collect();
                    self.agent.walkeep(&words)?.ok()?;
                }
                "local" => append(&self.server.data().join("pg_hba.conf"), line)?,
                _ if line.starts_with('[') => section = Some(line.trim_matches(['[', ']']).to_owned()),
                _ if section.is_some() && line.contains(" = ") => {
                    let (key, value) = line.split_once(" = ").context("a key and a value")?;
                    self.agent.set(section.as_deref().unwrap_or_default(), key, value)?;
                }
                _ => {}
            }
        }
        Ok(restart)
    }

    /// Breaks nothing by itself: waits until each of these is found, pastes their fixes, and waits until all is well.
    fn cure(&mut self, wanted: &[(&str, &str)]) -> Result<()> {
        let found = self.wait(wanted)?;
        for (code, _) in wanted {
            let fix = found.fix(code)?;
            self.paste(&fix).with_context(|| format!("the fix of {code} is {fix:?}"))?;
        }
        self.wait_healthy()
    }
}

fn append(file: &std::path::Path, line: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    Ok(fs::write(file, format!("{line}\n{text}"))?)
}

fn settings(major: u32, kind: StoreKind) -> Result<()> {
    let Some(mut scene) = Scene::of(major, kind)? else { return Ok(()) };
    let text = scene.agent.walkeep(&["check"])?;
    ensure!(text.stdout.contains("is in the repository"), "no proof:\n{}", text.stdout);
    scene.wait_healthy()?;

    // What a reload brings into force.
    let mut broken = vec![
        ("full_page_writes", "off", "error"),
        ("fsync", "off", "error"),
        ("password_encryption", "md5", "warning"),
        ("max_slot_wal_keep_size", "-1", "warning"),
        ("archive_command", "", "error"),
    ];
    if major >= 17 {
        broken.push(("summarize_wal", "off", "warning"));
    }
    if major >= 18 {
        broken.push(("idle_replication_slot_timeout", "1h", "warning"));
    }
    for (name, value, _) in &broken {
        scene.set(name, value)?;
    }
    scene.reload()?;
    let wanted: Vec<_> = broken.iter().map(|(name, _, severity)| (*name, *severity)).collect();
    scene.cure(&wanted)?;

    // Somebody else's archive_command, one that cannot be run, one with another configuration: and what comes of it.
    scene.server.archive_with("true")?;
    scene.cure(&[("archive_command", "warning")])?;
    let program = scene.world.write("archive-cmd", "#!/bin/sh\n")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644))?;
    scene.server.archive_with(&format!("{} %p", program.display()))?;
    // The shell's 126 ends the archiver, and is not counted.
    scene.cure(&[("archive_command", "error")])?;
    let own = scene.agent.archive_command()?;
    scene.server.archive_with(&own.replace(".toml", ".other"))?;
    scene.cure(&[("archive_command", "error"), ("archiver", "error")])?;

    // Roles.
    scene.server.sql("ALTER ROLE walkeep NOREPLICATION")?;
    scene.cure(&[("role", "error")])?;
    scene.server.sql("REVOKE pg_monitor FROM walkeep")?;
    scene.cure(&[("pg_monitor", "warning")])?;
    scene.server.sql("REVOKE EXECUTE ON FUNCTION pg_switch_wal() FROM walkeep")?;
    scene.cure(&[("round_trip", "warning")])?;

    // pg_hba.conf.
    fs::write(scene.server.data().join("pg_hba.conf"), "local all all trust\n")?;
    scene.reload()?;
    let refused = scene.wait(&[("replication", "error")])?;
    scene.paste(&refused.fix("replication")?)?;
    scene.reload()?;
    scene.wait_healthy()
}

/// What needs a restart: the worst of all servers, one on which nothing can be archived at all.
fn restarts(major: u32) -> Result<()> {
    let Some(mut scene) = Scene::of(major, StoreKind::File)? else { return Ok(()) };
    scene.agent.stop()?;
    scene.server.sql("SELECT pg_drop_replication_slot('walkeep')")?;
    for (name, value) in [("archive_mode", "off"), ("max_wal_senders", "0"), ("wal_level", "minimal")] {
        scene.set(name, value)?;
    }
    if major >= 17 {
        scene.set("summarize_wal", "off")?;
    }
    scene.wait(&[("slot", "error"), ("agent", "error")])?;
    scene.server.restart()?;
    let found = scene.wait(&[
        ("archive_mode", "warning"),
        ("max_wal_senders", "error"),
        ("wal_level", "error"),
        ("replication", "error"),
    ])?;
    let mut restart = false;
    for code in ["archive_mode", "max_wal_senders", "wal_level"] {
        restart |= scene.paste(&found.fix(code)?)?;
    }
    ensure!(restart, "nobody was told to restart the server");
    scene.reload()?;
    scene.wait(&[("pending_restart", "warning")])?;
    scene.server.restart()?;
    scene.wait(&[("pending_restart", "ok")])?;
    let mut wanted = vec![("slot", "error"), ("agent", "error")];
    if major >= 17 {
        wanted.insert(0, ("summarize_wal", "warning"));
    }
    // WAL of that time tells too little, and a new backup begins a new window.
    let found = scene.wait(&wanted)?;
    for (code, _) in wanted {
        scene.paste(&found.fix(code)?)?;
    }
    scene.agent.backup_full()?;
    scene.wait_healthy()
}

/// Each level of synchronous_commit, and how commits go on when the agent is down.
fn synchronous(major: u32) -> Result<()> {
    let Some(mut scene) = Scene::of(major, StoreKind::File)? else { return Ok(()) };
    scene.server.sql("CREATE TABLE t (n int)")?;
    scene.agent.stop()?;
    scene.agent.set("stream", "synchronous", "true")?;
    scene.agent.start()?;
    scene.cure(&[("synchronous", "warning")])?;
    scene.server.sql("INSERT INTO t VALUES (1)")?;
    for (level, severity) in [("remote_apply", "error"), ("local", "warning"), ("off", "warning")] {
        scene.set("synchronous_commit", level)?;
        scene.reload()?;
        scene.cure(&[("synchronous", severity)])?;
    }
    scene.set("synchronous_commit", "remote_write")?;
    scene.reload()?;
    scene.wait(&[("synchronous", "ok")])?;
    scene
        .server
        .sql("SET synchronous_commit = local; ALTER ROLE walkeep SET synchronous_commit = remote_apply")?;
    scene.cure_with_local_commits(&[("synchronous_overrides", "error")])?;

    // The agent is down: nobody's commit returns until somebody does what `check` says.
    scene.agent.kill9()?;
    let found = scene.wait(&[("synchronous", "error"), ("agent", "error")])?;
    scene.paste(&found.fix("synchronous")?)?;
    scene.server.sql("INSERT INTO t VALUES (2)")?;
    scene.paste(&found.fix("agent")?)?;
    scene.wait(&[("agent", "ok"), ("synchronous", "warning")]).map(drop)
}

impl Scene {
    /// As [`Scene::cure`]; the fix's own commit must not wait for what it is to mend.
    fn cure_with_local_commits(&mut self, wanted: &[(&str, &str)]) -> Result<()> {
        let found = self.wait(wanted)?;
        for (code, _) in wanted {
            self.server.sql(&format!("SET synchronous_commit = local; {}", found.fix(code)?))?;
        }
        self.wait_healthy()
    }
}

/// The agent, the slot, the repository, the backups.
fn stored(major: u32) -> Result<()> {
    let Some(mut scene) = Scene::of(major, StoreKind::File)? else { return Ok(()) };
    // Archiving alone.
    scene.agent.stop()?;
    scene.agent.set("stream", "enabled", "false")?;
    scene.wait(&[("archive_timeout", "warning"), ("agent", "warning"), ("round_trip", "ok")])?;
    let fix = scene.check()?.fix("archive_timeout")?;
    scene.paste(&fix)?;
    scene.wait(&[("archive_timeout", "ok")])?;
    scene.agent.set("stream", "enabled", "true")?;
    scene.cure(&[("agent", "error")])?;

    // No retention.
    scene.agent.set("retention", "window", "\"1d\"")?;
    scene.wait_healthy()?;

    // A repository that cannot be written to, and one that is not there.
    let folder = scene.repo.folder().clone();
    let cluster = folder.join("main");
    let mode = |mode: u32| fs::set_permissions(&cluster, fs::Permissions::from_mode(mode));
    mode(0o555)?;
    scene.wait(&[("repository", "error")])?;
    mode(0o700)?;
    scene.wait_healthy()?;
    let away = scene.world.at("away");
    fs::rename(&folder, &away)?;
    scene.wait(&[("repository", "error")])?;
    fs::rename(&away, &folder)?;
    scene.wait_healthy()?;

    // WAL that is missing.
    let gone = scene.repo.objects()?.into_iter().rev().find(|object| is_segment(&object.key));
    let gone = gone.context("no segment is stored")?;
    scene.server.sql("SELECT pg_create_restore_point('after the gap'), pg_switch_wal()")?;
    let end = scene.server.lsn()?;
    scene.agent.wait_durable(&end)?;
    fs::remove_file(folder.join(&gone.key))?;
    scene.cure(&[("gap", "error")])?;

    // Another cluster, which was not begun.
    scene.agent.set("", "cluster", "\"another\"")?;
    let found = scene.wait(&[("cluster", "error")])?;
    scene.paste(&found.fix("cluster")?)?;
    let found = scene.wait(&[("cluster", "none"), ("backup", "error")])?;
    scene.agent.stop()?;
    scene.agent.start()?;
    scene.paste(&found.fix("backup")?)?;
    scene.wait(&[("backup", "ok"), ("round_trip", "ok")])?;

    // No server at all.
    scene.server.kill9()?;
    scene.wait(&[("server", "error"), ("round_trip", "error")]).map(drop)
}

/// How the server logs, who gets in, whether it cleans up: each wrong once, and cured by what is printed.
fn review(major: u32) -> Result<()> {
    let Some(mut scene) = Scene::of(major, StoreKind::File)? else { return Ok(()) };
    scene.server.sql("REVOKE EXECUTE ON FUNCTION pg_hba_file_rules() FROM walkeep")?;
    let found = scene.wait(&[
        ("pg_hba", "warning"),
        ("pg_hba_trust", "none"),
        ("log_collector", "warning"),
        ("log_durations", "warning"),
        ("log_connections", "warning"),
        ("log_events", "warning"),
        ("autovacuum", "ok"),
        ("server_tls", "ok"),
    ])?;
    for code in ["pg_hba", "log_durations", "log_connections", "log_events"] {
        scene.paste(&found.fix(code)?)?;
    }
    ensure!(scene.paste(&found.fix("log_collector")?)?, "nobody was told to restart the server");
    scene.wait(&[
        ("log_durations", "ok"),
        ("log_connections", "ok"),
        ("log_events", "ok"),
        ("pg_hba", "ok"),
    ])?;

    let file = scene.server.data().join("pg_hba.conf");
    let mut lines = [
        "local all all trust",
        "local replication all trust",
        "host all all 127.0.0.1/32 md5",
        "host shop app 0.0.0.0/0 scram-sha-256",
    ];
    fs::write(&file, lines.join("\n") + "\n")?;
    let found = scene.wait(&[
        ("pg_hba_trust", "warning"),
        ("pg_hba_md5", "warning"),
        ("pg_hba_address", "warning"),
        ("pg_hba", "ok"),
    ])?;
    let (md5, wide) = (found.fix("pg_hba_md5")?, found.fix("pg_hba_address")?);
    ensure!(found.fix("pg_hba_trust")?.contains("instead of line 1"), "{:?}", found.fix("pg_hba_trust"));
    ensure!(md5.contains("instead of line 3") && wide.contains("instead of line 4"), "{md5} {wide}");
    let line = |fix: &str| fix.lines().last().unwrap_or_default().to_owned();
    let (md5, wide) = (line(&md5), line(&wide));
    (lines[2], lines[3]) = (&md5, &wide);
    fs::write(&file, lines.join("\n") + "\n")?;
    scene.wait(&[("pg_hba_md5", "ok"), ("pg_hba_address", "ok"), ("pg_hba", "ok")])?;
    fs::write(&file, lines.join("\n") + "\nhost all all nowhere\n")?;
    scene.wait(&[("pg_hba", "warning")])?;
    fs::write(&file, lines.join("\n") + "\n")?;

    scene.set("autovacuum", "off")?;
    scene.reload()?;
    let found = scene.wait(&[("autovacuum", "warning")])?;
    scene.paste(&found.fix("autovacuum")?)?;
    scene.wait(&[("autovacuum", "ok")])?;
    scene.set("autovacuum_vacuum_scale_factor", "0.9")?;
    scene.reload()?;
    let found = scene.wait(&[("autovacuum", "warning")])?;
    scene.paste(&found.fix("autovacuum")?)?;
    scene.wait(&[("autovacuum", "ok")]).map(drop)
}

fn is_segment(key: &str) -> bool {
    key.contains("/wal/") && !key.contains("/tail/") && !key.contains(".history") && !key.contains(".backup")
}

/// A store that is down is told of after seconds, not after minutes of silence.
#[test]
fn a_dead_store_is_told_of_soon() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::s3(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    repo.down()?;
    let told: Output = agent.walkeep(&["list"])?;
    told.refused(1, &["cannot reach s3://backups/walkeep"]);
    ensure!(told.stderr.contains("does not answer yet: still trying"), "it was silent:\n{}", told.stderr);
    // It is tried for 30 s; twice that would be a second try.
    ensure!((20..58).contains(&told.took.as_secs()), "it took {:?}", told.took);
    Ok(())
}

#[test]
fn settings_pg15_s3() -> Result<()> {
    settings(15, StoreKind::S3)
}

#[test]
fn settings_pg18_file() -> Result<()> {
    settings(18, StoreKind::File)
}

#[test]
fn restarts_pg13() -> Result<()> {
    restarts(13)
}

#[test]
fn restarts_pg18() -> Result<()> {
    restarts(18)
}

#[test]
fn synchronous_pg15() -> Result<()> {
    synchronous(15)
}

#[test]
fn review_pg15() -> Result<()> {
    review(15)
}

#[test]
fn stored_pg15() -> Result<()> {
    stored(15)
}
