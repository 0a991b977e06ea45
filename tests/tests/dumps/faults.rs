//! What fails, or is killed, is never listed, and costs no earlier dump.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Small, StoreKind, wait_for};
use rustix::process::{Pid, Signal, kill_process};

use crate::scene::{SHOP, Scene, label};

const PATIENCE: Duration = Duration::from_secs(90);

/// The first database is stored when the second one's dump waits for a lock: then somebody is killed.
fn killed_midway(format: &str) -> Result<()> {
    let Some(scene) = Scene::open(15, StoreKind::File)? else { return Ok(()) };
    let older = label(&scene.dump(&[])?)?;
    let before = scene.objects()?;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'";
    scene.server.sql("BEGIN; LOCK TABLE small; PREPARE TRANSACTION 'held'")?;
    for victim in ["pg_dump", "walkeep"] {
        // Databases are dumped by their names' order: the shop first.
        let mut child = scene.agent.spawn("walkeep", &["dump", "--format", format])?;
        wait_for("the dump is midway", PATIENCE, || {
            ensure!(child.try_wait()?.is_none(), "the dump has ended: {}", scene.agent.log_text());
            Ok((scene.server.sql(waits)? == "1").then_some(()))
        })?;
        ensure!(scene.objects()?.len() > before.len() + 2, "nothing of the first database is stored");
        let dump = Pid::from_raw(child.id() as i32).context("no process")?;
        let tool = child_of(dump)?.context("no pg_dump")?;
        kill_process(if victim == "walkeep" { dump } else { tool }, Signal::KILL)?;
        let ended = wait_for("the dump ends", PATIENCE, || Ok(child.try_wait()?))?;
        assert!(!ended.success());
        assert_eq!(scene.labels()?, std::slice::from_ref(&older), "{victim} was killed");
        // Where it is killed itself it cannot clean up; the other way it does.
        let left = scene.objects()?;
        assert_eq!(left.len() > before.len(), victim == "walkeep", "{left:?}");
        if victim == "walkeep" {
            let expired = scene.agent.walkeep(&["expire", "--dry-run"])?.ok()?.stdout;
            assert!(!expired.contains("cut off"), "it may still be running: {expired}");
            // Whoever was left over by it still waits for the lock.
            let _ = kill_process(tool, Signal::KILL);
        }
        // A session that waits for a lock does not notice that its client is gone.
        scene.server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_dump'",
        )?;
        wait_for("nobody waits any more", PATIENCE, || Ok((scene.server.sql(waits)? == "0").then_some(())))?;
    }
    scene.server.sql("ROLLBACK PREPARED 'held'")?;
    // The next one works, and the older one is as it was.
    let newer = label(&scene.dump(&["--format", format])?)?;
    assert_eq!(scene.labels()?, [older.clone(), newer.clone()]);
    scene.is_swept()?;
    for (name, of) in [("older", &older), ("newer", &newer)] {
        scene.load(name, &[of, "--database", SHOP])?.ok()?;
        assert_eq!(scene.content(name)?, scene.content(SHOP)?);
    }
    Ok(())
}

#[test]
fn killed_pg15() -> Result<()> {
    killed_midway("custom")
}

#[test]
fn killed_directory_pg15() -> Result<()> {
    killed_midway("directory")
}

/// A child of a process, by what the system lists.
fn child_of(parent: Pid) -> Result<Option<Pid>> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Ok(number) = name.to_string_lossy().parse::<i32>() else { continue };
        let Ok(status) = fs::read_to_string(format!("/proc/{number}/status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if line.is_some_and(|line| line.trim() == parent.as_raw_pid().to_string()) {
            return Ok(Pid::from_raw(number));
        }
    }
    Ok(None)
}

#[test]
fn what_cannot_work_is_told_beforehand_pg15() -> Result<()> {
    let Some(mut scene) = Scene::open(15, StoreKind::File)? else { return Ok(()) };
    let dump = |scene: &Scene, arguments: &[&str]| scene.agent.walkeep(&[&["dump"], arguments].concat());
    dump(&scene, &["--database", "nothing"])?.refused(1, &["no database \"nothing\""]);
    dump(&scene, &["--table", "orders"])?.refused(1, &["databases to look for them in"]);
    dump(&scene, &["--format", "zip"])?.failed(2, &["\"directory\""]);
    dump(&scene, &["--everything", "--table", "x"])?.failed(2, &[]);
    dump(&scene, &["--database", SHOP, "--table", "nothing"])?.refused(1, &["pg_dump ended with", "nothing"]);
    // One of two is misspelt.
    dump(&scene, &["--database", SHOP, "--table", "orders", "--table", "customer"])?
        .refused(1, &["pg_dump ended with", "customer"]);
    let dry = dump(&scene, &["--dry-run"])?.ok()?.stdout;
    assert!(
        dry.contains("pg_dumpall --no-password") && dry.contains("--globals-only") && dry.contains(SHOP),
        "{dry}"
    );
    scene.bring(&["latest", "--output", "/nonexistent/x"])?.refused(1, &["no dump of this cluster"]);

    // Programs that are too old, or not there.
    let old = scene.world.folder("old")?;
    let script = old.join("pg_dump");
    fs::write(&script, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.11 (Some Linux)'\n")?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    fs::set_permissions(&old, Permissions::from_mode(0o755))?;
    let bindir = old.display().to_string();
    let refused = dump(&scene, &["--bindir", &bindir])?;
    refused.refused(1, &["no pg_dump of PostgreSQL 15 or newer", "14.11", "postgresql-client-15"]);

    // A role that may not read it all.
    let conninfo = format!("{:?}", scene.server.conninfo());
    scene.agent.set("dump", "postgres", &conninfo)?;
    dump(&scene, &["--database", SHOP])?.refused(1, &["permission denied", "pg_read_all_data"]);
    assert!(scene.labels()?.is_empty() && scene.objects()?.is_empty(), "{:?}", scene.objects()?);
    Ok(())
}

/// The format directory needs room, which is looked for; if it runs out all the same nothing is listed, and nothing is left.
#[test]
fn a_scratch_directory_that_is_too_small_pg15() -> Result<()> {
    let Some(scene) = Scene::open(15, StoreKind::File)? else { return Ok(()) };
    let older = label(&scene.dump(&["--database", SHOP])?)?;
    let Some(small) = Small::mount(&scene.world, "small", 1)? else { return Ok(()) };
    let at = small.path().display().to_string();
    let attempt = |more: &[&str]| {
        let fixed = ["dump", "--database", SHOP, "--format", "directory", "--scratch", &at];
        scene.agent.walkeep(&[&fixed, more].concat())
    };
    let before = scene.objects()?;
    attempt(&[])?.refused(1, &["not enough room", "are free"]);
    attempt(&["--no-space-check"])?.refused(1, &["No space left"]);
    assert_eq!(scene.objects()?, before);
    assert_eq!(small.entries(), 0, "something was left");
    assert_eq!(scene.labels()?, [older]);
    Ok(())
}

/// Passwords reach the tools by their environment, which nobody else may read, and not by their arguments.
#[test]
fn no_password_is_an_argument_pg15() -> Result<()> {
    let Some(mut scene) = Scene::open(15, StoreKind::File)? else { return Ok(()) };
    scene.server.sql("ALTER ROLE walkeep SUPERUSER PASSWORD 'never told'")?;
    let bin = scene.world.folder("bin")?;
    let seen = scene.world.at("bin/seen");
    for tool in ["pg_dump", "pg_dumpall"] {
        let real = scene.installation.tool(tool).context("no tool")?;
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" >> {0}\n[ \"$PGPASSWORD\" = 'never told' ] && echo known >> {0}\nexec {1} \"$@\"\n",
            seen.display(),
            real.display()
        );
        let path = scene.world.write(&format!("bin/{tool}"), script)?;
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    let conninfo = format!(
        "host=127.0.0.1 port={} user=walkeep password='never told' dbname=postgres",
        scene.server.port()
    );
    scene.agent.set("dump", "postgres", &format!("{conninfo:?}"))?;
    scene.agent.set("dump", "bindir", &format!("{:?}", bin.display().to_string()))?;
    let told = scene.agent.walkeep(&["-vv", "dump"])?.ok()?;
    let seen = fs::read_to_string(seen)?;
    ensure!(seen.contains("known") && seen.contains("--format=custom"), "{seen}");
    for text in [&seen, &told.stdout, &told.stderr] {
        ensure!(!text.contains("never told"), "the password was told:\n{text}");
    }
    scene
        .bring(&["latest", "--database", SHOP, "--to-connection", "host=/x password=hidden"])?
        .refused(1, &["holds a password"]);
    Ok(())
}
