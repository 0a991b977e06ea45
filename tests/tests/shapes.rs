//! Clusters of unusual shape come back as they were.

use std::fs;

use anyhow::{Context, Result};
use harness::postgres::{Builder, pg_verifybackup};
use harness::{Agent, Installation, Postgres, Repo, Stop, World, bad, workload};

/// A protected server of some shape, and its way back.
struct Shape {
    server: Postgres,
    agent: Agent,
    installation: Installation,
    world: World,
}

impl Shape {
    /// `prepare` runs before the server is protected.
    fn protect(
        installation: &Installation,
        shape: impl FnOnce(Builder) -> Builder,
        prepare: impl FnOnce(&Postgres, &World) -> Result<()>,
    ) -> Result<Shape> {
        let world = World::new()?;
        let repo = Repo::file(&world)?;
        let server = shape(Postgres::build(installation, "data")).start(&world)?;
        prepare(&server, &world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        agent.init()?;
        server.archive_with(&agent.archive_command()?)?;
        agent.start()?;
        Ok(Shape { server, agent, installation: installation.clone(), world })
    }

    /// Loses the server and brings it back to the end of WAL.
    fn lose_and_restore(&mut self, options: &[&str]) -> Result<Postgres> {
        let end = self.server.lsn()?;
        self.agent.wait_durable(&end)?;
        self.server.destroy()?;
        self.agent.stop()?;
        let target = self.world.at("restored");
        self.agent.restore(&target, options)?.ok()?;
        pg_verifybackup(&self.installation, &target)?;
        let restored = Postgres::adopt(&self.installation, &self.world, "restored.server", &target)?;
        restored.start()?;
        restored.wait_promoted()?;
        Ok(restored)
    }

    /// Backup, more work, loss, restore: the content must be equal.
    fn comes_back(&mut self) -> Result<Postgres> {
        self.agent.backup_full()?;
        workload::transactions(&self.server, 100)?;
        let content = self.server.digest_all()?;
        let restored = self.lose_and_restore(&[])?;
        assert_eq!(restored.digest_all()?, content);
        Ok(restored)
    }
}

fn small(server: &Postgres) -> Result<()> {
    workload::init(server, 1)
}

#[test]
fn tablespaces_move_where_they_are_told() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut shape = Shape::protect(
        &installation,
        |builder| builder,
        |server, world| {
            small(server)?;
            let fast = world.folder("fast disk")?;
            server.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display()))?;
            server
                .sql("CREATE TABLE quick TABLESPACE fast AS SELECT n FROM generate_series(1, 5000) n")
                .map(|_| ())
        },
    )?;
    shape.agent.backup_full()?;
    shape.server.sql("INSERT INTO quick SELECT n FROM generate_series(1, 5000) n")?;
    let content = shape.server.digest_all()?;
    let (old, new) = (shape.world.at("fast disk"), shape.world.at("new disk"));
    let moved = format!("{}={}", old.display(), new.display());
    let restored = shape.lose_and_restore(&["--tablespace", &moved])?;
    assert_eq!(restored.digest_all()?, content);
    let location =
        restored.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'")?;
    assert_eq!(location, new.display().to_string());
    Ok(())
}

/// A tablespace in the data directory itself, which version 15 leaves out of a backup.
#[test]
fn what_the_server_would_leave_out_is_refused() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let shape = Shape::protect(
        &installation,
        |builder| builder.conf("allow_in_place_tablespaces", "on"),
        |server, _| server.sql("CREATE TABLESPACE inside LOCATION ''").map(|_| ()),
    )?;
    let refused = shape.agent.walkeep(&["backup", "--full"])?;
    assert!(refused.code == Some(1) && refused.stderr.contains("inside"), "{refused:?}");
    shape.server.sql("DROP TABLESPACE inside")?;
    shape.agent.backup_full().map(|_| ())
}

#[test]
fn unlogged_tables_come_back_empty_and_usable() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut shape = Shape::protect(
        &installation,
        |builder| builder,
        |server, _| {
            small(server)?;
            server
                .sql("CREATE UNLOGGED TABLE scratch (n int PRIMARY KEY); INSERT INTO scratch VALUES (1)")
                .map(|_| ())
        },
    )?;
    let restored = shape.comes_back()?;
    assert_eq!(restored.sql("SELECT count(*) FROM scratch")?, "0");
    restored.sql("INSERT INTO scratch VALUES (1), (2)")?;
    assert_eq!(restored.sql("SELECT count(*) FROM scratch")?, "2");
    Ok(())
}

#[test]
fn configuration_outside_the_data_directory_is_not_forgotten() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let outside = |builder: Builder| {
        builder.configuration_outside().conf("max_connections", "77").conf("work_mem", "7MB")
    };
    let mut shape = Shape::protect(&installation, outside, |server, _| small(server))?;
    let etc = shape.world.at("data.etc");
    // Configuration goes with the server that is lost.
    let content = {
        shape.agent.backup_full()?;
        shape.server.digest_all()?
    };
    fs::remove_dir_all(&etc)?;
    let restored = shape.lose_and_restore(&[])?;
    assert_eq!(restored.digest_all()?, content);
    assert!(restored.sql("SHOW max_connections")?.parse::<u32>()? >= 77, "recovery needs at least as many");
    // No backup knows this by itself: the file came back.
    assert_eq!(restored.sql("SHOW work_mem")?, "7MB");
    Ok(())
}

#[test]
fn large_relations_of_several_segments() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let sized = |builder: Builder| builder.conf("max_wal_size", "4GB").conf("autovacuum", "off");
    let mut shape = Shape::protect(&installation, sized, |server, _| {
        small(server)?;
        server.sql(
            "CREATE TABLE large (n int, filler text); ALTER TABLE large ALTER filler SET STORAGE PLAIN",
        )?;
        server
            .sql("INSERT INTO large SELECT n, repeat(md5(n::text), 120) FROM generate_series(1, 290000) n")?;
        let size: u64 = server.sql("SELECT pg_relation_size('large')")?.parse()?;
        assert!(size > 1 << 30, "{size} bytes are one segment only");
        server.sql("CHECKPOINT").map(|_| ())
    })?;
    let content =
        |server: &Postgres| server.sql("SELECT count(*), sum(hashtext(t::text)::bigint) FROM large t");
    shape.agent.backup_full()?;
    shape.server.sql("UPDATE large SET n = -n WHERE n % 100 = 0")?;
    let before = content(&shape.server)?;
    let restored = shape.lose_and_restore(&[])?;
    assert_eq!(content(&restored)?, before);
    Ok(())
}

#[test]
fn segments_of_64_mib() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let sized = |builder: Builder| builder.segment_mib(64).conf("min_wal_size", "128MB");
    let mut shape = Shape::protect(&installation, sized, |server, _| small(server))?;
    shape.server.switch_wal()?;
    shape.comes_back().map(drop)
}

#[test]
fn segments_of_1_mib() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let sized = |builder: Builder| builder.segment_mib(1).conf("min_wal_size", "8MB");
    Shape::protect(&installation, sized, |server, _| small(server))?.comes_back().map(drop)
}

#[test]
fn without_data_checksums() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let bare = |builder: Builder| builder.checksums(false);
    let mut shape = Shape::protect(&installation, bare, |server, _| small(server))?;
    let restored = shape.comes_back()?;
    assert_eq!(restored.sql("SHOW data_checksums")?, "off");
    Ok(())
}

#[test]
fn with_data_checksums() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut shape = Shape::protect(&installation, |builder| builder, |server, _| small(server))?;
    let restored = shape.comes_back()?;
    assert_eq!(restored.sql("SHOW data_checksums")?, "on");
    Ok(())
}

#[test]
fn a_corrupted_page_is_reported_and_recorded_and_the_backup_kept() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut path = String::new();
    let mut shape = Shape::protect(
        &installation,
        |builder| builder,
        |server, _| {
            small(server)?;
            server.sql("CREATE TABLE rotten AS SELECT n FROM generate_series(1, 5000) n")?;
            path = server.sql("SELECT pg_relation_filepath('rotten')")?;
            server.stop(Stop::Fast)?;
            bad::flip_byte(&server.data().join(&path), 3 * 8192 + 5000)?;
            server.start()
        },
    )?;
    let told = shape.agent.walkeep(&["backup", "--full"])?.ok()?;
    let words = format!("{}{}", told.stdout, told.stderr);
    assert!(words.contains(&path), "the damaged file must be named: {words}");
    let list = shape.agent.list()?;
    let backup = list["backups"].as_array().and_then(|all| all.last()).context("the backup must be kept")?;
    assert!(backup.to_string().contains(&path), "the list must record it: {backup}");

    let restored = shape.lose_and_restore(&[])?;
    assert_eq!(restored.sql("SELECT count(*) FROM pgbench_accounts")?, "100000", "the rest is sound");
    assert!(
        restored.sql("SELECT count(*) FROM rotten").is_err(),
        "the page is as bad as it was, not worse hidden"
    );
    Ok(())
}
