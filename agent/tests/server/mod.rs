//! A PostgreSQL 15 of a test's own.

pub(crate) mod agent;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use proto::config::Config;
use repository::{Branch, Repository};
use serde_json::Value;

pub(crate) const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A cluster in a directory of its own, reached through a Unix socket. Stopped and removed when dropped.
pub(crate) struct Server {
    home: tempfile::TempDir,
}

/// PostgreSQL refuses to run as root.
pub(crate) fn unprivileged(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    if rustix::process::geteuid().is_root() {
        let user = Command::new("id").args(["-u", "postgres"]).output().expect("id runs");
        let id: u32 = String::from_utf8_lossy(&user.stdout).trim().parse().expect("there is a user postgres");
        command.uid(id).gid(id);
    }
    command.stdin(Stdio::null()).current_dir("/tmp");
    command
}

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
    /// `None` where there is no PostgreSQL.
    pub(crate) fn start(initdb: &[&str]) -> Option<Self> {
        if !Path::new(BIN).join("initdb").exists() {
            eprintln!("SKIPPED: no PostgreSQL in {BIN}");
            return None;
        }
        let home = tempfile::Builder::new().prefix("walkeep-").tempdir_in("/tmp").expect("a directory");
        run(Command::new("chmod").arg("777").arg(home.path()));
        let server = Self { home };
        run(unprivileged(format!("{BIN}/initdb"))
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
        run(unprivileged(format!("{BIN}/pg_ctl"))
            .args(["start", "-w", "-s", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(log)
            .stdout(Stdio::null()));
    }

    pub(crate) fn stop(&self) {
        let mut command = unprivileged(format!("{BIN}/pg_ctl"));
        let _ = command.args(["stop", "-m", "fast", "-w", "-s", "-D"]).arg(self.data()).output();
    }

    pub(crate) fn sql(&self, query: &str) -> String {
        let output = run(unprivileged(format!("{BIN}/psql")).args([
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
        run(unprivileged(format!("{BIN}/pgbench")).args([
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
        self.stop();
    }
}
