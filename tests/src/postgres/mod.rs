//! A real PostgreSQL server.

mod build;
mod digest;
mod sql;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::account::Orphan;
use crate::skip::skip_check;
use crate::{Account, Installation, Output, Port, World, servers, wait_for};

pub use build::Builder;
pub use digest::Mark;

/// How long a server may take to start, to stop, or to finish recovery. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A server, running or not. It is killed when dropped; its files go with the [`World`].
#[derive(Debug)]
pub struct Postgres {
    installation: Installation,
    account: Account,
    data: PathBuf,
    /// Holds the Unix socket.
    run: PathBuf,
    log: PathBuf,
    port: Port,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Mutex<Option<Child>>,
}

/// How a server is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Disconnects everybody, writes a checkpoint, waits for its walsenders.
    Fast,
    /// Like a crash, but in order.
    Immediate,
}

impl Postgres {
    /// Begins to describe a new cluster; `name` becomes its folder's.
    pub fn build(installation: &Installation, name: &str) -> Builder {
        Builder::new(installation.clone(), name)
    }

    /// Takes a data directory that is there, such as a restored one. It is not started.
    pub fn adopt(installation: &Installation, world: &World, name: &str, data: &Path) -> Result<Postgres> {
        Ok(Postgres {
            installation: installation.clone(),
            account: world.account(),
            data: data.to_owned(),
            run: world.folder(&format!("{name}.run"))?,
            log: world.at(&format!("{name}.log")),
            port: Port::reserve()?,
            arguments: Vec::new(),
            environment: Vec::new(),
            process: Mutex::new(None),
        })
    }

    /// Passes an environment variable to the server, and so to its archive_command and restore_command.
    pub fn with_env(mut self, variables: &[(String, String)]) -> Postgres {
        self.environment.extend_from_slice(variables);
        self
    }

    /// Passes a setting on the command line.
    pub fn with_setting(mut self, name: &str, value: &str) -> Postgres {
        self.arguments.push("-c".to_owned());
        self.arguments.push(format!("{name}={value}"));
        self
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The installation that it runs from.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// 13 to 18.
    pub fn major(&self) -> u32 {
        self.installation.major
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The folder of its Unix socket.
    pub fn socket_folder(&self) -> &Path {
        &self.run
    }

    /// How the agent connects: as the role `walkeep`, over the Unix socket.
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user=walkeep dbname=postgres", self.run.display(), self.port)
    }

    /// All that the server has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts the server and waits until it answers, be it in recovery or not.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        wait_for(&format!("the server on port {} answers", self.port), PATIENCE, || {
            if let Some(ended) = self.exited()? {
                bail!("the server ended with {ended}:\n{}", tail(&self.log_text()));
            }
            Ok(self.sql("SELECT 1").ok())
        })
        .with_context(|| tail(&self.log_text()))?;
        Ok(())
    }

    /// Starts the server without waiting for anything.
    pub fn launch(&self) -> Result<()> {
        let mut process = self.process.lock().expect("no holder of this lock panics");
        ensure!(process.is_none(), "the server is running already");
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.account.daemon(self.installation.bin.join("postgres"), Orphan::Quit);
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-c", &format!("port={}", self.port), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", &format!("unix_socket_directories={}", self.run.display())])
            .args(["-c", "logging_collector=off", "-c", "log_destination=stderr"])
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(log.try_clone()?)
            .stderr(log);
        *process = Some(command.spawn().context("cannot start postgres")?);
        Ok(())
    }

    /// The server's own process that does one kind of work, as `pg_stat_activity` calls it, such as `checkpointer`.
    pub fn process_of(&self, kind: &str) -> Result<Pid> {
        let pid = self.sql(&format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}'"))?;
        let found = pid.parse().ok().and_then(Pid::from_raw);
        found.with_context(|| format!("the server has no {kind}, or several: {pid:?}"))
    }

    /// Waits until a server that was started to recover has opened for writing.
    pub fn wait_promoted(&self) -> Result<()> {
        wait_for("recovery ends and the server opens", PATIENCE, || {
            if let Some(ended) = self.exited()? {
                bail!("the server ended with {ended}");
            }
            Ok((self.sql("SELECT pg_is_in_recovery()")? == "f").then_some(()))
        })
        .with_context(|| tail(&self.log_text()))
    }

    /// Promotes a standby.
    pub fn promote(&self) -> Result<()> {
        self.sql("SELECT pg_promote()")?;
        self.wait_promoted()
    }

    /// Stops the server in order.
    pub fn stop(&self, how: Stop) -> Result<()> {
        let Some(mut child) = self.process.lock().expect("no holder of this lock panics").take() else {
            return Ok(());
        };
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        kill_process(pid_of(&child), signal).context("cannot signal the server")?;
        let ended = wait_for("the server stops", PATIENCE, || Ok(child.try_wait()?));
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended.map(|_| ()).with_context(|| tail(&self.log_text()))
    }

    /// Stops and starts the server.
    pub fn restart(&self) -> Result<()> {
        self.stop(Stop::Fast)?;
        self.start()
    }

    /// Kills every process of the server at once, as a loss of power would.
    pub fn kill9(&self) -> Result<()> {
        let Some(mut child) = self.process.lock().expect("no holder of this lock panics").take() else {
            return Ok(());
        };
        child.kill().context("cannot kill the server")?;
        child.wait()?;
        // Its children are no group of their own; each works in the data directory.
        wait_for("the server's processes are gone", PATIENCE, || {
            let left = processes_in(&self.data);
            for pid in &left {
                let _ = kill_process(*pid, Signal::KILL);
            }
            Ok(left.is_empty().then_some(()))
        })
    }

    /// Kills the server and deletes its data directory.
    pub fn destroy(&self) -> Result<()> {
        self.kill9()?;
        fs::remove_dir_all(&self.data).with_context(|| format!("cannot delete {}", self.data.display()))
    }

    /// Makes archiving work from now on: sets `archive_command` and reloads.
    pub fn archive_with(&self, command: &str) -> Result<()> {
        self.sql(&format!("ALTER SYSTEM SET archive_command = '{}'", command.replace('\'', "''")))?;
        self.sql("SELECT pg_reload_conf()")?;
        Ok(())
    }

    /// From now on every commit waits for the standby of that name. Returns when that is so for everybody.
    pub fn wait_for_commits_of(&self, standby: &str) -> Result<()> {
        self.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'"))?;
        self.sql("SELECT pg_reload_conf()")?;
        wait_for(&format!("{standby} is a synchronous standby"), PATIENCE, || {
            let state = self.sql("SELECT sync_state FROM pg_stat_replication WHERE sync_state = 'sync'")?;
            Ok((!state.is_empty()).then_some(()))
        })?;
        // Commits look at a flag that the checkpointer sets when it reads the configuration; it does so before this.
        self.sql("CHECKPOINT").map(drop)
    }

    /// The current write position, as PostgreSQL prints it.
    pub fn lsn(&self) -> Result<String> {
        self.sql("SELECT pg_current_wal_lsn()")
    }

    /// Ends the current segment; the name of the one that ended.
    pub fn switch_wal(&self) -> Result<String> {
        // A record comes first: without one there is nothing to switch.
        self.sql("SELECT pg_create_restore_point('switch')")?;
        self.sql("SELECT pg_walfile_name(pg_switch_wal())")
    }

    /// Runs a client tool of any version against this server.
    pub fn client(&self, tool: &str, arguments: &[&str]) -> Result<Output> {
        let (_, path) =
            servers::client_tool(tool, 13).with_context(|| format!("no {tool} on this machine"))?;
        let port = self.port.to_string();
        let mut command = self.account.command(path);
        command.arg("-h").arg(&self.run).args(["-p", &port, "-U", "postgres"]).args(arguments);
        Output::of(&mut command)?.ok()
    }

    fn exited(&self) -> Result<Option<std::process::ExitStatus>> {
        match self.process.lock().expect("no holder of this lock panics").as_mut() {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("a server could not be killed: {error:#}");
        }
        // The server's log has what archive-cmd, restore-cmd and `walkeep push` say.
        crate::agent::no_panic(&self.log_text());
    }
}

/// Checks a data directory against its `backup_manifest`; false if no tool here can.
///
/// A newer tool can check an older server's manifest, but not its WAL; WAL is left out (`-n`) in any case, since a
/// restore fetches it during recovery.
pub fn pg_verifybackup(installation: &Installation, data: &Path) -> Result<bool> {
    let own = installation.tool("pg_verifybackup").map(|path| (installation.major, path));
    let Some((_, tool)) = own.or_else(|| servers::client_tool("pg_verifybackup", installation.major)) else {
        skip_check(format!("no pg_verifybackup that knows PostgreSQL {}", installation.major));
        return Ok(false);
    };
    Output::of(Account::current().command(tool).arg("-n").arg(data))?.ok()?;
    Ok(true)
}

pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn processes_in(folder: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid_of = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw);
    let works_there = |pid: &Pid| {
        let at = format!("/proc/{}/cwd", pid.as_raw_nonzero());
        fs::read_link(at).is_ok_and(|cwd| cwd == folder)
    };
    entries.flatten().filter_map(pid_of).filter(works_there).collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    format!("the server's log ends with:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
}
