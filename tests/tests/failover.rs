//! A standby takes over, at any moment: the agent follows, and there is one history, told and kept.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::agent::lsn_number;
use harness::{
    Agent, Audit, Installation, Ledger, Postgres, Repo, Stop, StoreKind, World, seeds, skip, wait_for,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const PATIENCE: Duration = Duration::from_secs(60);

/// How the old primary ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A loss of power, in the middle of a segment.
    Killed,
    /// The standby had not received the last commits.
    KilledAhead,
    /// The last record ends a segment.
    KilledAtBoundary,
    /// In order: everything arrives.
    Stopped,
}

#[derive(Debug)]
struct Round {
    end: End,
    store: StoreKind,
    major: u32,
    segment_mib: u32,
    synchronous: bool,
    /// The agent is dead while it happens, and has to fetch from the new primary what the old one never sent it.
    agent_is_away: bool,
    /// The old primary comes back and writes on.
    comes_back: bool,
}

impl Round {
    fn of(seed: u64, random: &mut StdRng) -> Round {
        let ends = [End::KilledAhead, End::Killed, End::KilledAtBoundary, End::Stopped];
        let synchronous = random.random_bool(0.5);
        Round {
            end: ends[(seed % 4) as usize],
            store: [StoreKind::File, StoreKind::S3][(seed % 2) as usize],
            major: [15, 18][(seed / 2 % 2) as usize],
            segment_mib: if random.random_bool(0.7) { 1 } else { 16 },
            synchronous,
            agent_is_away: !synchronous && random.random_bool(0.5),
            comes_back: seed.is_multiple_of(3),
        }
    }
}

fn pause(random: &mut StdRng, most: u64) {
    std::thread::sleep(Duration::from_millis(random.random_range(0..most)));
}

fn replayed(standby: &Postgres, lsn: &str) -> Result<()> {
    wait_for(&format!("the standby has {lsn}"), PATIENCE, || {
        Ok((standby.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"))? == "t").then_some(()))
    })
}

fn round(seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let round = Round::of(seed, &mut random);
    let Some(installation) = Installation::or_skip(round.major) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(round.store, &world)?;
    let old = Postgres::build(&installation, "old")
        .segment_mib(round.segment_mib)
        .env(repo.environment())
        .conf("autovacuum", "off")
        .conf("wal_keep_size", "512MB")
        .start(&world)?;
    let Some(new) = old.standby(&world, "new")? else {
        skip(format!("no pg_basebackup for PostgreSQL {} is on this machine", round.major));
        return Ok(());
    };
    let place = |server: &Postgres| (server.socket_folder().display().to_string(), server.port());
    let ((old_at, old_port), (new_at, new_port)) = (place(&old), place(&new));
    let hosts = format!("host={old_at},{new_at} port={old_port},{new_port} user=walkeep dbname=postgres");
    let mut agent = Agent::named(&world, "walkeep", &hosts, &repo)?;
    agent.set("stream", "synchronous", if round.synchronous { "true" } else { "false" })?;
    agent.init()?;
    agent.start()?;
    Ledger::create(&old)?;
    agent.backup_full()?;
    if round.synchronous {
        new.sql("ALTER SYSTEM SET synchronous_standby_names = 'walkeep'")?;
        new.sql("SELECT pg_reload_conf()")?;
        old.wait_for_commits_of("walkeep")?;
    }

    let ledger = Ledger::open(&old, 2, seed);
    ledger.wait_for_more(20)?;
    pause(&mut random, 700);
    if round.agent_is_away {
        agent.kill9()?;
        ledger.wait_for_more(50)?;
    }
    fail_over(&round, &old, &new, &ledger, &mut random)?;
    if round.agent_is_away {
        agent.launch()?;
    }
    ledger.go_to(&new);
    ledger.wait_for_more(20)?;
    agent.wait_status("the agent follows", |status| {
        status["stream"]["state"] == "streaming" && status["stream"]["timeline"] == 2
    })?;
    let switch = switch_of(&new)?;
    let notes = if round.comes_back {
        comes_back(&old, &new, &mut agent, &repo, ledger)?
    } else {
        pause(&mut random, 500);
        ledger.close()?
    };
    // A commit that waits for the agent is in the WAL already, and not yet seen by others, its client gone or not.
    wait_for("the clients' last commits are done", PATIENCE, || {
        let left = new.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ledger'")?;
        Ok((left == "0").then_some(()))
    })?;
    let last = new.mark()?;
    agent.wait_durable(&last.lsn)?;
    new.destroy()?;
    agent.stop()?;

    let told = || format!("seed {seed}: {round:?}\nthe agent's log:\n{}", agent.log_text());
    let gaps = &agent.list()?["gaps"];
    ensure!(gaps.as_array().is_some_and(Vec::is_empty), "{gaps}\n{}", told());
    let restored = restore(&world, &installation, &agent, &repo, "restored", &[])?;
    ensure!(restored.digest_all()? == last.digest, "not the new primary's content\n{}", told());
    let audit = Audit::of(&restored, &notes).with_context(told)?;
    drop(restored);
    // What the new primary never had is not there, and nothing else is missing.
    let unexplained =
        audit.lost.iter().find(|entry| entry.era > 0 || entry.lsn.is_some_and(|lsn| lsn <= switch));
    ensure!(unexplained.is_none(), "{unexplained:?} is lost; the fork is at {switch:X}\n{}", told());
    let ahead = audit.lost.iter().any(|entry| entry.lsn.is_some());
    if round.synchronous && ahead {
        ensure!(
            agent.log_text().contains("timeline 2 forks from timeline 1 at"),
            "it was not told\n{}",
            told()
        );
        let branch = restore(&world, &installation, &agent, &repo, "branch", &["--target-timeline", "1"])?;
        let kept = Audit::of(&branch, &notes)?;
        let lost = kept.lost.iter().find(|entry| entry.era == 0);
        ensure!(lost.is_none(), "{lost:?} was acknowledged and is not on the old branch\n{}", told());
    }
    println!(
        "seed {seed}: {round:?}: {} acknowledged, {} left on the old branch, fork {:#x} bytes into its segment",
        notes.len(),
        audit.lost.len(),
        switch % (u64::from(round.segment_mib) << 20)
    );
    Ok(())
}

/// The old primary ends, the new one takes over.
fn fail_over(
    round: &Round,
    old: &Postgres,
    new: &Postgres,
    ledger: &Ledger,
    random: &mut StdRng,
) -> Result<()> {
    match round.end {
        End::Killed => old.kill9()?,
        End::KilledAhead => {
            // The standby is cut off; the old primary goes on for a while, and is heard by the agent alone.
            new.sql("ALTER SYSTEM SET primary_conninfo = ''")?;
            new.sql("SELECT pg_reload_conf()")?;
            wait_for("the standby is cut off", PATIENCE, || {
                Ok((new.sql("SELECT count(*) FROM pg_stat_wal_receiver")? == "0").then_some(()))
            })?;
            ledger.wait_for_more(10)?;
            pause(random, 300);
            old.kill9()?;
        }
        End::KilledAtBoundary => {
            // The clients are sent away first: nothing may follow the switch.
            ledger.go_to(new);
            old.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ledger'",
            )?;
            old.sql("SELECT pg_create_restore_point('the last record but one')")?;
            replayed(new, &old.sql("SELECT pg_switch_wal()")?)?;
            old.kill9()?;
        }
        End::Stopped => old.stop(Stop::Fast)?,
    }
    new.promote()
}

/// Where the new primary's timeline begins.
fn switch_of(new: &Postgres) -> Result<u64> {
    let history = std::fs::read_to_string(new.data().join("pg_wal/00000002.history"))?;
    let line = history.lines().find(|line| line.starts_with('1')).context("no line of timeline 1")?;
    lsn_number(line.split('\t').nth(1).context("no position")?.trim())
}

/// The old primary comes back and writes on as if nothing had happened. The agent, which finds nobody else, takes
/// nothing from it; and goes on with the new primary as soon as that is back.
fn comes_back(
    old: &Postgres,
    new: &Postgres,
    agent: &mut Agent,
    repo: &Repo,
    ledger: Ledger,
) -> Result<Vec<harness::ledger::Entry>> {
    let notes = ledger.close()?;
    agent.kill9()?;
    new.stop(Stop::Fast)?;
    old.start()?;
    old.sql(
        "SET synchronous_commit = local; CREATE TABLE another_history AS SELECT generate_series(1, 1000) AS n",
    )?;
    let segments = |repo: &Repo| -> Result<usize> {
        Ok(repo.objects()?.iter().filter(|object| object.key.contains("/wal/")).count())
    };
    let before = segments(repo)?;
    agent.launch()?;
    let refused = agent.wait_status("the old primary is refused", |status| {
        status["stream"]["state"] == "stopped" && status["last_error"].is_string()
    })?;
    let error = refused["last_error"].as_str().unwrap_or_default().to_owned();
    for words in ["timeline 1", "timeline 2 since", "nothing of it is stored or acknowledged", "pg_rewind"] {
        ensure!(error.contains(words), "{words:?} is not told: {error}");
    }
    ensure!(segments(repo)? == before, "something of another history was stored");
    new.start()?;
    new.sql("INSERT INTO ledger VALUES (99, 1, 'after the refusal')").map(drop)?;
    agent.wait_status("the agent goes on with the new primary", |status| {
        status["stream"]["state"] == "streaming" && status["stream"]["timeline"] == 2
    })?;
    old.kill9()?;
    Ok(notes)
}

fn restore(
    world: &World,
    installation: &Installation,
    agent: &Agent,
    repo: &Repo,
    name: &str,
    target: &[&str],
) -> Result<Postgres> {
    let data = world.at(name);
    agent.restore(&data, target)?.ok()?;
    let restored = Postgres::adopt(installation, world, &format!("{name}.server"), &data)?
        .with_env(repo.environment())
        .with_setting("archive_mode", "off");
    restored.start()?;
    restored.wait_promoted()?;
    Ok(restored)
}

macro_rules! rounds {
    ($($name:ident: $seed:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            round($seed)
        })*
    };
}

rounds! {
    seed_0_killed_ahead_and_back_file_pg15: 0;
    seed_1_killed_s3_pg15: 1;
    seed_2_killed_at_boundary_file_pg18: 2;
    seed_3_stopped_and_back_s3_pg18: 3;
    seed_5_killed_s3_pg15: 5;
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak failover"]
fn soak() -> Result<()> {
    seeds::each(50, round)
}
