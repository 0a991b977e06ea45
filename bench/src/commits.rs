//! Commits per second while each waits for a synchronous standby.

use std::time::Instant;

use anyhow::Result;
use harness::workload;

use crate::receiver::{self, Receiver};
use crate::report::{Goal, Report};
use crate::stage::{Scene, Stage};
use crate::turns::{Comparison, Run};

const PAIRS: usize = 7;
/// Of pgbench's own transactions, by each of its clients.
const TRANSACTIONS: u32 = 250;
const CLIENTS: [u32; 2] = [1, 8];

/// The agent's name as a standby.
const AGENT: &str = "walkeep";

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("commits per second, each waiting for a synchronous standby");
    let scene = Scene {
        conf: &[("fsync", "on")],
        settings: &[("stream", "synchronous", "true")],
        ..Scene::default()
    };
    let mut stage = Stage::set(&scene)?;
    report.setting(stage.describe());
    report.setting(format!(
        "{PAIRS} pairs of runs in turns, in brackets the quartiles; both flush to the same disk"
    ));
    workload::init(&stage.server, 4)?;
    for clients in CLIENTS {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..=PAIRS {
            stage.agent.start()?;
            ours.push(commits(&stage, AGENT, clients)?);
            stage.agent.stop()?;
            stage.wait_gone(AGENT)?;
            let receiver = Receiver::start(&stage, &["--synchronous"])?;
            theirs.push(commits(&stage, receiver::NAME, clients)?);
            drop(receiver);
            stage.wait_gone(receiver::NAME)?;
        }
        // The first of each was a warm-up.
        let comparison = Comparison { ours: ours.split_off(1), theirs: theirs.split_off(1) };
        let what = format!("commits per second, {clients} clients");
        let rate = |runs: &[Run]| {
            runs.iter()
                .map(|run| f64::from(TRANSACTIONS * clients) / run.wall.as_secs_f64())
                .collect::<Vec<_>>()
        };
        let figures = (rate(&comparison.ours), rate(&comparison.theirs));
        report.row(&what, "pg_receivewal --synchronous", "/s", figures, Goal::AtLeast(1.0));
    }
    Ok(report)
}

/// One run of pgbench, with `standby` up to date and waited for.
fn commits(stage: &Stage, standby: &str, clients: u32) -> Result<Run> {
    stage.catch_up(standby)?;
    stage.server.wait_for_commits_of(standby)?;
    let begun = Instant::now();
    let (clients, transactions) = (clients.to_string(), TRANSACTIONS.to_string());
    stage.server.client("pgbench", &["-n", "-c", &clients, "-t", &transactions, "postgres"])?;
    let wall = begun.elapsed();
    stage.server.sql("ALTER SYSTEM RESET synchronous_standby_names")?;
    stage.server.sql("SELECT pg_reload_conf()")?;
    Ok(Run { wall, ..Run::default() })
}
