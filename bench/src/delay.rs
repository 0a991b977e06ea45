//! How long a commit waits until the repository holds it, on S3.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::StoreKind;

use crate::report::Report;
use crate::spread::{Spread, figure};
use crate::stage::{Scene, Stage};

const COMMITS: u32 = 120;
/// What a request to a store in the same region takes, or more.
const LATENCY: Duration = Duration::from_millis(50);

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("from a commit to its WAL in the repository, on S3");
    report.setting(format!(
        "an S3 server in this process that waits {} ms before each answer; {COMMITS} commits, one at a time, at \
         random moments",
        LATENCY.as_millis()
    ));
    let intervals = [("1 s", "\"1s\""), ("200 ms", "\"200ms\"")];
    let scene = Scene { store: StoreKind::S3, ..Scene::default() };
    let mut stage = Stage::set(&scene)?;
    stage.repo.s3_server().faults().latency(LATENCY);
    stage.server.sql("CREATE TABLE noted (n int)")?;
    for (name, value) in intervals {
        stage.agent.set("stream", "flush_interval", value)?;
        stage.agent.start()?;
        stage.catch_up("walkeep")?;
        let mut delays = Vec::new();
        for number in 0..COMMITS {
            // Phases that repeat after more than all commits: spread evenly over the interval.
            std::thread::sleep(Duration::from_millis(u64::from(number * 197 % 1009)));
            stage.server.sql(&format!("INSERT INTO noted VALUES ({number})"))?;
            let begun = Instant::now();
            let end = stage.server.lsn()?;
            stage.wait_flushed("walkeep", &end)?;
            delays.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        report.note(format!(
            "flush_interval {name}: p50 {} ms, p99 {} ms, longest {} ms",
            figure(Spread::quantile(&delays, 0.5)),
            figure(Spread::quantile(&delays, 0.99)),
            figure(Spread::quantile(&delays, 1.0)),
        ));
        stage.agent.stop()?;
        stage.wait_gone("walkeep")?;
    }
    Ok(report)
}
