//! A PostgreSQL 15 of a test's own.

pub(crate) mod agent;

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use harness::{Account, Installation, skip};
use proto::config::Config;
use repository::{Branch, Repository};
use serde_json::Value;

/// The version that these tests are about; the scenarios in `tests` have the others.
const MAJOR: u32 = 15;

/// Seconds that a server may take to start or to stop; the machine may be busy.
const PATIENCE: &str = "240";

/// A cluster in a directory of its own, reached through a Unix socket. Stopped and removed when dropped.
pub(crate) struct Server {
    home: tempfile::TempDir,
}

/// PostgreSQL refuses to run as root.
pub(crate) fn unprivileged(program: impl AsRef<OsStr>) -> Command {
    let mut command = Account::current().command(program);
    command.stdin(Stdio::null()).current_dir("/tmp").env("PGCTLTIMEOUT", PATIENCE);
    command
}

/// A program of the server's own version.
pub(crate) fn tool(name: &str) -> PathBuf {
    Installation::find(MAJOR)
        .and_then(|found| found.tool(name))
        .expect("looked for before the server was started")
}

/// What these tests call.
const TOOLS: [&str; 7] =
    ["initdb", "pg_ctl", "pg_controldata", "pg_basebackup", "pg_verifybackup", "pgbench", "psql"];

/// Runs it to its end, which must be a success.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Waits for a condition, but not for ever.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Server {
    /// `None`, and a loud skip, where there is no PostgreSQL.
    pub(crate) fn start(initdb: &[&str]) -> Option<Self> {
        let installation = Installation::or_skip(MAJOR)?;
        if let Some(missing) = TOOLS.iter().find(|name| installation.tool(name).is_none()) {
            skip(format!("PostgreSQL {MAJOR} is on this machine without {missing}"));
            return None;
        }
        let home = tempfile::Builder::new().prefix("walkeep-").tempdir_in("/tmp").expect("a directory");
        run(Command::new("chmod").arg("777").arg(home.path()));
        let server = Self { home };
        run(unprivileged(tool("initdb"))
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(server.data())
            .args(initdb));
        let mut conf = std::fs::OpenOptions::new()
            .append(true)
            .open(server.data().join("postgresql.conf"))
            .expect("conf");
        writeln!(
            conf,
            "listen_addresses = ''\nunix_socket_directories = '{}'\nautovacuum = off\nfsync = off",
            server.path()
        )
        .expect("written");
        server.boot();
        Some(server)
    }

    pub(crate) fn path(&self) -> &str {
        self.home.path().to_str().expect("a plain path")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A new directory that the server may use.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        run(unprivileged("/bin/mkdir").args(["-m", "700"]).arg(&path));
        path
    }

    pub(crate) fn boot(&self) {
        let log = self.home.path().join("server.log");
        run(unprivileged(tool("pg_ctl"))
            .args(["start", "-w", "-s", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(log)
            .stdout(Stdio::null()));
    }

    /// Stops it in order, and waits for that.
    pub(crate) fn stop(&self) {
        let mut command = unprivileged(tool("pg_ctl"));
        run(command.args(["stop", "-m", "fast", "-w", "-s", "-D"]).arg(self.data()));
    }

    pub(crate) fn sql(&self, query: &str) -> String {
        let output = run(unprivileged(tool("psql")).args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
            self.path(),
            "-c",
            query,
        ]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn pgbench(&self, scale: u32) {
        let scale = scale.to_string();
        run(unprivileged(tool("pgbench")).args([
            "-i",
            "-q",
            "-s",
            &scale,
            "-U",
            "postgres",
            "-h",
            self.path(),
            "postgres",
        ]));
    }

    pub(crate) fn repository(&self) -> String {
        format!("file://{}/repository", self.path())
    }

    pub(crate) fn walkeep(&self, args: &[&str]) -> Command {
        self.walkeep_as("postgres", args)
    }

    /// `args` begin with the verb; global flags given after them win, as clap takes the last.
    pub(crate) fn walkeep_as(&self, role: &str, args: &[&str]) -> Command {
        let mut config =
            tempfile::Builder::new().suffix(".toml").tempfile_in(self.home.path()).expect("a file");
        writeln!(
            config,
            "repository = \"{}\"\ncluster = \"test\"\npostgres = \"host={} user={role} dbname=postgres\"",
            self.repository(),
            self.path()
        )
        .expect("written");
        let (_, config) = config.keep().expect("kept");
        let mut command = Command::new(env!("CARGO_BIN_EXE_walkeep"));
        command.args(args).arg("--config").arg(config).stdin(Stdio::null());
        command
    }

    pub(crate) fn init(&self) {
        run(&mut self.walkeep(&["init"]));
    }

    pub(crate) fn backup(&self, args: &[&str]) -> Value {
        self.backup_as("postgres", args)
    }

    pub(crate) fn backup_as(&self, role: &str, args: &[&str]) -> Value {
        let output = run(self.walkeep_as(role, &["backup", "--json"]).args(args));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub(crate) fn list(&self) -> Value {
        serde_json::from_slice(&run(&mut self.walkeep(&["list", "--json"])).stdout).expect("JSON")
    }

    pub(crate) async fn branch(&self) -> Branch {
        let config = Config { repository: Some(self.repository()), ..Config::default() };
        let repository = Repository::from_config(&config).await.expect("the repository opens");
        repository.only_branch(&"test".parse().expect("a name")).await.expect("the branch opens")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be down already. What it has written goes with its folder.
        let mut command = unprivileged(tool("pg_ctl"));
        let _ = command.args(["stop", "-m", "immediate", "-w", "-s", "-D"]).arg(self.data()).output();
    }
}
