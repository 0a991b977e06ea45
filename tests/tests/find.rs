//! `walkeep find` names each accident, and the line that it prints brings back the moment before: what is gone is there
//! with its content, and so is the commit before it.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Output, Postgres, Repo, StoreKind, World, objects, seeds};
use serde_json::Value;

const SHOP: &[&str] = &[
    "CREATE TABLE marks (number int)",
    "CREATE SCHEMA shop",
    "CREATE TABLE shop.orders (id int PRIMARY KEY, note text)",
    "CREATE TABLE shop.carts (id int PRIMARY KEY)",
    "CREATE TABLE shop.visits (id int)",
    "CREATE TABLE shop.kept (id int PRIMARY KEY)",
    "INSERT INTO shop.orders SELECT n, 'order ' || n FROM generate_series(1, 500) n",
    "INSERT INTO shop.carts SELECT generate_series(1, 300)",
    "INSERT INTO shop.visits SELECT generate_series(1, 5000)",
    "INSERT INTO shop.kept SELECT generate_series(1, 2000)",
    "CREATE DATABASE old_shop",
];

/// An accident, with a mark that was committed just before it; how it is told; what shows that it is undone.
struct Accident {
    database: &'static str,
    sql: &'static str,
    kind: &'static str,
    relation: &'static str,
    /// Database, query and answer.
    undone: (&'static str, &'static str, &'static str),
}

const ACCIDENTS: &[Accident] = &[
    Accident {
        database: "postgres",
        sql: "DROP TABLE shop.orders",
        kind: "drop",
        relation: "shop.orders",
        undone: ("postgres", "SELECT count(*), max(note) FROM shop.orders", "500|order 99"),
    },
    Accident {
        database: "postgres",
        sql: "TRUNCATE shop.carts",
        kind: "truncate",
        relation: "shop.carts",
        undone: ("postgres", "SELECT count(*), max(id) FROM shop.carts", "300|300"),
    },
    Accident {
        database: "postgres",
        sql: "DELETE FROM shop.visits WHERE id <= 4000",
        kind: "delete",
        relation: "shop.visits",
        undone: ("postgres", "SELECT count(*) FROM shop.visits", "5000"),
    },
    Accident {
        database: "postgres",
        sql: "DROP DATABASE old_shop",
        kind: "drop-database",
        relation: "old_shop",
        undone: ("old_shop", "SELECT sum(n) FROM customers", "55"),
    },
    // Its files are not those that the backup knows.
    Accident {
        database: "postgres",
        sql: "BEGIN; SAVEPOINT a; TRUNCATE shop.carts; INSERT INTO shop.carts VALUES (-1); COMMIT",
        kind: "truncate",
        relation: "shop.carts",
        undone: ("postgres", "SELECT count(*), max(id) FROM shop.carts", "77|77"),
    },
    // The backup does not know it at all.
    Accident {
        database: "postgres",
        sql: "DROP TABLE shop.late",
        kind: "drop",
        relation: "shop.late",
        undone: ("postgres", "SELECT count(*) FROM shop.late", "40"),
    },
];

/// What happens before the accident of that number and is none.
const HARMLESS: &[&[&str]] = &[
    &["BEGIN; DROP TABLE shop.kept; ROLLBACK", "CREATE TEMP TABLE passing (n int); DROP TABLE passing"],
    &[
        "VACUUM FULL shop.kept",
        "REINDEX TABLE shop.kept",
        "BEGIN; CREATE TABLE brief (n int); DROP TABLE brief; COMMIT",
    ],
    &["DELETE FROM shop.kept WHERE id <= 10", "CLUSTER shop.kept USING kept_pkey"],
    &["ALTER TABLE shop.kept ALTER id TYPE bigint", "VACUUM shop.visits"],
    &["INSERT INTO shop.carts SELECT generate_series(1, 77)"],
    &["CREATE TABLE shop.late AS SELECT generate_series(1, 40) AS n"],
];

struct Scene {
    world: World,
    agent: Agent,
    repo: Repo,
    installation: Installation,
}

/// A server on which all of it has happened, and which is gone.
fn scene(major: u32, store: StoreKind, segment_mib: u32) -> Result<Option<Scene>> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(None) };
    let world = World::new()?;
    let repo = Repo::of(store, &world)?;
    let server = Postgres::build(&installation, "data")
        .segment_mib(segment_mib)
        .conf("autovacuum", "off")
        .start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    for text in SHOP {
        server.sql(text).with_context(|| (*text).to_owned())?;
    }
    server.sql_in("old_shop", "CREATE TABLE customers AS SELECT n FROM generate_series(1, 10) n")?;
    agent.backup_full()?;
    for (number, accident) in ACCIDENTS.iter().enumerate() {
        for text in HARMLESS[number] {
            // Some of it does not go together with anything else in one message.
            server.sql(text).with_context(|| (*text).to_owned())?;
        }
        server.sql(&format!("INSERT INTO marks VALUES ({number})"))?;
        server.sql_in(accident.database, accident.sql).with_context(|| accident.sql.to_owned())?;
    }
    server.switch_wal()?;
    server.sql("INSERT INTO marks VALUES (100)")?;
    let end = server.lsn()?;
    agent.wait_durable(&end)?;
    server.destroy()?;
    agent.stop()?;
    Ok(Some(Scene { world, agent, repo, installation }))
}

impl Scene {
    fn find(&self, more: &[&str]) -> Result<Output> {
        self.agent.walkeep(&[&["--quiet", "find"], more].concat())?.ok()
    }

    fn hits(&self, more: &[&str]) -> Result<Vec<Value>> {
        let json = self.find(&[more, &["--json"]].concat())?.json()?;
        ensure!(json["gaps"] == serde_json::json!([]) && json["damage"] == serde_json::json!([]), "{json}");
        Ok(json["hits"].as_array().context("no list of hits")?.clone())
    }

    /// Restores with the line of a hit, as it is printed.
    fn undo(&self, number: usize, hit: &Value) -> Result<()> {
        let (accident, name) = (&ACCIDENTS[number], format!("undone{number}"));
        let line = hit["restore"].as_str().with_context(|| format!("no line: {hit}"))?;
        let data = self.world.at(&name);
        let line = line.replace("DIRECTORY", &data.display().to_string());
        let words: Vec<&str> = line.split(' ').collect();
        ensure!(words[..2] == ["restore-cmd", "restore"], "{line}");
        self.agent.restore_cmd(&[&words[1..], &["--archive", "off"]].concat())?.ok()?;
        let server = Postgres::adopt(&self.installation, &self.world, &format!("{name}.server"), &data)?
            .with_env(self.repo.environment());
        server.start()?;
        server.wait_promoted()?;
        let (database, query, answer) = accident.undone;
        let found = server.sql_in(database, query).with_context(|| format!("after {line}"))?;
        ensure!(found == answer, "{}: {found} instead of {answer} after {line}", accident.sql);
        let marks = server.sql("SELECT max(number) FROM marks")?;
        ensure!(marks == number.to_string(), "{}: mark {marks} after {line}", accident.sql);
        Ok(())
    }
}

/// All accidents are told, in their order and with their names, and nothing else is; the lines of some of them work.
fn accidents_are_found(major: u32, store: StoreKind, undone: &[usize]) -> Result<()> {
    // Large segments are not held in memory.
    let segment_mib = if store == StoreKind::S3 { 32 } else { 1 };
    let Some(scene) = scene(major, store, segment_mib)? else { return Ok(()) };
    let hits = scene.hits(&[])?;
    let told: Vec<_> = hits.iter().map(|hit| (hit["kind"].as_str().unwrap_or("?"), subject(hit))).collect();
    let expected: Vec<_> =
        ACCIDENTS.iter().map(|accident| (accident.kind, accident.relation.to_owned())).collect();
    ensure!(told == expected, "{told:#?}\n{}", scene.find(&[])?.stdout);
    ensure!(hits.iter().all(|hit| hit["notes"] == serde_json::json!([])), "{hits:#?}");
    ensure!(hits[2]["relations"][0]["rows"] == 4000, "{}", hits[2]);

    // What is harmless is known for what it is.
    let rewritten: HashSet<_> = scene.hits(&["--kind", "rewrite"])?.iter().map(subject).collect();
    ensure!(rewritten.contains("shop.kept"), "{rewritten:?}");
    let created: HashSet<_> = scene.hits(&["--kind", "create"])?.iter().map(subject).collect();
    ensure!(created.contains("shop.late") && created.contains("shop.orders"), "{created:?}");
    ensure!(!created.iter().any(|name| name.contains("brief") || name.contains("pg_")), "{created:?}");

    // Filters.
    let of_carts = scene.hits(&["--relation", "shop.carts", "--kind", "drop,truncate,delete"])?;
    ensure!(of_carts.len() == 2, "{of_carts:#?}");
    let xid = hits[0]["xid"].to_string();
    let of_xid: Vec<_> = scene.hits(&["--xid", &xid])?.iter().map(|hit| hit["kind"].clone()).collect();
    ensure!(of_xid == ["drop", "commit"], "{of_xid:?}");
    let (from, to) = (hits[1]["time"].as_str().unwrap_or("?"), hits[2]["lsn"].as_str().unwrap_or("?"));
    let between = scene.hits(&["--since", from, "--until", to])?;
    ensure!(between == hits[1..3], "{between:#?}");
    ensure!(scene.hits(&["--around", from])?.contains(&hits[1]), "nothing around {from}");

    for number in undone {
        scene.undo(*number, &hits[*number])?;
    }

    let text = scene.find(&[])?.stdout;
    for words in ["DROPPED  table shop.orders (and ", "ROWS DELETED  4000 of table shop.visits", "old_shop\n"]
    {
        ensure!(text.contains(words), "{words}\n{text}");
    }
    println!("PostgreSQL {major}, {store:?}:\n{text}");
    Ok(())
}

/// The main thing that it happened to.
fn subject(hit: &Value) -> String {
    if let Some(database) = hit["database"].as_str() {
        return database.to_owned();
    }
    let relations = hit["relations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let whole = relations.iter().find(|relation| relation["kind"] == "r").or(relations.first());
    let text = |key: &str| whole.and_then(|relation| relation[key].as_str()).unwrap_or("?");
    format!("{}.{}", text("schema"), text("name"))
}

/// What cannot be seen is told.
#[test]
fn a_gap_and_damage_are_told() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let Some(scene) = scene(installation.major, StoreKind::File, 1)? else { return Ok(()) };
    let hits = scene.hits(&[])?;
    let lsn = harness::agent::lsn_number(hits[3]["lsn"].as_str().context("no LSN")?)?;
    let folder = scene.world.at("repository");
    let segment = format!("00000001{:08X}{:08X}", lsn >> 32, (lsn & 0xFFFF_FFFF) >> 20);
    let found = objects::list(&folder)?;
    let mut objects = found.iter().filter(|object| object.key.contains(&segment));
    let object = objects.clone().find(|object| !object.key.contains("/tail/"));
    let object = object.with_context(|| format!("no segment {segment}"))?;
    let whole = std::fs::read(&object.path)?;

    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&object.path, damaged)?;
    let output = scene.agent.walkeep(&["--quiet", "find"])?;
    ensure!(output.code == Some(1) && output.stdout.contains("NOT SEEN: WAL at"), "{}", output.stdout);
    ensure!(
        output.stdout.contains("shop.orders") && !output.stdout.contains("old_shop"),
        "{}",
        output.stdout
    );

    // Its fragments as well, which would do instead.
    objects.try_for_each(|object| std::fs::remove_file(&object.path))?;
    let output = scene.find(&[])?;
    ensure!(
        output.stdout.contains("NOT SEEN: WAL from") && output.stdout.contains("is missing"),
        "{}",
        output.stdout
    );
    Ok(())
}

#[test]
fn pg15_file() -> Result<()> {
    accidents_are_found(15, StoreKind::File, &[0, 3])
}

#[test]
fn pg18_s3() -> Result<()> {
    accidents_are_found(18, StoreKind::S3, &[1, 2])
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak find"]
fn soak() -> Result<()> {
    seeds::each(6, |seed| {
        let major = 13 + (seed % 6) as u32;
        accidents_are_found(major, StoreKind::File, &[0, 1, 2, 3, 4, 5])
    })
}
