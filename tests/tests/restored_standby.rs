//! `restore-cmd restore --standby`: a new standby out of the repository, without a byte from the primary but for the stream.

use std::time::Duration;

use anyhow::Result;
use harness::{Agent, Installation, Postgres, Repo, World, wait_for, workload};

const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn streams_from_the_primary_that_is_named_pg15() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let primary = Postgres::build(&installation, "data").start(&world)?;
    workload::init(&primary, 1)?;
    let mut agent = Agent::configure(&world, &primary, &repo)?;
    agent.init()?;
    agent.start()?;
    agent.backup_full()?;
    workload::transactions(&primary, 50)?;
    let end = primary.lsn()?;
    agent.wait_durable(&end)?;

    let data = world.at("standby");
    let conninfo = format!("{} application_name=new", primary.conninfo());
    let secret = format!("{conninfo} password=hidden");
    agent.restore(&data, &["--standby", "--primary-conninfo", &secret])?.refused(1, &["holds a password"]);
    agent.restore(&data, &["--primary-conninfo", &conninfo])?.failed(2, &["--standby"]);
    let dry =
        agent.restore(&data, &["--standby", "--primary-conninfo", &conninfo, "--dry-run"])?.ok()?.stdout;
    for words in ["primary_conninfo", "standby.signal", "an assumption: no drill has measured it yet"] {
        assert!(dry.contains(words), "{words}: {dry}");
    }
    agent.restore(&data, &["--standby", "--primary-conninfo", &conninfo, "--archive", "off"])?.ok()?;
    let standby = Postgres::adopt(&installation, &world, "standby.server", &data)?;
    standby.start()?;
    wait_for("the standby streams", PATIENCE, || {
        let state = primary.sql("SELECT state FROM pg_stat_replication WHERE application_name = 'new'")?;
        Ok((state == "streaming").then_some(()))
    })?;
    primary.sql("CREATE TABLE later AS SELECT n FROM generate_series(1, 100) n")?;
    let content = primary.digest_all()?;
    wait_for("the standby has all that the primary has", PATIENCE, || {
        Ok((standby.sql("SELECT to_regclass('later') IS NOT NULL")? == "t").then_some(()))
    })?;
    wait_for("the standby is equal", PATIENCE, || Ok((standby.digest_all()? == content).then_some(())))?;
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()")?, "t");

    // What a delta restore would remove of it is told, and nothing is changed.
    drop(standby);
    std::fs::write(data.join("letter"), "dear")?;
    let plan = agent.restore(&data, &["--delta", "--dry-run", "--json"])?.ok()?.json()?;
    let first = plan["plan"]["foreign"]["first"].to_string();
    assert!(plan["plan"]["foreign"]["entries"].as_u64() > Some(1), "{plan}");
    assert!(
        data.join("letter").exists() && plan["plan"]["estimate"]["seconds"].as_f64() > Some(0.0),
        "{first}"
    );
    Ok(())
}
