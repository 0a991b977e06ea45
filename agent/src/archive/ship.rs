//! Making one WAL file durable, with or without an agent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::config::ClusterName;
use proto::wal::check::{SegmentFacts, check_segment_start, check_whole, check_whole_by_page};
use proto::wal::page::PAGE_SIZE;
use proto::wal::{SegmentName, SegmentSize, WalError, WalFile};
use proto::{Digest, SystemId};
use repository::{Branch, Repository};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tracing::info;

use super::{ArchiveCounts, KnownSegments, backlog};

/// Files that are stored side by side: of 16 MiB each, 64 MiB of memory; larger ones are read in pieces.
pub(super) const CONCURRENCY: usize = 4;

/// How long a call waits for what the stream is storing just now, before it does the work itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// A larger file is read in pieces, twice: once to check and digest it, once to store it.
pub(super) const IN_MEMORY: u64 = 16 << 20;

/// A piece of a larger file.
const PIECE: usize = 1 << 20;

/// The largest file that is no segment and no part of one: a history has 50 bytes a fork.
const LONGEST_SMALL_FILE: u64 = 1 << 20;

/// A file that `archive_command` hands over.
#[derive(Debug)]
pub struct Offer {
    /// What its name says.
    pub file: WalFile,
    /// Its length.
    pub size: u64,
    /// Its digest, if the caller knows it. What is stored has this digest, or nothing is.
    pub digest: Option<Digest>,
    /// The file itself, open for reading.
    pub source: File,
    /// Where the server has it, if the files beside it are to be looked at, too.
    pub path: Option<PathBuf>,
}

/// Why a file is not durable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is not what its name says, or of another cluster, or not whole.
    #[error("{file} is refused: {why}")]
    Wal {
        /// The file.
        file: WalFile,
        /// What is wrong.
        why: WalError,
    },
    /// Another content is in the repository under this name.
    #[error(
        "segment {segment} is in the repository with digest {stored}, but this file has {offered}: nothing was \
         overwritten"
    )]
    Conflict {
        /// The segment.
        segment: SegmentName,
        /// What the repository has.
        stored: Digest,
        /// What was handed over.
        offered: Digest,
    },
    /// It is not the file that the caller has digested.
    #[error("{file} changed while it was archived")]
    Changed {
        /// The file.
        file: WalFile,
    },
    /// Its length is impossible.
    #[error("{file} has {size} bytes: {expected}")]
    Size {
        /// The file.
        file: WalFile,
        /// Its length.
        size: u64,
        /// What it ought to be.
        expected: &'static str,
    },
    /// It cannot be read.
    #[error("cannot read {file}: {why}")]
    Read {
        /// The file.
        file: WalFile,
        /// What the system says.
        why: io::Error,
    },
    /// The repository.
    #[error("{0}")]
    Repository(#[from] repository::Error),
    /// A task of ours has died.
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl ArchiveError {
    /// Whether it is the file itself that will not do: the same call would be refused again.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Wal { .. } | Self::Conflict { .. } | Self::Changed { .. } | Self::Size { .. })
    }

    /// What an operator can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Repository(error) => return error.hint().map(str::to_owned),
            Self::Conflict { .. } => {
                "two servers archive under one name (a copy, a restored server that still archives, a split brain): \
                 find out which is right. If it is this file, move the other one's object out of the repository by hand; \
                 walkeep never does"
                    .to_owned()
            }
            Self::Wal { why: WalError::Foreign { .. }, .. } => {
                "run `walkeep init` for this cluster, or give this server another `cluster` name".to_owned()
            }
            _ => return None,
        })
    }
}

/// Stores WAL files of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    repository: Repository,
    cluster: ClusterName,
    known: KnownSegments,
    /// The branch of the first file. Another system identifier is looked up each time: it should not occur.
    branch: Arc<OnceCell<Branch>>,
    room: Arc<Semaphore>,
    /// Held by the one who looks ahead.
    ahead: Arc<Semaphore>,
    counts: Arc<ArchiveCounts>,
}

impl Archive {
    /// For the files of `cluster`. `known` is what the stream tells.
    pub fn new(repository: Repository, cluster: ClusterName, known: KnownSegments) -> Self {
        let room = Arc::new(Semaphore::new(CONCURRENCY));
        let ahead = Arc::new(Semaphore::new(1));
        Self { repository, cluster, known, branch: Arc::default(), room, ahead, counts: Arc::default() }
    }

    /// What the calls have come to.
    pub fn counts(&self) -> Arc<ArchiveCounts> {
        self.counts.clone()
    }

    /// Makes the file of the cluster `owner` durable in the repository, or finds that it is. Only then does it return `Ok`.
    pub async fn archive(&self, offer: Offer, owner: SystemId) -> Result<(), ArchiveError> {
        let outcome = Box::pin(self.answer(offer, owner)).await;
        let counter = match &outcome {
            Ok(()) => &self.counts.answered,
            Err(error) if error.is_refusal() => &self.counts.refused,
            Err(_) => &self.counts.failed,
        };
        counter.add_one();
        outcome
    }

    async fn answer(&self, offer: Offer, owner: SystemId) -> Result<(), ArchiveError> {
        let WalFile::Segment(segment) = offer.file else { return self.store_small(offer, owner).await };
        let Some(digest) = offer.digest else {
            let digest = self.store(offer, segment, 0).await?;
            self.known.stored(segment, digest);
            return Ok(());
        };
        let _claim = loop {
            // Durable: known is only what this process has itself stored in full, or seen in the repository.
            if let Some(stored) = self.known.await_digest(segment, PATIENCE).await {
                return judge(segment, stored, digest);
            }
            // Somebody may have begun meanwhile: then it is waited for once more.
            if let Some(claim) = self.known.claim(segment) {
                break claim;
            }
        };
        let (path, source) = (offer.path.clone(), offer.source.try_clone());
        let digest = self.store(offer, segment, 0).await?;
        self.known.stored(segment, digest);
        // The archiver is not waiting for what the stream has done: there may be more behind this one. Not before this
        // one is stored: what lies behind a hole is of no use.
        if let (Some(path), Ok(source)) = (path, source) {
            backlog::look_ahead(self, path, source, segment);
        }
        Ok(())
    }

    /// Makes a segment durable, or finds that it is; its digest. `ahead` segments right before it are perhaps not
    /// durable yet: then nobody may be told before they are.
    pub(super) async fn store(
        &self,
        offer: Offer,
        segment: SegmentName,
        ahead: u32,
    ) -> Result<Digest, ArchiveError> {
        let offer = Arc::new(offer);
        let facts = {
            let offer = offer.clone();
            blocking(move || start(&offer, segment)).await?
        };
        let branch = self.branch(facts.system_id).await?;
        let expected = branch.segment_size().bytes();
        if offer.size != expected {
            let why = WalError::Length { found: offer.size, expected };
            return Err(ArchiveError::Wal { file: offer.file, why });
        }
        // Whole, since a segment is visible only when all of it is stored; and durable. Where the caller has digested the
        // file there is nothing to read: the answer is about that digest.
        let stored = branch.durable_segment(segment).await?;
        if let (Some(stored), Some(digest)) = (stored, offer.digest) {
            return judge(segment, stored, digest).map(|()| stored);
        }
        // Before the file is read: that bounds the memory. The semaphore is never closed; were it, there would only be
        // less order.
        let _room = self.room.acquire().await;
        let facts = {
            let offer = offer.clone();
            blocking(move || examine(&offer, segment)).await?
        };
        if let Some(stored) = stored {
            return judge(segment, stored, facts.digest).map(|()| stored);
        }
        let stored = match facts.content {
            Some(content) => branch.put_segment_ahead(segment, facts.digest, ahead, content).await?,
            None => branch.put_segment_stream(segment, facts.digest, None, pieces(offer.clone())).await?,
        };
        info!(cluster = %self.cluster, %segment, ?stored, "archived");
        self.counts.shipped.add_one();
        Ok(facts.digest)
    }

    /// Bytes in a segment of the server whose files these are.
    pub(super) async fn segment_size(&self) -> Result<SegmentSize, ArchiveError> {
        match self.branch.get() {
            Some(branch) => Ok(branch.segment_size()),
            None => Ok(self.repository.only_branch(&self.cluster).await?.segment_size()),
        }
    }

    /// What is known without asking the repository.
    pub(super) fn known(&self) -> &KnownSegments {
        &self.known
    }

    /// The right to look ahead, which one task has at a time.
    pub(super) fn begin_ahead(&self) -> Option<OwnedSemaphorePermit> {
        self.ahead.clone().try_acquire_owned().ok()
    }

    /// A history, partial or backup file. All but the partial ones do not tell whose they are.
    async fn store_small(&self, offer: Offer, owner: SystemId) -> Result<(), ArchiveError> {
        let file = offer.file;
        let longest = match file {
            WalFile::Partial(_) => 1 << 30,
            _ => LONGEST_SMALL_FILE,
        };
        if offer.size > longest {
            return Err(ArchiveError::Size {
                file,
                size: offer.size,
                expected: "longer than such a file may be",
            });
        }
        // Before the file is read, as for segments.
        let _room = self.room.acquire().await;
        let offer = Arc::new(offer);
        let (examined, system_id) = {
            let offer = offer.clone();
            blocking(move || examine_small(&offer)).await?
        };
        // A partial segment says itself whose it is.
        let system_id = system_id.unwrap_or(owner);
        let branch = self.branch(system_id).await?;
        let stored = match examined.content {
            Some(content) => branch.put_wal_file(file, content).await?,
            None => {
                let (length, pieces) = (offer.size, pieces(offer.clone()));
                branch.put_wal_file_stream(file, length, examined.digest, pieces).await?
            }
        };
        info!(cluster = %self.cluster, %file, ?stored, "archived");
        Ok(())
    }

    /// The branch of that cluster.
    async fn branch(&self, system_id: SystemId) -> Result<Branch, ArchiveError> {
        let open = async || self.repository.branch(&self.cluster, system_id).await;
        let known = self.branch.get_or_try_init(open).await?;
        match known.system_id() == system_id {
            true => Ok(known.clone()),
            false => Ok(open().await?),
        }
    }
}

fn judge(segment: SegmentName, stored: Digest, offered: Digest) -> Result<(), ArchiveError> {
    if stored == offered { Ok(()) } else { Err(ArchiveError::Conflict { segment, stored, offered }) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work).await?
}

/// What a look at a whole file has found.
struct Examined {
    digest: Digest,
    /// The content, unless it is too large to be held.
    content: Option<Bytes>,
}

/// Reads and checks a segment's first page.
fn start(offer: &Offer, segment: SegmentName) -> Result<SegmentFacts, ArchiveError> {
    let wal = |why| ArchiveError::Wal { file: offer.file, why };
    let mut first = [0; PAGE_SIZE];
    read_page(offer, 0, &mut first)?;
    let facts = check_segment_start(&first, segment, None).map_err(wal)?;
    let expected = facts.segment_size.bytes();
    if expected != offer.size {
        return Err(wal(WalError::Length { found: offer.size, expected }));
    }
    Ok(facts)
}

/// Reads, checks and digests a segment whose start was checked.
fn examine(offer: &Offer, segment: SegmentName) -> Result<Examined, ArchiveError> {
    let file = offer.file;
    let (digest, content) = if offer.size <= IN_MEMORY {
        let content = read(offer)?;
        check_whole(&content, segment).map_err(|why| ArchiveError::Wal { file, why })?;
        (Digest::of(&content), Some(content))
    } else {
        (examine_large(offer, segment)?, None)
    };
    if offer.digest.is_some_and(|expected| expected != digest) {
        return Err(ArchiveError::Changed { file });
    }
    Ok(Examined { digest, content })
}

/// Reads and digests a file that is no segment. A partial segment says whose it is.
fn examine_small(offer: &Offer) -> Result<(Examined, Option<SystemId>), ArchiveError> {
    let file = offer.file;
    let system_id = match file {
        WalFile::Partial(segment) => {
            let mut page = [0; PAGE_SIZE];
            read_page(offer, 0, &mut page)?;
            let facts = check_segment_start(&page, segment, None);
            Some(facts.map_err(|why| ArchiveError::Wal { file, why })?.system_id)
        }
        _ => None,
    };
    let (digest, content) = if offer.size <= IN_MEMORY {
        let content = read(offer)?;
        (Digest::of(&content), Some(content))
    } else {
        (digest_pieces(offer, |_, _| {})?, None)
    };
    if offer.digest.is_some_and(|expected| expected != digest) {
        return Err(ArchiveError::Changed { file });
    }
    Ok((Examined { digest, content }, system_id))
}

/// The same as `examine`, in bounded memory.
fn examine_large(offer: &Offer, segment: SegmentName) -> Result<Digest, ArchiveError> {
    let mut last_content = 0;
    let digest = digest_pieces(offer, |at, piece| {
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            last_content = at + last as u64;
        }
    })?;
    let checked = check_whole_by_page(offer.size, last_content, segment, |page, buffer| {
        read_page(offer, page * PAGE_SIZE as u64, buffer).map_err(PageError::Read)
    });
    checked.map_err(|error| match error {
        PageError::Wal(why) => ArchiveError::Wal { file: offer.file, why },
        PageError::Read(error) => error,
    })?;
    Ok(digest)
}

/// Reads a file once, in pieces; `see` gets each of them with its offset.
fn digest_pieces(offer: &Offer, mut see: impl FnMut(u64, &[u8])) -> Result<Digest, ArchiveError> {
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    let mut piece = vec![0; PIECE];
    while at < offer.size {
        let length = piece.len().min((offer.size - at) as usize);
        let piece = &mut piece[..length];
        offer.source.read_exact_at(piece, at).map_err(|why| ArchiveError::Read { file: offer.file, why })?;
        hasher.update(piece);
        see(at, piece);
        at += length as u64;
    }
    Ok(hasher.finalize().into())
}

/// A page is wrong, or cannot be read.
enum PageError {
    Wal(WalError),
    Read(ArchiveError),
}

impl From<WalError> for PageError {
    fn from(why: WalError) -> Self {
        Self::Wal(why)
    }
}

fn read_page(offer: &Offer, at: u64, page: &mut [u8; PAGE_SIZE]) -> Result<(), ArchiveError> {
    let file = offer.file;
    offer.source.read_exact_at(page, at).map_err(|why| match why.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Wal { file, why: WalError::Short(offer.size) },
        _ => ArchiveError::Read { file, why },
    })
}

/// The whole file: exactly the length that was announced.
fn read(offer: &Offer) -> Result<Bytes, ArchiveError> {
    let file = offer.file;
    // Bounded by the callers.
    let mut content = vec![0; offer.size as usize];
    offer.source.read_exact_at(&mut content, 0).map_err(|why| match why.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Changed { file },
        _ => ArchiveError::Read { file, why },
    })?;
    let mut more = [0];
    match offer.source.read_at(&mut more, offer.size) {
        Ok(0) => Ok(content.into()),
        Ok(_) => Err(ArchiveError::Changed { file }),
        Err(why) => Err(ArchiveError::Read { file, why }),
    }
}

/// The file in pieces.
fn pieces(offer: Arc<Offer>) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + Unpin {
    Box::pin(futures::stream::try_unfold(0, move |at| {
        let offer = offer.clone();
        async move {
            if at >= offer.size {
                return Ok(None);
            }
            let length = (PIECE as u64).min(offer.size - at);
            let piece = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length as usize];
                offer.source.read_exact_at(&mut piece, at)?;
                io::Result::Ok(Bytes::from(piece))
            })
            .await
            .map_err(io::Error::other)??;
            Ok(Some((piece, at + length)))
        }
    }))
}
