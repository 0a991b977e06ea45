//! What is known to be in the repository without asking it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// What a call, or the look ahead of it, is storing just now.
    shipping: BTreeSet<SegmentName>,
}

/// Somebody is storing this segment. Whoever waits for it goes on when this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    known: KnownSegments,
    segment: SegmentName,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.known.lock().shipping.remove(&self.segment);
        self.known.0.changed.notify_waiters();
    }
}

impl Inner {
    fn is_coming(&self, segment: SegmentName) -> bool {
        self.coming.is_some_and(|(first, last)| (first..=last).contains(&segment))
    }
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

    /// Announces that the caller stores this segment. `None`: it is durable already, or somebody else is at it.
    pub(super) fn claim(&self, segment: SegmentName) -> Option<Claim> {
        let mut inner = self.lock();
        let free = !inner.digests.contains_key(&segment) && inner.shipping.insert(segment);
        free.then(|| Claim { known: self.clone(), segment })
    }

    /// Whether the stream is about to bring this segment.
    pub(super) fn is_coming(&self, segment: SegmentName) -> bool {
        self.lock().is_coming(segment)
    }

    /// Waits for a segment that is being stored by somebody else, and, but no longer than `patience`, for one that the
    /// stream is bringing just now.
    pub async fn await_digest(&self, segment: SegmentName, patience: Duration) -> Option<Digest> {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, or a change in between would be missed.
            changed.as_mut().enable();
            let shipping = {
                let inner = self.lock();
                let shipping = inner.shipping.contains(&segment);
                match inner.digests.get(&segment) {
                    Some(digest) => return Some(*digest),
                    None if !shipping && !inner.is_coming(segment) => return None,
                    None => shipping,
                }
            };
            if shipping {
                changed.await;
            } else if timeout_at(deadline, changed).await.is_err() {
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
    async fn what_somebody_is_storing_is_waited_for_and_not_stored_twice() {
        let known = KnownSegments::default();
        let claim = known.claim(name(7)).expect("it is free");
        assert!(known.claim(name(7)).is_none());
        let waiter = tokio::spawn({
            let known = known.clone();
            // No patience at all: that is for the stream.
            async move { known.await_digest(name(7), Duration::ZERO).await }
        });
        tokio::task::yield_now().await;
        known.stored(name(7), Digest::of(b"x"));
        drop(claim);
        assert_eq!(waiter.await.unwrap(), Some(Digest::of(b"x")));
        // Nobody has to store what is durable.
        assert!(known.claim(name(7)).is_none());
        // Who gave up has left it to others.
        drop(known.claim(name(8)));
        assert_eq!(known.await_digest(name(8), Duration::ZERO).await, None);
        assert!(known.claim(name(8)).is_some());
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
