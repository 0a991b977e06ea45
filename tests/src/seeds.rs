//! Many rounds of one scenario, each with a seed that tells the same story again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow, bail};

/// The first seed; another one tells other stories.
pub const SEED: &str = "WALKEEP_SEED";

/// How many rounds.
pub const ROUNDS: &str = "WALKEEP_ROUNDS";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Plays so many rounds, or as many as the environment wants, one after the other; names the seeds that failed.
pub fn each(rounds: u64, mut play: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let (first, rounds) = (number(SEED).unwrap_or(1000), number(ROUNDS).unwrap_or(rounds));
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
