//! A running agent beside a server, and what it has stored.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proto::socket::{HEADER, Request, Response};
use proto::wal::{SegmentName, SegmentNo, WalFile};
use proto::{Digest, Lsn, TimelineId};
use repository::Branch;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;

use super::{Server, tool, unprivileged, until};

const WAL_SETTINGS: &[&str] = &["wal_keep_size = '2GB'", "max_wal_size = '4GB'"];

/// A running `walkeep run`. Killed when dropped.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) config: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
}

impl Agent {
    pub(crate) fn start(server: &Server, name: &str, extra: &str) -> Self {
        Self::start_at(server, server.path(), name, extra)
    }

    /// `home`: the directory of the socket of the server that it streams from.
    pub(crate) fn start_at(server: &Server, home: &str, name: &str, extra: &str) -> Self {
        let path = |suffix: &str| PathBuf::from(format!("{}/{name}.{suffix}", server.path()));
        let (config, socket, log) = (path("toml"), path("sock"), path("log"));
        let text = format!(
            "repository = \"{}\"\ncluster = \"test\"\npostgres = \"host={home} user=postgres dbname=postgres\"\n\
             socket = \"{}\"\n[stream]\nflush_interval = \"200ms\"\n{extra}\n",
            server.repository(),
            socket.display(),
        );
        std::fs::write(&config, text).expect("written");
        let output = File::options().create(true).append(true).open(&log).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_walkeep"))
            .args(["run", "-v", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("the agent starts");
        Self { child, config, socket, log }
    }

    pub(crate) fn walkeep(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walkeep"));
        command.args(args).arg("--config").arg(&self.config).stdin(Stdio::null());
        command
    }

    pub(crate) fn status(&self) -> Option<Value> {
        let output = self.walkeep(&["status", "--json"]).output().expect("it runs");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    pub(crate) fn durable(&self) -> Lsn {
        let status = self.status().unwrap_or_default();
        status["stream"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse().ok()).unwrap_or_default()
    }

    pub(crate) async fn reaches(&self, lsn: Lsn) {
        let shown = || std::fs::read_to_string(&self.log).unwrap_or_default();
        let begun = Instant::now();
        while self.durable() < lsn {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{lsn} is not durable: {:?}\n{}",
                self.status(),
                shown()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn is_in_state(&self, state: &str) -> Value {
        let mut found = Value::Null;
        until(&format!("state {state}"), async || {
            found = self.status().unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(50)).await;
            found["stream"]["state"] == state
        })
        .await;
        found
    }

    /// What no agent can prepare for.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn terminate(&mut self) -> bool {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it is there");
        self.child.wait().expect("it ends").success()
    }

    pub(crate) fn peak_memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak").trim();
        let kib: u64 = peak.trim_end_matches(" kB").parse().expect("a number");
        eprintln!("peak memory: {kib} KiB");
        kib >> 10
    }

    pub(crate) fn offer(&self, path: &Path, digest: Digest) -> Response {
        let file = File::open(path).expect("the file");
        let name: WalFile =
            path.file_name().and_then(|name| name.to_str()).expect("a name").parse().expect("WAL");
        let size = file.metadata().expect("metadata").len();
        // A segment tells whose it is.
        let (system_id, path) = (proto::SystemId(1), b"pg_wal/x".to_vec());
        let request = Request::Archive { file: name, size, digest, system_id, path };
        let mut stream = UnixStream::connect(&self.socket).expect("the agent listens");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
        let frame = request.encode();
        let sent =
            sendmsg(&stream, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::empty()).expect("sent");
        stream.write_all(&frame[sent..]).expect("sent");
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).expect("an answer");
        let mut body = vec![0; Response::body_length(&header).expect("a header")];
        stream.read_exact(&mut body).expect("an answer");
        Response::decode(&body).expect("an answer")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- {}\n{}",
                self.log.display(),
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}

pub(crate) fn start(initdb: &[&str], settings: &[&str]) -> Option<Server> {
    let server = Server::start(initdb)?;
    let conf = server.data().join("postgresql.conf");
    let mut conf = std::fs::OpenOptions::new().append(true).open(conf).expect("conf");
    for line in WAL_SETTINGS.iter().chain(settings) {
        writeln!(conf, "{line}").expect("written");
    }
    server.stop();
    server.boot();
    Some(server)
}

pub(crate) fn flushed(server: &Server) -> Lsn {
    server.sql("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN")
}

pub(crate) fn slot_position(server: &Server) -> Lsn {
    let text = server
        .sql("SELECT coalesce(restart_lsn, '0/0') FROM pg_replication_slots WHERE slot_name = 'walkeep'");
    text.parse().expect("an LSN")
}

pub(crate) fn load(server: &Server, seconds: u32) -> Child {
    let seconds = seconds.to_string();
    unprivileged(tool("pgbench"))
        .args(["-n", "-c", "2", "-T", &seconds, "-U", "postgres", "-h", server.path(), "postgres"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench starts")
}

/// Everything of `timeline` in `[from, to)` is in the repository, and is what lies in the server's `pg_wal`.
pub(crate) async fn compare(branch: &Branch, data: &Path, timeline: TimelineId, from: Lsn, to: Lsn) -> usize {
    let size = branch.segment_size();
    let mut whole = 0;
    for number in size.segment_at(from).0..=size.segment_before(to).0 {
        let number = SegmentNo(number);
        let name = SegmentName::new(timeline, number, size);
        let on_disk = std::fs::read(data.join("pg_wal").join(name.to_string())).expect("the server keeps it");
        let needed = (to.0.min(number.end(size).0) - number.start(size).0) as usize;
        match branch.segment_digest(name).await.expect("one digest at most") {
            Some(digest) => {
                assert_eq!(digest, Digest::of(&on_disk), "{name}");
                assert!(branch.read_segment(name).await.expect("it reads back") == on_disk, "{name}");
                whole += 1;
            }
            None => {
                let tail = branch.read_tail(name).await.expect("epochs agree");
                let tail = tail.unwrap_or_else(|| panic!("{name} is missing"));
                assert!(tail.valid as usize >= needed, "{name}: {} bytes of {needed}", tail.valid);
                assert!(tail.bytes[..needed] == on_disk[..needed], "the tail of {name}");
            }
        }
    }
    whole
}
