//! What a tool writes to its standard output goes into one object, as it comes.

use std::io::Write;
use std::process::Stdio;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use repository::Branch;
use repository::dump::{DumpFile, DumpLabel};
use restore::program::{Progress, failure, last_words};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

/// So much is read at a time.
const PIECE: usize = 256 << 10;

/// Pieces between the reading and the compressing.
const AHEAD: usize = 8;

/// So much of what a tool complains is kept: the end.
const MOST_WORDS: usize = 64 << 10;

/// A tool that runs. It is told to end when this is dropped: one that has processes of its own sees to these then.
pub(super) struct Tool {
    name: &'static str,
    pub(super) child: Child,
    words: JoinHandle<String>,
}

impl Tool {
    /// Starts it.
    pub(super) fn start(command: std::process::Command, name: &'static str) -> anyhow::Result<Self> {
        let mut command = Command::from(command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let words = tokio::spawn(collect(child.stderr.take()));
        Ok(Self { name, child, words })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It failed; the message is in its words.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        let status =
            self.child.wait().await.with_context(|| format!("nobody knows how {} ended", self.name))?;
        let words = (&mut self.words).await.unwrap_or_default();
        if status.success() {
            for line in words.lines() {
                tracing::warn!("{line}");
            }
            return Ok(());
        }
        let hint = match words.contains("ermission denied") {
            true => {
                "the role must be allowed to read what is dumped: set `postgres` in [dump] to one that is (GRANT \
                 pg_read_all_data from PostgreSQL 14 on; the digests of passwords only a superuser may read: \
                 --no-role-passwords)"
            }
            false => "nothing of this dump is listed, and earlier ones are as they were",
        };
        Err(failure(format!("{} ended with {status}: {}", self.name, last_words(&words)), hint))
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // None: it has ended.
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

async fn collect(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let mut words = Vec::new();
    while let Ok(1..) = stderr.read_buf(&mut words).await {
        let surplus = words.len().saturating_sub(MOST_WORDS);
        words.drain(..surplus);
    }
    String::from_utf8_lossy(&words).into_owned()
}

/// Runs a tool, and stores what it writes.
///
/// # Errors
/// The tool or the store failed. Then the object is not there.
pub(super) async fn store(
    (branch, label, number): (&Branch, &DumpLabel, u32),
    command: std::process::Command,
    name: &'static str,
    progress: &Progress,
) -> anyhow::Result<DumpFile> {
    let mut writer = branch.write_dump_file(label, number).await?;
    let mut tool = Tool::start(command, name)?;
    let mut stdout = tool.child.stdout.take().context("the tool has no standard output")?;
    let (pieces, mut received) = mpsc::channel::<Bytes>(AHEAD);
    let writing = spawn_blocking(move || {
        while let Some(piece) = received.blocking_recv() {
            if let Err(error) = writer.write_all(&piece) {
                return Err(writer.failure(error));
            }
        }
        Ok(writer)
    });
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = stdout.read_buf(&mut piece).await;
        let count = read.with_context(|| format!("cannot read what {name} writes"))?;
        if count == 0 {
            break;
        }
        progress.add(count as u64);
        // The writing has failed: it tells why.
        if pieces.send(piece.freeze()).await.is_err() {
            break;
        }
    }
    drop(pieces);
    let writer = writing.await.context("the dump could not be written")??;
    // An output that ends says nothing: a tool that was killed has one, too. Only when it has ended well is its output made
    // an object.
    tool.end().await?;
    let finished = spawn_blocking(move || writer.finish(None)).await;
    Ok(finished.context("the dump could not be written")??)
}
