//! The streaming protocol under every kind of failure: `docs/protocol.md`.
//!
//! One thread, one clock that jumps, one seed: servers that speak PostgreSQL's protocol, a store behind a bad network,
//! agents that are killed and frozen. The agents are the real ones, from the connection to the objects; so is the
//! catalogue by which they are read. Checked is that
//!
//! - what was acknowledged can be read, from that moment on;
//! - nobody ever reads bytes that no server of that timeline has written;
//! - what could be read can still be read;
//! - once nothing fails any more, all of the WAL arrives.

mod agents;
mod cluster;
mod gate;
mod growing;
mod reader;
mod store;
mod wal;
mod walsender;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use harness::seeds::{self, ROUNDS, SEED};
use proto::conninfo::ConnInfo;

/// Plays so many schedules, or as many as the environment wants, on all processors, until one fails.
fn play(schedules: u64) {
    let (first, schedules) = seeds::wanted(0, schedules);
    let postgres =
        ConnInfo::resolve("host=one,two port=5432,5433 user=walkeep dbname=postgres sslmode=disable");
    let postgres = postgres.expect("a connection string");
    let (next, failed) = (AtomicU64::new(first), Mutex::new(None));
    let begun = Instant::now();
    let work = || {
        while failed.lock().expect("no panic").is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + schedules {
                return;
            }
            let played = catch_unwind(AssertUnwindSafe(|| world::play(seed, &postgres)));
            let (why, story) = match played {
                Ok((Ok(()), story)) if schedules == 1 => {
                    println!("{}", story.join("\n"));
                    continue;
                }
                Ok((Ok(()), _)) => continue,
                Ok((Err(why), story)) => (why, story),
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                    (format!("a panic: {}", text.unwrap_or_default()), Vec::new())
                }
            };
            let nth = seed - first + 1;
            *failed.lock().expect("no panic") = Some(format!(
                "{}\nschedule {seed}, the {nth}th: {why}\nagain: {SEED}={seed} {ROUNDS}=1 cargo xtask test simulation::schedules",
                story.join("\n")
            ));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    if let Some(why) = failed.into_inner().expect("no panic") {
        panic!("{why}");
    }
    println!("{schedules} schedules in {:.1?}", begun.elapsed());
}

#[test]
fn schedules() {
    play(2_000);
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak simulation"]
fn soak() {
    play(100_000);
}

/// A failure would be worth little if it could not be looked at again.
#[test]
fn a_schedule_tells_the_same_story_again() {
    let postgres =
        ConnInfo::resolve("host=one,two port=5432,5433 user=walkeep dbname=postgres sslmode=disable");
    let postgres = postgres.expect("a connection string");
    for seed in 0..20 {
        assert_eq!(world::play(seed, &postgres), world::play(seed, &postgres));
    }
}
