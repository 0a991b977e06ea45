//! Many rounds of one scenario, each with a seed that tells the same story again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The first seed; another one tells other stories.
pub const SEED: &str = "WALKEEP_SEED";

/// How many rounds.
pub const ROUNDS: &str = "WALKEEP_ROUNDS";

/// The first seed, and how many rounds: what the environment wants, else these.
///
/// # Panics
/// The environment wants something that is no number, or no round at all: what was asked for must not be passed over.
pub fn wanted(seed: u64, rounds: u64) -> (u64, u64) {
    let number = |variable| std::env::var_os(variable).map(|text| parse(variable, &text.to_string_lossy()));
    let rounds = number(ROUNDS).unwrap_or(rounds);
    assert!(rounds > 0, "{ROUNDS}=0: then nothing is tested");
    (number(SEED).unwrap_or(seed), rounds)
}

fn parse(variable: &str, text: &str) -> u64 {
    text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}"))
}

/// What decides the story of a single scenario; told, so that it can be told again.
pub fn generator(seed: u64) -> StdRng {
    let (seed, _) = wanted(seed, 1);
    eprintln!("{SEED}={seed}");
    StdRng::seed_from_u64(seed)
}

/// Plays so many rounds, or as many as the environment wants, one after the other; names the seeds that failed.
pub fn each(rounds: u64, mut play: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let (first, rounds) = wanted(1000, rounds);
    let mut failed = Vec::new();
    for seed in first..first.saturating_add(rounds) {
        let told = catch_unwind(AssertUnwindSafe(|| play(seed)));
        if let Err(error) = told.unwrap_or_else(|_| Err(anyhow!("it panicked, as told above"))) {
            eprintln!("{SEED}={seed} {ROUNDS}=1: {error:#}");
            failed.push(seed);
        }
    }
    println!("{rounds} rounds, {} failed", failed.len());
    if failed.is_empty() { Ok(()) } else { bail!("the rounds with these seeds failed: {failed:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "WALKEEP_SEED=0x77")]
    fn what_is_no_number_is_not_passed_over() {
        parse(SEED, "0x77");
    }
}
