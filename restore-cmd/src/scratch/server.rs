//! The copy's server: starting it, waiting until it has recovered, sessions with it, its end.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};
use proto::Lsn;
use proto::wal::SegmentSize;
use repository::manifest::Controls;
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Binaries, Scratch, settings};
use crate::program::failure;

/// Between two looks at a server that is recovering.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a server may take to leave at once.
const LEAVING: Duration = Duration::from_secs(30);

/// The database that every cluster has and that lets everybody in.
const TEMPLATE: &str = "template1";

/// A server of a copy. Dropping it ends it.
pub struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    major: u32,
    user: String,
}

/// What the server says, line by line as it comes. It speaks English: its settings are ours.
struct Log {
    file: File,
    unread: String,
    /// Sessions are let in.
    ready: bool,
    /// Segments that were fetched.
    fetched: u64,
}

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).context("cannot read the server's log")?;
        Ok(Self { file, unread: String::new(), ready: false, fetched: 0 })
    }

    /// Whether there was anything new.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = Vec::new();
        if self.file.read_to_end(&mut bytes)? == 0 {
            return Ok(false);
        }
        self.unread.push_str(&String::from_utf8_lossy(&bytes));
        let whole = self.unread.rfind('\n').map_or(0, |at| at + 1);
        for line in self.unread.drain(..whole).collect::<String>().lines() {
            self.ready |= line.contains("database system is ready to accept connections");
            self.fetched += u64::from(line.contains("restored log file \""));
        }
        Ok(true)
    }
}

/// Where recovery has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Recovered {
    pub(super) lsn: Option<Lsn>,
    /// Microseconds since 1970 UTC.
    pub(super) time: Option<i64>,
}

impl Server {
    /// Writes the copy's configuration, and has PostgreSQL look at it: no data directory needs to be there for that.
    ///
    /// # Errors
    /// It takes one of the settings for wrong, perhaps one that is `wanted`.
    pub(super) fn configure(
        scratch: &Scratch,
        binaries: &Binaries,
        controls: &Controls,
        size: SegmentSize,
        wanted: &[(String, String)],
    ) -> Result<()> {
        let folder = scratch.folder();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("postgresql.conf", &settings::configuration(controls, size, wanted))?;
        write("hba.conf", settings::HBA)?;
        write("ident.conf", "")?;
        let postgres = binaries.needed("postgres")?;
        let asked = bare(&postgres, folder)
            .args(["-C", "port", "-D"])
            .arg(folder)
            .args(settings::arguments(folder))
            .stdin(Stdio::null())
            .output();
        let asked = asked.with_context(|| format!("cannot run {}", postgres.display()))?;
        if asked.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&asked.stderr);
        let told: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Err(failure(
            format!(
                "PostgreSQL {} does not take the copy's settings: {}",
                binaries.version(),
                told.join(" | ")
            ),
            "look at --setting, and at `settings` in [drill]",
        ))
    }

    /// Starts a server on the restored data directory of `scratch`, which is configured. It is not waited for.
    pub(super) fn start(scratch: &Scratch, binaries: &Binaries, major: u32) -> Result<Self> {
        let folder = scratch.folder();
        let log = File::create(scratch.log()).context("cannot write the server's log")?;
        let postgres = binaries.needed("postgres")?;
        let child = bare(&postgres, folder)
            .arg("-D")
            .arg(scratch.data())
            .args(settings::arguments(folder))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot write the server's log")?)
            .stderr(log)
            // Ctrl-C is for us: we end the server ourselves.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", postgres.display()))?;
        Ok(Self { child, socket: scratch.socket(), log: scratch.log(), major, user: String::new() })
    }

    /// Waits until recovery has ended and sessions are let in, for as long as it gets ahead: `patience` is how long it may
    /// stand still. Of `roles`, one must be able to log in.
    ///
    /// # Errors
    /// The server has ended, or stands still, or nobody gets in. The message has the server's own last words.
    pub(super) async fn opened(
        &mut self,
        roles: &[String],
        patience: Duration,
        mut ahead: impl FnMut(u64),
    ) -> Result<Recovered> {
        let mut log = Log::open(&self.log)?;
        let mut moved = Instant::now();
        while !log.ready {
            // Looked at before the log, so that its last lines are read as well.
            let ended = self.child.try_wait().context("cannot tell whether the server runs")?;
            if log.read().context("cannot read the server's log")? {
                moved = Instant::now();
                ahead(log.fetched);
            }
            if let Some(status) = ended {
                return Err(self.blame(&format!("the server ended with {status} while it recovered")));
            }
            if moved.elapsed() > patience {
                let waited = humantime::format_duration(Duration::from_secs(patience.as_secs()));
                return Err(self.blame(&format!("the recovery has stood still for {waited}")));
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.user = self.log_in(roles).await?;
        let client = self.connect(TEMPLATE).await?;
        let asked = "SELECT pg_last_wal_replay_lsn(), \
                     (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint";
        let rows = rows(&client, asked).await?;
        let field = |at: usize| rows.first().and_then(|row| row.get(at).cloned().flatten());
        Ok(Recovered {
            lsn: field(0).and_then(|text| text.parse().ok()),
            time: field(1).and_then(|text| text.parse().ok()),
        })
    }

    /// The name of a superuser who may log in.
    async fn log_in(&self, roles: &[String]) -> Result<String> {
        let mut refusals = Vec::new();
        for role in roles {
            let client = match self.session(role, TEMPLATE).await {
                Ok(client) => client,
                Err(error) => {
                    refusals.push(sql_message(&error));
                    continue;
                }
            };
            let asked = "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1";
            let found = rows(&client, asked).await?.into_iter().next();
            if let Some(user) = found.and_then(|row| row.into_iter().next().flatten()) {
                return Ok(user);
            }
            refusals.push("no superuser of the cluster may log in".to_owned());
        }
        Err(failure(
            format!("nobody can log in to the restored server: {}", refusals.join("; ")),
            "name a role of the cluster that may log in, as user= of `postgres` in the configuration",
        ))
    }

    /// A session as a superuser.
    ///
    /// # Errors
    /// The server does not let it in.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        let opened = self.session(&self.user, database).await;
        opened.map_err(|error| {
            anyhow::anyhow!("cannot connect to database {database}: {}", sql_message(&error))
        })
    }

    async fn session(&self, user: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket).port(5432).user(user).dbname(database).application_name("walkeep");
        config.options(settings::session(self.major));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a session with the copy has ended: {error}");
            }
        });
        Ok(client)
    }

    /// The databases that let sessions in.
    pub async fn databases(&self) -> Result<Vec<String>> {
        let client = self.connect(TEMPLATE).await?;
        let found =
            rows(&client, "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname").await?;
        Ok(found.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// A client program that will work with this server, whatever the environment says.
    pub fn client(&self, program: &Path) -> Command {
        let mut command = bare(program, &self.socket);
        command
            .env("PGHOST", &self.socket)
            .env("PGPORT", "5432")
            .env("PGUSER", &self.user)
            .env("PGOPTIONS", settings::session(self.major))
            .env("LC_MESSAGES", "C")
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// 13 to 18.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Whether the server has gone by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// A failure with the server's last words.
    pub fn blame(&self, what: &str) -> anyhow::Error {
        let words = last_words(&fs::read_to_string(&self.log).unwrap_or_default());
        if words.is_empty() { anyhow::anyhow!("{what}") } else { anyhow::anyhow!("{what}; it says: {words}") }
    }

    /// Ends the server at once: nothing of it needs to be saved.
    fn end(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            let pid = Pid::from_child(&self.child);
            let signal = if begun.elapsed() < LEAVING { Signal::QUIT } else { Signal::KILL };
            // It may be gone in this moment.
            let _ = kill_process(pid, signal);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("cannot end the copy's server: {error}");
        }
    }
}

/// A program with an environment that says nothing about PostgreSQL.
fn bare(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(&name);
        }
    }
    command.current_dir(folder);
    command
}

/// What a server complained of last: at most five lines of its log.
fn last_words(log: &str) -> String {
    let tells = |line: &&str| {
        ["FATAL: ", "PANIC: ", "ERROR: ", "HINT: ", "DETAIL: "].iter().any(|word| line.contains(word))
            || ["error: ", "hint: ", "  because: "].iter().any(|word| line.starts_with(word))
    };
    let mut lines: Vec<&str> = log.lines().rev().filter(tells).take(5).collect();
    if lines.is_empty() {
        lines = log.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    }
    lines.reverse();
    // Without time and process.
    let plain = |line: &&str| line.split_once("] ").map_or(*line, |(_, rest)| rest).trim().to_owned();
    lines.iter().map(plain).collect::<Vec<_>>().join(" | ")
}

/// The rows of a query, as text.
///
/// # Errors
/// The server refuses it; the message is the server's.
pub async fn rows(client: &Client, query: &str) -> Result<Vec<Vec<Option<String>>>> {
    let messages = client.simple_query(query).await.map_err(|error| anyhow::anyhow!(sql_message(&error)))?;
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// What the server said, where `tokio_postgres` by itself says "db error".
pub fn sql_message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_complaints() {
        let log = "2026-01-01 00:00:00.000 UTC [1] LOG:  starting\n\
                   error: cannot fetch 000000010000000000000003\n  because: it is damaged\n\
                   2026-01-01 00:00:01.000 UTC [2] FATAL:  could not restore file\n\
                   2026-01-01 00:00:01.000 UTC [1] LOG:  shutting down\n";
        assert_eq!(
            last_words(log),
            "error: cannot fetch 000000010000000000000003 | because: it is damaged | FATAL:  could not restore file"
        );
        assert_eq!(last_words("one\ntwo\n\n"), "one | two");
        assert_eq!(last_words(""), "");
    }
}
