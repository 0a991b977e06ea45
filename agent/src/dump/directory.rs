//! The format `directory`: files that `pg_dump` writes side by side. Each is stored, and removed, as soon as it is complete, so
//! that the scratch directory holds what is being written and what waits to be stored, and not a copy of everything.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use repository::Branch;
use repository::dump::{DumpFile, DumpLabel, DumpWriter, FileName};
use restore::program::Progress;
use rustix::fs::inotify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::MissedTickBehavior;

use super::stream::Tool;

/// Files that are stored at once.
const AT_ONCE: usize = 4;

/// So much is read at a time.
const PIECE: usize = 256 << 10;

/// Between two looks at which files are complete.
const LOOK: Duration = Duration::from_millis(100);

/// What tells that a file is complete while the tool still runs: it was closed. Without it files are stored at the end.
struct Closed(OwnedFd);

impl Closed {
    fn watch(folder: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, folder, inotify::WatchFlags::CLOSE_WRITE)?;
        Ok(Self(fd))
    }

    /// Names of files that were closed since. Some may be missed: at the end the directory itself is looked at.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut names = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned())),
                Err(rustix::io::Errno::AGAIN) => return Ok(names),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a file of that name is written once, from its beginning to its end. Lists may be written to again.
fn is_data(name: &str) -> bool {
    name != "toc.dat" && [".dat", ".dat.gz", ".dat.lz4", ".dat.zst"].iter().any(|end| name.ends_with(end))
}

/// The files on their way.
struct Taking<'a> {
    branch: &'a Branch,
    label: &'a DumpLabel,
    folder: &'a Path,
    progress: &'a Progress,
    /// The number of the next object.
    next: u32,
    taken: BTreeSet<FileName>,
    waiting: VecDeque<FileName>,
    storing: JoinSet<Result<DumpFile>>,
    stored: Vec<DumpFile>,
}

/// Runs `pg_dump`, which writes into the empty directory `folder`, and stores its files; `first` is the number of the first.
///
/// # Errors
/// The tool or the store failed.
pub(super) async fn store(
    (branch, label, first): (&Branch, &DumpLabel, u32),
    mut command: std::process::Command,
    folder: &Path,
    progress: &Progress,
) -> Result<Vec<DumpFile>> {
    let mut closed = Closed::watch(folder)
        .inspect_err(|error| tracing::debug!("the files are stored at the end: {error}"))
        .ok();
    command.arg("--file").arg(folder);
    let mut tool = Tool::start(command, "pg_dump")?;
    let mut taking = Taking {
        branch,
        label,
        folder,
        progress,
        next: first,
        taken: BTreeSet::new(),
        waiting: VecDeque::new(),
        storing: JoinSet::new(),
        stored: Vec::new(),
    };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => match closed.as_ref().map(Closed::names) {
                Some(Ok(names)) => {
                    names.iter().filter(|name| is_data(name)).try_for_each(|name| taking.take(name))?;
                }
                Some(Err(error)) => {
                    tracing::debug!("the other files are stored at the end: {error}");
                    closed = None;
                }
                None => {}
            },
            Some(done) = taking.storing.join_next() => taking.done(done)?,
            _ = tool.child.wait() => break,
        }
        taking.begin();
    }
    // Only when it has ended well is what it has left looked at: the lists, and what nobody saw being closed.
    tool.end().await?;
    for name in left(folder)? {
        if !taking.waiting.iter().any(|waiting| waiting.as_str() == name) && !taking.is_under_way(&name) {
            taking.take(&name)?;
        }
    }
    taking.begin();
    while let Some(done) = taking.storing.join_next().await {
        taking.done(done)?;
        taking.begin();
    }
    let mut stored = taking.stored;
    stored.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(stored)
}

fn left(folder: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot look into {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        names.push(entry.with_context(cannot)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

impl Taking<'_> {
    /// Takes a complete file.
    fn take(&mut self, name: &str) -> Result<()> {
        let name: FileName = name.parse().context("pg_dump has written a file that nobody expects")?;
        if !self.taken.insert(name.clone()) {
            bail!("pg_dump has written {name} a second time, after it was complete");
        }
        self.waiting.push_back(name);
        Ok(())
    }

    /// Whether the file is there since it is just being stored.
    fn is_under_way(&self, name: &str) -> bool {
        let stored = self.stored.iter().any(|file| file.name.as_ref().is_some_and(|n| n.as_str() == name));
        self.taken.iter().any(|taken| taken.as_str() == name) && !stored
    }

    /// Begins to store as many as may be.
    fn begin(&mut self) {
        while self.storing.len() < AT_ONCE
            && let Some(name) = self.waiting.pop_front()
        {
            let (branch, label) = (self.branch.clone(), self.label.clone());
            let (path, number, progress) =
                (self.folder.join(name.as_str()), self.next, self.progress.clone());
            self.next += 1;
            self.storing.spawn(async move {
                let writer = branch.write_dump_file(&label, number).await?;
                spawn_blocking(move || store_file(writer, name, path, &progress)).await?
            });
        }
    }

    fn done(&mut self, done: Result<Result<DumpFile>, tokio::task::JoinError>) -> Result<()> {
        self.stored.push(done.context("a file could not be stored")??);
        Ok(())
    }
}

fn store_file(
    mut writer: DumpWriter,
    name: FileName,
    path: PathBuf,
    progress: &Progress,
) -> Result<DumpFile> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(&path).with_context(cannot)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = file.read(&mut buffer).with_context(cannot)?;
        if count == 0 {
            break;
        }
        if let Err(error) = writer.write_all(&buffer[..count]) {
            return Err(writer.failure(error).into());
        }
        progress.add(count as u64);
    }
    let stored = writer.finish(Some(name))?;
    // It is durable in the repository.
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_at_the_end() {
        for name in ["3456.dat", "3456.dat.gz", "blob_16384.dat"] {
            assert!(is_data(name), "{name}");
        }
        for name in ["toc.dat", "blobs.toc", "blobs_123.toc"] {
            assert!(!is_data(name), "{name}");
        }
    }

    #[test]
    fn a_file_is_seen_when_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let closed = Closed::watch(folder.path()).unwrap();
        let mut file = File::create(folder.path().join("1.dat")).unwrap();
        file.write_all(b"x").unwrap();
        fs::write(folder.path().join("2.dat"), "whole").unwrap();
        assert_eq!(closed.names().unwrap(), ["2.dat"]);
        assert!(closed.names().unwrap().is_empty());
        drop(file);
        assert_eq!(closed.names().unwrap(), ["1.dat"]);
    }
}
