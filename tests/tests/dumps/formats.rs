//! Each format, and each selection, comes back as it was.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::bad::flip_byte;
use harness::{Output, StoreKind};

use crate::scene::{SHOP, Scene, label};

fn every_format_comes_back(major: u32) -> Result<()> {
    let Some(scene) = Scene::open(major, StoreKind::File)? else { return Ok(()) };
    let content = scene.content(SHOP)?;
    let forms =
        [("custom", &["--jobs", "1"][..]), ("directory", &["--jobs", "2"]), ("plain", &[]), ("tar", &[])];
    for (format, jobs) in forms {
        let dump = scene.dump(&[&["--database", SHOP, "--format", format], jobs].concat())?;
        assert_eq!(
            (&dump["parts"][0]["database"], &dump["parts"][0]["format"]),
            (&SHOP.into(), &format.into())
        );
        scene.load(&format!("from {format}"), &["latest"])?.ok()?;
        ensure!(scene.content(&format!("from {format}"))? == content, "{format} came back otherwise");
        scene.is_swept()?;
    }
    let labels = scene.labels()?;
    assert_eq!(labels.len(), 4);

    // Several sessions at once, out of a file and out of a directory.
    for (at, name) in [(0, "jobs custom"), (1, "jobs directory")] {
        scene.load(name, &[&labels[at], "--jobs", "3"])?.ok()?;
        ensure!(scene.content(name)? == content, "{name} came back otherwise");
    }
    scene.load("x", &[&labels[3], "--jobs", "3"])?.refused(1, &["tar file"]);
    scene.is_swept()?;

    // As files: what PostgreSQL's own tools read.
    let files = scene.world.folder("files")?;
    for (label, name) in labels.iter().zip(["a.dump", "a.dir", "a.sql", "a.tar"]) {
        let output = files.join(name).display().to_string();
        scene.bring(&[label, "--output", &output])?.ok()?;
        scene.bring(&[label, "--output", &output])?.refused(1, &["is there already"]);
        if name != "a.sql" {
            let tool = scene.installation.tool("pg_restore").context("no pg_restore")?;
            let told = Output::of(scene.world.account().command(tool).args(["--list", &output]))?.ok()?;
            assert!(told.stdout.contains("TABLE DATA public orders"), "{}", told.stdout);
        }
    }
    assert!(fs::read_to_string(files.join("a.sql"))?.contains("CREATE TABLE public.orders"));
    assert_eq!(fs::read_dir(&files)?.count(), 4, "nothing unfinished is left");
    let listed = scene.bring(&[])?.ok()?.stdout;
    assert!(labels.iter().all(|label| listed.contains(label.as_str())) && listed.contains(SHOP), "{listed}");
    let verified = scene.agent.walkeep(&["--quiet", "verify", "--deep"])?.ok()?.stdout;
    assert!(verified.contains("4 dumps"), "{verified}");
    Ok(())
}

#[test]
fn formats_pg15() -> Result<()> {
    every_format_comes_back(15)
}

#[test]
fn formats_pg18() -> Result<()> {
    every_format_comes_back(18)
}

#[test]
#[ignore = "soak: what other versions show is shown for the oldest one"]
fn soak_formats_pg13() -> Result<()> {
    every_format_comes_back(13)
}

#[test]
fn selections_are_honoured_pg15() -> Result<()> {
    let Some(scene) = Scene::open(15, StoreKind::File)? else { return Ok(()) };
    let tables = "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class c JOIN pg_namespace n ON n.oid = \
                  relnamespace WHERE relkind = 'r' AND nspname IN ('public', 'accounts')";
    let count =
        |database: &str, table: &str| scene.server.sql_in(database, &format!("SELECT count(*) FROM {table}"));
    for (at, selection, there) in [
        (0, &["--table", "public.customers"][..], "customers"),
        (1, &["--exclude-table", "*.orders"], "Log,customers"),
        (2, &["--exclude-table-data", "orders"], "Log,customers,orders"),
        (3, &["--exclude-schema", "accounts", "--schema-only"], "customers,orders"),
    ] {
        let name = format!("selected {at}");
        let part = label(&scene.dump(&[&["--database", SHOP], selection].concat())?)?;
        // A part of a database is not the newest dump of it.
        scene.load(&name, &["latest"])?.refused(1, &["no dump has what was named as a whole", &part]);
        scene.load(&name, &[&part])?.ok()?;
        assert_eq!(scene.server.sql_in(&name, tables)?, there, "{selection:?}");
    }
    assert_eq!(
        (count("selected 2", "customers")?, count("selected 2", "orders")?),
        ("200".into(), "0".into())
    );
    assert_eq!(count("selected 3", "customers")?, "0");

    // Out of a whole dump: one table, one schema, rows alone; and over what is there.
    let whole = label(&scene.dump(&["--database", SHOP])?)?;
    scene.load("one", &[&whole, "--table", "public.customers"])?.ok()?;
    assert_eq!(
        (scene.server.sql_in("one", tables)?, count("one", "customers")?),
        ("customers".into(), "200".into())
    );
    for misspelt in [["--table", "customer"], ["--schema", "account"]] {
        let arguments = [&[whole.as_str(), "--table", "public.customers"], &misspelt[..]].concat();
        scene.load("misspelt", &arguments)?.refused(1, &[]);
        ensure!(!scene.has_database("misspelt")?, "{misspelt:?}");
    }
    scene
        .load("misspelt", &[&whole, "--table", "customer"])?
        .refused(1, &["pg_restore ended with", "customer"]);
    scene.load("two", &[&whole, "--schema", "accounts"])?.ok()?;
    assert_eq!(
        (scene.server.sql_in("two", tables)?, count("two", "accounts.\"Log\"")?),
        ("Log".into(), "500".into())
    );
    scene.load("two", &[&whole])?.refused(1, &["database two", "already exists"]);
    ensure!(scene.has_database("two")?, "a database that was there has gone");
    scene.server.sql_in("one", "DELETE FROM customers")?;
    let one = scene.to("one");
    scene.bring(&[&whole, "--to-connection", &one, "--table", "customers", "--data-only"])?.ok()?;
    assert_eq!(count("one", "customers")?, "200");
    scene.bring(&[&whole, "--to-connection", &one])?.refused(1, &["already exists"]);
    assert_eq!(scene.server.sql_in("one", tables)?, "customers", "all or nothing");
    scene.bring(&[&whole, "--to-connection", &one, "--clean"])?.ok()?;
    assert_eq!(scene.content("one")?, scene.content(SHOP)?);
    scene.is_swept()?;

    // Everything, and what belongs to no database.
    scene.server.sql("CREATE ROLE seller; CREATE ROLE \"odd = 'role'\" LOGIN PASSWORD 'x'")?;
    let all = scene.dump(&[])?;
    let kinds: Vec<_> =
        all["parts"].as_array().context("no parts")?.iter().map(|part| &part["kind"]).collect();
    assert_eq!(kinds[0], "globals");
    // The databases that were made above are there, too.
    assert!(kinds.len() >= 4, "{kinds:?}");
    scene.server.sql("DROP ROLE seller; DROP ROLE \"odd = 'role'\"")?;
    let there = scene.to("postgres");
    scene.bring(&["latest", "--globals", "--to-connection", &there])?.ok()?;
    assert_eq!(
        scene.server.sql("SELECT count(*) FROM pg_roles WHERE rolname IN ('seller', 'odd = ''role''')")?,
        "2"
    );
    scene.bring(&["latest", "--to-connection", &there])?.refused(1, &["one thing can be loaded at a time"]);
    let folder = scene.world.folder("files")?.join("all");
    scene.bring(&["latest", "--output", &folder.display().to_string()])?.ok()?;
    assert!(folder.join("%globals.sql").is_file() && folder.join("postgres.dump").is_file());
    scene.dump(&["--everything"])?;
    // Where its databases are, nothing is loaded over them.
    scene
        .bring(&["latest", "--to-connection", &there])?
        .refused(1, &["psql ended with", "42P04", "none of its databases"]);
    assert_eq!((count("one", "orders")?, count("postgres", "small")?), ("8000".into(), "10".into()));
    let script = scene.world.at("files").join("everything.sql");
    scene.bring(&["latest", "--output", &script.display().to_string()])?.ok()?;
    let script = fs::read_to_string(script)?;
    assert!(script.contains("CREATE ROLE seller") && script.contains("CREATE TABLE public.orders"));
    Ok(())
}

/// A byte of a dump's object changes: it is named, nothing of it is used, and other dumps are as they were.
#[test]
fn what_is_damaged_is_named_and_not_loaded_pg15() -> Result<()> {
    let Some(scene) = Scene::open(15, StoreKind::File)? else { return Ok(()) };
    let content = scene.content(SHOP)?;
    let whole = label(&scene.dump(&["--database", SHOP])?)?;
    let damaged = label(&scene.dump(&["--database", SHOP])?)?;
    let directory = label(&scene.dump(&["--database", SHOP, "--format", "directory"])?)?;
    let largest = |label: &str| -> Result<String> {
        let objects = scene.repo.objects()?;
        let of = objects.iter().filter(|object| object.key.contains(&format!("/dump/{label}/file-")));
        Ok(of.max_by_key(|object| object.size).context("no object")?.key.clone())
    };
    // In the data; and in the proof behind it, when all of the data has been read and looked well.
    for (label, from_end) in [(&directory, 1500), (&damaged, 100)] {
        let key = largest(label)?;
        let path = scene.repo.folder().join(&key);
        flip_byte(&path, fs::metadata(&path)?.len() - from_end)?;
        scene.load("damaged", &[label.as_str()])?.failed(1, &[&key, "is damaged"]);
        ensure!(!scene.has_database("damaged")?, "something was loaded");
        let output = scene.world.at("damaged.out");
        scene.bring(&[label, "--output", &output.display().to_string()])?.failed(1, &[&key, "is damaged"]);
        assert!(!output.exists());
        let found = scene.agent.walkeep(&["--quiet", "verify", "--deep"])?;
        found.failed_with_findings(&key);
    }
    scene.agent.walkeep(&["--quiet", "verify"])?.ok()?;
    fs::remove_file(scene.repo.folder().join(largest(&damaged)?))?;
    scene.agent.walkeep(&["--quiet", "verify"])?.failed_with_findings("does not exist");
    scene.is_swept()?;
    scene.load("whole", &[&whole])?.ok()?;
    assert_eq!(scene.content("whole")?, content);
    Ok(())
}

trait Findings {
    fn failed_with_findings(&self, words: &str);
}

impl Findings for Output {
    #[track_caller]
    fn failed_with_findings(&self, words: &str) {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        assert!(self.stdout.contains(words) && self.stdout.contains("dump"), "{words}\n{}", self.stdout);
    }
}
