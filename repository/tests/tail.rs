//! A tail that changes while it is read: fragments are merged into larger ones, or go when their segment is
//! whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use proto::wal::{SegmentName, SegmentSize};
use proto::{Lsn, ServerTime, SystemId, TimelineId};
use repository::{Branch, BranchFacts, EpochFacts, Error, Repository, Sealing, Store, Unsealing};

/// What happens in the store when a fragment is about to be read.
#[derive(Clone, Default)]
enum Meanwhile {
    #[default]
    Nothing,
    /// All fragments go, and this object comes.
    Merged(Path, Bytes),
    /// All fragments go.
    Removed,
    /// Each is listed, and none is there.
    Flickers,
}

#[derive(Debug)]
struct Changing {
    objects: InMemory,
    meanwhile: Mutex<Meanwhile>,
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl fmt::Display for Changing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changing")
    }
}

impl Changing {
    async fn fragments(&self) -> Vec<Path> {
        use futures::TryStreamExt;
        let all: Vec<ObjectMeta> = self.objects.list(None).try_collect().await.unwrap();
        all.into_iter().map(|meta| meta.location).filter(|path| path.as_ref().contains("/tail/")).collect()
    }
}

#[async_trait]
impl ObjectStore for Changing {
    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let asked_for_fragment = path.as_ref().contains("/tail/");
        let meanwhile = self.meanwhile.lock().unwrap().clone();
        if asked_for_fragment && !matches!(meanwhile, Meanwhile::Nothing) {
            if matches!(meanwhile, Meanwhile::Flickers) {
                let source = "it is away at the moment".into();
                return Err(object_store::Error::NotFound { path: path.to_string(), source });
            }
            for fragment in self.fragments().await {
                self.objects.delete(&fragment).await?;
            }
            if let Meanwhile::Merged(path, object) = meanwhile {
                self.objects.put(&path, object.into()).await?;
            }
            *self.meanwhile.lock().unwrap() = Meanwhile::Nothing;
        }
        self.objects.get_opts(path, options).await
    }

    async fn put_opts(
        &self,
        path: &Path,
        body: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.objects.put_opts(path, body, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

const SEGMENT: SegmentName = SegmentName { timeline: TimelineId::FIRST, log: 0, seg: 1 };

/// Two fragments of one segment, and the merged one as an object that is not there yet.
async fn two_fragments() -> (Arc<Changing>, Branch, Vec<u8>, Meanwhile) {
    let changing = Arc::new(Changing { objects: InMemory::new(), meanwhile: Mutex::default() });
    let store = Store::over(changing.clone(), "memory://");
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
    let branch = repository.begin_branch(&"main".parse().unwrap(), SystemId(1), facts).await.unwrap();
    let epoch = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(16 << 20), slot: None };
    let epoch = branch.claim_epoch(epoch).await.unwrap();
    let content: Vec<u8> = (0..20_000u32).map(|number| number as u8).collect();
    let put = async |from: u32, to: u32| {
        let piece = Bytes::copy_from_slice(&content[from as usize..to as usize]);
        branch.put_fragment(&epoch, SEGMENT, from, to, ServerTime(0), piece).await.unwrap()
    };
    let merged = branch.key(&put(0, 20_000).await.key());
    let object = branch.store().get(&merged).await.unwrap();
    branch.store().delete(&merged).await.unwrap();
    put(0, 8000).await;
    put(8000, 20_000).await;
    let merged = Meanwhile::Merged(Path::parse(merged.as_str()).unwrap(), object);
    (changing, branch, content, merged)
}

#[tokio::test]
async fn fragments_that_are_merged_meanwhile_are_found_again() {
    let (changing, branch, content, merged) = two_fragments().await;
    *changing.meanwhile.lock().unwrap() = merged;
    let tail = branch.read_tail(SEGMENT).await.unwrap().unwrap();
    assert_eq!(tail.bytes, content);
    assert_eq!(changing.fragments().await.len(), 1);
}

/// What [`Branch::read_tail_to`] makes of it.
async fn into_file(branch: &Branch) -> repository::Result<Option<Vec<u8>>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let end = branch.read_tail_to(SEGMENT, file.reopen().unwrap()).await?;
    let bytes = std::fs::read(file.path()).unwrap();
    Ok(end.map(|end| bytes[..end.valid as usize].to_vec()))
}

#[tokio::test]
async fn a_tail_comes_into_a_file_as_into_memory() {
    let (changing, branch, content, merged) = two_fragments().await;
    *changing.meanwhile.lock().unwrap() = merged;
    assert!(into_file(&branch).await.unwrap() == Some(content.clone()));
    // Another epoch got less far, and agrees; then a third one does not.
    let put = async |from: usize, to: usize, content: &[u8]| {
        let facts = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(16 << 20), slot: None };
        let epoch = branch.claim_epoch(facts).await.unwrap();
        let piece = Bytes::copy_from_slice(&content[from..to]);
        branch.put_fragment(&epoch, SEGMENT, from as u32, to as u32, ServerTime(0), piece).await.unwrap();
    };
    put(0, 9000, &content).await;
    assert!(into_file(&branch).await.unwrap() == Some(content.clone()));
    let mut other = content.clone();
    other[6999] ^= 1;
    put(0, 7000, &other).await;
    assert!(matches!(into_file(&branch).await, Err(Error::Conflict { .. })));
    *changing.meanwhile.lock().unwrap() = Meanwhile::Removed;
    assert!(into_file(&branch).await.unwrap().is_none());
}

#[tokio::test]
async fn fragments_that_are_gone_are_no_tail() {
    let (changing, branch, _, _) = two_fragments().await;
    *changing.meanwhile.lock().unwrap() = Meanwhile::Removed;
    assert_eq!(branch.read_tail(SEGMENT).await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_lists_what_it_does_not_have_is_not_believed() {
    let (changing, branch, _, _) = two_fragments().await;
    *changing.meanwhile.lock().unwrap() = Meanwhile::Flickers;
    let error = branch.read_tail(SEGMENT).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}
