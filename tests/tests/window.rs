//! The truth of the window: every moment that `walkeep list` shows can be restored, and is what it was. Moments outside
//! are refused before anything is copied.
//!
//! The server itself notes when each transaction was committed. The rounds of a soak: `cargo xtask test --soak window`.

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Ledger, Output, Postgres, Repo, StoreKind, World, seeds};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A server that is gone, and what it wrote when.
struct Lost {
    world: World,
    repo: Repo,
    agent: Agent,
    installation: Installation,
    /// In the order of their commits.
    commits: Vec<(i64, u64)>,
    from: i64,
    to: i64,
}

fn micros(text: &str) -> Result<i64> {
    Ok(text.parse::<Timestamp>().with_context(|| format!("{text:?} is no time"))?.as_microsecond())
}

impl Lost {
    fn of(major: u32, store: StoreKind, seed: u64) -> Result<Option<Lost>> {
        let Some(installation) = Installation::or_skip(major) else { return Ok(None) };
        let world = World::new()?;
        let repo = Repo::of(store, &world)?;
        let server = Postgres::build(&installation, "data")
            .segment_mib(1)
            .conf("track_commit_timestamp", "on")
            .conf("autovacuum", "off")
            .start(&world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        agent.init()?;
        agent.start()?;
        Ledger::create(&server)?;
        agent.backup_full()?;
        let ledger = Ledger::open(&server, 1, seed);
        ledger.wait_for_more(300)?;
        agent.backup_full()?;
        ledger.wait_for_more(300)?;
        ledger.close()?;
        // What nobody has committed moves the window as well.
        server.sql("SELECT pg_create_restore_point('quiet')")?;
        let end = server.lsn()?;
        agent.wait_durable(&end)?;
        let times = "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint, number \
                     FROM ledger ORDER BY number";
        let commits: Vec<(i64, u64)> = server
            .sql(times)?
            .lines()
            .map(|line| {
                let (time, number) = line.split_once('|').context("two fields were asked for")?;
                Ok((time.parse()?, number.parse()?))
            })
            .collect::<Result<_>>()?;
        ensure!(commits.is_sorted(), "the clock went back");
        server.destroy()?;
        agent.stop()?;
        let list = agent.list()?;
        let windows = list["windows"].as_array().context("no windows")?;
        ensure!(windows.len() == 1, "one window was expected: {list}");
        let time = |key: &str| micros(windows[0][key].as_str().context("the window has no times")?);
        let (from, to) = (time("from_time")?, time("to_time")?);
        Ok(Some(Lost { world, repo, agent, installation, commits, from, to }))
    }

    fn restore(&self, name: &str, moment: i64, more: &[&str]) -> Result<Output> {
        let time = Timestamp::from_microsecond(moment)?.to_string();
        self.agent.restore(&self.world.at(name), &[&["--target-time", &time], more].concat())
    }

    /// Restores to a moment within the window: exactly what was committed by then is there.
    fn is_true(&self, name: &str, moment: i64) -> Result<()> {
        ensure!((self.from..=self.to).contains(&moment), "{moment} is not in the window");
        self.restore(name, moment, &["--archive", "off"])?.ok()?;
        let data = self.world.at(name);
        let server = Postgres::adopt(&self.installation, &self.world, &format!("{name}.server"), &data)?
            .with_env(self.repo.environment());
        server.start()?;
        server.wait_promoted()?;
        let there = server.sql("SELECT number FROM ledger ORDER BY number")?;
        let there: Vec<u64> = there.lines().map(str::parse).collect::<Result<_, _>>()?;
        let expected: Vec<u64> =
            self.commits.iter().filter(|(time, _)| *time <= moment).map(|(_, number)| *number).collect();
        ensure!(
            there == expected,
            "at {moment} there were {} rows up to {:?}, and {} up to {:?} came back",
            expected.len(),
            expected.last(),
            there.len(),
            there.last()
        );
        drop(server);
        Ok(std::fs::remove_dir_all(data)?)
    }

    fn refused(&self, moment: i64, words: &str) -> Result<()> {
        let output = self.restore("refused", moment, &[])?;
        ensure!(output.code == Some(1) && output.stderr.contains(words), "{}", output.stderr);
        ensure!(!self.world.at("refused").exists(), "something was copied");
        Ok(())
    }
}

/// So many random moments, and the odd ones.
fn the_window_is_true(major: u32, store: StoreKind, seed: u64, moments: u32) -> Result<()> {
    let Some(lost) = Lost::of(major, store, seed)? else { return Ok(()) };
    let mut random = StdRng::seed_from_u64(seed);
    let last = lost.commits.last().context("nothing was committed")?.0;
    lost.refused(lost.from - 1, "lies before the first backup")?;
    lost.refused(lost.to + 1, "lies after the last WAL")?;
    // The last moment of all: nothing was committed after it. PostgreSQL alone would not open there.
    ensure!(last <= lost.to, "commits were lost");
    lost.is_true("last", lost.to)?;
    for number in 0..moments {
        // At a commit, just before one, or anywhere.
        let commit = || {
            let within: Vec<i64> =
                lost.commits.iter().map(|(time, _)| *time).filter(|time| *time > lost.from).collect();
            within
        };
        let moment = match random.random_range(0..3) {
            0 => commit()[random.random_range(0..commit().len())],
            1 => commit()[random.random_range(0..commit().len())] - 1,
            _ => random.random_range(lost.from..=lost.to),
        };
        lost.is_true(&format!("moment{number}"), moment)?;
    }
    println!("seed {seed}: PostgreSQL {major}, {store:?}: {} moments were true", moments + 1);
    Ok(())
}

#[test]
fn pg15_file() -> Result<()> {
    the_window_is_true(15, StoreKind::File, 15, 2)
}

#[test]
fn pg18_s3() -> Result<()> {
    the_window_is_true(18, StoreKind::S3, 18, 2)
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak window"]
fn soak() -> Result<()> {
    seeds::each(10, |seed| {
        let major = [15, 18][(seed % 2) as usize];
        let store = [StoreKind::File, StoreKind::S3][(seed / 2 % 2) as usize];
        the_window_is_true(major, store, seed, 10)
    })
}
