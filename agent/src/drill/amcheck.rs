//! `pg_amcheck`: is each table's and each index's structure sound?

use std::time::Instant;

use anyhow::{Context, Result};
use repository::drill::Check;
use restore::scratch::{Binaries, Server, rows};

use super::{check, left_out};

const NAME: &str = "amcheck";

/// The program's code for "something is wrong with the data", as opposed to "I could not look".
const CORRUPT: i32 = 2;

/// Runs it on all databases, if it is here (PostgreSQL 14 and later) and its extension is, too.
pub(super) async fn run(server: &Server, binaries: &Binaries, jobs: usize) -> Result<Check> {
    let begun = Instant::now();
    let Some(program) = binaries.program("pg_amcheck") else {
        return Ok(left_out(NAME, "the program pg_amcheck is not on this computer", begun));
    };
    let client = server.connect("template1").await?;
    let available = "SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'";
    if rows(&client, available).await?.is_empty() {
        return Ok(left_out(NAME, "the extension amcheck is not on this computer", begun));
    }
    let mut command = tokio::process::Command::from(server.client(&program));
    command.args(["--all", "--install-missing", "--no-password", "--maintenance-db=template1"]);
    command.arg(format!("--jobs={jobs}")).kill_on_drop(true);
    let output = command.output().await.context("cannot run pg_amcheck")?;
    let problems = problems(&output.stdout, &output.stderr);
    let summary = "tables and indexes of all databases";
    match output.status.code() {
        Some(0) => Ok(check(NAME, summary.to_owned(), (0, Vec::new()), begun)),
        Some(CORRUPT) => Ok(check(NAME, summary.to_owned(), (problems.len().max(1), problems), begun)),
        _ => {
            let why = format!("pg_amcheck ended with {}", output.status);
            let problems: Vec<String> = std::iter::once(why).chain(problems).collect();
            Ok(check(NAME, summary.to_owned(), (problems.len(), problems), begun))
        }
    }
}

/// A finding is a line that is followed by its explanation, set in.
fn problems(stdout: &[u8], stderr: &[u8]) -> Vec<String> {
    let mut problems: Vec<String> = Vec::new();
    for line in String::from_utf8_lossy(stdout).lines().chain(String::from_utf8_lossy(stderr).lines()) {
        match problems.last_mut() {
            Some(last) if line.starts_with(char::is_whitespace) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ if line.trim().is_empty() => {}
            _ => problems.push(line.trim().to_owned()),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_and_its_explanation_are_one_problem() {
        let stdout = b"heap table \"a.public.t\", block 3, offset 1:\n    xmin 7 precedes oldest valid\nbtree index \"a.public.i\":\n    ERROR:  broken\n";
        assert_eq!(
            problems(stdout, b"\npg_amcheck: error: x\n"),
            [
                "heap table \"a.public.t\", block 3, offset 1: xmin 7 precedes oldest valid",
                "btree index \"a.public.i\": ERROR:  broken",
                "pg_amcheck: error: x",
            ]
        );
    }
}
