//! A data directory, a program beside its `walkeep`, and an agent.

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use proto::socket::{HEADER, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

pub(crate) struct Setting(tempfile::TempDir);

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Setting {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data/pg_wal")).unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let control = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/golden/15/pg_control");
        fs::create_dir(folder.path().join("data/global")).unwrap();
        fs::copy(control, folder.path().join("data/global/pg_control")).unwrap();
        let program = folder.path().join("bin/archive-cmd");
        fs::hard_link(env!("CARGO_BIN_EXE_archive-cmd"), &program)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_archive-cmd"), &program).map(drop))
            .unwrap();
        Self(folder)
    }

    pub(crate) fn pgdata(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.path().join("agent.sock")
    }

    /// Puts a file into pg_wal; its path is as PostgreSQL would give it.
    pub(crate) fn wal(&self, name: &str, content: &[u8]) -> String {
        let path = format!("pg_wal/{name}");
        fs::write(self.pgdata().join(&path), content).unwrap();
        path
    }

    /// Makes a `walkeep` that is this shell script.
    pub(crate) fn walkeep(&self, script: &str) {
        // Renamed into place: a script that is open for writing cannot be started.
        let new = self.0.path().join("walkeep.new");
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, self.0.path().join("bin/walkeep")).unwrap();
    }

    pub(crate) fn no_walkeep(&self) {
        fs::remove_file(self.0.path().join("bin/walkeep")).unwrap();
    }

    /// Runs in PGDATA with this setting's socket.
    pub(crate) fn run(&self, words: &[&str]) -> Run {
        let socket = self.socket();
        self.run_plain(&[words, &["--socket", socket.to_str().unwrap()]].concat(), &[])
    }

    pub(crate) fn run_plain(&self, words: &[&str], environment: &[(&str, &str)]) -> Run {
        let output = Command::new(self.0.path().join("bin/archive-cmd"))
            .args(words)
            .current_dir(self.pgdata())
            .env_remove("WALKEEP_CONFIG")
            .env("PATH", "/nowhere:/bin:/usr/bin")
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        Run {
            code: output.status.code().expect("never a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// An agent for one request.
pub(crate) struct Agent(JoinHandle<(Request, Vec<u8>)>);

impl Agent {
    /// Takes the request and the file, answers these bytes, hangs up.
    pub(crate) fn answering(setting: &Setting, answer: Vec<u8>) -> Self {
        Self::playing(&setting.socket(), move |stream| stream.write_all(&answer).unwrap())
    }

    /// Takes the request and waits until the other side goes.
    pub(crate) fn silent(setting: &Setting) -> Self {
        Self::playing(&setting.socket(), |stream| {
            let _ = stream.read(&mut [0]);
        })
    }

    fn playing(socket: &Path, then: impl FnOnce(&mut UnixStream) + Send + 'static) -> Self {
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        Self(std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let received = receive(&mut stream);
            then(&mut stream);
            received
        }))
    }

    /// What was asked, and the content of the file that came along.
    pub(crate) fn join(self) -> (Request, Vec<u8>) {
        self.0.join().unwrap()
    }
}

fn receive(stream: &mut UnixStream) -> (Request, Vec<u8>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut header = [0; HEADER];
    let mut buffers = [IoSliceMut::new(&mut header)];
    let received =
        rustix::net::recvmsg(&*stream, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert_eq!(received.bytes, HEADER);
    let mut files = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.collect::<Vec<_>>(),
        _ => vec![],
    });
    let file = fs::File::from(files.next().expect("a descriptor with the request"));
    let mut content = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    let mut body = vec![0; Request::body_length(&header).unwrap()];
    stream.read_exact(&mut body).unwrap();
    (Request::decode(&body).unwrap(), content)
}

/// What a segment's WAL ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// The segment.
    Full,
    /// A switch in its middle.
    Switch,
}

/// Segment 3 of timeline 1 of a cluster with segments of 1 MiB.
pub(crate) fn segment(ends: Ends) -> Vec<u8> {
    const SIZE: usize = 1 << 20;
    const PAGE: usize = 8192;
    let mut bytes = vec![0; SIZE];
    // One record after the first page's header that spans all pages, or as many as come before the switch.
    let pages = if ends == Ends::Full { SIZE / PAGE } else { 40 };
    let content = PAGE - 40 + (pages - 1) * (PAGE - 24);
    let mut left = content;
    for page in 0..pages {
        let at = page * PAGE;
        let header = if page == 0 { 40 } else { 24 };
        bytes[at..at + PAGE].fill(0xAB);
        bytes[at..at + 2].copy_from_slice(&0xD110_u16.to_le_bytes());
        let flags: u16 = if page == 0 { 2 } else { 1 };
        bytes[at + 2..at + 4].copy_from_slice(&flags.to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&1_u32.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&((3 * SIZE + at) as u64).to_le_bytes());
        let remaining = if page == 0 { 0 } else { left as u32 };
        bytes[at + 16..at + 20].copy_from_slice(&remaining.to_le_bytes());
        if page == 0 {
            bytes[24..32].copy_from_slice(&42_u64.to_le_bytes());
            bytes[32..36].copy_from_slice(&(SIZE as u32).to_le_bytes());
            bytes[36..40].copy_from_slice(&(PAGE as u32).to_le_bytes());
        }
        left -= PAGE - header;
    }
    bytes[40..44].copy_from_slice(&(content as u32).to_le_bytes());
    if ends == Ends::Switch {
        // The record ends 24 bytes earlier, and the switch takes their place.
        bytes[40..44].copy_from_slice(&(content as u32 - 24).to_le_bytes());
        for page in 1..pages {
            let at = page * PAGE + 16;
            let remaining = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) - 24;
            bytes[at..at + 4].copy_from_slice(&remaining.to_le_bytes());
        }
        let switch = pages * PAGE - 24;
        bytes[switch..switch + 24].fill(0);
        bytes[switch] = 24;
        bytes[switch + 16] = 0x40;
        bytes[switch + 20..switch + 24].fill(0xCC);
    }
    bytes
}
