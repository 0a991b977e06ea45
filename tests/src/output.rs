//! What a program answered, and what a good refusal looks like.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::agent::PANIC;

/// The end of a program.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Runs the command to its end.
    pub fn of(command: &mut Command) -> Result<Output> {
        let mut line =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        for argument in command.get_args() {
            line.push(' ');
            line.push_str(&argument.to_string_lossy());
        }
        let begun = Instant::now();
        let output = command.output().with_context(|| format!("cannot run {line}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains(PANIC), "{line} panicked:\n{stderr}");
        Ok(Output {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr,
            took: begun.elapsed(),
        })
    }

    /// The output, if the program succeeded.
    pub fn ok(self) -> Result<Output> {
        if self.code == Some(0) {
            return Ok(self);
        }
        bail!("{} ended with {}\n{}{}", self.line, self.ending(), self.stdout, self.stderr)
    }

    /// The standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("{} printed no JSON: {:?}", self.line, self.stdout))
    }

    /// Asserts a refusal as a user should see it: the exit code, one `error:` with these words, a `hint:` that says
    /// what to do, no panic.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) {
        self.failed(code, words);
        let hints = self.stderr.lines().filter(|line| line.starts_with("hint:")).count();
        assert!(hints >= 1, "{} gave no hint:\n{}", self.line, self.stderr);
    }

    /// Asserts a failure: the exit code and the words, in any case; a usage error needs no hint of ours.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        let told = self.stderr.to_lowercase();
        assert_eq!(self.code, Some(code), "{} ended with {}:\n{}", self.line, self.ending(), self.stderr);
        let errors = self.stderr.lines().filter(|line| line.starts_with("error:")).count();
        assert_eq!(errors, 1, "{} must give one clear sentence:\n{}", self.line, self.stderr);
        for word in words {
            let found = told.contains(&word.to_lowercase());
            assert!(found, "{} does not say {word:?}:\n{}", self.line, self.stderr);
        }
    }

    fn ending(&self) -> String {
        self.code.map_or("a signal".to_owned(), |code| format!("exit code {code}"))
    }
}
