//! A store whose clock can be set forward, and whose deletions can be made to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

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
        let state = State { ahead: Duration::ZERO, written: BTreeMap::new(), deletions: Deletions::Allowed };
        Self { inner: Arc::default(), state: Arc::new(Mutex::new(state)) }
    }

    /// Lets time pass, for the store alone.
    pub(crate) fn pass(&self, time: Duration) {
        self.state.lock().unwrap().ahead += time;
    }

    pub(crate) fn set_deletions(&self, deletions: Deletions) {
        self.state.lock().unwrap().deletions = deletions;
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
        let result = self.inner.put_opts(location, payload, options).await?;
        self.put_now(location);
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
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
