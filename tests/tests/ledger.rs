//! The ledger: a client notes every acknowledged commit, everything is killed at random moments, at last the server is
//! deleted. What is restored from the repository must hold what was promised:
//!
//! - as a synchronous standby: every acknowledged commit;
//! - by streaming: every commit whose WAL was reported as flushed, and all but the last `flush_interval` of commits;
//! - by archiving: every commit in a segment that the archiver was told is stored.
//!
//! A seed chooses store, version, way of protection, segment size, and the moments. The rounds of a soak:
//! `cargo xtask test --soak ledger`; one of them again: `WALKEEP_SEED=7 WALKEEP_ROUNDS=1 cargo xtask test --soak ledger`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::agent::lsn_number;
use harness::{Agent, Audit, Installation, Ledger, Postgres, Repo, StoreKind, World, seeds, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the harness configures.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// What one flush may take on a busy machine, with all that lies between the client's clock and ours.
const ONE_FLUSH: Duration = Duration::from_secs(2);

/// How the server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Archive,
    Stream,
    Synchronous,
    Both,
    BothSynchronous,
}

impl Way {
    fn archives(self) -> bool {
        matches!(self, Way::Archive | Way::Both | Way::BothSynchronous)
    }

    fn streams(self) -> bool {
        self != Way::Archive
    }

    fn is_synchronous(self) -> bool {
        matches!(self, Way::Synchronous | Way::BothSynchronous)
    }
}

/// What a seed stands for. Twenty consecutive seeds have every combination once.
#[derive(Debug)]
struct Round {
    way: Way,
    store: StoreKind,
    major: u32,
    segment_mib: u32,
    blows: u32,
}

impl Round {
    fn of(seed: u64, random: &mut StdRng) -> Round {
        let ways = [Way::Synchronous, Way::Archive, Way::BothSynchronous, Way::Stream, Way::Both];
        Round {
            way: ways[(seed % 5) as usize],
            store: [StoreKind::File, StoreKind::S3][(seed % 2) as usize],
            major: [15, 18][(seed / 2 % 2) as usize],
            segment_mib: if random.random_bool(0.7) { 1 } else { 16 },
            blows: random.random_range(2..5),
        }
    }
}

fn pause(random: &mut StdRng, most: u64) {
    std::thread::sleep(Duration::from_millis(random.random_range(0..most)));
}

fn round(seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let round = Round::of(seed, &mut random);
    let Some(installation) = Installation::or_skip(round.major) else { return Ok(()) };
    let begun = Instant::now();
    let world = World::new()?;
    let repo = Repo::of(round.store, &world)?;
    let server = Postgres::build(&installation, "data")
        .segment_mib(round.segment_mib)
        .env(repo.environment())
        .conf("autovacuum", "off")
        .start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("stream", "enabled", if round.way.streams() { "true" } else { "false" })?;
    agent.set("stream", "synchronous", if round.way.is_synchronous() { "true" } else { "false" })?;
    agent.init()?;
    if round.way.archives() {
        server.archive_with(&agent.archive_command()?)?;
    }
    if round.way.streams() {
        agent.start()?
    } else {
        agent.launch()?
    }
    Ledger::create(&server)?;
    agent.backup_full()?;
    if round.way.is_synchronous() {
        server.wait_for_commits_of("walkeep")?;
    }

    let ledger = Ledger::open(&server, 2, seed);
    ledger.wait_for_more(10)?;
    for _ in 0..round.blows {
        // Half of the blows hit a server that is coming back, the others one at work.
        if random.random_bool(0.5) {
            ledger.wait_for_more(5)?;
        }
        pause(&mut random, 500);
        let (kill_agent, kill_server) =
            [(true, false), (false, true), (true, true)][random.random_range(0..3)];
        if kill_agent {
            agent.kill9()?;
        }
        pause(&mut random, 50);
        if kill_server {
            server.kill9()?;
        }
        pause(&mut random, 300);
        if kill_server {
            server.start()?;
        }
        if kill_agent {
            agent.launch()?;
        }
    }
    // A synchronous standby owes every commit at every moment. The others are given the time to come back.
    let settled = !round.way.is_synchronous();
    if settled && round.way.streams() {
        ledger.wait_for_more(5)?;
        agent.wait_durable(&server.lsn()?)?;
    }
    if settled && round.way.archives() {
        let archived = server.sql("SELECT archived_count FROM pg_stat_archiver")?;
        wait_for("the archiver works again", PATIENCE, || {
            server.sql("SELECT pg_switch_wal()")?;
            Ok((server.sql("SELECT archived_count FROM pg_stat_archiver")? != archived).then_some(()))
        })?;
    }
    pause(&mut random, 500);
    let promised = if settled { promised(&server, &round)? } else { 0 };
    // The end: both at once, or one a little later.
    let end = Instant::now();
    if random.random_bool(0.5) {
        agent.kill9()?;
        server.destroy()?;
    } else {
        server.destroy()?;
        agent.kill9()?;
    }
    let notes = ledger.close()?;

    let data = world.at("restored");
    agent.restore(&data, &[])?.ok()?;
    let restored = Postgres::adopt(&installation, &world, "restored.server", &data)?
        .with_env(repo.environment())
        .with_setting("archive_mode", "off");
    restored.start()?;
    restored.wait_promoted()?;
    let audit = Audit::of(&restored, &notes)?;
    let loss = audit.loss(end);
    println!(
        "seed {seed}: {round:?}: {} acknowledged, {} restored, {} lost ({loss:.1?} back), in {:.1?}",
        notes.len(),
        audit.rows,
        audit.lost.len(),
        begun.elapsed()
    );
    let told = || format!("seed {seed}: {round:?}\nthe agent's log:\n{}", agent.log_text());
    if round.way.is_synchronous() {
        let lost: Vec<String> = audit.lost.iter().map(ToString::to_string).collect();
        ensure!(lost.is_empty(), "lost, though acknowledged: {lost:?}\n{}", told());
    }
    audit.holds_up_to(promised).with_context(told)?;
    if round.way == Way::Stream || round.way == Way::Both {
        ensure!(loss <= FLUSH_INTERVAL + ONE_FLUSH, "commits of {loss:.1?} are lost\n{}", told());
    }
    Ok(())
}

/// The position up to which somebody, the server or its archiver, was told that WAL is stored.
fn promised(server: &Postgres, round: &Round) -> Result<u64> {
    let mut promised = 0;
    if round.way.streams() {
        let flushed = server.sql("SELECT coalesce(restart_lsn, '0/0') FROM pg_replication_slots")?;
        promised = lsn_number(&flushed)?;
    }
    if round.way.archives() {
        let name = server.sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")?;
        if name.len() == 24 {
            let number = |part: &str| u64::from_str_radix(part, 16);
            let (log, segment) = (number(&name[8..16])?, number(&name[16..])?);
            promised = promised.max((log << 32) + (segment + 1) * (u64::from(round.segment_mib) << 20));
        }
    }
    ensure!(promised > 0, "nobody was promised anything");
    Ok(promised)
}

macro_rules! rounds {
    ($($name:ident: $seed:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            round($seed)
        })*
    };
}

// Of the twenty combinations of store, version and way, those that differ most.
rounds! {
    seed_0_synchronous_file_pg15: 0;
    seed_1_archive_s3_pg15: 1;
    seed_2_both_synchronous_file_pg18: 2;
    seed_3_stream_s3_pg18: 3;
    seed_4_both_file_pg15: 4;
    seed_5_synchronous_s3_pg15: 5;
    seed_6_archive_file_pg18: 6;
    seed_7_both_synchronous_s3_pg18: 7;
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak ledger"]
fn soak() -> Result<()> {
    seeds::each(100, round)
}
