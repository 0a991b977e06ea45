//! What a program has written to a store: counts, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;

/// The counters of one opened store, shared by all its copies.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    objects: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
}

/// What was written through one opened store since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Objects that became whole and durable, the same one written twice counted twice. One that grows counts once.
    pub objects: u64,
    /// Bytes in them, as they are stored: compressed, encrypted.
    pub bytes: u64,
    /// Writes that failed, each after the retries that the store's client makes by itself.
    pub failures: u64,
}

impl Activity {
    /// An object is there.
    pub(crate) fn object(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.grown(bytes);
    }

    /// One that was there has got longer.
    pub(crate) fn grown(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A write has failed.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store {
    /// What was written through this store, and its copies, since it was opened.
    pub fn written(&self) -> Written {
        let activity = &self.inner.activity;
        Written {
            objects: activity.objects.load(Ordering::Relaxed),
            bytes: activity.bytes.load(Ordering::Relaxed),
            failures: activity.failures.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::Key;

    #[tokio::test]
    async fn objects_and_bytes_are_counted_however_they_are_written() {
        let store = Store::over(Arc::new(InMemory::new()), "memory://");
        let key = Key::new("object").unwrap();
        store.put(&key, "12345".into()).await.unwrap();
        assert_eq!(store.written(), Written { objects: 1, bytes: 5, failures: 0 });
        // In parts, through a copy.
        let large = 2 * super::super::upload::PART + 1;
        store.clone().put(&key, vec![7; large].into()).await.unwrap();
        assert_eq!(store.written(), Written { objects: 2, bytes: 5 + large as u64, failures: 0 });
        assert!(store.create_growing(&key, Vec::new()).await.is_err());
        assert_eq!(store.written().failures, 1);
    }
}
