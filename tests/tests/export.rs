//! The wrong table is dropped, or emptied, on a server that must go on: it comes back as it was, and nothing else is touched.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Output, Postgres, Repo, World, workload};

struct Shop {
    server: Postgres,
    agent: Agent,
    installation: Installation,
    scratch: PathBuf,
    world: World,
}

impl Shop {
    /// `None` where the machine has no `pg_dump` of that version.
    fn open(major: u32) -> Result<Option<Shop>> {
        let Some(installation) = Installation::or_skip(major) else { return Ok(None) };
        if installation.tool("pg_dump").is_none() || installation.tool("pg_restore").is_none() {
            harness::skip(format!("no pg_dump of PostgreSQL {major} is on this machine"));
            return Ok(None);
        }
        let world = World::new()?;
        let repo = Repo::file(&world)?;
        let server = Postgres::build(&installation, "data").start(&world)?;
        workload::init(&server, 1)?;
        server.sql(
            "CREATE TABLE customers (id int PRIMARY KEY, name text);
             INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 100) n;
             CREATE TABLE orders (id bigserial, customer int REFERENCES customers, at date, note text, PRIMARY KEY (id, at))
                 PARTITION BY RANGE (at);
             CREATE TABLE orders_old PARTITION OF orders FOR VALUES FROM ('2020-01-01') TO ('2026-01-01');
             CREATE TABLE \"Orders of 2026\" PARTITION OF orders FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
             CREATE INDEX ON orders (customer);
             CREATE SCHEMA accounts;
             CREATE TABLE accounts.\"Invoices\" (id serial PRIMARY KEY, total numeric, note text);
             CREATE INDEX ON accounts.\"Invoices\" (total)",
        )?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        agent.init()?;
        agent.start()?;
        agent.backup_full()?;
        server.sql(
            "INSERT INTO orders (customer, at, note)
             SELECT 1 + n % 100, date '2025-06-01' + n % 400, repeat('order ', 1 + n % 700) FROM generate_series(1, 3000) n",
        )?;
        let scratch = world.folder("scratch")?;
        Ok(Some(Shop { server, agent, installation, scratch, world }))
    }

    fn export(&self, arguments: &[&str]) -> Result<Output> {
        let (scratch, bin) =
            (self.scratch.display().to_string(), self.installation.bin.display().to_string());
        let first = ["export", "--scratch", &scratch, "--bindir", &bin];
        self.agent.restore_cmd(&[&first, arguments].concat())
    }

    fn live(&self) -> String {
        format!(
            "host={} port={} user=postgres dbname=postgres",
            self.server.socket_folder().display(),
            self.server.port()
        )
    }

    /// The position before an accident, and the accident.
    fn accident(&mut self, statement: &str) -> Result<String> {
        let before = self.server.lsn()?;
        self.server.sql(statement)?;
        workload::transactions(&self.server, 20)?;
        let end = self.server.lsn()?;
        self.agent.wait_durable(&end)?;
        Ok(before)
    }

    fn orders(&self, schema: &str) -> Result<String> {
        self.server.sql(&format!("SELECT count(*), sum(hashtext(o::text)::bigint) FROM {schema}.orders o"))
    }

    fn is_swept(&self) -> Result<()> {
        let left = fs::read_dir(&self.scratch)?.count();
        ensure!(left == 0, "{left} entries were left in the scratch directory");
        Ok(())
    }
}

fn the_wrong_table_was_dropped(major: u32) -> Result<()> {
    let Some(mut shop) = Shop::open(major)? else { return Ok(()) };
    let orders = shop.orders("public")?;
    let next: u64 = shop.server.sql("SELECT nextval('orders_id_seq')")?.parse()?;
    let before = shop.accident("DROP TABLE orders")?;
    let rest = shop.server.digest_all()?;
    let moment = ["--target-lsn", &before, "--target-exclusive"];

    // What was not there at that moment is told, and nothing is left.
    let file = shop.world.folder("dumps")?.join("orders.dump");
    let output = file.display().to_string();
    let missing = [&["--table", "public.nothing", "--output", &output], &moment[..]].concat();
    shop.export(&missing)?.refused(1, &["there was no table public.nothing", "at LSN"]);
    assert!(fs::read_dir(shop.world.at("dumps"))?.next().is_none());
    shop.is_swept()?;
    // What can be known beforehand is told beforehand.
    let live = shop.live();
    let there = [&["--table", "customers", "--to-connection", &live], &moment[..]].concat();
    shop.export(&there)?.refused(1, &["has a table customers already"]);
    shop.export(&["--table", "x", "--to-connection", "host=/x password=hidden"])?
        .refused(1, &["holds a password"]);
    shop.export(&["--output", &output])?.refused(1, &["nothing is named"]);
    shop.export(&["--table", "orders"])?.failed(2, &[]);

    let load = [&["--table", "orders", "--to-connection", &live, "--json"], &moment[..]].concat();
    let done = shop.export(&load)?.ok()?.json()?;
    assert_eq!((&done["loaded"], done["names"].as_array().map(Vec::len)), (&true.into(), Some(3)), "{done}");
    assert_eq!(shop.orders("public")?, orders);
    // A recovered sequence goes on a little later.
    assert!(shop.server.sql("SELECT nextval('orders_id_seq')")?.parse::<u64>()? >= next);
    let keys =
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype IN ('p', 'f')";
    assert_eq!(shop.server.sql(keys)?, "2");
    // Nothing else was touched: without the table all is as it was before it came back.
    shop.server.sql("DROP TABLE orders")?;
    assert_eq!(shop.server.digest_all()?, rest);
    shop.is_swept()
}

#[test]
fn dropped_pg15() -> Result<()> {
    the_wrong_table_was_dropped(15)
}

#[test]
fn dropped_pg18() -> Result<()> {
    the_wrong_table_was_dropped(18)
}

/// The words of a line, as a shell reads it.
fn words(line: &str) -> Result<Vec<String>> {
    let mut shell = Command::new("sh");
    let read = Output::of(shell.args(["-c", &format!("printf '%s\\n' {line}")]))?.ok()?;
    Ok(read.stdout.lines().map(str::to_owned).collect())
}

/// End to end: the wrong table goes, work goes on, `find` tells when it was, its line brings the table into a file, and
/// `pg_restore` puts that into the server, which has been running all the time.
#[test]
fn the_whole_story_pg15() -> Result<()> {
    let Some(mut shop) = Shop::open(15)? else { return Ok(()) };
    shop.server.sql(
        "INSERT INTO accounts.\"Invoices\" (total, note)
         SELECT n * 1.5, repeat('invoice ', 1 + n % 500) FROM generate_series(1, 2000) n;
         CREATE TABLE accounts.invoices_of_test AS SELECT 1 AS n",
    )?;
    let invoices = "SELECT count(*), sum(total), sum(hashtext(i::text)::bigint) FROM accounts.\"Invoices\" i";
    let content = shop.server.sql(invoices)?;
    shop.server.sql("UPDATE customers SET name = name || '!' WHERE id % 7 = 0")?;
    // It was the test's that should go.
    shop.server.sql("DROP TABLE accounts.\"Invoices\"")?;
    workload::transactions(&shop.server, 50)?;
    shop.server.sql("DELETE FROM orders WHERE customer % 2 = 0; CREATE TABLE later AS SELECT 2 AS n")?;
    shop.server.sql("DROP TABLE accounts.invoices_of_test")?;
    let end = shop.server.lsn()?;
    shop.agent.wait_durable(&end)?;
    let rest = shop.server.digest_all()?;

    let told = shop.agent.walkeep(&["--quiet", "find", "--relation", "accounts.Invoices"])?.ok()?.stdout;
    let line = told.lines().skip_while(|line| !line.contains("  DROPPED  "));
    let line = line.map(str::trim).find(|line| line.starts_with("restore-cmd export "));
    let words = words(line.with_context(|| format!("no line to export it: {told}"))?)?;
    let file = shop.world.folder("dumps")?.join("invoices.dump").display().to_string();
    let words: Vec<&str> =
        words.iter().map(|word| if word == "FILE" { &file } else { word.as_str() }).collect();
    ensure!(words[..2] == ["restore-cmd", "export"] && words.contains(&file.as_str()), "{words:?}");
    shop.export(&words[2..])?.ok()?;
    shop.is_swept()?;

    ensure!(shop.server.digest_all()? == rest, "the export has touched the server");
    let load = shop.installation.tool("pg_restore").context("no pg_restore")?;
    Output::of(shop.world.account().command(load).args([
        "--exit-on-error",
        "--dbname",
        &shop.live(),
        &file,
    ]))?
    .ok()?;
    assert_eq!(shop.server.sql(invoices)?, content);
    let next = "SELECT nextval('accounts.\"Invoices_id_seq\"') > 2000";
    assert_eq!(shop.server.sql(next)?, "t");
    // Nothing else was touched: without the table all is as it was before it came back.
    shop.server.sql("DROP TABLE accounts.\"Invoices\"")?;
    assert_eq!(shop.server.digest_all()?, rest);
    Ok(())
}

/// Rows are gone from a table that is still there: the old ones come beside it. And a file is written of each form.
#[test]
fn rows_are_taken_from_a_copy_beside_the_living_table_pg15() -> Result<()> {
    let Some(mut shop) = Shop::open(15)? else { return Ok(()) };
    let orders = shop.orders("public")?;
    let before =
        shop.accident("DELETE FROM orders WHERE customer % 2 = 0; DELETE FROM customers WHERE id % 2 = 0")?;
    let live = shop.live();
    let moment = ["--target-lsn", &before, "--target-exclusive"];
    let load = [
        &["--table", "orders", "--table", "customers", "--as", "rescued", "--to-connection", &live],
        &moment[..],
    ];
    shop.export(&load.concat())?.ok()?;
    assert_eq!(shop.orders("rescued")?, orders);
    shop.server.sql("INSERT INTO customers SELECT * FROM rescued.customers ON CONFLICT DO NOTHING")?;
    shop.server.sql("INSERT INTO orders SELECT * FROM rescued.orders ON CONFLICT DO NOTHING")?;
    assert_eq!(shop.orders("public")?, orders);
    // A second time the name is taken, and that is told before anything is restored.
    shop.export(&load.concat())?.refused(1, &["has a schema rescued already"]);

    let dumps = shop.world.folder("dumps")?;
    let plain = dumps.join("orders.sql");
    let output = plain.display().to_string();
    let told = shop
        .export(&[&["--table", "orders", "--output", &output, "--format", "plain"], &moment[..]].concat())?
        .ok()?;
    assert!(told.stdout.contains("needed") && told.stdout.contains("exported"), "{}", told.stdout);
    let script = fs::read_to_string(&plain)?;
    assert!(script.contains("CREATE TABLE public.orders (") && script.contains("Orders of 2026"), "{script}");
    shop.export(&["--table", "orders", "--output", &output])?.refused(1, &["is there already"]);

    let folder = dumps.join("all").display().to_string();
    shop.export(
        &[&["--database", "postgres", "--output", &folder, "--format", "directory"], &moment[..]].concat(),
    )?
    .ok()?;
    assert!(dumps.join("all/toc.dat").is_file());
    let dry = shop
        .export(&["--schema", "public", "--output", &dumps.join("x").display().to_string(), "--dry-run"])?
        .ok()?;
    assert!(dry.stdout.contains("room"), "{}", dry.stdout);
    let names: Vec<_> = fs::read_dir(&dumps)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(names.len(), 2, "{names:?}");
    shop.is_swept().context("after all of them")
}
