//! The agent keeps its schedule: backups, retention, verification and drills without anybody's hand; what failed is told; and no
//! job outlives its agent.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World, wait_for, workload};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(150);

/// Each second.
const ALWAYS: &str = "* * * * * *";

struct Stage {
    agent: Agent,
    repo: Repo,
    scratch: PathBuf,
    server: Postgres,
    _world: World,
}

impl Stage {
    fn set(installation: &Installation) -> Result<Stage> {
        let world = World::new()?;
        let repo = Repo::of(StoreKind::File, &world)?;
        let server = Postgres::build(installation, "data").start(&world)?;
        workload::init(&server, 1)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        let scratch = world.folder("scratch")?;
        agent.set("drill", "scratch", &format!("{:?}", scratch.display().to_string()))?;
        agent.set("drill", "bindir", &format!("{:?}", installation.bin.display().to_string()))?;
        agent.set("drill", "amcheck", "false")?;
        agent.set("retention", "full", "1")?;
        agent.init()?;
        Ok(Stage { agent, repo, scratch, server, _world: world })
    }

    /// Schedules these jobs for these times, and no others.
    fn schedule(&mut self, jobs: &[(&str, &str)]) -> Result<()> {
        let table: Vec<String> = jobs.iter().map(|(job, times)| format!("{job} = {times:?}")).collect();
        self.agent.set("", "schedule", &format!("{{ {} }}", table.join(", ")))
    }

    /// Waits until the last runs of all these jobs ended so.
    fn wait_runs(&mut self, jobs: &[&str], succeeded: bool) -> Result<Value> {
        let agent = &self.agent;
        let jobs: Vec<String> = jobs.iter().map(|&job| job.to_owned()).collect();
        wait_for(&format!("{jobs:?} ended with {succeeded}"), PATIENCE, || {
            let status = agent.status()?;
            let all = jobs.iter().all(|job| last(&status, job)["succeeded"] == succeeded);
            ensure!(all, "{status:#}");
            Ok(Some(status))
        })
        .with_context(|| agent.log_text())
    }

    /// The records of the runs of one job.
    fn records(&self, job: &str) -> Result<Vec<String>> {
        let keys = self.repo.objects()?.into_iter().map(|object| object.key);
        Ok(keys.filter(|key| key.contains("/run/") && key.contains(&format!("-{job}-"))).collect())
    }

    /// Whether a copy is there.
    fn is_drilling(&self) -> Result<bool> {
        Ok(fs::read_dir(&self.scratch)?.next().is_some())
    }
}

/// The last run of a job.
fn last<'a>(status: &'a Value, job: &str) -> &'a Value {
    let jobs = status["schedule"]["jobs"].as_array().map(Vec::as_slice).unwrap_or_default();
    jobs.iter().find(|shown| shown["job"] == job).map_or(&Value::Null, |shown| &shown["last"])
}

#[test]
fn a_schedule_needs_no_hands() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut stage = Stage::set(&installation)?;
    let all = ["incremental", "expire", "verify", "verify_deep", "drill"];
    stage.schedule(&all.map(|job| (job, ALWAYS)))?;
    stage.agent.start()?;
    let status = stage.wait_runs(&all, true)?;
    wait_for("a full and an incremental backup are there", PATIENCE, || {
        let labels = stage.agent.labels()?;
        let of = |kind: &str| labels.iter().any(|label| label.contains(kind));
        ensure!(of("-full-") && of("-incremental-"), "{labels:?}\n{}", stage.agent.log_text());
        Ok(Some(()))
    })?;
    for job in &all {
        let last = last(&status, job);
        ensure!(last["seconds"].is_f64() && last["message"].is_string(), "{last}");
        ensure!(!stage.records(job)?.is_empty(), "no run of {job} is recorded");
    }
    let text = stage.agent.walkeep(&["status"])?.ok()?.stdout;
    for words in ["schedule     incremental", "verify_deep", " ok after "] {
        ensure!(text.contains(words), "{words:?} is missing in\n{text}");
    }
    stage.agent.stop()?;
    ensure!(!stage.is_drilling()?, "a job has outlived its agent");

    // Another agent knows from the repository what was run; and a job that fails is told, recorded, and tried again.
    stage.agent.set("drill", "bindir", "\"/nonexistent\"")?;
    stage.schedule(&[("drill", ALWAYS), ("full", ALWAYS), ("verify", "0 0 1 1 *")])?;
    stage.agent.start()?;
    let status = stage.wait_runs(&["drill"], false)?;
    ensure!(last(&status, "verify")["succeeded"] == true, "{status:#}");
    let failed = |log: &str| log.lines().filter(|line| line.contains("the scheduled job has failed")).count();
    wait_for(
        "the job is tried again",
        PATIENCE,
        || Ok((failed(&stage.agent.log_text()) >= 2).then_some(())),
    )?;
    ensure!(
        stage.agent.log_text().contains("/nonexistent"),
        "the reason is not told:\n{}",
        stage.agent.log_text()
    );
    stage.wait_runs(&["full"], true)?;
    stage.agent.stop()?;
    ensure!(stage.records("drill")?.iter().any(|key| key.contains("-drill-failed-")));
    stage.server.sql("SELECT 1")?;
    Ok(())
}

#[test]
fn no_job_outlives_its_agent() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut stage = Stage::set(&installation)?;
    stage.agent.set("drill", "sql", "[\"SELECT pg_sleep(600)\"]")?;
    stage.schedule(&[("drill", ALWAYS)])?;
    stage.agent.start()?;
    stage.agent.backup_full()?;
    for killed in [false, true] {
        wait_for("a drill sleeps", PATIENCE, || {
            let running = stage.agent.status()?["schedule"]["jobs"][0]["running_since"].is_string();
            Ok((running && stage.is_drilling()?).then_some(()))
        })
        .with_context(|| stage.agent.log_text())?;
        if killed {
            stage.agent.kill9()?;
        } else {
            stage.agent.stop()?;
            ensure!(!stage.is_drilling()?, "the agent has left a job behind");
            stage.agent.start()?;
        }
    }
    wait_for("the job follows its agent", PATIENCE, || Ok((!stage.is_drilling()?).then_some(())))?;
    let failed: Vec<String> = stage.records("drill")?;
    ensure!(failed.iter().all(|key| key.contains("-failed-")), "none came to its end: {failed:?}");
    Ok(())
}

/// What cannot be kept is refused before anything begins.
#[test]
fn a_wrong_schedule_is_refused() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let mut stage = Stage::set(&installation)?;
    for (times, words) in [("61 2 * * *", "`verify` in [schedule]"), ("0 0 30 2 *", "never comes")] {
        stage.schedule(&[("verify", times)])?;
        stage.agent.walkeep(&["run"])?.refused(1, &[words, times]);
    }
    Ok(())
}
