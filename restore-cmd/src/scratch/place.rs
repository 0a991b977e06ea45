//! The scratch directory, and what killed owners of such directories have left behind.
//!
//! ```text
//! <base>/walkeep-scratch-<pid>-<random>/
//!     lock            held by the owner as long as he lives
//!     data            the data directory
//!     tablespaces     those that lay outside of it
//!     socket          the server's Unix socket
//!     server.log      what the server says
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::program::failure;

const PREFIX: &str = "walkeep-scratch-";

/// The longest path of a Unix socket on Linux, without the closing zero.
const LONGEST_SOCKET: usize = 107;

/// The name of the server's socket within its folder.
pub(super) const SOCKET: &str = ".s.PGSQL.5432";

/// A folder without a lock is somebody's who is just making it, unless it is as old as this.
const SETTLED: Duration = Duration::from_secs(60);

/// How long a server, or a file in use, may resist being removed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of one's own, to be removed with [`Scratch::remove`]. If its owner is killed, the next one removes it.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    /// Bears the lock, which the system lets go when this process ends, however it ends.
    _lock: File,
}

impl Scratch {
    /// Removes what killed owners left below `base`, then makes a folder there.
    ///
    /// # Errors
    /// It cannot be made there, or its path is too long for a socket.
    pub fn make(base: &Path) -> Result<Self> {
        let base = std::path::absolute(base)
            .with_context(|| format!("{} is no directory that could be used", base.display()))?;
        for left in sweep(&base) {
            tracing::info!("removed {}, which a killed run had left", left.display());
        }
        let moment = jiff::Timestamp::now().as_nanosecond() as u64 & 0xFFFF_FFFF;
        let folder = base.join(format!("{PREFIX}{}-{moment:08x}", std::process::id()));
        if folder.join("socket").join(SOCKET).as_os_str().len() > LONGEST_SOCKET {
            return Err(failure(
                format!(
                    "the path {} is too long: a Unix socket's has at most {LONGEST_SOCKET} bytes",
                    folder.display()
                ),
                "name a directory with a shorter path with --scratch",
            ));
        }
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| {
            failure(
                format!("cannot make a directory below {}: {error}", base.display()),
                "name a directory that this user may write to with --scratch, or as `scratch` in [drill]",
            )
        })?;
        let cannot = || format!("cannot prepare {}", folder.display());
        // Whoever sees it under its name sees it locked.
        let lock = File::create(folder.join("lock.new")).with_context(cannot)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .with_context(cannot)?;
        fs::rename(folder.join("lock.new"), folder.join("lock")).with_context(cannot)?;
        for name in ["socket", "tablespaces"] {
            DirBuilder::new().mode(0o700).create(folder.join(name)).with_context(cannot)?;
        }
        Ok(Self { folder, _lock: lock })
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The data directory; the restore makes it.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where tablespaces go that lay outside of the data directory.
    pub fn tablespaces(&self) -> PathBuf {
        self.folder.join("tablespaces")
    }

    /// The folder of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Ends the server, if one runs, and removes everything.
    ///
    /// # Errors
    /// Something does not go; the message names the folder.
    pub fn remove(self) -> Result<()> {
        clear(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// Removes the folders below `base` whose owners are gone; which it removed. What does not go is told, and tried again next
/// time.
fn sweep(base: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let folder = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !is_left(&folder) {
            continue;
        }
        match clear(&folder) {
            Ok(()) => removed.push(folder),
            Err(error) => tracing::warn!("cannot remove {}: {error}", folder.display()),
        }
    }
    removed
}

/// Whether it is a folder of ours whose owner is gone. Other users' are theirs to remove.
fn is_left(folder: &Path) -> bool {
    let Ok(meta) = fs::symlink_metadata(folder) else { return false };
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return false;
    }
    match File::open(folder.join("lock")) {
        Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(_) => meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > SETTLED)),
    }
}

/// Ends the server and removes the folder, however long somebody still writes into it.
fn clear(folder: &Path) -> io::Result<()> {
    end_server(&folder.join("data"))?;
    let begun = Instant::now();
    loop {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that fetched WAL ahead may just have written a file.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// Ends the server that runs in a data directory, if one does. There is nothing in it that would need to be saved.
fn end_server(data: &Path) -> io::Result<()> {
    let begun = Instant::now();
    while let Some(pid) = server_in(data) {
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("process {} does not end", pid.as_raw_pid())));
        }
        // At first its own way to leave at once, which takes its children along; they notice its death, too.
        let signal = if begun.elapsed() < PATIENCE / 4 { Signal::QUIT } else { Signal::KILL };
        let _ = kill_process(pid, signal);
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The server's first process. A number in a file is nobody's name: the process must also work in that directory.
fn server_in(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
    test_kill_process(pid).ok()?;
    let works_in = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_pid())).ok()?;
    (works_in == fs::canonicalize(data).ok()?).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_owner_left_is_removed_by_the_next() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("walkeep-scratch-letter"), "dear").unwrap();
        fs::create_dir(base.path().join("else")).unwrap();
        let alive = Scratch::make(base.path()).unwrap();
        let dead = base.path().join("walkeep-scratch-1-00000001");
        fs::create_dir_all(dead.join("data/base")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        // One whose owner has not come to lock it.
        fs::create_dir(base.path().join("walkeep-scratch-2-00000002")).unwrap();
        let other = Scratch::make(base.path()).unwrap();
        assert!(!dead.exists() && alive.folder().exists() && other.folder().exists());
        assert!(base.path().join("walkeep-scratch-2-00000002").exists());
        alive.remove().unwrap();
        other.remove().unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 3);
    }

    #[test]
    fn another_process_under_the_number_of_a_dead_server_lives_on() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("walkeep-scratch-1-00000001/data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(server_in(&data), None);
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let long = base.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        assert!(Scratch::make(&long).unwrap_err().to_string().contains("too long"));
    }
}
