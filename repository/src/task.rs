//! Tasks and threads of ours.

use std::fmt::Display;

use tokio::task::JoinError;

use crate::{Error, Result};

/// The result of a task. A panic in it goes on in whoever waits: a defect is no outage, and must not be tried again
/// for ever as one. `what` it worked on is for the message.
pub(crate) fn joined<T>(what: impl Display, ended: Result<Result<T>, JoinError>) -> Result<T> {
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => Err(Error::Unreachable {
            what: format!("{what}"),
            why: format!("this program is ending: {cancelled}"),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "a defect")]
    async fn a_panic_goes_on() {
        let task = tokio::spawn(async { if true { panic!("a defect") } else { Ok(()) } });
        let _ = joined("x", task.await);
    }

    #[tokio::test]
    async fn a_task_that_was_cancelled_is_an_error() {
        let task = tokio::spawn(std::future::pending::<Result<()>>());
        task.abort();
        assert!(joined("x", task.await).is_err_and(|error| error.is_transient()));
    }
}
