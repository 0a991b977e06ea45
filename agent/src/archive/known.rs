//! What is known to be in the repository without asking it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::Digest;
use proto::wal::SegmentName;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Segments whose digests are remembered: more than an archiver may lag behind a healthy stream.
const CAPACITY: usize = 4096;

/// Segments that the stream, or an earlier call, has made durable. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KnownSegments(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    digests: BTreeMap<SegmentName, Digest>,
    order: VecDeque<SegmentName>,
    /// What the stream will bring next: from the oldest segment in flight to the one being received.
    coming: Option<(SegmentName, SegmentName)>,
}

impl KnownSegments {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segment is durable in the repository with this content.
    pub fn stored(&self, segment: SegmentName, digest: Digest) {
        let mut inner = self.lock();
        if inner.digests.insert(segment, digest).is_none() {
            inner.order.push_back(segment);
        }
        if inner.order.len() > CAPACITY
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.digests.remove(&oldest);
        }
        drop(inner);
        self.0.changed.notify_waiters();
    }

    /// The stream is about to bring the segments `first..=last` of one timeline; `None`: it brings nothing.
    pub fn set_coming(&self, coming: Option<(SegmentName, SegmentName)>) {
        let mut inner = self.lock();
        if inner.coming != coming {
            inner.coming = coming;
            drop(inner);
            self.0.changed.notify_waiters();
        }
    }

    /// The digest of a segment that is durable.
    pub fn digest(&self, segment: SegmentName) -> Option<Digest> {
        self.lock().digests.get(&segment).copied()
    }

    /// Waits for a segment that the stream is bringing just now, but no longer than `patience`.
    pub async fn await_digest(&self, segment: SegmentName, patience: Duration) -> Option<Digest> {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, or a change in between would be missed.
            changed.as_mut().enable();
            {
                let inner = self.lock();
                let coming = inner.coming.is_some_and(|(first, last)| (first..=last).contains(&segment));
                match inner.digests.get(&segment) {
                    Some(digest) => return Some(*digest),
                    None if !coming => return None,
                    None => {}
                }
            }
            if timeout_at(deadline, changed).await.is_err() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> SegmentName {
        format!("0000000100000000{number:08X}").parse().unwrap()
    }

    #[test]
    fn remembers_a_bounded_number() {
        let known = KnownSegments::default();
        for number in 0..CAPACITY as u32 + 5 {
            known.stored(name(number), Digest::of(b""));
            known.stored(name(number), Digest::of(b""));
        }
        assert_eq!(known.digest(name(4)), None);
        assert_eq!(known.digest(name(5)), Some(Digest::of(b"")));
        assert_eq!(known.lock().digests.len(), CAPACITY);
    }

    #[tokio::test]
    async fn waits_only_for_what_is_coming() {
        let known = KnownSegments::default();
        let long = Duration::from_secs(60);
        assert_eq!(known.await_digest(name(7), long).await, None);
        known.set_coming(Some((name(6), name(7))));
        let waiter = tokio::spawn({
            let known = known.clone();
            async move { known.await_digest(name(7), long).await }
        });
        tokio::task::yield_now().await;
        known.stored(name(7), Digest::of(b"x"));
        assert_eq!(waiter.await.unwrap(), Some(Digest::of(b"x")));
        let waiter = tokio::spawn({
            let known = known.clone();
            async move { known.await_digest(name(6), long).await }
        });
        tokio::task::yield_now().await;
        known.set_coming(None);
        assert_eq!(waiter.await.unwrap(), None);
    }
}
