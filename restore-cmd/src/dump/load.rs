//! A part of a dump into a running server.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use bytes::Bytes;
use proto::conninfo::ConnInfo;
use repository::Branch;
use repository::dump::{DumpLabel, DumpReader, Part};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Way;
use super::fetch::{PIECE, fetch_parts};
use super::way::{STOP, Script};
use super::words::Words;
use crate::program::{Progress, client, failure};
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
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut fed = Fed::start(&mut command, way.program)?;
        // Listened to all the time: a tool that nobody hears stops.
        let words =
            tokio::spawn(Words::hear(fed.child.stderr.take().context("the tool has no standard error")?));
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
        // was found to be what was stored; else the tool is killed, and the server undoes what it did. Until then its input
        // stays open: an end of it would look like the end of the dump.
        let feeding = async {
            let input = fed.input.as_mut().context("the tool has no standard input")?;
            let last = feed(input, received).await;
            reading.await.context("the dump could not be read")??;
            Ok::<bool, anyhow::Error>(match last {
                Some(last) => input.write_all(&last).await.is_ok(),
                None => false,
            })
        };
        let fed_whole = match feeding.await {
            Ok(whole) => whole,
            Err(error) => {
                let _ = fed.child.kill().await;
                return Err(error.context("nothing was loaded"));
            }
        };
        // All of it was verified, and it has all of it: only now may it see the end.
        let status = match fed_whole {
            true => fed.finish().await,
            // It takes no more, and ends by itself.
            false => fed.child.wait().await,
        };
        let status = status.with_context(|| format!("nobody knows how {} ended", way.program))?;
        judge(way, Run::Whole, status, &words.await.unwrap_or_default())?;
        match fed_whole {
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
            match way.script {
                None => {
                    let mut command = self.command(way)?;
                    command.arg(&copy);
                    run(command, way, Run::Whole).await
                }
                Some(Script::Database) => self.script(way, Run::Whole, open(&copy)?).await,
                Some(Script::Globals) => self.script(way, Run::Globals, open(&copy)?).await,
                Some(Script::Everything) => {
                    let head = scratch.folder().join("globals");
                    let (from, to) = (copy.clone(), head.clone());
                    let databases = spawn_blocking(move || divide(&from, &to)).await;
                    let databases = databases.context("the script could not be read")?;
                    let databases = databases.with_context(|| format!("cannot divide {}", copy.display()))?;
                    self.script(way, Run::GlobalsFirst, open(&head)?).await?;
                    match databases {
                        Some(databases) => self.script(way, Run::Databases, databases).await,
                        None => Ok(()),
                    }
                }
            }
        }
        .await;
        if let Err(error) = scratch.remove() {
            tracing::warn!("{error:#}; the next one tries again");
        }
        loaded
    }

    /// Runs a script, from where the file stands.
    async fn script(&self, way: &Way, step: Run, script: File) -> Result<()> {
        let mut command = self.command(way)?;
        if step == Run::Databases {
            command.arg(STOP);
        }
        command.arg("--file=-").stdin(script);
        run(command, way, step).await
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Writes what comes before the first database of a script of everything into a file of its own; returns the script from
/// there on, if there is more. What looks like the begin of a database, and is in a comment of several lines, cuts a statement
/// into two, which the server does not take.
fn divide(script: &Path, head: &Path) -> io::Result<Option<File>> {
    let mut script = BufReader::new(File::open(script)?);
    let mut head = BufWriter::new(File::create_new(head)?);
    let (mut line, mut at) = (Vec::new(), 0);
    loop {
        line.clear();
        let count = script.read_until(b'\n', &mut line)?;
        if count == 0 {
            head.flush()?;
            return Ok(None);
        }
        if line.starts_with(b"\\connect ") {
            head.flush()?;
            let mut rest = script.into_inner();
            rest.seek(SeekFrom::Start(at))?;
            return Ok(Some(rest));
        }
        head.write_all(&line)?;
        at += count as u64;
    }
}

/// A tool that reads its input from us, and must not see the end of that unless it may. It is killed when this is dropped, and
/// its input ends after that.
struct Fed {
    child: Child,
    input: Option<ChildStdin>,
}

impl Fed {
    fn start(command: &mut Command, program: &str) -> Result<Self> {
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Ends its input, and waits for it.
    async fn finish(&mut self) -> io::Result<ExitStatus> {
        self.input = None;
        self.child.wait().await
    }
}

impl Drop for Fed {
    /// Fields go after this: it is dead before it could see the end of its input.
    fn drop(&mut self) {
        // An error: it has ended, and was waited for.
        let _ = self.child.start_kill();
    }
}

/// Runs a tool to its end.
async fn run(command: std::process::Command, way: &Way, step: Run) -> Result<()> {
    let mut command = Command::from(command);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", way.program))?;
    let words = Words::hear(child.stderr.take().context("the tool has no standard error")?).await;
    let status = child.wait().await;
    let status = status.with_context(|| format!("nobody knows how {} ended", way.program))?;
    judge(way, step, status, &words)
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

/// What a run of a tool loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    /// All that there is.
    Whole,
    /// Roles and tablespaces, of which some may be there.
    Globals,
    /// The same, before all databases.
    GlobalsFirst,
    /// All databases.
    Databases,
}

/// What the tool's end means.
fn judge(way: &Way, step: Run, status: ExitStatus, words: &Words) -> Result<()> {
    let failed = match step {
        Run::Globals | Run::GlobalsFirst => words.failed(),
        Run::Whole | Run::Databases => None,
    };
    if status.success() && failed.is_none() {
        for line in words.lines() {
            tracing::warn!("{line}");
        }
        return Ok(());
    }
    let hint = match step {
        Run::Globals => "what did not fail was loaded",
        Run::GlobalsFirst => "what did not fail of the roles and tablespaces was loaded, and no database",
        Run::Databases => {
            "what came before was loaded: a dump of everything goes into a server that has none of its databases yet"
        }
        Run::Whole if way.script.is_some() => {
            "a script ends its transaction at its large objects: what came before may be loaded. --create-database loads into \
             a new database, which goes again"
        }
        Run::Whole if way.arguments.iter().any(|argument| argument == "--single-transaction") => {
            "nothing was loaded. --create-database loads into a new database, --clean replaces what is there, --no-owner does \
             without the roles that owned it"
        }
        Run::Whole => "what was loaded before that is there",
    };
    let told = failed.unwrap_or_else(|| words.last());
    Err(failure(format!("{} ended with {status}: {told}", way.program), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever gives up, or is told to stop, must not look like the end of the dump.
    #[tokio::test]
    async fn a_tool_that_is_given_up_never_sees_the_end_of_its_input() {
        for _ in 0..20 {
            let mut command = Command::new("sh");
            command.args(["-c", "read -r line; echo ended"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut fed = Fed::start(&mut command, "sh").unwrap();
            let mut told = fed.child.stdout.take().unwrap();
            drop(fed);
            let mut text = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut told, &mut text).await.unwrap();
            assert_eq!(text, "");
        }
    }

    #[test]
    fn a_script_of_everything_is_divided_before_its_first_database() {
        let folder = tempfile::tempdir().unwrap();
        let (script, head) = (folder.path().join("script"), folder.path().join("head"));
        let (globals, databases) = ("SET x;\nCREATE ROLE a;\n", "\\connect template1\n\\connect b\nCOPY t");
        std::fs::write(&script, format!("{globals}{databases}")).unwrap();
        let mut rest = String::new();
        divide(&script, &head).unwrap().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!((std::fs::read_to_string(&head).unwrap().as_str(), rest.as_str()), (globals, databases));
        std::fs::remove_file(&head).unwrap();
        std::fs::write(&script, globals).unwrap();
        assert!(divide(&script, &head).unwrap().is_none());
    }
}
