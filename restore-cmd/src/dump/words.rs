//! What a tool complains of while it runs: so much of it as is needed to judge its end.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::program::last_words;

/// Lines that are kept: the last ones.
const MOST_LINES: usize = 200;

/// Bytes of a line that are kept: the first ones.
const LONGEST: usize = 2000;

/// Statements that failed, of which the complaint is kept: the first ones.
const MOST_FAILED: usize = 5;

/// How `psql` begins what it says of a statement that it has read from its standard input.
const OF_STATEMENT: &str = "psql:<stdin>:";

/// `duplicate_object`: a role or a tablespace of that name is there already.
const DUPLICATE: &str = "42710";

/// What was heard.
#[derive(Default)]
pub(super) struct Words {
    line: Vec<u8>,
    lines: VecDeque<String>,
    failed: Vec<String>,
    failures: u64,
}

impl Words {
    /// Listens to the end. What was heard before a failure counts.
    pub(super) async fn hear(mut stderr: impl AsyncRead + Unpin) -> Self {
        let mut words = Self::default();
        let mut buffer = vec![0; 8 << 10];
        while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
            words.add(&buffer[..count]);
        }
        words.end_line();
        words
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                byte if self.line.len() < LONGEST => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        if line.trim().is_empty() || line.starts_with("LOCATION:") {
            return;
        }
        if is_failure(&line) {
            self.failures += 1;
            if self.failed.len() < MOST_FAILED {
                self.failed.push(line.clone());
            }
        }
        if self.lines.len() == MOST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The last lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The very last ones, in one.
    pub(super) fn last(&self) -> String {
        last_words(&self.lines().collect::<Vec<_>>().join("\n"))
    }

    /// The first statements that failed for another reason than that what they make is there already; `None`: none did. Only
    /// of `psql` that reads its standard input and tells codes (`VERBOSITY=verbose`).
    pub(super) fn failed(&self) -> Option<String> {
        let more = match self.failures.saturating_sub(self.failed.len() as u64) {
            0 => String::new(),
            more => format!(" | and {more} more"),
        };
        (self.failures > 0).then(|| self.failed.join(" | ") + &more)
    }
}

/// Whether a line tells of a statement that failed. The code decides, since the words are in the server's language; a line
/// without one is of `psql` itself, and counts as well.
fn is_failure(line: &str) -> bool {
    let Some(told) = line.strip_prefix(OF_STATEMENT) else { return false };
    // `12: ERROR:  42710: role "x" already exists`
    let code = told.split_once(":  ").and_then(|(_, rest)| rest.get(..5));
    !code.is_some_and(|code| {
        code == DUPLICATE || ["00", "01", "02"].iter().any(|class| code.starts_with(class))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(text: &str) -> Words {
        Words::hear(text.as_bytes()).await
    }

    #[tokio::test]
    async fn the_code_decides_in_any_language() {
        let there = "psql:<stdin>:14: ERROR:  42710: role \"a\" already exists\nLOCATION:  CreateRole, user.c:352\n\
                     psql:<stdin>:15: FEHLER:  42710: Rolle »b« existiert bereits\n\
                     psql:<stdin>:16: HINWEIS:  00000: nichts\npsql:<stdin>:17: WARNING:  01P01: old password\n";
        assert_eq!(heard(there).await.failed(), None);
        for failed in [
            "psql:<stdin>:9: ERROR:  42501: permission denied: \"x\" already exists",
            "psql:<stdin>:9: FEHLER:  42P07: Relation existiert bereits",
            "psql:<stdin>:9: ERROR:  42P04: database \"shop\" already exists",
            "psql:<stdin>:9: error: invalid command \\x",
        ] {
            assert_eq!(heard(&format!("{there}{failed}")).await.failed().as_deref(), Some(failed));
        }
    }

    #[tokio::test]
    async fn no_more_is_held_than_is_told() {
        let long = "x".repeat(100_000);
        let text = format!("psql:<stdin>:1: ERROR:  42501: {long}\n").repeat(1000);
        let words = heard(&text).await;
        let held: usize = words.lines().map(str::len).sum();
        assert!(held <= MOST_LINES * LONGEST && words.failed.len() == MOST_FAILED);
        assert!(words.failed().unwrap().ends_with("and 995 more"));
    }
}
