//! The programs under test, as an operator configures and runs them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::account::Orphan;
use crate::postgres::pid_of;
use crate::programs::program;
use crate::{Account, Output, Postgres, Repo, World, wait_for};

/// How long the agent may take to do what it was asked for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a panic leaves in a log. No scenario passes with one, whatever else it has seen.
pub(crate) const PANIC: &str = " panicked at ";

/// A configuration file, the environment that goes with it, and perhaps a running `walkeep run`.
#[derive(Debug)]
pub struct Agent {
    account: Account,
    config: PathBuf,
    settings: BTreeMap<String, Vec<(String, String)>>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Child>,
}

impl Agent {
    /// Writes a configuration for this server and this repository.
    pub fn configure(world: &World, server: &Postgres, repo: &Repo) -> Result<Agent> {
        Agent::named(world, "walkeep", &server.conninfo(), repo)
    }

    /// Another configuration beside the first, for another server or a second agent.
    pub fn named(world: &World, name: &str, conninfo: &str, repo: &Repo) -> Result<Agent> {
        let mut agent = Agent {
            account: world.account(),
            config: world.at(&format!("{name}.toml")),
            settings: BTreeMap::new(),
            environment: repo.environment().to_vec(),
            log: world.at(&format!("{name}.log")),
            process: None,
        };
        let socket = world.at(&format!("{name}.sock"));
        let core = [("repository", repo.url()), ("cluster", "main"), ("postgres", conninfo)];
        for (key, value) in core {
            agent.put("", key, &format!("{value:?}"));
        }
        agent.put("", "socket", &format!("{:?}", socket.display().to_string()));
        agent.put("stream", "flush_interval", "\"200ms\"");
        for (key, value) in repo.storage() {
            agent.put("storage", key, value);
        }
        agent.write()?;
        Ok(agent)
    }

    /// Changes one key of the configuration file; `value` is TOML. The empty section is the top.
    pub fn set(&mut self, section: &str, key: &str, value: &str) -> Result<()> {
        self.put(section, key, value);
        self.write()
    }

    /// Changes the environment of every program that is started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    fn put(&mut self, section: &str, key: &str, value: &str) {
        let keys = self.settings.entry(section.to_owned()).or_default();
        keys.retain(|(known, _)| known != key);
        keys.push((key.to_owned(), value.to_owned()));
    }

    fn write(&self) -> Result<()> {
        let mut text = String::new();
        for (section, keys) in &self.settings {
            if !section.is_empty() {
                let _ = writeln!(text, "\n[{section}]");
            }
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        fs::write(&self.config, text).context("cannot write the configuration")?;
        self.account.own(&self.config)
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The credentials, for a server whose commands need them.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// The `archive_command` for `postgresql.conf`.
    pub fn archive_command(&self) -> Result<String> {
        Ok(format!("{} --config {} %p", program("archive-cmd")?.display(), self.config.display()))
    }

    /// Runs `walkeep` to its end, whatever that is.
    pub fn walkeep(&self, arguments: &[&str]) -> Result<Output> {
        self.output("walkeep", arguments)
    }

    /// Runs `restore-cmd` to its end.
    pub fn restore_cmd(&self, arguments: &[&str]) -> Result<Output> {
        self.output("restore-cmd", arguments)
    }

    /// Runs `archive-cmd` on one file.
    pub fn archive_cmd(&self, file: &Path) -> Result<Output> {
        self.output("archive-cmd", &[&file.display().to_string()])
    }

    fn output(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.account.command(program(name)?);
        command.args(arguments).env("WALKEEP_CONFIG", &self.config);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Output::of(&mut command)
    }

    /// Starts a program that the scenario will kill or wait for.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.account.daemon(program(name)?, Orphan::Kill);
        command.args(arguments).env("WALKEEP_CONFIG", &self.config);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot start {name}"))
    }

    /// The running agent's process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the agent is not running")?.id())
    }

    /// The most memory that the agent has used so far, in MiB.
    pub fn peak_memory_mib(&self) -> Result<u64> {
        let child = self.process.as_ref().context("the agent is not running")?;
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("no number")?;
        Ok(kib / 1024)
    }

    /// `walkeep init`
    pub fn init(&self) -> Result<Output> {
        self.walkeep(&["init"])?.ok()
    }

    /// Starts `walkeep run` and waits until it streams.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_status("the agent streams", |status| status["stream"]["state"] == "streaming")?;
        Ok(())
    }

    /// Starts `walkeep run` without waiting for anything.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the agent is running already");
        self.process = Some(self.spawn("walkeep", &["run"])?);
        Ok(())
    }

    /// Kills the agent where it stands.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut child) = self.process.take() {
            child.kill().context("cannot kill the agent")?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops the agent where it stands, until [`Agent::thaw`]: it does nothing, and is not dead.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen agent go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Has the agent read its configuration anew.
    pub fn hang_up(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.process.as_ref().context("the agent is not running")?;
        kill_process(pid_of(child), signal).context("cannot signal the agent")
    }

    /// Asks the agent to end, and asserts that it does so in order.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.process.take() else { return Ok(()) };
        kill_process(pid_of(&child), Signal::TERM).context("cannot signal the agent")?;
        let ended = wait_for("the agent ends", PATIENCE, || Ok(child.try_wait()?));
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let status = ended.with_context(|| self.log_text())?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", self.log_text());
        Ok(())
    }

    /// The most memory that the running agent has had, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let process = self.process.as_ref().context("the agent does not run")?;
        let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()).context("no VmHWM")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// What the agent and spawned programs have logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `walkeep status --json`
    pub fn status(&self) -> Result<Value> {
        self.walkeep(&["status", "--json"])?.ok()?.json()
    }

    /// `walkeep list --json`
    pub fn list(&self) -> Result<Value> {
        self.walkeep(&["list", "--json"])?.ok()?.json()
    }

    /// The labels of all backups, oldest first.
    pub fn labels(&self) -> Result<Vec<String>> {
        let list = self.list()?;
        let backups = list["backups"].as_array().context("`backups` is no list")?;
        let label =
            |backup: &Value| backup["label"].as_str().map(str::to_owned).context("a backup without label");
        backups.iter().map(label).collect()
    }

    /// `walkeep backup --full`; its label.
    pub fn backup_full(&self) -> Result<String> {
        self.walkeep(&["backup", "--full"])?.ok()?;
        self.labels()?.pop().context("the backup is not in the list")
    }

    /// Waits for a condition on `walkeep status --json`.
    pub fn wait_status(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut process = self.process.take();
        let answer = wait_for(what, PATIENCE, || {
            if let Some(ended) = process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the agent ended with {ended}");
            }
            let status = self.status()?;
            if condition(&status) { Ok(Some(status)) } else { bail!("the status is {status}") }
        });
        self.process = process;
        answer.with_context(|| format!("the agent's log:\n{}", self.log_text()))
    }

    /// Waits until everything up to `lsn` is durable in the repository.
    pub fn wait_durable(&mut self, lsn: &str) -> Result<()> {
        let wanted = lsn_number(lsn)?;
        let far_enough = |status: &Value| {
            let durable = status["stream"]["durable_lsn"].as_str().and_then(|text| lsn_number(text).ok());
            durable.is_some_and(|durable| durable >= wanted)
        };
        self.wait_status(&format!("WAL up to {lsn} is durable"), far_enough).map(|_| ())
    }

    /// `restore-cmd restore --pgdata DATA …`
    pub fn restore(&self, data: &Path, target: &[&str]) -> Result<Output> {
        let data = data.display().to_string();
        self.restore_cmd(&[&["restore", "--pgdata", &data], target].concat())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("the agent could not be killed: {error:#}");
        }
        no_panic(&self.log_text());
    }
}

/// Asserts that no program has panicked into this log.
pub(crate) fn no_panic(log: &str) {
    let Some(at) = log.find(PANIC) else { return };
    let told = &log[log[..at].rfind('\n').map_or(0, |line| line + 1)..];
    // A scenario that fails already shall tell its own story, too.
    assert!(std::thread::panicking(), "a program of ours panicked:\n{told}");
    eprintln!("a program of ours panicked:\n{told}");
}

/// The number behind `X/X`.
pub fn lsn_number(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').with_context(|| format!("{text:?} is no LSN"))?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}
