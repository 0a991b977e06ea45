//! The operator's day: checklists that see what is wrong and say so, in a browser and by the hook; and upkeep that gives way.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Agent, Browser, Installation, Postgres, Repo, World, runtime, wait_for, workload};
use jiff::{SignedDuration, Timestamp};
use proto::config::Config;
use repository::Repository;
use repository::look::{DatabaseFigures, Figures, LOOK_FORMAT};
use serde_json::Value;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_secs(120);

/// Each second.
const ALWAYS: &str = "* * * * * *";

fn item<'a>(checklist: &'a Value, code: &str) -> &'a Value {
    let items = checklist["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().find(|item| item["code"] == code).unwrap_or(&Value::Null)
}

/// `walkeep checklist … --json`; the exit code says the same.
fn checklist(agent: &Agent, arguments: &[&str]) -> Result<Value> {
    let output = agent.walkeep(&[&["checklist"], arguments, &["--json"]].concat())?;
    let json = output.json().with_context(|| output.stderr.clone())?;
    let ok = json["ok"].as_bool().context("it does not say")?;
    ensure!(output.code == Some(i32::from(!ok)) && ok == (json["level"] != "red"), "{json:#}");
    Ok(json)
}

fn wait_item(agent: &Agent, code: &str, level: &str, words: &str) -> Result<()> {
    wait_for(&format!("{code} is {level}"), PATIENCE, || {
        let checklist = checklist(agent, &["daily"])?;
        let item = item(&checklist, code);
        ensure!(item["level"] == level && item["evidence"].to_string().contains(words), "{checklist:#}");
        Ok(Some(()))
    })
}

/// A look of three days ago, as an agent would have kept it.
fn keep_look(world: &World, repo: &Repo, agent: &Agent) -> Result<()> {
    let config = Config::parse(&fs::read_to_string(agent.config())?)?;
    let figures = Figures {
        format: LOOK_FORMAT,
        at: Timestamp::now() - SignedDuration::from_hours(72),
        program: "walkeep".to_owned(),
        host: "db1".to_owned(),
        databases: vec![DatabaseFigures {
            name: "postgres".to_owned(),
            size_bytes: 1 << 20,
            commits: 1,
            blocks_hit: 1,
            blocks_read: 1,
            temp_bytes: 0,
            counted_since: None,
            calls: None,
            seconds: None,
        }],
        tables: Vec::new(),
        log: None,
    };
    let branch = runtime().block_on(async {
        let repository = Repository::from_config(&config).await?;
        let branch = repository.only_branch(&"main".parse()?).await?;
        branch.keep_look(&figures).await?;
        anyhow::Ok(branch.system_id())
    })?;
    // The test may be another user than the agent.
    let folder = repo.folder().join("main").join(branch.to_string()).join("look");
    world.account().own(&folder)?;
    fs::read_dir(&folder)?.try_for_each(|entry| world.account().own(&entry?.path()))
}

/// What a real browser makes of the report.
fn read(browser: &Browser, report: &Path, items: usize) -> Result<()> {
    for (width, dark) in [(1080, false), (390, true)] {
        browser.look(width, dark)?;
        browser.open(&format!("file://{}", report.display()))?;
        let seen = browser.ask(
            "return { items: document.querySelectorAll('section.item').length, \
               red: document.querySelectorAll('section.item.bad').length, \
               curves: document.querySelectorAll('svg.plot polyline').length, \
               drawn: [...document.querySelectorAll('svg.plot')].every(plot => plot.getBoundingClientRect().width > 100), \
               title: document.title, width: document.documentElement.scrollWidth, window: innerWidth, \
               loaded: performance.getEntriesByType('resource').length }",
        )?;
        ensure!(seen["items"] == items && seen["red"].as_u64() > Some(0), "{seen}");
        ensure!(seen["curves"].as_u64() > Some(0) && seen["drawn"] == true, "{seen}");
        ensure!(seen["title"] == "daily checklist of main" && seen["loaded"] == 0, "{seen}");
        ensure!(seen["width"].as_f64() <= seen["window"].as_f64(), "{seen}");
    }
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:?}");
    Ok(())
}

#[test]
fn checklists_pg15() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").segment_mib(1).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("retention", "window", "\"14d\"")?;
    agent.init()?;
    keep_look(&world, &repo, &agent)?;

    // Nothing is there yet, and nobody streams.
    let report = world.folder("reports")?.join("now.html");
    let daily = checklist(&agent, &["daily", "--html", &report.display().to_string()])?;
    for code in ["backup", "wal"] {
        ensure!(item(&daily, code)["level"] == "red", "{code}: {daily:#}");
        ensure!(item(&daily, code)["todo"][0].is_string(), "{code}: {daily:#}");
    }
    ensure!(item(&daily, "connections")["level"] == "green", "{daily:#}");
    let items = daily["items"].as_array().map_or(0, Vec::len);
    if let Some(browser) = Browser::or_skip(&world)? {
        read(&browser, &report, items)?;
    }
    let monthly = checklist(&agent, &["monthly"])?;
    ensure!(item(&monthly, "drill")["level"] == "red", "{monthly:#}");
    let weekly = checklist(&agent, &["weekly"])?;
    ensure!(item(&weekly, "slow_statements")["level"] == "yellow", "{weekly:#}");
    ensure!(
        item(&weekly, "growth")["evidence"][0].as_str().is_some_and(|text| text.contains("grown in 3 d")),
        "{weekly:#}"
    );

    agent.start()?;
    agent.backup_full()?;
    wait_item(&agent, "backup", "green", "-full-")?;
    wait_item(&agent, "wal", "green", "streaming")?;
    agent.stop()?;

    // A backup that fails is told by the next checklist, which the schedule makes and the hook brings.
    let (events, folder) = (world.at("events"), world.folder("pages")?);
    let hook = format!("cat >> {}", events.display());
    agent.set("notify", "command", &format!("[\"/bin/sh\", \"-c\", {hook:?}]"))?;
    agent.set("checklist", "folder", &format!("{:?}", folder.display().to_string()))?;
    agent.set("", "schedule", &format!("{{ full = {ALWAYS:?}, checklist_daily = {ALWAYS:?} }}"))?;
    agent.start()?;
    let told = |event: &str, words: &str| {
        wait_for(&format!("{event} is told"), PATIENCE, || {
            let text = fs::read_to_string(&events)?;
            let found = text.lines().any(|line| line.contains(event) && line.contains(words));
            ensure!(found, "{text}");
            Ok(Some(()))
        })
        .with_context(|| agent.log_text())
    };
    // Whether there is room on this machine's disk decides which it is.
    told("\"event\":\"checklist_", "daily: ")?;
    server.sql("ALTER ROLE walkeep NOREPLICATION")?;
    told("backup_failed", "\"job\":\"full\"")?;
    told("checklist_failed", "; backups")?;
    wait_item(&agent, "backup", "red", "the scheduled full backup has failed")?;
    ensure!(fs::read_to_string(folder.join("main-daily.html"))?.contains("daily checklist of main"));
    Ok(())
}

struct Scene {
    agent: Agent,
    server: Postgres,
    _world: World,
}

impl Scene {
    /// `walkeep upkeep … --json`
    fn upkeep(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.agent.walkeep(&[&["upkeep", "--json"], arguments].concat())?;
        output.json().with_context(|| output.stderr.clone())
    }

    /// Waits until the server has counted so much that a table is to be vacuumed: it does not do so at once.
    fn wait_planned(&self, table: &str) -> Result<()> {
        wait_for(&format!("{table} is to be vacuumed"), PATIENCE, || {
            let planned = self.upkeep(&["--dry-run"])?;
            ensure!(step(&planned, "vacuum", table)["outcome"] == "planned", "{planned:#}");
            Ok(Some(()))
        })
    }

    fn shop(&self, statements: &str) -> Result<String> {
        self.server.sql_in("shop", statements)
    }

    fn session(&self, statements: &str) -> Result<Client> {
        runtime().block_on(async {
            let client = self.server.connect("shop").await?;
            client.batch_execute(statements).await?;
            Ok(client)
        })
    }
}

fn step<'a>(report: &'a Value, action: &str, name: &str) -> &'a Value {
    let steps = report["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    steps.iter().find(|step| step["action"] == action && step["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn upkeep_gives_way_pg15() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").conf("autovacuum", "off").start(&world)?;
    let mut scene = Scene { agent: Agent::configure(&world, &server, &repo)?, server, _world: world };
    scene.agent.init()?;
    scene.server.sql("CREATE DATABASE shop")?;
    for table in ["orders", "busy"] {
        scene.shop(&format!("CREATE TABLE {table} (id int, payload text)"))?;
        scene
            .shop(&format!("INSERT INTO {table} SELECT n, md5(n::text) FROM generate_series(1, 40000) n"))?;
    }
    scene.shop("CREATE INDEX orders_payload ON orders (payload)")?;
    scene.shop("DELETE FROM orders WHERE id % 10 > 0; DELETE FROM busy WHERE id % 2 = 0")?;
    let digest = "SELECT count(*), sum(id), md5(string_agg(payload, '' ORDER BY id)) FROM orders";
    let before = scene.shop(digest)?;

    // Off until it is allowed; what would be done is always shown.
    scene.agent.walkeep(&["upkeep"])?.refused(1, &["upkeep is off"]);
    scene.wait_planned("public.orders")?;
    scene.wait_planned("public.busy")?;
    let dead = "SELECT n_dead_tup FROM pg_stat_all_tables WHERE relname = 'orders'";
    ensure!(scene.shop(dead)? == "36000", "a dry run has changed something");

    // The role of backups may not, and is told so.
    scene.agent.set("upkeep", "enabled", "true")?;
    scene.agent.set("upkeep", "smallest_index", "\"1MiB\"")?;
    scene.agent.set("upkeep", "lock_timeout", "\"500ms\"")?;
    let refused = scene.upkeep(&[])?;
    ensure!(
        refused["ok"] == false && step(&refused, "vacuum", "public.orders")["outcome"] == "failed",
        "{refused:#}"
    );
    let owner = scene.server.conninfo().replace("user=walkeep", "user=postgres");
    scene.agent.set("upkeep", "postgres", &format!("{owner:?}"))?;

    // Not outside of its window, and not beside another.
    let hour = |hours| (Timestamp::now() + SignedDuration::from_hours(hours)).strftime("%H:%M").to_string();
    scene.agent.set("schedule", "timezone", "\"UTC\"")?;
    scene.agent.set("upkeep", "window", &format!("\"{}-{}\"", hour(3), hour(5)))?;
    scene.agent.walkeep(&["upkeep"])?.refused(1, &["the window of [upkeep] is not open"]);
    scene.agent.set("upkeep", "window", &format!("\"{}-{}\"", hour(-3), hour(3)))?;
    let other = runtime().block_on(scene.server.connect("postgres"))?;
    runtime().block_on(other.batch_execute("SELECT pg_advisory_lock(129125698594160)"))?;
    scene.agent.walkeep(&["upkeep"])?.refused(1, &["somebody else is at the upkeep"]);
    drop(other);

    // Not while a backup is taken.
    let mut backup = scene.agent.spawn("walkeep", &["backup", "--full", "--max-rate", "32KiB"])?;
    let runs = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%'";
    wait_for("a backup is being taken", PATIENCE, || Ok((scene.server.sql(runs)? == "1").then_some(())))?;
    let waits = wait_for("the other upkeep is over", PATIENCE, || Ok(Some(scene.upkeep(&[])?)))?;
    ensure!(
        waits["steps"] == serde_json::json!([]) && waits["left"].as_array().map(Vec::len) >= Some(2),
        "{waits:#}"
    );
    ensure!(waits["stopped"] == "a backup is being taken", "{waits:#}");
    backup.kill()?;
    backup.wait()?;
    let gone = "SELECT count(*) FROM pg_stat_progress_basebackup";
    let key = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    wait_for("the backup is gone", PATIENCE, || {
        Ok((scene.server.sql(gone)? == "0" && scene.server.sql(key)? == "0").then_some(()))
    })?;

    // Who has something locked is not waited for; and a half-built index is removed.
    let holder = scene.session("BEGIN; LOCK TABLE busy IN SHARE UPDATE EXCLUSIVE MODE")?;
    let reader = scene.session("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")?;
    let first = scene.upkeep(&[])?;
    ensure!(first["ok"] == true && step(&first, "vacuum", "public.busy")["outcome"] == "locked", "{first:#}");
    ensure!(step(&first, "vacuum", "public.orders")["outcome"] == "done", "{first:#}");
    let index = step(&first, "reindex", "public.orders_payload");
    // It has to wait for whoever may still look at what the old one shows.
    ensure!(index["outcome"] == "locked", "{first:#}");
    ensure!(scene.shop("SELECT count(*) FROM pg_index WHERE NOT indisvalid")? == "0", "{first:#}");
    drop((holder, reader));
    let alone = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND pid <> pg_backend_pid()";
    wait_for("they are gone", PATIENCE, || Ok((scene.shop(alone)? == "0").then_some(())))?;

    scene.agent.set("upkeep", "lock_timeout", "\"60s\"")?;

    // With nobody in the way it is done, and what was gained is told.
    scene.shop("UPDATE orders SET id = id")?;
    scene.wait_planned("public.orders")?;
    let second = scene.upkeep(&[])?;
    ensure!(
        second["ok"] == true && step(&second, "vacuum", "public.busy")["outcome"] == "done",
        "{second:#}"
    );
    let index = step(&second, "reindex", "public.orders_payload");
    ensure!(
        index["outcome"] == "done" && index["after_bytes"].as_u64() < index["before_bytes"].as_u64(),
        "{second:#}"
    );
    ensure!(second["gained_bytes"].as_i64() > Some(0), "{second:#}");
    ensure!(scene.shop(digest)? == before, "upkeep has changed what is in a table");
    wait_for("nothing is left to be done", PATIENCE, || {
        let text = scene.agent.walkeep(&["upkeep"])?.ok()?.stdout;
        ensure!(text.contains("0 steps done"), "{text}");
        Ok(Some(()))
    })?;
    Ok(())
}

/// What workload is in `postgres` alone is no matter to upkeep's tables: one version of each end answers its questions.
fn questions(major: u32) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").conf("autovacuum", "off").start(&world)?;
    workload::init(&server, 1)?;
    server.sql("CREATE TABLE t (id int, v text); CREATE INDEX t_v ON t ((upper(v)))")?;
    server.sql("INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 20000) n")?;
    server.sql("DELETE FROM t WHERE id % 10 > 0")?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.set("upkeep", "enabled", "true")?;
    agent.set("upkeep", "smallest_index", "\"64KiB\"")?;
    agent.set("upkeep", "lock_timeout", "\"60s\"")?;
    let owner = server.conninfo().replace("user=walkeep", "user=postgres");
    agent.set("upkeep", "postgres", &format!("{owner:?}"))?;
    wait_for("the table is to be vacuumed", PATIENCE, || {
        let planned = agent.walkeep(&["upkeep", "--dry-run", "--json"])?.ok()?.json()?;
        ensure!(step(&planned, "vacuum", "public.t")["outcome"] == "planned", "{planned:#}");
        Ok(Some(()))
    })?;
    let done = agent.walkeep(&["upkeep", "--json"])?.ok()?.json()?;
    ensure!(done["ok"] == true && done["closed"] == serde_json::json!([]), "{done:#}");
    for (action, name) in [("vacuum", "public.t"), ("reindex", "public.t_v")] {
        ensure!(step(&done, action, name)["outcome"] == "done", "{done:#}");
    }
    for kind in ["daily", "weekly", "monthly"] {
        let found = checklist(&agent, &[kind])?;
        ensure!(found["items"].as_array().is_some_and(|items| items.len() > 4), "{found:#}");
    }
    Ok(())
}

#[test]
fn questions_pg13() -> Result<()> {
    questions(13)
}

#[test]
fn questions_pg18() -> Result<()> {
    questions(18)
}
