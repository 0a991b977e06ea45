//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Asks until `condition` gives a value. An error counts as "not yet", and is told when time is up.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let answer = condition();
        if let Ok(Some(value)) = answer {
            return Ok(value);
        }
        if begun.elapsed() >= deadline {
            let waited = format!("waited {} s in vain for: {what}", deadline.as_secs());
            match answer {
                Err(error) => return Err(error).context(waited),
                Ok(_) => bail!("{waited}"),
            }
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}
