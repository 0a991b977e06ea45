//! A restore onto a file system that is too small is refused before it begins.

use std::path::Path;

use anyhow::Result;
use harness::{Agent, Installation, Postgres, Repo, Small, StoreKind, World, workload};

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
            let needle = format!("not enough room in {}", text(small.path()));
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
