//! `walkeep health`: each finding is provoked on a real server, seen by a role that has `pg_monitor` and nothing else, and, where
//! the fix is a line to paste, cured by it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::http::{get, samples};
use harness::{Agent, Installation, Port, Postgres, Repo, World, runtime, wait_for};
use serde_json::Value;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_secs(120);

/// About the machine that the test runs on, and what chance may bring before anything is done.
const OF_THE_MACHINE: [&str; 3] = ["disk", "cache_hit", "server_log"];

/// A server that keeps its house badly: nobody vacuums it, and little memory for sorts.
fn neglected(installation: &Installation, world: &World) -> Result<Postgres> {
    let server = Postgres::build(installation, "data")
        .segment_mib(1)
        .conf("autovacuum", "off")
        .conf("work_mem", "64kB")
        .conf("shared_buffers", "4MB")
        .conf("wal_sender_timeout", "0")
        .init(world)?
        .with_setting("logging_collector", "on");
    server.start()?;
    server.sql("CREATE ROLE walkeep LOGIN REPLICATION; GRANT pg_monitor TO walkeep")?;
    Ok(server)
}

fn health(agent: &Agent) -> Result<Value> {
    let output = agent.walkeep(&["health", "--json"])?;
    let json = output.json().with_context(|| output.stderr.clone())?;
    let findings = json["findings"].as_array().context("no findings")?;
    let ok = findings.iter().all(|finding| finding["severity"] != "error");
    ensure!(json["ok"] == ok && output.code == Some(i32::from(!ok)), "ended with {:?}: {json}", output.code);
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let manual = std::fs::read_to_string(manual).context(manual)?;
    for finding in findings {
        let code = finding["code"].as_str().context("no code")?;
        ensure!(manual.contains(&format!("`{code}`")), "docs/operations.md does not tell of {code}");
        let needs_fix = finding["severity"] != "ok";
        ensure!(needs_fix == finding["fix"].is_string(), "a fix where one is needed: {finding}");
    }
    Ok(json)
}

fn finding<'a>(health: &'a Value, code: &str) -> &'a Value {
    let findings = health["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.iter().find(|finding| finding["code"] == code).unwrap_or(&Value::Null)
}

/// Waits until each of these findings has its severity, and no other is told.
fn wait(agent: &Agent, wanted: &[(&str, &str)]) -> Result<Value> {
    wait_for(&format!("the findings are {wanted:?}"), PATIENCE, || {
        let health = health(agent)?;
        for (code, severity) in wanted {
            ensure!(finding(&health, code)["severity"] == *severity, "{code}: {:#}", health["findings"]);
        }
        Ok(Some(health))
    })
}

/// What is told of a finding.
fn told(health: &Value, code: &str, words: &[&str]) -> Result<String> {
    let found = finding(health, code);
    let text = format!(
        "{} {}",
        found["message"].as_str().unwrap_or_default(),
        found["fix"].as_str().unwrap_or_default()
    );
    for word in words {
        ensure!(text.contains(word), "{code} does not tell {word:?}: {text}");
    }
    Ok(found["fix"].as_str().unwrap_or_default().to_owned())
}

fn database<'a>(health: &'a Value, name: &str) -> &'a Value {
    let databases = health["observed"]["databases"].as_array().map(Vec::as_slice).unwrap_or_default();
    databases.iter().find(|database| database["name"] == name).unwrap_or(&Value::Null)
}

/// A session of its own, in which this was done. Its process.
fn session(server: &Postgres, database: &str, statements: &str) -> Result<(Client, String)> {
    runtime().block_on(async {
        let client = server.connect(database).await?;
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await?.get::<_, i32>(0);
        client.batch_execute(statements).await?;
        Ok((client, pid.to_string()))
    })
}

/// Pastes the statements of a fix, each into its database.
fn paste(server: &Postgres, fix: &str) -> Result<()> {
    for line in fix.lines().filter(|line| !line.starts_with("--")) {
        let (statement, comment) = line.split_once("  -- ").unwrap_or((line, ""));
        let database = comment.strip_prefix("in the database ").unwrap_or("postgres");
        server.sql_in(database, statement).with_context(|| line.to_owned())?;
    }
    Ok(())
}

/// Everything that statistics and the catalogue tell.
fn neglect(server: &Postgres) -> Result<()> {
    let shop = |statements: &str| server.sql_in("shop", statements);
    server.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")?;
    server.sql("CREATE DATABASE shop")?;
    server.sql("CREATE DATABASE closed")?;
    server.sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")?;
    shop(
        "CREATE TABLE orders (id int PRIMARY KEY, customer int, payload text); CREATE TABLE locked (n int)",
    )?;
    shop("INSERT INTO orders SELECT n, n, repeat(md5(n::text), 8) FROM generate_series(1, 60000) n")?;
    shop("CREATE INDEX orders_one ON orders (customer); CREATE INDEX orders_two ON orders (customer)")?;
    shop("UPDATE orders SET customer = 1 WHERE id < 3")?;
    let twice = shop("CREATE UNIQUE INDEX CONCURRENTLY orders_broken ON orders (customer)");
    ensure!(twice.is_err(), "what is there twice was taken for unique");
    shop("DELETE FROM orders WHERE id % 2 = 0")?;
    // Larger than shared buffers: each scan reads all of it anew.
    shop("DO $$ BEGIN FOR n IN 1..60 LOOP PERFORM count(payload) FROM orders; END LOOP; END $$")?;
    shop("SELECT count(*) FROM (SELECT payload FROM orders ORDER BY md5(payload), payload) sorted")?;
    // Each of these takes a transaction id.
    shop(
        "DO $$ BEGIN FOR n IN 1..3000 LOOP BEGIN INSERT INTO locked VALUES (n); EXCEPTION WHEN others THEN NULL; END; \
         END LOOP; END $$",
    )?;
    for _ in 0..12 {
        server.sql("CHECKPOINT")?;
    }
    Ok(())
}

#[test]
fn each_finding_pg15() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = neglected(&installation, &world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    let port = Port::reserve()?;
    agent.set("http", "listen", &format!("\"127.0.0.1:{port}\""))?;
    for (key, value) in [
        ("enabled", "true"),
        ("interval", "\"1s\""),
        ("connections", "20"),
        ("long_transaction", "\"2s\""),
        ("idle_in_transaction", "\"2s\""),
        ("blocked", "\"2s\""),
        ("unused_after", "\"0s\""),
        ("xid_age", "2000"),
        ("replication_lag", "\"1MiB\""),
        ("temp_files", "\"1MiB\""),
    ] {
        agent.set("health", key, value)?;
    }
    agent.init()?;
    agent.start()?;

    // What the server has logged while it was started is read by the agent's first look, which is kept.
    let before = wait_for("nothing is found", PATIENCE, || {
        let health = health(&agent)?;
        let found = health["findings"].as_array().context("no findings")?;
        let bad = found
            .iter()
            .filter(|f| f["severity"] != "ok" && OF_THE_MACHINE.iter().all(|code| f["code"] != *code));
        let bad: Vec<&Value> = bad.collect();
        if !bad.is_empty() || !health["observed"]["earlier"].is_string() {
            bail!("found {bad:#?}");
        }
        Ok(Some(health))
    })
    .with_context(|| agent.log_text())?;
    ensure!(database(&before, "postgres")["size_bytes"].as_u64() > Some(1 << 20), "{before:#}");

    neglect(&server)?;
    let (_idle, idle) = session(&server, "shop", "BEGIN; SELECT 1")?;
    let (_blocker, blocker) = session(&server, "shop", "BEGIN; LOCK TABLE locked")?;
    let (waiting, blocked) = session(&server, "shop", "")?;
    let (sleeping, long) = session(&server, "postgres", "")?;
    runtime().spawn(async move { waiting.batch_execute("SELECT count(*) FROM locked").await });
    runtime().spawn(async move { sleeping.batch_execute("SELECT pg_sleep(600)").await });
    let more: Result<Vec<_>> = (0..4).map(|_| session(&server, "postgres", "")).collect();
    let more = more?;

    let warnings = [
        "blocked",
        "cache_hit",
        "checkpoints",
        "connections",
        "databases",
        "dead_rows",
        "duplicate_indexes",
        "idle_in_transaction",
        "invalid_indexes",
        "long_transactions",
        "never_analyzed",
        "replication_slots",
        "sequential_scans",
        "server_log",
        "temp_files",
        "unused_indexes",
        "xid_age",
    ];
    let found = wait(&agent, &warnings.map(|code| (code, "warning")))?;
    let of = |pid: &str| format!("process {pid} (");
    let ended = told(&found, "blocked", &[&of(&blocked), &of(&blocker), "SELECT count(*) FROM locked"])?;
    ensure!(ended.contains(&format!("pg_terminate_backend({blocker})")), "{ended}");
    told(&found, "idle_in_transaction", &[&of(&idle)])?;
    told(&found, "long_transactions", &[&of(&long), "pg_sleep(600)"])?;
    told(&found, "dead_rows", &["shop.public.orders", "never vacuumed"])?;
    told(&found, "sequential_scans", &["shop.public.orders: "])?;
    told(&found, "unused_indexes", &["shop.public.orders_one", "shop.public.orders_two"])?;
    let twice =
        told(&found, "duplicate_indexes", &["public.orders_two", "does what public.orders_one does"])?;
    let broken = told(&found, "invalid_indexes", &["public.orders_broken"])?;
    told(&found, "databases", &["closed", "may not connect"])?;
    told(&found, "replication_slots", &["forgotten", "pg_drop_replication_slot('forgotten')"])?;
    let logged = found["observed"]["log"]["last"].to_string();
    ensure!(logged.contains("ERROR:  could not create unique index"), "{logged}");
    ensure!(database(&found, "shop")["grown_bytes"] == database(&found, "shop")["size_bytes"], "{found:#}");
    ensure!(database(&found, "closed")["trouble"].is_string(), "{found:#}");
    // What somebody has locked for himself is not waited for.
    let tables = database(&found, "shop")["tables"].as_array().context("no tables")?;
    let locked = tables.iter().find(|table| table["name"] == "public.locked").context("it is not there")?;
    ensure!(locked["size_bytes"].is_null(), "{locked}");
    // Whether there is room on this machine's disk decides its exit code.
    let text = agent.walkeep(&["health"])?.stdout;
    ensure!(text.contains("WARNING  blocked: process ") && text.contains(" warnings, "), "{text}");

    // The agent has seen the same, with a connection of its own.
    wait_for("the agent's metrics tell it", PATIENCE, || {
        let metrics = samples(&get(port.number(), "/metrics")?.body);
        let value = |name: &str| metrics.get(name).copied().unwrap_or(f64::NAN);
        for code in warnings.iter().filter(|code| **code != "server_log") {
            let of_code = value(&format!("walkeep_health_finding{{code=\"{code}\"}}"));
            ensure!(of_code == 1.0, "{code} is {of_code}");
        }
        ensure!(value("walkeep_health_reachable") == 1.0 && value("walkeep_sessions_blocked") == 1.0);
        ensure!(value("walkeep_database_size_bytes{database=\"shop\"}") > 1e7);
        ensure!(value("walkeep_connections{state=\"idle in transaction\"}") >= 2.0);
        Ok(Some(()))
    })
    .with_context(|| agent.log_text())?;

    // An agent that does not answer is a standby that lags.
    agent.freeze()?;
    server.sql_in("shop", "CREATE TABLE more AS SELECT n, md5(n::text) FROM generate_series(1, 40000) n")?;
    let behind = wait(&agent, &[("replication_lag", "warning")]);
    agent.thaw()?;
    told(&behind?, "replication_lag", &["walkeep by "])?;

    // The fixes do what they say.
    drop(more);
    for fix in [&ended, &twice, &broken] {
        paste(&server, fix)?;
    }
    for code in ["dead_rows", "replication_slots", "idle_in_transaction", "long_transactions"] {
        let fix = told(&found, code, &[])?;
        paste(&server, fix.split("\nALTER SYSTEM").next().unwrap_or_default())?;
    }
    let cured = [
        "blocked",
        "connections",
        "dead_rows",
        "duplicate_indexes",
        "idle_in_transaction",
        "invalid_indexes",
        "long_transactions",
        "replication_lag",
        "replication_slots",
    ];
    wait(&agent, &cured.map(|code| (code, "ok"))).map(drop)
}

/// Each version answers each question, also one that is a standby; and who has no repository yet is told all but growth.
fn shape(major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1); CREATE INDEX ON t ((v + 1))",
    )?;
    let agent = Agent::configure(&world, &server, &repo)?;
    let found = health(&agent)?;
    let observed = &found["observed"];
    for key in ["connections", "sessions", "standbys", "slots", "checkpoints", "databases", "disk", "server"]
    {
        ensure!(!observed[key].is_null(), "{key} is missing in {observed:#}");
    }
    ensure!(observed["server"]["version"].as_u64().map(|version| version / 10_000) == Some(major.into()));
    ensure!(observed["earlier"].is_null() && observed["earlier_unknown"].is_string(), "{observed:#}");
    let postgres = database(&found, "postgres");
    ensure!(postgres["trouble"].is_null() && postgres["tables"][0]["name"] == "public.t", "{postgres:#}");
    let Some(standby) = server.standby(&world, "standby")? else { return Ok(()) };
    let agent = Agent::named(&world, "beside", &standby.conninfo(), &repo)?;
    wait(&agent, &[("replay_lag", "ok")])?;
    let lag = health(&agent)?;
    ensure!(lag["observed"]["server"]["in_recovery"] == true, "{lag:#}");
    ensure!(database(&lag, "postgres")["trouble"].is_null(), "{lag:#}");
    Ok(())
}

#[test]
fn shape_pg13() -> Result<()> {
    shape(13)
}

#[test]
fn shape_pg18() -> Result<()> {
    shape(18)
}
