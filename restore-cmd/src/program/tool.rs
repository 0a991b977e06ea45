//! PostgreSQL's own programs: reached without secrets in their arguments, and run to their end.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use proto::conninfo::ConnInfo;

use super::failure;

/// A client program that reaches that database of the first host as `info` says: by its environment alone, which holds the
/// password, and none of the variables of ours that libpq would heed.
pub fn client(program: &Path, info: &ConnInfo, database: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(&name);
        }
    }
    command.envs(info.environment(database)).env("LC_MESSAGES", "C").current_dir("/").stdin(Stdio::null());
    command
}

/// Runs a program to its end, which is also ours if we are told to stop.
///
/// # Errors
/// It fails; the message is in its words.
pub async fn finish(command: Command, name: &str, hint: &str) -> Result<()> {
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output().await.with_context(|| format!("cannot run {name}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        for line in words.lines() {
            tracing::warn!("{line}");
        }
        return Ok(());
    }
    Err(failure(format!("{name} ended with {}: {}", output.status, last_words(&words)), hint))
}

/// What a program complained of last: at most five lines.
pub fn last_words(words: &str) -> String {
    let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
