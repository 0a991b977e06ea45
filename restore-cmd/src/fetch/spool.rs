//! Segments that were fetched before the server asked for them.
//!
//! The spool is a folder beside the file that the server wants, in `pg_wal`: there, and only there, a rename is sure to
//! stay within one file system, and the server may write. It holds whole segments alone, each under its name and
//! digest. What is in it is worth nothing: it may vanish at any moment, and whoever takes a segment out checks it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use proto::Digest;
use proto::wal::SegmentName;
use rustix::fs::FlockOperation;

/// What all names of spools begin with.
const PREFIX: &str = "walkeep-spool-";

/// The segment that the server asked for last.
const ASKED: &str = "asked";

/// Held by whoever fills the spool.
const LOCK: &str = "lock";

/// Behind the name of a segment that is being fetched.
const PART: &str = ".part";

/// The folder, whether it is there or not.
#[derive(Clone, Debug)]
pub struct Spool {
    path: PathBuf,
}

/// The right to fill a spool; the only one.
#[derive(Debug)]
pub(super) struct Filling {
    lock: File,
}

impl Filling {
    /// Whether `spool` is still the one that this right is about, and not another that somebody has made in its place.
    pub(super) fn is_of(&self, spool: &Spool) -> bool {
        let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let (own, there) = (self.lock.metadata(), fs::metadata(spool.path.join(LOCK)));
        own.is_ok_and(|own| there.is_ok_and(|there| place(own) == place(there)))
    }
}

impl Spool {
    /// The spool for a server that wants its WAL at `to`. Servers that follow another repository, cluster or timeline
    /// have another one: `source` says in words which. `None` if no server's `pg_wal` is there.
    pub fn beside(to: &Path, source: &str) -> Option<Self> {
        let folder = to.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "pg_wal"))?;
        let source = Digest::of(source.as_bytes()).to_string();
        Some(Self { path: folder.join(format!("{PREFIX}{}", &source[..16])) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a segment out of the spool to `to`. Whether it was there, and right.
    pub fn take(&self, name: SegmentName, to: &Path) -> bool {
        let Some((path, digest)) = self.find(name) else { return false };
        // It was verified when it came, and may have suffered since: nothing in here is synced.
        match digest_of(&path) {
            Ok(actual) if actual == digest => fs::rename(&path, to).is_ok(),
            _ => {
                let _ = fs::remove_file(&path);
                false
            }
        }
    }

    fn find(&self, name: SegmentName) -> Option<(PathBuf, Digest)> {
        let mut held = self.held().into_iter();
        held.find(|(held, ..)| *held == name).map(|(_, digest, path)| (path, digest))
    }

    /// The segments that are there, whole.
    pub(super) fn held(&self) -> Vec<(SegmentName, Digest, PathBuf)> {
        let parse = |path: PathBuf| {
            let (name, digest) = path.file_name()?.to_str()?.split_once('-')?;
            Some((name.parse().ok()?, digest.parse().ok()?, path.clone()))
        };
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| parse(entry.path())).collect()
    }

    /// Whether a segment is on its way: somebody fills the spool, and has begun with it.
    pub fn is_coming(&self, name: SegmentName) -> bool {
        self.part(name).exists() && !self.is_unattended()
    }

    /// Says which segment the server asks for: those behind it are wanted next. Say it before [`Spool::take`], or that
    /// segment would be fetched once more.
    pub fn ask(&self, name: SegmentName) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let written = self.path.join(format!("{ASKED}{PART}"));
        fs::write(&written, name.to_string())?;
        fs::rename(written, self.path.join(ASKED))
    }

    /// What [`Spool::ask`] said last; `None` if the spool is gone.
    pub(super) fn asked(&self) -> Option<SegmentName> {
        fs::read_to_string(self.path.join(ASKED)).ok()?.parse().ok()
    }

    /// Whether nobody fills it.
    pub fn is_unattended(&self) -> bool {
        self.fill().is_ok_and(|filling| filling.is_some())
    }

    /// Takes the right to fill the spool; `None` if somebody has it.
    pub(super) fn fill(&self) -> io::Result<Option<Filling>> {
        let lock = File::options().create(true).truncate(false).write(true).open(self.path.join(LOCK))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Filling { lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where a segment is while it is being fetched.
    pub(super) fn part(&self, name: SegmentName) -> PathBuf {
        self.path.join(format!("{name}{PART}"))
    }

    /// A segment is whole and verified: it gets the name under which it is found.
    pub(super) fn keep(&self, name: SegmentName, digest: Digest) -> io::Result<()> {
        fs::rename(self.part(name), self.path.join(format!("{name}-{digest}")))
    }

    /// Removes what was begun by somebody who is gone.
    pub(super) fn sweep_parts(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "part") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes the spools of other sources that nobody fills any more: somebody was killed before a server was told to follow
    /// another timeline or repository.
    pub(super) fn sweep_others(&self) {
        let entries = self.path.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| *path != self.path) {
            let is_spool =
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
            let other = Self { path };
            if is_spool && other.is_unattended() {
                other.remove();
            }
        }
    }

    /// Removes it, with all that is in it. Whoever fills it notices, and ends.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn digest_of(path: &Path) -> Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            count => drop(hasher.update(&buffer[..count])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(segment: u32) -> SegmentName {
        SegmentName { timeline: proto::TimelineId::FIRST, log: 0, seg: segment }
    }

    fn spool(home: &Path) -> Spool {
        let pg_wal = home.join("pg_wal");
        fs::create_dir(&pg_wal).unwrap();
        Spool::beside(&pg_wal.join("RECOVERYXLOG"), "here").unwrap()
    }

    fn put(spool: &Spool, segment: u32, content: &[u8], digest: Digest) {
        fs::write(spool.part(name(segment)), content).unwrap();
        spool.keep(name(segment), digest).unwrap();
    }

    #[test]
    fn what_is_taken_out_is_right_or_not_taken() {
        let home = tempfile::tempdir().unwrap();
        let (spool, to) = (spool(home.path()), home.path().join("pg_wal/RECOVERYXLOG"));
        assert!(!spool.take(name(1), &to), "there is no spool");
        spool.ask(name(1)).unwrap();
        assert!(spool.is_unattended());
        put(&spool, 2, b"two", Digest::of(b"two"));
        put(&spool, 3, b"spoilt", Digest::of(b"three"));
        fs::write(spool.part(name(4)), b"half").unwrap();
        assert!(spool.take(name(2), &to));
        assert_eq!(fs::read(&to).unwrap(), b"two");
        for segment in [2, 3, 4] {
            assert!(!spool.take(name(segment), &to));
        }
        assert!(spool.held().is_empty(), "what is spoilt goes");
        assert!(!spool.is_coming(name(4)), "whoever began it is gone");
        let filling = spool.fill().unwrap();
        assert!(filling.is_some() && spool.fill().unwrap().is_none());
        assert!(spool.is_coming(name(4)) && !spool.is_unattended());
        spool.ask(name(5)).unwrap();
        assert_eq!(spool.asked(), Some(name(5)));
        spool.sweep_parts();
        assert!(!spool.is_coming(name(4)));
        let other = Spool::beside(&to, "elsewhere").unwrap();
        other.ask(name(1)).unwrap();
        let attended = other.fill().unwrap();
        spool.sweep_others();
        assert!(other.path().exists() && spool.path().exists());
        drop(attended);
        spool.sweep_others();
        assert!(!other.path().exists() && spool.path().exists());
        spool.remove();
        assert_eq!(spool.asked(), None);
    }

    #[test]
    fn nobody_but_a_server_has_one() {
        let to = |path: &str, source: &str| Spool::beside(Path::new(path), source).map(|spool| spool.path);
        assert_eq!(to("somewhere/RECOVERYXLOG", "a"), None);
        assert_eq!(to("x", "a"), None);
        assert!(to("pg_wal/RECOVERYXLOG", "a") != to("pg_wal/RECOVERYXLOG", "b"));
    }
}
