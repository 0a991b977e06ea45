//! Writing packs.
//!
//! ```text
//!  append ──► cutter ──► compress + digest ──► seal, in order ──► upload
//!  (caller)              (`jobs` threads)       (one thread)       (the store's parts)
//! ```
//!
//! Memory: `2 · jobs + 2` frames are on their way at most, and one more is being gathered, each up to 1 MiB raw
//! and, once compressed, up to 1 MiB more; a zstd context for each of the `jobs`; what an upload holds (32 MiB), of
//! which there is one at a time and, while a pack is being completed, the rest of the one before (24 MiB at
//! most). A file store writes parts out faster than they are made, so that there about 30 MiB are in use with
//! two jobs.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use proto::Digest;
use proto::config::UploadRate;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};

use super::cutter::{Cutter, IdleFrames};
use super::index::{Frame, MAX_FRAMES, PackIndex};
use super::pace::Pace;
use super::{
    BlockDigest, Extent, FRAME_SIZE, PackBlocks, PackEntry, PackName, outcome, pack_key, push_extent,
};
use crate::backup::BackupLabel;
use crate::{Branch, Error, Kind, Result, SealWriter, Upload};

/// A pack is closed when this much of it is stored, or [`MAX_FRAMES`] frames are in it.
const PACK_TARGET: u64 = 64 << 20;

/// Writes a backup's bytes into packs.
///
/// Dropped before [`PackWriter::finish`] it leaves whole packs behind that no manifest names: leftovers,
/// harmless, for `expire` to sweep.
pub struct PackWriter {
    cutter: Cutter,
    /// Index of the current pack.
    pack: u32,
    /// Raw bytes in the current pack, those included that wait in the cutter.
    pack_raw: u64,
    raw_bytes: u64,
    /// The blocks that begin in the current pack.
    blocks: PackBlocks,
    compressors: Arc<Compressors>,
    /// One permit for each frame between the cutter and the upload.
    room: Arc<Semaphore>,
    /// One permit for each thread that may compress.
    threads: Arc<Semaphore>,
    /// Compressed bytes of all packs so far.
    stored: Arc<AtomicU64>,
    /// The same when the current pack was begun.
    stored_before: u64,
    steps: mpsc::UnboundedSender<Step>,
    /// None once its outcome was told.
    shipper: Option<JoinHandle<Result<Vec<PackEntry>>>>,
}

/// What the shipping task has to do, in order. There are never more than there are permits, but for the ends
/// of packs.
enum Step {
    Frame(JoinHandle<Result<Compressed>>, OwnedSemaphorePermit),
    EndOfPack(PackBlocks),
    Finish(PackBlocks),
}

impl PackWriter {
    /// Begins. Frames are compressed and digested on `jobs` threads (at least one).
    ///
    /// Must be called within a tokio runtime.
    pub fn new(branch: Branch, label: BackupLabel, jobs: usize) -> Self {
        Self::paced(branch, label, jobs, None)
    }

    /// The same, with a limit on how fast packs go to the store. It holds on average: a store takes parts of 8 MiB,
    /// each as fast as it can.
    pub fn paced(branch: Branch, label: BackupLabel, jobs: usize, rate: Option<UploadRate>) -> Self {
        let jobs = jobs.max(1);
        let stored = Arc::new(AtomicU64::new(0));
        let (steps, received) = mpsc::unbounded_channel();
        let frames = IdleFrames::default();
        let compressors = Arc::new(Compressors::new(branch.level(), frames.clone()));
        let shipper = Shipper::new(branch, label, stored.clone(), Pace::new(rate));
        Self {
            cutter: Cutter::new(frames),
            pack: 0,
            pack_raw: 0,
            raw_bytes: 0,
            blocks: PackBlocks::default(),
            compressors,
            room: Arc::new(Semaphore::new(2 * jobs + 2)),
            threads: Arc::new(Semaphore::new(jobs)),
            stored,
            stored_before: 0,
            steps,
            shipper: Some(tokio::spawn(shipper.run(received))),
        }
    }

    /// Appends bytes; returns where they went, `file_offset` counted from the beginning of `bytes`: mostly
    /// one extent, two where a pack ended. Waits while the store is slower than the caller.
    ///
    /// # Errors
    /// What went wrong with bytes appended earlier: then nothing more can be appended.
    pub async fn append(&mut self, mut bytes: Bytes) -> Result<Vec<Extent>> {
        let mut extents = Vec::with_capacity(1);
        let mut file_offset = 0;
        while !bytes.is_empty() {
            let length = bytes.len().min(self.cutter.room()) as u64;
            let extent = Extent { file_offset, length, pack: self.pack, pack_offset: self.pack_raw };
            push_extent(&mut extents, extent);
            file_offset += length;
            self.pack_raw += length;
            self.raw_bytes += length;
            if let Some(frame) = self.cutter.take(&mut bytes) {
                self.send(frame).await?;
                self.end_pack_if_full().await?;
            }
        }
        Ok(extents)
    }

    /// Tells that the next `length` bytes, however they will be appended, are a block of a file, and their digest:
    /// a later backup will compare with it. The last block of a file may be shorter than the others.
    pub fn begin_block(&mut self, length: usize, digest: BlockDigest) {
        self.blocks.push(self.pack_raw, length, digest);
    }

    /// Raw bytes that were appended.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Bytes that were compressed and handed to the store so far.
    pub fn stored_bytes(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Completes the last pack. When this returns all packs are durable.
    pub async fn finish(mut self) -> Result<Vec<PackEntry>> {
        if let Some(frame) = self.cutter.rest() {
            self.send(frame).await?;
        }
        let blocks = std::mem::take(&mut self.blocks);
        self.step(Step::Finish(blocks)).await?;
        match self.shipper.take() {
            Some(shipper) => outcome(shipper.await),
            None => Err(broken_before()),
        }
    }

    /// Hands a frame on to be compressed, as soon as there is room for one more.
    async fn send(&mut self, frame: Vec<u8>) -> Result<()> {
        let Ok(permit) = self.room.clone().acquire_owned().await else { return Err(broken_before()) };
        let (threads, compressors) = (self.threads.clone(), self.compressors.clone());
        let task = tokio::spawn(async move {
            // Frames wait in the order in which they came, so none is late by more than the number of
            // threads.
            let _thread = threads.acquire().await;
            outcome(spawn_blocking(move || compressors.compress(frame)).await)
        });
        self.step(Step::Frame(task, permit)).await
    }

    /// Begins another pack when enough is stored of this one. The figure lags behind by the frames that are
    /// on their way, at the beginning of a pack as at its end, so that packs come out as long as they should.
    async fn end_pack_if_full(&mut self) -> Result<()> {
        let stored = self.stored.load(Ordering::Relaxed);
        let frames = self.pack_raw / FRAME_SIZE as u64;
        if frames < MAX_FRAMES as u64 && stored - self.stored_before < PACK_TARGET {
            return Ok(());
        }
        self.pack =
            self.pack.checked_add(1).ok_or_else(|| Error::invalid("the backup", "it has too many packs"))?;
        self.pack_raw = 0;
        self.stored_before = stored;
        let blocks = std::mem::take(&mut self.blocks);
        self.step(Step::EndOfPack(blocks)).await
    }

    /// Tells the shipping task what comes next. If it has ended before its time, it knows why.
    async fn step(&mut self, step: Step) -> Result<()> {
        if self.steps.send(step).is_ok() {
            return Ok(());
        }
        match self.shipper.take() {
            Some(shipper) => outcome(shipper.await).and(Err(broken_before())),
            None => Err(broken_before()),
        }
    }
}

fn broken_before() -> Error {
    Error::Unreachable { what: "the backup's packs".into(), why: "writing them has failed before".into() }
}

/// A frame on its way to the store.
struct Compressed {
    bytes: Vec<u8>,
    raw: usize,
    digest: Digest,
}

/// zstd contexts that are not in use, to be used again: one costs more to set up than a frame to compress.
struct Compressors {
    level: i32,
    idle: Mutex<Vec<zstd::bulk::Compressor<'static>>>,
    frames: IdleFrames,
}

impl Compressors {
    fn new(level: i32, frames: IdleFrames) -> Self {
        Self { level, idle: Mutex::new(Vec::new()), frames }
    }

    fn compress(&self, frame: Vec<u8>) -> Result<Compressed> {
        let failed = |error: io::Error| Error::invalid("zstd", error);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut compressor = match idle {
            Some(idle) => idle,
            None => {
                let mut compressor = zstd::bulk::Compressor::new(self.level).map_err(failed)?;
                // Ours are the digests; this one is for those who open a pack with `zstd` alone.
                compressor.include_checksum(true).map_err(failed)?;
                compressor
            }
        };
        let digest = Digest::of(&frame);
        let bytes = compressor.compress(&frame).map_err(failed)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
        let raw = frame.len();
        self.frames.give(frame);
        Ok(Compressed { bytes, raw, digest })
    }
}

/// Puts frames into packs, in order, and packs into the store.
struct Shipper {
    branch: Branch,
    label: BackupLabel,
    /// In the names of all its packs: no other writer has drawn the same.
    nonce: u64,
    stored: Arc<AtomicU64>,
    pace: Pace,
    /// The pack before the current one, while its upload ends.
    ending: Option<JoinHandle<Result<PackEntry>>>,
    done: Vec<PackEntry>,
}

/// A pack that is being written.
struct OpenPack {
    name: PackName,
    seal: SealWriter<Outbox>,
    outbox: Outbox,
    index: PackIndex,
    upload: Upload,
}

impl Shipper {
    fn new(branch: Branch, label: BackupLabel, stored: Arc<AtomicU64>, pace: Pace) -> Self {
        Self { branch, label, nonce: rand::random(), stored, pace, ending: None, done: Vec::new() }
    }

    async fn run(mut self, mut steps: mpsc::UnboundedReceiver<Step>) -> Result<Vec<PackEntry>> {
        let (mut open, mut number) = (None, 0);
        while let Some(step) = steps.recv().await {
            match step {
                Step::Frame(task, _room) => {
                    let frame = outcome(task.await)?;
                    // Whoever makes frames waits with us: there is room for a few only.
                    self.pace.pass(frame.bytes.len()).await;
                    let pack = match open.take() {
                        Some(pack) => pack,
                        None => self.open(number).await?,
                    };
                    let pack = pack.add(frame).await?;
                    self.stored.fetch_add(pack.1, Ordering::Relaxed);
                    open = Some(pack.0);
                }
                Step::EndOfPack(blocks) => {
                    self.end(open.take(), blocks).await?;
                    number += 1;
                }
                Step::Finish(blocks) => {
                    self.end(open.take(), blocks).await?;
                    self.settle().await?;
                    return Ok(self.done);
                }
            }
        }
        // The owner was dropped: the backup was given up, and the open pack's upload with it.
        Err(broken_before())
    }

    async fn open(&self, number: u32) -> Result<OpenPack> {
        let name = PackName::new(self.label.clone(), number, self.nonce);
        let key = pack_key(&name);
        let outbox = Outbox::default();
        let header = self.branch.header(Kind::Pack, &key);
        let seal = SealWriter::new(outbox.clone(), &header, self.branch.sealing()?)?;
        let upload = self.branch.store().upload(&self.branch.key(&key)).await?;
        Ok(OpenPack { name, seal, outbox, index: PackIndex::default(), upload })
    }

    /// Ends a pack: its index and closing header are written now, the store's last work is awaited in the
    /// background.
    async fn end(&mut self, pack: Option<OpenPack>, blocks: PackBlocks) -> Result<()> {
        self.settle().await?;
        if let Some(pack) = pack {
            let (upload, mut entry) = pack.close().await?;
            let branch = self.branch.clone();
            self.ending = Some(tokio::spawn(async move {
                // When this returns the pack is durable; only then can a manifest name it.
                entry.stored_length = upload.finish().await?;
                if !blocks.is_empty() {
                    branch.put_pack_blocks(&entry.name, &blocks).await?;
                }
                Ok(entry)
            }));
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(ending) = self.ending.take() {
            self.done.push(outcome(ending.await)?);
        }
        Ok(())
    }
}

impl OpenPack {
    /// Seals a frame and sends off what that gave; returns its compressed length too.
    async fn add(mut self, frame: Compressed) -> Result<(Self, u64)> {
        let length = frame.bytes.len();
        let entry = Frame { compressed: length as u32, digest: frame.digest };
        self.index.push(entry, frame.raw);
        // Encryption is work for a thread of its own; without it this is little more than a copy.
        let mut seal = self.seal;
        self.seal = outcome(
            spawn_blocking(move || seal.append_digested_frame(&frame.bytes, frame.raw as u64).map(|()| seal))
                .await,
        )?;
        self.upload.write(self.outbox.take()).await?;
        Ok((self, length as u64))
    }

    async fn close(self) -> Result<(Upload, PackEntry)> {
        let Self { name, mut seal, outbox, index, mut upload } = self;
        let encoded = index.encode();
        // The digest of a pack is that of its index, which has the digests of all frames.
        let index_digest = Digest::of(&encoded);
        outcome(
            spawn_blocking(move || {
                seal.append_index(&encoded)?;
                seal.finish_as(index_digest).map(|_| ())
            })
            .await,
        )?;
        upload.write(outbox.take()).await?;
        let entry = PackEntry {
            name,
            stored_length: upload.written(),
            raw_length: index.raw_length(),
            index_offset: index.content_length(),
            index_digest,
        };
        Ok((upload, entry))
    }
}

/// Where the sealed bytes gather until they are sent off.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<BytesMut>>);

impl Outbox {
    fn take(&self) -> Bytes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).split().freeze()
    }
}

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
