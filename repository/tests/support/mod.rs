//! A store whose clock can be set forward, and whose deletions and writes can be made to fail; and what a branch in it
//! needs for backups that are restorable.

#![allow(dead_code, reason = "each file of tests needs its part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use proto::wal::{SegmentName, SegmentNo, SegmentSize};
use proto::{Digest, Lsn, SystemId, TimelineId};
use repository::backup::{BackupLabel, Intent};
use repository::manifest::{Controls, MANIFEST_FORMAT, ManifestHead};
use repository::{Branch, BranchFacts, Repository, Sealing, Store, Unsealing};

/// What happens to deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletions {
    /// They are carried out.
    Allowed,
    /// So many more are carried out; then the store is gone.
    FailAfter(usize),
    /// The credentials do not allow them.
    Refused,
}

#[derive(Debug)]
struct State {
    /// How far the store's clock is ahead of the computer's.
    ahead: Duration,
    written: BTreeMap<Path, Duration>,
    deletions: Deletions,
    /// So many more objects are written before the store is gone, if it ever is.
    puts: Option<usize>,
}

/// Time, for stores that are set forward by days.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Bytes of a WAL segment.
pub(crate) const SEGMENT: u64 = 1 << 20;

/// A branch in that store.
pub(crate) async fn branch_in(store: &TestStore, sealing: Sealing, unsealing: Unsealing) -> Branch {
    let opened = Store::over(Arc::new(store.clone()), "memory");
    Repository::create(opened.clone()).await.unwrap();
    let repository = Repository::open(opened, sealing, unsealing).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::new(SEGMENT).unwrap(), server_version: 150_018 };
    repository.begin_branch(&"main".parse().unwrap(), SystemId(42), facts).await.unwrap()
}

/// The segment with this number.
pub(crate) fn segment(number: u64) -> SegmentName {
    SegmentName::new(TimelineId::FIRST, SegmentNo(number), SegmentSize::new(SEGMENT).unwrap())
}

/// Stores segments.
pub(crate) async fn put_segments(branch: &Branch, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let content = Bytes::from(vec![number as u8; SEGMENT as usize]);
        branch.put_segment(segment(number), Digest::of(&content), None, content).await.unwrap();
    }
}

/// Announces a backup, and shows that it is alive.
pub(crate) async fn begin(branch: &Branch, label: &BackupLabel, parent: Option<BackupLabel>) {
    let intent = Intent {
        label: label.clone(),
        parent,
        host: "here".into(),
        pid: 1,
        writer: branch.writer(),
        started_at: Timestamp::UNIX_EPOCH,
    };
    branch.begin_backup(&intent).await.unwrap();
    branch.heartbeat(label).await.unwrap();
}

/// The head of a backup that begins in segment `10 * day`, and ends in the next one.
pub(crate) fn head(label: &BackupLabel, day: u64) -> ManifestHead {
    let start = Lsn(10 * day * SEGMENT);
    ManifestHead {
        format: MANIFEST_FORMAT,
        label: label.clone(),
        kind: label.kind(),
        parent: None,
        cluster: "main".parse().unwrap(),
        system_id: SystemId(42),
        server_version: 150_018,
        segment_size: SegmentSize::new(SEGMENT).unwrap(),
        data_checksums: true,
        timeline: TimelineId::FIRST,
        start_lsn: start + 0x28,
        checkpoint_lsn: start + 0x60,
        stop_timeline: TimelineId::FIRST,
        stop_lsn: start + SEGMENT + 0x100,
        started_at: label.started(),
        finished_at: label.started(),
        from_standby: false,
        label_note: None,
        size_bytes: 0,
        stored_bytes: 0,
        tablespaces: Vec::new(),
        wal_ranges: Vec::new(),
        server_manifest: None,
        damaged_page_count: 0,
        damaged_pages: Vec::new(),
        external_config: Vec::new(),
        controls: Controls::default(),
    }
}

/// In memory; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TestStore {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Display for TestStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("memory")
    }
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let state = State {
            ahead: Duration::ZERO,
            written: BTreeMap::new(),
            deletions: Deletions::Allowed,
            puts: None,
        };
        Self { inner: Arc::default(), state: Arc::new(Mutex::new(state)) }
    }

    /// Lets time pass, for the store alone.
    pub(crate) fn pass(&self, time: Duration) {
        self.state.lock().unwrap().ahead += time;
    }

    pub(crate) fn set_deletions(&self, deletions: Deletions) {
        self.state.lock().unwrap().deletions = deletions;
    }

    /// After so many more objects nothing can be written any more; `None`: it goes on.
    pub(crate) fn set_puts(&self, puts: Option<usize>) {
        self.state.lock().unwrap().puts = puts;
    }

    fn may_put(&self) -> Result<()> {
        match &mut self.state.lock().unwrap().puts {
            None => Ok(()),
            Some(0) => Err(Error::Generic { store: "memory", source: "the store is gone".into() }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn put_now(&self, location: &Path) {
        let mut state = self.state.lock().unwrap();
        let ahead = state.ahead;
        state.written.insert(location.clone(), ahead);
    }

    fn aged(&self, meta: ObjectMeta) -> ObjectMeta {
        let ahead = self.state.lock().unwrap().written.get(&meta.location).copied().unwrap_or_default();
        ObjectMeta { last_modified: meta.last_modified + ahead, ..meta }
    }

    fn may_delete(&self, location: &Path) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let path = location.to_string();
        match &mut state.deletions {
            Deletions::Allowed => Ok(()),
            Deletions::FailAfter(0) => {
                Err(Error::Generic { store: "memory", source: "the store is gone".into() })
            }
            Deletions::FailAfter(left) => {
                *left -= 1;
                Ok(())
            }
            Deletions::Refused => {
                Err(Error::PermissionDenied { path, source: "not allowed to delete".into() })
            }
        }
    }
}

#[async_trait]
impl ObjectStore for TestStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.may_put()?;
        let result = self.inner.put_opts(location, payload, options).await?;
        self.put_now(location);
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.may_put()?;
        self.put_now(location);
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.inner.get_opts(location, options).await?;
        Ok(GetResult { meta: self.aged(result.meta.clone()), ..result })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                store.may_delete(&location)?;
                store.inner.delete(&location).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        self.inner.list(prefix).map_ok(move |meta| store.aged(meta)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.objects = listed.objects.into_iter().map(|meta| self.aged(meta)).collect();
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.put_now(to);
        self.inner.copy_opts(from, to, options).await
    }
}
