//! One store, whatever is behind it: a directory, S3, GCS, Azure.
//!
//! What each of them promises here, and the conformance suite proves: an object appears whole or not at all,
//! and is durable when [`Store::put`] or [`Upload::finish`] returns; a listing shows what was written before
//! it began; [`crate::Error::Absent`] is said only if the store has answered that the object is not there.
//! Nothing needs a conditional write: some stores ignore the condition.

mod activity;
mod blocking;
mod bucket;
mod failure;
mod grow;
mod list;
mod local;
mod open;
mod partial;
mod upload;
mod walk;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, TagSet,
};

use crate::error::OrAbsent;
use crate::task::joined;
use crate::{Error, Key, Result};
pub(crate) use activity::Activity;
pub use activity::Written;
pub use blocking::{SyncRead, SyncUpload};
use failure::classify;
pub use grow::{Growing, Grows};
pub use local::Leftover;
use local::Root;
use proto::config::StorageConfig;
pub use upload::Upload;

/// Where objects lie. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    /// The same store, where it can list by the beginning of a name.
    pages: Option<Pages>,
    /// Where in the bucket the repository lies.
    prefix: Key,
    /// The directory, if it is one.
    root: Option<Root>,
    /// What makes objects that grow, where there can be any.
    grows: Option<Arc<dyn Grows>>,
    description: String,
    /// What every object gets: its storage class.
    attributes: Attributes,
    /// What every object gets, as encoded.
    tags: TagSet,
    /// Requests at a time for bulk work.
    concurrency: usize,
    /// Whether the bucket has answered a listing.
    bucket_seen: AtomicBool,
    /// What was written, counted.
    activity: Arc<Activity>,
}

struct Pages {
    store: Arc<dyn PaginatedListStore>,
    /// Whether a listing can begin behind a name.
    begins_anywhere: bool,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

/// What a store knows about an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: Key,
    /// Its length in bytes, as stored.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: jiff::Timestamp,
}

/// What lies directly in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folder {
    /// Folders in it, in the keys' order.
    pub folders: Vec<Key>,
    /// Objects in it, in the keys' order.
    pub objects: Vec<ObjectInfo>,
}

impl Store {
    /// A store behind any implementation of the interface; `description` names it in messages.
    pub fn over(objects: Arc<dyn ObjectStore>, description: &str) -> Self {
        Self::growing_over(objects, None, description)
    }

    /// The same, with objects that can grow if `grows` makes them.
    pub fn growing_over(
        objects: Arc<dyn ObjectStore>,
        grows: Option<Arc<dyn Grows>>,
        description: &str,
    ) -> Self {
        Self::from_parts(Inner {
            objects,
            pages: None,
            prefix: Key::root(),
            root: None,
            grows,
            description: description.to_owned(),
            attributes: Attributes::new(),
            tags: TagSet::default(),
            concurrency: StorageConfig::default().concurrency,
            bucket_seen: AtomicBool::new(false),
            activity: Arc::default(),
        })
    }

    fn from_parts(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The store in words, for messages: its URL without anything secret.
    pub fn description(&self) -> &str {
        &self.inner.description
    }

    /// Requests at a time for bulk work: `storage.concurrency`.
    pub(crate) fn concurrency(&self) -> usize {
        self.inner.concurrency
    }

    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&std::path::Path> {
        self.inner.root.as_ref().map(Root::directory)
    }

    /// Stores an object under its key. When this returns the object is durable: a directory has synced the
    /// file and every directory above it, an object store answers only then.
    pub async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        // A request is sent again as a whole after a failure, so a large body goes in parts.
        if body.len() > upload::PART {
            let mut upload = self.upload(key).await?;
            upload.write(body).await?;
            upload.finish().await?;
            return Ok(());
        }
        self.put_payload(key, body.into()).await
    }

    async fn put_payload(&self, key: &Key, payload: PutPayload) -> Result<()> {
        self.prepare(key).await.inspect_err(|_| self.inner.activity.failed())?;
        let (attributes, tags) = (self.inner.attributes.clone(), self.inner.tags.clone());
        let options = PutOptions { attributes, tags, ..PutOptions::default() };
        let length = payload.content_length() as u64;
        let stored = self.inner.objects.put_opts(&self.path(key)?, payload, options).await;
        stored.map_err(|error| self.write_failure(key, &error))?;
        self.inner.activity.object(length);
        Ok(())
    }

    /// Begins an object whose length is not known yet, or too large for memory.
    pub async fn upload(&self, key: &Key) -> Result<Upload> {
        self.path(key)?;
        Ok(Upload::new(self.clone(), key.clone()))
    }

    async fn begin_parts(&self, key: &Key) -> Result<Box<dyn MultipartUpload>> {
        self.prepare(key).await.inspect_err(|_| self.inner.activity.failed())?;
        let (attributes, tags) = (self.inner.attributes.clone(), self.inner.tags.clone());
        let options = PutMultipartOptions { attributes, tags, ..PutMultipartOptions::default() };
        let upload = self.inner.objects.put_multipart_opts(&self.path(key)?, options).await;
        upload.map_err(|error| self.write_failure(key, &error))
    }

    /// The whole object.
    pub async fn get(&self, key: &Key) -> Result<Bytes> {
        let read =
            async { self.inner.objects.get(&self.path(key)?).await?.bytes().await.map_err(Into::into) };
        self.checked(key, read.await).await
    }

    /// The bytes of `range` that the object has: fewer where it ends within, none where it ends before.
    pub async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let start = range.start;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let read = async {
            self.inner.objects.get_opts(&self.path(key)?, options).await?.bytes().await.map_err(Into::into)
        };
        match self.checked(key, read.await).await {
            // Stores refuse a range that begins after the end in different ways. The length decides.
            // A bucket that could not be reached is not asked a second time: that would double the wait.
            Err(error) if error.is_transient() && self.inner.pages.is_some() => Err(error),
            Err(error) if !error.is_absent() => match self.head(key).await {
                Ok(info) if info.size <= start => Ok(Bytes::new()),
                _ => Err(error),
            },
            answer => answer,
        }
    }

    /// The object's bytes from offset `from` on, piece by piece.
    pub async fn get_stream(&self, key: &Key, from: u64) -> Result<BoxStream<'static, Result<Bytes>>> {
        let range = (from > 0).then_some(GetRange::Offset(from));
        let options = GetOptions { range, ..GetOptions::default() };
        let read = async { Ok(self.inner.objects.get_opts(&self.path(key)?, options).await?) };
        let found = self.checked(key, read.await).await?;
        let what = self.what(key);
        Ok(found.into_stream().map_err(move |error| classify(&what, &error)).boxed())
    }

    /// What the store knows about one object.
    pub async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let read = async { Ok(self.inner.objects.head(&self.path(key)?).await?) };
        match self.checked(key, read.await).await {
            Ok(meta) => Ok(info(key.clone(), &meta)),
            // An answer without a body does not tell a missing object from a missing bucket. This one does.
            Err(error) if error.is_absent() => {
                let range = Some(GetRange::Bounded(0..1));
                let options = GetOptions { range, ..GetOptions::default() };
                let read = async { Ok(self.inner.objects.get_opts(&self.path(key)?, options).await?) };
                self.checked(key, read.await).await.map(|found| info(key.clone(), &found.meta))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether an object is there.
    pub async fn exists(&self, key: &Key) -> Result<bool> {
        Ok(self.head(key).await.or_absent()?.is_some())
    }

    /// Makes durable what a listing has shown in the folder of `key`, where a directory shows an object before its entry is on
    /// disk: its writer may just be waiting for the disk, or may be gone. Object stores show only what is durable.
    pub async fn settle(&self, key: &Key) -> Result<()> {
        self.blocking(|root, key| root.settle(key), key).await.map(drop)
    }

    /// Removes an object; fine if it does not exist. Removals become durable in the order in which they
    /// return.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        self.present()?;
        let path = self.path(key)?;
        match self.inner.objects.delete(&path).await.map_err(|error| self.failure(key, &error)).or_absent()? {
            Some(()) => {
                self.blocking(|root, key| root.sync_folder(key), key).await?;
                Ok(())
            }
            None => self.present(),
        }
    }

    /// Files below `prefix` that interrupted uploads have left in a directory. They are never listed as
    /// objects. Always empty for object stores: what they keep of unfinished uploads is swept by a rule of
    /// the bucket.
    pub async fn leftovers(&self, prefix: &Key) -> Result<Vec<Leftover>> {
        Ok(self.blocking(|root, prefix| root.leftovers(prefix), prefix).await?.unwrap_or_default())
    }

    /// Removes what [`Store::leftovers`] has listed. Only for one that is surely not being written any more.
    pub async fn remove_leftover(&self, leftover: &Leftover) -> Result<()> {
        let refused = |error: std::io::Error| Error::Refused {
            what: leftover.path.display().to_string(),
            why: error.to_string(),
        };
        match tokio::fs::remove_file(&leftover.path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(refused(error)),
            _ => Ok(()),
        }
    }

    #[cfg(test)]
    pub(crate) fn syncs(&self) -> Option<&local::Syncs> {
        self.inner.root.as_ref().map(Root::syncs)
    }

    /// The store and the key, for messages.
    fn what(&self, key: &Key) -> String {
        match key.is_root() {
            true => self.inner.description.clone(),
            false => format!("{}/{key}", self.inner.description),
        }
    }

    fn path(&self, key: &Key) -> Result<Path> {
        if key.is_root() {
            return Err(Error::invalid(self.description(), "the root is no object"));
        }
        let path = Path::parse(self.inner.prefix.join(key).as_str());
        path.map_err(|error| Error::invalid(self.what(key), error))
    }

    fn folder_path(&self, folder: &Key) -> Result<Option<Path>> {
        match self.inner.prefix.join(folder) {
            whole if whole.is_root() => Ok(None),
            whole => {
                let path = Path::parse(whole.as_str());
                path.map(Some).map_err(|error| Error::invalid(self.what(folder), error))
            }
        }
    }

    /// `None` for what cannot be ours, such as a name with a blank: whoever put it there keeps it.
    fn key_of(&self, path: &Path) -> Option<Key> {
        let key = Key::new(path.as_ref()).ok()?;
        Key::new(key.below(&self.inner.prefix)?).ok()
    }

    fn failure(&self, key: &Key, error: &object_store::Error) -> Error {
        classify(&self.what(key), error)
    }

    /// A write is never absent.
    fn write_failure(&self, key: &Key, error: &object_store::Error) -> Error {
        self.inner.activity.failed();
        match self.failure(key, error) {
            Error::Absent { what } => {
                Error::Unreachable { what, why: "the store answered a write with \"not found\"".into() }
            }
            error => error,
        }
    }

    /// Turns a read's outcome into ours. "Absent" counts only if there is a place that it can be absent from.
    async fn checked<T>(&self, key: &Key, read: Result<T, ReadError>) -> Result<T> {
        let error = match read {
            Ok(value) => return Ok(value),
            Err(ReadError::Ours(error)) => return Err(error),
            Err(ReadError::Store(error)) => self.failure(key, &error),
        };
        if error.is_absent() {
            self.present()?;
            self.see_bucket().await?;
        }
        Err(error)
    }

    /// An error if a directory is no longer the one that was opened. One system call: no need for a thread.
    fn present(&self) -> Result<()> {
        self.inner.root.as_ref().map_or(Ok(()), Root::check)
    }

    /// Makes a directory ready for an object; nothing to do for other stores.
    async fn prepare(&self, key: &Key) -> Result<()> {
        self.blocking(|root, key| root.prepare(key), key).await.map(|_| ())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root, &Key) -> Result<T> + Send + 'static,
        key: &Key,
    ) -> Result<Option<T>> {
        let Some(root) = self.inner.root.clone() else { return Ok(None) };
        let (what, key) = (self.what(key), key.clone());
        joined(what, tokio::task::spawn_blocking(move || work(&root, &key)).await).map(Some)
    }
}

/// What can end a read: the key was not usable, or the store failed.
enum ReadError {
    Ours(Error),
    Store(object_store::Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<object_store::Error> for ReadError {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

fn info(key: Key, meta: &ObjectMeta) -> ObjectInfo {
    let modified = jiff::Timestamp::new(
        meta.last_modified.timestamp(),
        i32::try_from(meta.last_modified.timestamp_subsec_nanos()).unwrap_or_default(),
    );
    ObjectInfo { key, size: meta.size, modified: modified.unwrap_or(jiff::Timestamp::UNIX_EPOCH) }
}

/// The storage class as an attribute, if there is one.
fn attributes(storage_class: Option<&str>) -> Attributes {
    let class = storage_class.map(|class| (Attribute::StorageClass, class.to_owned()));
    class.into_iter().collect()
}
