//! Objects that grow: what a directory can do, and an object store cannot.
//!
//! Written for one thing: that a few hundred bytes become durable as quickly as the file system allows. A new object costs
//! the sync of a file and that of its folder. Here the room is written with zeros beforehand, a step at a time, so that
//! the sync of what is appended has no length and no block map to make durable with it, but the bytes alone.
//!
//! ```text
//! [ what was appended              ][ filler: 8 bytes that say how long it is, then zeros ]
//! ```
//!
//! Filler is a zstd skippable frame, so that `zstd -d` passes over it. What is appended next overwrites it.
//!
//! **A sync that has failed is never tried again.** The kernel tells of a failed write once and may have dropped what it
//! could not write; the next sync of the same file would then succeed and mean nothing. Such an object is not sound any
//! more, and whoever appends has to begin another.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::Store;
use super::local::{Root, sync_directory};
use crate::{Error, Key, Result};

/// Magic number of the skippable frame behind what was appended.
const FILLER_MAGIC: u32 = 0x184D_2A5A;

/// Its magic number and length.
const FILLER_PREFIX: usize = 8;

/// How much room is made at first, and how much at once at most. In between it doubles.
const STEPS: (u64, u64) = (64 << 10, 1 << 20);

/// What room is rounded up to where the disk has none for a whole step.
const BLOCK: u64 = 4 << 10;

/// Room is written in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A sync that takes no longer is done in place: the way to another thread and back would take as long.
const QUICK: Duration = Duration::from_millis(1);

/// Nor is a longer piece written in place.
const SMALL: usize = 32 << 10;

/// A store whose objects can grow.
#[async_trait]
pub trait Grows: std::fmt::Debug + Send + Sync {
    /// Makes an object, of a name that nobody else uses, that begins with `bytes`. When this returns it is durable.
    ///
    /// # Errors
    /// It exists, or cannot be written: then nothing of it stays, if that can be helped.
    async fn create(&self, key: &Key, bytes: Vec<u8>) -> Result<Box<dyn Growing>>;
}

/// An object that grows, in the hands of the only one who writes to it. Dropped, it stays as it is.
#[async_trait]
pub trait Growing: std::fmt::Debug + Send {
    /// Adds `bytes` at the end. When this returns they are durable. While it has not, a reader may see any part of them,
    /// and whatever else lies behind the end.
    ///
    /// # Errors
    /// Nothing is known of `bytes`; all before is as durable as it was. See [`Growing::is_sound`].
    async fn append(&mut self, bytes: Vec<u8>) -> Result<()>;

    /// Whether it may be appended to. Not once an append has failed in a way that leaves its state open, was given up
    /// half-way, or the object was deleted.
    fn is_sound(&self) -> bool;
}

impl Store {
    /// Whether objects can grow here.
    pub fn can_grow(&self) -> bool {
        self.inner.grows.is_some()
    }

    /// Makes an object that can grow; see [`Grows::create`].
    ///
    /// # Errors
    /// [`Error::Refused`] where objects cannot grow.
    pub async fn create_growing(&self, key: &Key, bytes: Vec<u8>) -> Result<Box<dyn Growing>> {
        let length = bytes.len() as u64;
        let made = match &self.inner.grows {
            Some(grows) => grows.create(key, bytes).await,
            None => {
                Err(Error::Refused { what: self.what(key), why: "this store's objects cannot grow".into() })
            }
        };
        match &made {
            Ok(_) => self.inner.activity.object(length),
            Err(_) => self.inner.activity.failed(),
        }
        made
    }

    /// Where what grows is counted.
    pub(crate) fn activity(&self) -> Arc<super::Activity> {
        self.inner.activity.clone()
    }
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory(pub(super) Root);

#[async_trait]
impl Grows for Directory {
    async fn create(&self, key: &Key, bytes: Vec<u8>) -> Result<Box<dyn Growing>> {
        let (root, key) = (self.0.clone(), key.clone());
        let path = root.path(&key);
        let made = blocking(&path, {
            let path = path.clone();
            move || create(&root, &key, &path, bytes)
        });
        let (file, end, room) = made.await?;
        let (file, root) = (Arc::new(file), self.0.clone());
        Ok(Box::new(GrowingFile { root, file, path, end, room, sound: true, quick: false }))
    }
}

#[derive(Debug)]
struct GrowingFile {
    root: Root,
    file: Arc<File>,
    path: PathBuf,
    /// Where what was appended ends.
    end: u64,
    /// Where the room ends that was written.
    room: u64,
    sound: bool,
    /// The last sync was.
    quick: bool,
}

/// What became of an append.
enum Appended {
    /// It is durable; so much room is there, and so long the sync took.
    Durable(u64, Duration),
    /// There is no room for it. Nothing was touched.
    NoRoom(io::Error),
}

#[async_trait]
impl Growing for GrowingFile {
    async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        if !self.sound {
            return Err(refused(&self.path, "nothing more can be added to this file"));
        }
        self.root.check()?;
        // Until it is known how it went: the call may be dropped half-way.
        self.sound = false;
        let (length, at, room) = (bytes.len() as u64, self.end, self.room);
        let in_place = self.quick && bytes.len() <= SMALL && at + length + FILLER_PREFIX as u64 <= room;
        let appended = if in_place {
            append(&self.file, at, room, bytes).map_err(|error| refused(&self.path, error))?
        } else {
            let (file, path) = (self.file.clone(), self.path.clone());
            let work = move || append(&file, at, room, bytes).map_err(|error| refused(&path, error));
            blocking(&self.path, work).await?
        };
        self.sound = true;
        match appended {
            Appended::Durable(room, took) => {
                self.end += length;
                self.room = room;
                self.quick = took <= QUICK;
                Ok(())
            }
            Appended::NoRoom(error) => Err(refused(&self.path, error)),
        }
    }

    fn is_sound(&self) -> bool {
        self.sound
    }
}

impl Drop for GrowingFile {
    fn drop(&mut self) {
        // What may still be written in another thread must not be cut off, nor need it be: filler does no harm.
        if self.sound
            && let Err(error) = self.file.set_len(self.end)
        {
            tracing::debug!("the room behind {} stays: {error}", self.path.display());
        }
    }
}

fn create(root: &Root, key: &Key, path: &PathBuf, bytes: Vec<u8>) -> Result<(File, u64, u64)> {
    root.prepare(key)?;
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.map_err(|error| refused(path, error))?;
    let end = bytes.len() as u64;
    let written = (|| {
        let room = match append(&file, 0, 0, bytes)? {
            Appended::Durable(room, _) => room,
            Appended::NoRoom(error) => return Err(error),
        };
        file.sync_all()?;
        path.parent().map_or(Ok(()), sync_directory)?;
        Ok(room)
    })();
    match written {
        Ok(room) => Ok((file, end, room)),
        Err(error) => {
            // Nothing of it was promised to anybody.
            let _ = std::fs::remove_file(path);
            Err(refused(path, error))
        }
    }
}

/// Writes `bytes` at `at` and makes them durable. An error leaves open what is on the disk from `at` on.
fn append(file: &File, at: u64, room: u64, mut bytes: Vec<u8>) -> io::Result<Appended> {
    let end = at + bytes.len() as u64;
    let needed = end + FILLER_PREFIX as u64;
    let room = match needed <= room {
        true => room,
        false => match make_room(file, room, needed) {
            Ok(room) => room,
            Err(error) => return Ok(Appended::NoRoom(error)),
        },
    };
    // At most a step.
    let filler = (room - needed) as u32;
    bytes.extend_from_slice(&FILLER_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&filler.to_le_bytes());
    file.write_all_at(&bytes, at)?;
    let begun = Instant::now();
    file.sync_data()?;
    let took = begun.elapsed();
    if file.metadata()?.nlink() == 0 {
        // Durable in a file that nobody can find.
        return Err(io::Error::new(io::ErrorKind::NotFound, "somebody has deleted this file"));
    }
    Ok(Appended::Durable(room, took))
}

/// Writes zeros from the end of the room on, so that there is enough.
fn make_room(file: &File, room: u64, needed: u64) -> io::Result<u64> {
    let step = room.clamp(STEPS.0, STEPS.1);
    let enough = needed.next_multiple_of(BLOCK).max(room + step);
    match write_zeros(file, room, enough) {
        Ok(()) => Ok(enough),
        // The disk is nearly full: what is needed may fit all the same.
        Err(_) => {
            let least = needed.next_multiple_of(BLOCK);
            write_zeros(file, room, least).map(|()| least)
        }
    }
}

fn write_zeros(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let piece = usize::try_from(to - from).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all_at(&ZEROS[..piece], from)?;
        from += piece as u64;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    path: &std::path::Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Unreachable {
        what: format!("file://{}", path.display()),
        why: error.to_string(),
    })?
}

fn refused(path: &std::path::Path, why: impl ToString) -> Error {
    Error::Refused { what: format!("file://{}", path.display()), why: why.to_string() }
}
