//! A part of a dump into a running server.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use bytes::Bytes;
use proto::conninfo::ConnInfo;
use repository::Branch;
use repository::dump::{DumpLabel, DumpReader, Part};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Way;
use super::fetch::{PIECE, fetch_parts};
use crate::program::{Progress, client, failure, last_words};
use crate::scratch::{Binaries, Scratch, sql_message};

/// Pieces between the verifying and the tool.
const AHEAD: usize = 8;

/// Where a part goes, and with what.
pub struct Load<'a> {
    /// The server; its host is the only one.
    pub info: ConnInfo,
    /// The database there.
    pub database: String,
    /// The tools.
    pub binaries: &'a Binaries,
    /// Where a copy on disk is made, if one is needed.
    pub scratch: &'a Path,
    /// Files that are fetched at once.
    pub jobs: usize,
    /// Hears of bytes that are read.
    pub progress: &'a Progress,
}

/// Makes a new database of that name, with schemas into which something is to be loaded; the server is asked in the database
/// of `info`.
///
/// # Errors
/// It is there already, or cannot be made.
pub async fn prepare_database(info: &ConnInfo, name: &str, schemas: &[String]) -> Result<()> {
    let statement = format!("CREATE DATABASE {} TEMPLATE template0", quoted(name));
    execute(info, &statement).await.map_err(|why| {
        failure(
            format!("cannot make the database {name}: {why}"),
            "name another one with --create-database; one that is there is loaded into with `dbname` in --to-connection",
        )
    })?;
    // pg_restore brings what is in a schema that is named, and not the schema.
    let within = ConnInfo { dbname: name.to_owned(), ..info.clone() };
    let statements = schemas.iter().map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {};", quoted(schema)));
    let statements: String = statements.collect();
    if statements.is_empty() {
        return Ok(());
    }
    match execute(&within, &statements).await {
        Ok(()) => Ok(()),
        Err(why) => {
            drop_database(info, name).await;
            anyhow::bail!("cannot make the schemas {}: {why}", schemas.join(", "))
        }
    }
}

/// Removes a database that was made for a load that has failed; also from under a session of a tool that was killed just now.
async fn drop_database(info: &ConnInfo, name: &str) {
    if let Err(why) = execute(info, &format!("DROP DATABASE {} WITH (FORCE)", quoted(name))).await {
        tracing::warn!("the database {name}, made for this, stays: {why}");
    }
}

async fn execute(info: &ConnInfo, statement: &str) -> Result<(), String> {
    let client = proto::client::sql(info, "restore-cmd").await.map_err(|error| error.to_string())?;
    client.batch_execute(statement).await.map_err(|error| sql_message(&error))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Loads a part. `created`: whether the database was made for it, and goes again if that fails.
///
/// # Errors
/// The store or the tool failed, or an object is damaged, which the message names.
pub async fn load(
    to: &Load<'_>,
    (branch, label): (&Branch, &DumpLabel),
    part: &Part,
    way: &Way,
    created: bool,
) -> Result<()> {
    let loaded = to.part((branch, label), part, way).await;
    if loaded.is_err() && created {
        drop_database(&to.info, &to.database).await;
    }
    loaded
}

impl Load<'_> {
    async fn part(&self, (branch, label): (&Branch, &DumpLabel), part: &Part, way: &Way) -> Result<()> {
        let [file] = part.files.as_slice() else { return self.by_copy((branch, label), part, way).await };
        if !way.pipes {
            return self.by_copy((branch, label), part, way).await;
        }
        let reader = branch.read_dump_file(label, file).await;
        let reader = reader.with_context(|| format!("cannot read dump {label}, {}", part.title()))?;
        self.pipe(reader, way).await.with_context(|| format!("dump {label}, {}", part.title()))
    }

    fn command(&self, way: &Way) -> Result<std::process::Command> {
        let mut command = client(&self.binaries.needed(way.program)?, &self.info, &self.database);
        command.args(&way.arguments);
        if way.program == "pg_restore" {
            // As a connection string: a name with `=` in it would be taken for one.
            let name = self.database.replace('\\', "\\\\").replace('\'', "\\'");
            command.arg(format!("--dbname=dbname='{name}'"));
        }
        Ok(command)
    }

    /// From the repository straight into the tool.
    async fn pipe(&self, mut reader: DumpReader, way: &Way) -> Result<()> {
        let mut command = Command::from(self.command(way)?);
        if way.program == "psql" {
            command.arg("--file=-");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", way.program))?;
        let mut input = child.stdin.take().context("the tool has no standard input")?;
        // Listened to all the time: a tool that nobody hears stops.
        let mut complaints = child.stderr.take().context("the tool has no standard error")?;
        let words = tokio::spawn(async move {
            let mut words = Vec::new();
            // What was heard before a failure counts.
            let _ = complaints.read_to_end(&mut words).await;
            words
        });
        let (pieces, received) = mpsc::channel::<Bytes>(AHEAD);
        let progress = self.progress.clone();
        let reading = spawn_blocking(move || -> repository::Result<()> {
            loop {
                let mut piece = vec![0; PIECE];
                let count = reader.read(&mut piece).map_err(|error| reader.failure(error))?;
                if count == 0 {
                    return Ok(());
                }
                piece.truncate(count);
                progress.add(count as u64);
                // Nobody takes it any more: the tool has ended, and tells why.
                if pieces.blocking_send(piece.into()).is_err() {
                    return Ok(());
                }
            }
        });
        // The tool has one transaction, and cannot end it before its input ends. The last piece stays here until all of it
        // was found to be what was stored; else the tool is killed, and the server undoes what it did.
        let feeding = async {
            let last = feed(&mut input, received).await;
            reading.await.context("the dump could not be read")??;
            let whole = match last {
                Some(last) => input.write_all(&last).await.is_ok(),
                None => false,
            };
            drop(input);
            Ok::<bool, anyhow::Error>(whole)
        };
        let whole = match feeding.await {
            Ok(whole) => whole,
            Err(error) => {
                let _ = child.kill().await;
                return Err(error.context("nothing was loaded"));
            }
        };
        let status = child.wait().await;
        let status = status.with_context(|| format!("nobody knows how {} ended", way.program))?;
        judge(way, status, &words.await.unwrap_or_default())?;
        match whole {
            true => Ok(()),
            false => anyhow::bail!(
                "{} ended well before it had all of the dump: look what it has loaded",
                way.program
            ),
        }
    }

    /// From a verified copy in a scratch directory.
    async fn by_copy(&self, (branch, label): (&Branch, &DumpLabel), part: &Part, way: &Way) -> Result<()> {
        let scratch = Scratch::make(self.scratch)?;
        let copy = scratch.folder().join("dump");
        let loaded = async {
            let parts = std::slice::from_ref(part);
            fetch_parts((branch, label), parts, &copy, (self.jobs, self.progress)).await?;
            let mut command = self.command(way)?;
            if way.program == "psql" {
                command.arg("--file");
            }
            command.arg(&copy).stdout(Stdio::null());
            let mut command = Command::from(command);
            let output = command.kill_on_drop(true).output().await;
            let output = output.with_context(|| format!("cannot run {}", way.program))?;
            judge(way, output.status, &output.stderr)
        }
        .await;
        if let Err(error) = scratch.remove() {
            tracing::warn!("{error:#}; the next one tries again");
        }
        loaded
    }
}

/// Passes everything on but the last piece, which it returns; `None`: the tool takes no more.
async fn feed(input: &mut ChildStdin, mut received: mpsc::Receiver<Bytes>) -> Option<Bytes> {
    let mut held: Option<Bytes> = None;
    while let Some(piece) = received.recv().await {
        if let Some(before) = held.replace(piece)
            && input.write_all(&before).await.is_err()
        {
            return None;
        }
    }
    held
}

/// What the tool's end means.
fn judge(way: &Way, status: std::process::ExitStatus, words: &[u8]) -> Result<()> {
    let words = String::from_utf8_lossy(words);
    let (failed, expected): (Vec<&str>, Vec<&str>) =
        words.lines().partition(|line| line.contains("ERROR:") && !line.contains("already exists"));
    if status.success() && (failed.is_empty() || !way.tolerant) {
        for line in expected.iter().chain(&failed) {
            tracing::warn!("{line}");
        }
        return Ok(());
    }
    let (told, hint) = match way.tolerant {
        true => (last_words(&failed.join("\n")), "what did not fail was loaded"),
        false if way.arguments.iter().any(|argument| argument == "--single-transaction") => (
            last_words(&words),
            "nothing was loaded. --create-database loads into a new database, --clean replaces what is there, --no-owner does \
             without the roles that owned it",
        ),
        false => (last_words(&words), "what was loaded before that is there"),
    };
    Err(failure(format!("{} ended with {status}: {told}", way.program), hint))
}
