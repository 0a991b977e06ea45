//! Objects that are written piece by piece.

use std::collections::VecDeque;

use bytes::Bytes;
use object_store::{MultipartUpload, PutPayload};
use tokio::task::JoinSet;

use super::Store;
use crate::task::joined;
use crate::{Key, Result};

/// Bytes in a part. All but the last are of this size, as some stores demand.
pub(super) const PART: usize = 8 << 20;

/// The same in a directory, where a part costs no request.
const PART_OF_FILE: usize = 1 << 20;

/// Parts under way at a time. With the one that is being filled, an upload holds at most 32 MiB, to a directory 4 MiB.
const IN_FLIGHT: usize = 3;

/// An object being written in parts: at most 32 MiB of it are in memory, and nothing is visible before
/// [`Upload::finish`]. Dropping it aborts it as well as that can be done.
pub struct Upload {
    store: Store,
    key: Key,
    what: String,
    /// Bytes in each part but the last.
    part: usize,
    /// Begun with the first full part: what is smaller goes by a single request.
    parts: Option<Box<dyn MultipartUpload>>,
    under_way: JoinSet<object_store::Result<()>>,
    pending: VecDeque<Bytes>,
    pending_length: usize,
    written: u64,
}

impl Upload {
    pub(super) fn new(store: Store, key: Key) -> Self {
        let what = store.what(&key);
        let part = if store.inner.root.is_some() { PART_OF_FILE } else { PART };
        Self {
            store,
            key,
            what,
            part,
            parts: None,
            under_way: JoinSet::new(),
            pending: VecDeque::new(),
            pending_length: 0,
            written: 0,
        }
    }

    /// Takes the next bytes; waits while three parts are under way.
    ///
    /// # Errors
    /// After an error the object cannot be finished any more: drop it.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.written += bytes.len() as u64;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(self.part - self.pending_length));
            self.pending_length += piece.len();
            self.pending.push_back(piece);
            if self.pending_length == self.part {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the object visible, whole and durable, and returns its length.
    pub async fn finish(mut self) -> Result<u64> {
        if self.parts.is_none() {
            let payload = self.take_pending();
            self.store.put_payload(&self.key, payload).await?;
            return Ok(self.written);
        }
        if self.pending_length > 0 {
            self.send_part().await?;
        }
        while let Some(part) = self.under_way.join_next().await {
            self.judge(part)?;
        }
        if let Some(parts) = self.parts.as_mut()
            && let Err(error) = parts.complete().await
        {
            look_again(&self.store, &self.key, self.written, &error).await?;
        }
        // Complete: nothing is left to abort.
        self.parts = None;
        self.store.inner.activity.object(self.written);
        Ok(self.written)
    }

    /// Gives the object up, and removes the parts that were stored as well as that can be done.
    pub async fn abort(mut self) {
        self.under_way.shutdown().await;
        if let Some(mut parts) = self.parts.take() {
            give_up(&self.what, &mut parts).await;
        }
    }

    async fn send_part(&mut self) -> Result<()> {
        while self.under_way.len() >= IN_FLIGHT {
            if let Some(part) = self.under_way.join_next().await {
                self.judge(part)?;
            }
        }
        let payload = self.take_pending();
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => none.insert(self.store.begin_parts(&self.key).await?),
        };
        self.under_way.spawn(parts.put_part(payload));
        Ok(())
    }

    fn take_pending(&mut self) -> PutPayload {
        self.pending_length = 0;
        std::mem::take(&mut self.pending).into_iter().collect()
    }

    fn judge(&self, part: Result<object_store::Result<()>, tokio::task::JoinError>) -> Result<()> {
        joined(&self.what, part.map(|part| part.map_err(|error| self.store.write_failure(&self.key, &error))))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.under_way.abort_all();
        if let (Some(mut parts), Ok(runtime)) = (self.parts.take(), tokio::runtime::Handle::try_current()) {
            let what = std::mem::take(&mut self.what);
            runtime.spawn(async move { give_up(&what, &mut parts).await });
        }
    }
}

async fn give_up(what: &str, parts: &mut Box<dyn MultipartUpload>) {
    if let Err(error) = parts.abort().await {
        tracing::debug!(%what, %error, "an unfinished upload could not be removed");
    }
}

/// The last request may have succeeded although its answer did not arrive; sent again it fails, since the
/// upload has become an object. The name is ours alone, or holds the content's digest: an object of the right
/// length under it is this one.
async fn look_again(store: &Store, key: &Key, written: u64, error: &object_store::Error) -> Result<()> {
    let forgotten =
        matches!(error, object_store::Error::NotFound { .. } | object_store::Error::AlreadyExists { .. });
    match store.head(key).await {
        Ok(info) if forgotten && info.size == written => Ok(()),
        _ => Err(store.write_failure(key, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::Error;

    /// Backups upload in tasks of their own.
    #[tokio::test]
    async fn an_upload_may_move_between_threads() {
        let store = Store::over(Arc::new(InMemory::new()), "memory://");
        let work = async move {
            let mut upload = store.upload(&Key::new("object")?).await?;
            upload.write(vec![1; PART + 1].into()).await?;
            upload.finish().await
        };
        assert_eq!(tokio::spawn(work).await.unwrap().unwrap(), PART as u64 + 1);
    }

    #[tokio::test]
    async fn an_answer_that_was_lost_is_looked_up() {
        let store = Store::over(Arc::new(InMemory::new()), "memory://");
        let key = Key::new("object").unwrap();
        let forgotten =
            object_store::Error::NotFound { path: "object".into(), source: "NoSuchUpload".into() };
        let error = look_again(&store, &key, 5, &forgotten).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        store.put(&key, "12345".into()).await.unwrap();
        look_again(&store, &key, 5, &forgotten).await.unwrap();
        assert!(look_again(&store, &key, 6, &forgotten).await.is_err());
    }
}
