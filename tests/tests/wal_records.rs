//! The reader of WAL records agrees with `pg_waldump`, record by record, on what a real server wrote.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::waldump::{line, waldump};
use harness::{Installation, Postgres, Stop, World};
use proto::wal::SegmentName;
use proto::wal::page::PAGE_SIZE;
use proto::wal::record::Records;
use proto::wal::{SegmentNo, SegmentSize};

const SEGMENT: u64 = 1 << 20;

/// Something of every resource manager that plain SQL reaches.
const WORK: &[&str] = &[
    "CREATE TABLE t (id int PRIMARY KEY, words text, tags int[], place point, span int4range)",
    "CREATE INDEX ON t USING gin (tags)",
    "CREATE INDEX ON t USING gist (place)",
    "CREATE INDEX ON t USING spgist (span)",
    "CREATE INDEX ON t USING hash (words)",
    "CREATE INDEX ON t USING brin (id)",
    "INSERT INTO t SELECT n, repeat(md5(n::text), n % 100), ARRAY[n, n % 7], point(n % 100, n), int4range(n, n + 9) \
     FROM generate_series(1, 4000) n",
    "CHECKPOINT",
    "UPDATE t SET words = words || 'x', tags = tags || 3 WHERE id % 3 = 0",
    "DELETE FROM t WHERE id % 5 = 0",
    "VACUUM t",
    "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (-1); SAVEPOINT b; INSERT INTO t VALUES (-2); ROLLBACK TO b; COMMIT",
    "BEGIN; SELECT * FROM t WHERE id = 7 FOR UPDATE; UPDATE t SET words = 'y' WHERE id = 7; PREPARE TRANSACTION 'one'",
    "COMMIT PREPARED 'one'",
    "CREATE SEQUENCE s; SELECT nextval('s')",
    "CREATE UNLOGGED TABLE u (n int PRIMARY KEY); INSERT INTO u VALUES (1)",
    "SELECT pg_logical_emit_message(true, 'walkeep', 'short')",
    "SELECT pg_logical_emit_message(false, 'walkeep', repeat('long', 1000000))",
    "SELECT pg_create_restore_point('here')",
    "CREATE TABLE gone AS SELECT * FROM t; TRUNCATE gone; DROP TABLE gone",
    "CLUSTER t USING t_pkey",
    "REINDEX TABLE t",
    "ALTER TABLE t ALTER id TYPE bigint",
    "DELETE FROM t WHERE id > 3000",
    "VACUUM (FULL) t",
    "TRUNCATE t",
    "VACUUM FULL pg_class",
    "CREATE DATABASE other",
    "DROP DATABASE other",
];

fn agrees(major: u32, settings: &[(&str, &str)]) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let build = Postgres::build(&installation, "data")
        .segment_mib((SEGMENT >> 20) as u32)
        .conf("wal_keep_size", "2GB")
        .conf("max_prepared_transactions", "3")
        .conf("track_commit_timestamp", "on");
    let build = settings.iter().fold(build, |build, (name, value)| build.conf(name, value));
    let server = build.start(&world)?;
    for text in WORK {
        server.sql(text).with_context(|| (*text).to_owned())?;
    }
    let last: SegmentName = server.switch_wal()?.parse()?;
    server.stop(Stop::Fast)?;
    let folder = server.data().join("pg_wal");
    let first = fs::read_dir(&folder)?
        .filter_map(|file| file.ok()?.file_name().to_str()?.parse::<SegmentName>().ok())
        .min()
        .context("there is no WAL")?;
    let Some(theirs) = waldump(&installation, &folder, &first.to_string(), &last.to_string())? else {
        return Ok(());
    };
    let ours = read(&folder, first, last)?;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        ensure!(ours == theirs, "PostgreSQL {major}: pg_waldump says\n{theirs}, and we say\n{ours}");
    }
    ensure!(ours.len() == theirs.len(), "{} records of theirs, {} of ours", theirs.len(), ours.len());
    let with = |what: &str| ours.iter().filter(|line| line.contains(what)).count();
    ensure!(with(" image") > 20 && with(" Gin ") > 0 && with("; 1 ") > 100, "that was too little work");
    println!("PostgreSQL {major} {settings:?}: {} records agree, {} with images", ours.len(), with(" image"));
    Ok(())
}

/// All records of these segments, as lines.
fn read(folder: &Path, first: SegmentName, last: SegmentName) -> Result<Vec<String>> {
    let size = SegmentSize::new(SEGMENT)?;
    let (mut records, mut lines) = (Records::default(), Vec::new());
    for number in first.number(size)?.0..=last.number(size)?.0 {
        let name = SegmentName::new(first.timeline, SegmentNo(number), size);
        let bytes = fs::read(folder.join(name.to_string()))?;
        for (page, bytes) in bytes.chunks(PAGE_SIZE).enumerate() {
            let address = SegmentNo(number).start(size) + (page * PAGE_SIZE) as u64;
            records.read(bytes, address, |record| lines.push(line(&record)))?;
        }
    }
    Ok(lines.into_iter().collect::<Result<_, _>>()?)
}

/// What `pg_waldump` of each version said of WAL that is kept.
#[test]
fn the_kept_wal_of_each_version_is_read_as_pg_waldump_read_it() -> Result<()> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/golden");
    for version in [13, 15, 17, 18] {
        for file in fs::read_dir(golden.join(format!("{version}/records")))? {
            let said = file?.path();
            if said.extension().is_none() {
                continue;
            }
            let name: SegmentName =
                said.file_stem().and_then(|name| name.to_str()).context("no name")?.parse()?;
            let theirs = fs::read_to_string(&said)?;
            let ours = read(&golden.join(format!("{version}/records")), name, name)?;
            for (ours, theirs) in ours.iter().zip(theirs.lines()) {
                assert_eq!(ours, theirs, "{version}");
            }
            assert_eq!(ours.len(), theirs.lines().count(), "{version}");
        }
    }
    Ok(())
}

#[test]
fn pg15() -> Result<()> {
    agrees(15, &[("wal_compression", "pglz"), ("wal_log_hints", "on")])
}

#[test]
fn pg18() -> Result<()> {
    agrees(18, &[("wal_level", "logical")])
}

#[test]
#[ignore = "every version with and without compression: cargo xtask test --soak wal_records"]
fn soak() -> Result<()> {
    for installation in Installation::all() {
        for compression in ["off", "on"] {
            for level in ["replica", "logical"] {
                agrees(installation.major, &[("wal_compression", compression), ("wal_level", level)])?;
            }
        }
    }
    Ok(())
}
