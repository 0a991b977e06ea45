//! From decisions to the repository: carries out the tail's actions, and tries again until they are done.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use proto::wal::SegmentName;
use repository::{Branch, Epoch, FragmentName, Journal, JournalName};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::action::{Append, Content, JobId, PutFragment, PutSegment};
use super::counts::PutKind;
use super::error::is_final;
use super::state::StreamState;

use crate::archive::KnownSegments;
use crate::backoff::Backoff;

/// Stored fragments by segment and range.
type Fragments = BTreeMap<(SegmentName, u32, u32), FragmentName>;

/// The first and the longest pause between tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Journals that are remembered: those of the windows that are being stored are among them.
const REMEMBERED: usize = 32;

/// Where one epoch's WAL goes.
#[derive(Clone)]
pub(crate) struct Sink {
    branch: Branch,
    epoch: Epoch,
    /// The fragments of this epoch that are there.
    fragments: Arc<Mutex<Fragments>>,
    /// The journals of this epoch that are there.
    journals: Arc<Mutex<Vec<JournalName>>>,
    known: KnownSegments,
    state: StreamState,
}

impl Sink {
    pub(crate) fn new(branch: Branch, epoch: Epoch, known: KnownSegments, state: StreamState) -> Self {
        Self { branch, epoch, fragments: Arc::default(), journals: Arc::default(), known, state }
    }

    /// Stores a fragment. Returns once it is durable, or when trying is pointless.
    pub(crate) async fn put_fragment(self, put: PutFragment) -> repository::Result<JobId> {
        let PutFragment { job, segment, range, server_time, content, replaces } = put;
        let (begun, length) = (Instant::now(), u64::from(range.end - range.start));
        let (branch, places) = (&self.branch, (range.start, range.end));
        let mut parcel = branch.fragment_parcel(&self.epoch, segment, places, server_time, content).await?;
        let what = format!("WAL {segment} [{}, {})", range.start, range.end);
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let name = loop {
            let mut stored = branch.put_fragment_parcel(&mut parcel).await;
            if let (Ok(name), true) = (&stored, replaces) {
                // Its name has the digest of what was received.
                stored = branch.verify_fragment(name).await.map(|()| *name);
            }
            match stored {
                Ok(name) => break name,
                Err(error) => self.try_again(&what, error, &mut backoff).await?,
            }
        };
        self.state.counts().put(PutKind::Fragment, length, begun.elapsed());
        debug!(%segment, from = range.start, to = range.end, "stored a fragment");
        self.names().insert((segment, range.start, range.end), name);
        Ok(job)
    }

    /// Adds to the journal, or begins one where there is none to go on with. Returns once it is durable, or when trying is
    /// pointless.
    pub(crate) async fn append(
        self,
        mut journal: Option<Journal>,
        put: Append,
    ) -> (Option<Journal>, repository::Result<JobId>) {
        let what = format!("WAL {} [{}, {})", put.segment, put.range.start, put.range.end);
        let begun = Instant::now();
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            match self.try_append(&mut journal, &put).await {
                // Durable: a record counts when the sync after it has returned.
                Ok(()) => {
                    self.state.counts().put(PutKind::Record, put.content.len() as u64, begun.elapsed());
                    return (journal, Ok(put.job));
                }
                Err(error) => {
                    if let Err(error) = self.try_again(&what, error, &mut backoff).await {
                        return (None, Err(error));
                    }
                }
            }
        }
    }

    async fn try_append(&self, journal: &mut Option<Journal>, put: &Append) -> repository::Result<()> {
        let continues = |journal: &&mut Journal| {
            let name = journal.name();
            let place = (name.segment, journal.end()) == (put.segment, put.range.start);
            // After a sync that has failed nothing in that file can be relied on: its next one might succeed all the same.
            place && name.from >= put.window && journal.is_sound()
        };
        if let Some(open) = journal.as_mut().filter(continues) {
            return open.append(put.server_time, &put.content).await;
        }
        *journal = None;
        let from = put.range.start;
        let begun =
            self.branch.begin_journal(&self.epoch, put.segment, from, put.server_time, &put.content).await?;
        let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        let old = journals.len().saturating_sub(REMEMBERED);
        journals.drain(..old);
        journals.push(begun.name());
        *journal = Some(begun);
        Ok(())
    }

    /// Stores a whole segment. Returns once it is durable, or when trying is pointless.
    pub(crate) async fn put_segment(self, put: PutSegment) -> repository::Result<JobId> {
        let PutSegment { job, segment, digest, server_time, content } = put;
        let begun = Instant::now();
        let (what, branch, time) = (format!("WAL segment {segment}"), &self.branch, Some(server_time));
        let stored = match content {
            Content::Memory(pieces) => {
                let mut parcel = branch.segment_parcel(segment, digest, time, pieces)?;
                let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
                loop {
                    match branch.put_segment_parcel(&mut parcel).await {
                        Ok(stored) => break stored,
                        Err(error) => self.try_again(&what, error, &mut backoff).await?,
                    }
                }
            }
            Content::Fragments(ranges) => {
                let parts = || self.clone().read_back(segment, ranges.clone());
                self.insist(&what, || branch.put_segment_stream(segment, digest, time, parts())).await?
            }
        };
        self.state.counts().put(PutKind::Segment, self.branch.segment_size().bytes(), begun.elapsed());
        debug!(%segment, ?stored, "the segment is whole");
        // Durable: it was stored, or the same content was found, and no other was seen.
        self.known.stored(segment, digest);
        self.names().retain(|(of, ..), _| *of != segment);
        Ok(job)
    }

    /// The bytes of a segment from the fragments that hold it; each is verified as it is read.
    fn read_back(
        self,
        segment: SegmentName,
        ranges: Vec<Range<u32>>,
    ) -> BoxStream<'static, std::io::Result<Bytes>> {
        let parts = stream::iter(ranges).flat_map(move |range| {
            let name = self.names().get(&(segment, range.start, range.end)).copied();
            match name {
                Some(name) => self.branch.fragment_pieces(name),
                None => {
                    let error = std::io::Error::other("a fragment of this segment is not known");
                    stream::once(async { Err(error) }).boxed()
                }
            }
        });
        parts.boxed()
    }

    /// Deletes fragments that a stored one covers. Credentials that may not delete are fine: they just stay.
    pub(crate) async fn delete(self, segment: SegmentName, ranges: Vec<Range<u32>>) {
        for range in ranges {
            let name = self.names().remove(&(segment, range.start, range.end));
            if let Some(name) = name
                && let Err(error) = self.branch.store().delete(&self.branch.key(&name.key())).await
            {
                debug!(%segment, "a merged fragment stays: {error}");
                return;
            }
        }
    }

    /// Deletes the journals of a part of a segment that a stored fragment covers.
    pub(crate) async fn delete_journals(self, segment: SegmentName, window: Range<u32>) {
        let gone: Vec<JournalName> = {
            let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
            journals.extract_if(.., |name| name.segment == segment && window.contains(&name.from)).collect()
        };
        for name in gone {
            if let Err(error) = self.branch.store().delete(&self.branch.key(&name.key())).await {
                debug!(%segment, "a journal stays: {error}");
                return;
            }
        }
    }

    fn names(&self) -> MutexGuard<'_, Fragments> {
        self.fragments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries again, ever more slowly, until it is done.
    async fn insist<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> repository::Result<T>
    where
        F: Future<Output = repository::Result<T>>,
    {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => self.try_again(what, error, &mut backoff).await?,
            }
        }
    }

    /// Tells of an error and waits; gives it back where trying again is pointless.
    async fn try_again(
        &self,
        what: &str,
        error: repository::Error,
        backoff: &mut Backoff,
    ) -> repository::Result<()> {
        if is_final(&error) {
            return Err(error);
        }
        self.state.counts().retry();
        let text = format!("cannot store {what}: {error}");
        if self.state.set_error(&text) {
            warn!("{text}; nothing of it is acknowledged, trying again");
        }
        tokio::time::sleep(backoff.next_wait()).await;
        Ok(())
    }
}
