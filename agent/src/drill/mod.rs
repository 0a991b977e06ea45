//! Proving a restore: the checks of an open copy, and what is known of earlier drills.

mod amcheck;
mod last;
mod moment;
mod relations;
mod statements;

use std::time::{Duration, Instant};

use anyhow::Result;
use repository::drill::Check;
use restore::scratch::{Binaries, Server};

pub use last::{LastDrill, LastDrills};
pub use moment::random_moment;

/// So many problems of one check are kept.
const MOST_PROBLEMS: usize = 50;

/// What is to be checked, and how.
#[derive(Debug, Clone)]
pub struct Checks {
    /// Sessions, and processes of `pg_amcheck`, at once.
    pub jobs: usize,
    /// Whether `pg_amcheck` is run where it is installed.
    pub amcheck: bool,
    /// The user's statements.
    pub sql: Vec<String>,
    /// Where they are run.
    pub database: String,
    /// Whether progress is shown.
    pub quiet: bool,
}

impl Checks {
    /// Does all of them, also when one has found something.
    ///
    /// # Errors
    /// The server does not answer any more.
    pub async fn run(&self, server: &Server, binaries: &Binaries) -> Result<Vec<Check>> {
        let mut done = vec![relations::read_all(server, self.jobs, self.quiet).await?];
        if self.amcheck {
            done.push(amcheck::run(server, binaries, self.jobs).await?);
        }
        if !self.sql.is_empty() {
            done.push(statements::run(server, &self.database, &self.sql).await?);
        }
        Ok(done)
    }
}

/// Puts a check together. `problems`: how many there were, and the first of them.
fn check(name: &str, summary: String, problems: (usize, Vec<String>), begun: Instant) -> Check {
    let (count, mut problems) = problems;
    problems.truncate(MOST_PROBLEMS);
    if count > problems.len() {
        problems.push(format!("and {} more", count - problems.len()));
    }
    let seconds = rounded(begun.elapsed());
    Check { name: name.to_owned(), passed: Some(count == 0), summary, problems, seconds }
}

/// A check that could not be done.
fn left_out(name: &str, why: impl Into<String>, begun: Instant) -> Check {
    let seconds = rounded(begun.elapsed());
    Check { name: name.to_owned(), passed: None, summary: why.into(), problems: Vec::new(), seconds }
}

/// To the millisecond.
pub(crate) fn rounded(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_problems_the_first_are_kept() {
        let problems: Vec<String> = (0..60).map(|number| number.to_string()).collect();
        let check = check("relations", String::new(), (1000, problems), Instant::now());
        assert_eq!((check.passed, check.problems.len()), (Some(false), 51));
        assert_eq!(check.problems.last().unwrap(), "and 950 more");
    }
}
