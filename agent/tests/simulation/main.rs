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
use std::time::Instant;

use harness::seeds::{self, ROUNDS, SEED};
use proto::conninfo::ConnInfo;

/// What an ordinary run of the tests plays.
const SCHEDULES: u64 = 24_000;

/// Plays one of so many parts of so many schedules, or of as many as the environment wants, until one fails.
fn play(schedules: u64, part: usize, parts: usize) {
    let (first, schedules) = seeds::wanted(0, schedules);
    let postgres = postgres();
    let begun = Instant::now();
    let mut played = 0;
    for seed in (first..first.saturating_add(schedules)).skip(part).step_by(parts) {
        let outcome = catch_unwind(AssertUnwindSafe(|| world::play(seed, &postgres)));
        let (why, story) = match outcome {
            Ok((Ok(()), story)) => {
                if schedules == 1 {
                    println!("{}", story.join("\n"));
                }
                played += 1;
                continue;
            }
            Ok((Err(why), story)) => (why, story),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                (format!("a panic: {}", text.unwrap_or_default()), Vec::new())
            }
        };
        panic!(
            "{}\nschedule {seed}: {why}\nagain: {SEED}={seed} {ROUNDS}=1 cargo xtask test simulation::schedules",
            story.join("\n")
        );
    }
    println!("{played} schedules in {:.1?}", begun.elapsed());
}

fn postgres() -> ConnInfo {
    ConnInfo::resolve("host=one,two port=5432,5433 user=walkeep dbname=postgres sslmode=disable")
        .expect("a connection string")
}

/// In parts: beside other tests they take whichever processor is free.
mod schedules {
    macro_rules! parts {
        ($parts:literal: $($name:ident $part:literal)*) => {
            $(
                #[test]
                fn $name() {
                    super::play(super::SCHEDULES, $part, $parts);
                }
            )*
        };
    }

    parts!(8: part_1 0 part_2 1 part_3 2 part_4 3 part_5 4 part_6 5 part_7 6 part_8 7);
}

#[test]
#[ignore = "takes minutes: cargo xtask test --soak simulation"]
fn soak() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for part in 0..processors {
            scope.spawn(move || play(100_000, part, processors));
        }
    });
}

/// A failure would be worth little if it could not be looked at again.
#[test]
fn a_schedule_tells_the_same_story_again() {
    let postgres = postgres();
    for seed in 0..20 {
        assert_eq!(world::play(seed, &postgres), world::play(seed, &postgres));
    }
}
