//! A restore onto a file system that is too small is refused before it begins.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World, skip, workload};

/// A small file system in memory.
struct Small(PathBuf);

impl Small {
    /// `None`, and a loud skip, where this machine does not let us.
    fn mount(world: &World, name: &str, mib: u32) -> Result<Option<Small>> {
        let at = world.folder(name)?;
        let account = world.account();
        let options = format!("size={mib}m,mode=0700,uid={},gid={}", account.uid, account.gid);
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Some(Small(at))),
            Ok(output) => {
                skip(format!("mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
                Ok(None)
            }
            Err(error) => {
                skip(format!("mount: {error}"));
                Ok(None)
            }
        }
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(&self.0).map_or(0, Iterator::count)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_restore_that_does_not_fit_is_refused_before_it_begins() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let Some(small) = Small::mount(&world, "small", 16)? else { return Ok(()) };
    let repo = Repo::of(StoreKind::File, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    let fast = world.folder("fast")?;
    server.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display()))?;
    workload::init(&server, 2)?;
    server.sql("ALTER TABLE pgbench_accounts SET TABLESPACE fast")?;
    agent.backup_full()?;
    server.destroy()?;
    std::fs::remove_dir_all(&fast)?;
    agent.stop()?;

    // The data directory; then a tablespace of more than 16 MiB alone.
    let elsewhere = world.at("elsewhere");
    let moved = format!("{}={}", text(&fast), text(&small.at("fast")));
    for (pgdata, more) in [(small.at("pgdata"), None), (elsewhere.clone(), Some(["--tablespace", &moved]))] {
        for dry in [true, false] {
            let pgdata = text(&pgdata);
            let mut arguments = vec!["restore", "--pgdata", &pgdata];
            arguments.extend(more.iter().flatten().copied());
            arguments.extend(dry.then_some("--dry-run"));
            let output = agent.restore_cmd(&arguments)?;
            assert_eq!(output.code, Some(1), "{arguments:?}: {}", output.stderr);
            let needle = format!("not enough room in {}", text(&small.0));
            assert!(
                output.stderr.contains(&needle) && output.stderr.contains("are free"),
                "{}",
                output.stderr
            );
            assert_eq!(dry, output.stdout.contains("room"), "a dry run says what it would have done");
        }
        assert_eq!(small.entries(), 0, "nothing was begun");
        assert!(!elsewhere.exists());
    }
    // The operator may know better. It does not fit all the same: the directory cannot be started.
    let pgdata = small.at("pgdata");
    let output = agent.restore(&pgdata, &["--no-space-check"])?;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("cannot be started"), "{}", output.stderr);
    assert!(!pgdata.join("global/pg_control").exists() && !pgdata.join("PG_VERSION").exists());
    Ok(())
}
