//! What is looked at in the background, again and again: what was found last, and how the last look went.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::debug;

use crate::stop::stopped;

/// A look takes at most this share of the time.
const SHARE: u32 = 20;

/// What was last found, and how the last look went.
#[derive(Debug, Clone)]
pub(crate) struct Look<T> {
    /// What the last look that succeeded has found, when it was over, and how long it took.
    pub(crate) found: Option<(Arc<T>, Timestamp, Duration)>,
    /// Why the last look failed, if it did.
    pub(crate) failure: Option<String>,
}

impl<T> Default for Look<T> {
    fn default() -> Self {
        Self { found: None, failure: None }
    }
}

impl<T> Look<T> {
    /// What was found.
    pub(crate) fn facts(&self) -> Option<&T> {
        self.found.as_ref().map(|(facts, ..)| facts.as_ref())
    }

    /// How old that is, in seconds.
    pub(crate) fn age(&self, now: Timestamp) -> Option<f64> {
        self.found.as_ref().map(|(_, at, _)| now.duration_since(*at).as_secs_f64().max(0.0))
    }

    /// Whether the last look succeeded; `None` before the first.
    pub(crate) fn answers(&self) -> Option<bool> {
        match (&self.failure, &self.found) {
            (Some(_), _) => Some(false),
            (None, Some(_)) => Some(true),
            (None, None) => None,
        }
    }
}

/// Shared by the one who looks and those who ask.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<Mutex<Look<T>>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Look<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub(crate) fn get(&self) -> Look<T> {
        let look = self.lock();
        Look { found: look.found.clone(), failure: look.failure.clone() }
    }

    /// Looks again and again, until `stop` becomes true.
    pub(crate) async fn keep_looking<F>(
        self,
        every: Duration,
        mut stop: watch::Receiver<bool>,
        mut look: impl FnMut() -> F,
    ) where
        F: Future<Output = Result<T, String>>,
    {
        loop {
            let begun = Instant::now();
            let outcome = tokio::select! {
                outcome = look() => outcome,
                () = stopped(&mut stop) => return,
            };
            let took = begun.elapsed();
            {
                let mut known = self.lock();
                match outcome {
                    Ok(facts) => {
                        known.found = Some((Arc::new(facts), Timestamp::now(), took));
                        known.failure = None;
                    }
                    Err(why) => {
                        debug!("a look has failed: {why}");
                        known.failure = Some(why);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(every.max(took * SHARE)) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_found_stays_while_later_looks_fail() {
        let (shared, (stop, stopped)) = (Shared::default(), watch::channel(false));
        let mut looks = 0;
        let looking = shared.clone().keep_looking(Duration::from_millis(1), stopped, move || {
            looks += 1;
            std::future::ready(if looks == 1 { Ok(7) } else { Err("it is away".to_owned()) })
        });
        let looking = tokio::spawn(looking);
        while shared.get().failure.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let look = shared.get();
        assert_eq!((look.facts(), look.answers()), (Some(&7), Some(false)));
        stop.send_replace(true);
        looking.await.unwrap();
    }
}
