//! A scratch PostgreSQL 15 for one test.

use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Who may do what. Each user shows one way in, or one way to be kept out.
const HBA: &str = "
local     all         all                       trust
local     replication all                       trust
host      all         md5_user   127.0.0.1/32   md5
host      replication md5_user   127.0.0.1/32   md5
host      all         clear_user 127.0.0.1/32   password
host      replication clear_user 127.0.0.1/32   password
host      all         ident_user 127.0.0.1/32   trust
host      replication ident_user 127.0.0.1/32   trust
host      replication no_repl    127.0.0.1/32   trust
hostssl   replication cert_user  127.0.0.1/32   cert
hostssl   replication tls_only   127.0.0.1/32   scram-sha-256
hostnossl replication clear_only 127.0.0.1/32   scram-sha-256
host      all         postgres   127.0.0.1/32   scram-sha-256
host      replication postgres   127.0.0.1/32   scram-sha-256
";

const ROLES: &str = "
SET password_encryption = 'scram-sha-256';
ALTER ROLE postgres PASSWORD 'secret';
CREATE ROLE clear_user LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE ident_user LOGIN REPLICATION;
CREATE ROLE no_line LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE no_repl LOGIN;
CREATE ROLE cert_user LOGIN REPLICATION;
CREATE ROLE tls_only LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE clear_only LOGIN REPLICATION PASSWORD 'secret';
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN REPLICATION PASSWORD 'secret';
";

/// A running server. Dropping it stops the server and removes its files.
pub(crate) struct Cluster {
    root: TempDir,
    pub(crate) port: u16,
    running: bool,
}

impl Cluster {
    /// `None`, and says why, where there is no PostgreSQL 15, or no unprivileged user to run it as.
    pub(crate) fn start(initdb_options: &str) -> Option<Self> {
        if !Path::new(BIN).join("initdb").exists() {
            eprintln!("skipped: no PostgreSQL 15 in {BIN}");
            return None;
        }
        if is_root() && user_of_servers().is_none() {
            eprintln!("skipped: PostgreSQL does not run as root, and there is no user \"postgres\"");
            return None;
        }
        let root = tempfile::Builder::new().prefix("live").tempdir().expect("a directory");
        give(root.path());
        let mut cluster = Self { root, port: free_port(), running: false };
        let data = cluster.data();
        let options = initdb_options.split_whitespace();
        run(server_command("initdb")
            .args(["-U", "postgres", "-A", "trust", "-N", "-D"])
            .arg(&data)
            .args(options));
        fs::write(data.join("pg_hba.conf"), HBA).expect("written");
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             max_wal_senders = 10\nshared_buffers = 16MB\n",
            cluster.port,
            cluster.root.path().display()
        );
        append(&data.join("postgresql.conf"), settings.as_bytes());
        cluster.restart();
        let mut psql = Command::new(Path::new(BIN).join("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
        run(psql.arg(cluster.root.path()).args(["-p", &cluster.port.to_string(), "-c", ROLES]));
        Some(cluster)
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// An empty directory that belongs to the server's user.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir(&path).expect("made");
        give(&path);
        path
    }

    /// Adds lines to postgresql.conf.
    pub(crate) fn configure(&self, lines: &str) {
        append(&self.data().join("postgresql.conf"), lines.as_bytes());
    }

    /// Puts a file into the data directory that only the server may read.
    pub(crate) fn install(&self, name: &str, from: &Path) {
        let path = self.data().join(name);
        fs::copy(from, &path).expect("copied");
        give(&path);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("closed");
    }

    pub(crate) fn unix(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.root.path().display(), self.port)
    }

    pub(crate) fn tcp(&self, user: &str, password: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} password='{password}' dbname=postgres", self.port)
    }

    pub(crate) fn restart(&mut self) {
        let log = self.root.path().join("log");
        let verb = if self.running { "restart" } else { "start" };
        run(server_command("pg_ctl")
            .args(["-w", "-m", "fast", verb, "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(log));
        self.running = true;
    }

    pub(crate) fn stop_in_background(&mut self) -> Child {
        self.running = false;
        self.stop_command("fast").spawn().expect("pg_ctl")
    }

    fn stop_command(&self, mode: &str) -> Command {
        let mut command = server_command("pg_ctl");
        command.args(["-w", "-m", mode, "stop", "-D"]).arg(self.data());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Turns one byte of a file of the data directory around.
    pub(crate) fn damage(&self, path: &str, at: u64) {
        let path = self.data().join(path);
        let byte = fs::read(&path).expect("read")[at as usize];
        let mut file = File::options().write(true).open(&path).expect("opened");
        file.seek(SeekFrom::Start(at)).expect("there");
        file.write_all(&[!byte]).expect("written");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running {
            let _ = self.stop_command("immediate").status();
        }
    }
}

/// A port that nobody listens on at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A program of the server's, which refuses to run as root.
fn server_command(program: &str) -> Command {
    let program = Path::new(BIN).join(program);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").env("LC_ALL", "C");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn user_of_servers() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users.lines().find(|line| line.starts_with("postgres:"))?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Makes `path` the server's, if it is not ours and the server's alike.
fn give(path: &Path) {
    if let Some((user, group)) = user_of_servers().filter(|_| is_root()) {
        chown(path, Some(user), Some(group)).expect("given away");
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = File::options().append(true).open(path).expect("opened");
    file.write_all(bytes).expect("written");
}

pub(crate) fn run(command: &mut Command) {
    let log = tempfile::tempfile().expect("a log");
    let out = log.try_clone().expect("a log");
    // A server that is started inherits the output: a pipe would never end.
    let status = command.stdin(Stdio::null()).stdout(out).stderr(log.try_clone().expect("a log")).status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        let mut text = String::new();
        let mut log = log;
        let _ = log.rewind().and_then(|()| std::io::Read::read_to_string(&mut log, &mut text));
        panic!("{command:?}: {status:?}\n{text}");
    }
}
