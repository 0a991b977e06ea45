//! The objects behind the S3 server: each is a file under its own key, so that scenarios can look at it and harm it.
//!
//! s3s speaks the protocol and checks signatures; this is what an S3 store promises, no more: an object appears whole
//! or not at all, a condition holds at one instant, a listing shows what is there. `s3s-fs` would do, but for keys of
//! more than 128 bytes, which it cannot keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use s3s::dto::*;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};

use crate::objects;

/// How many names one answer lists, as with S3.
const PAGE: usize = 1000;

/// A folder of buckets.
#[derive(Debug)]
pub(super) struct Buckets {
    root: PathBuf,
    next: AtomicU64,
    /// The parts of unfinished uploads, by upload and number.
    uploads: Mutex<BTreeMap<String, BTreeMap<i32, PathBuf>>>,
    /// Held while a condition is looked at and the object appears.
    publishing: Mutex<()>,
    /// How many seconds this server's clock is ahead of the machine's.
    ahead: Arc<AtomicU64>,
}

impl Buckets {
    /// `root` holds a folder for each bucket; names with a leading dot are ours.
    pub(super) fn new(root: &Path, ahead: Arc<AtomicU64>) -> io::Result<Buckets> {
        fs::create_dir(root.join(".staged"))?;
        let (next, uploads, publishing) = Default::default();
        Ok(Buckets { root: root.to_owned(), next, uploads, publishing, ahead })
    }

    /// Gives a file the time that this server has now.
    fn stamp(&self, file: &fs::File) -> S3Result<()> {
        match self.ahead.load(Relaxed) {
            0 => Ok(()),
            ahead => file.set_modified(SystemTime::now() + Duration::from_secs(ahead)).map_err(internal),
        }
    }

    /// The file of an object. A key that a file system would take for something else is refused.
    fn path(&self, bucket: &str, key: &str) -> S3Result<PathBuf> {
        let home = self.root.join(bucket);
        if bucket.starts_with('.') || !home.is_dir() {
            return Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"));
        }
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(s3_error!(InvalidArgument, "this server keeps no empty, '.' or '..' parts of a key"));
        }
        Ok(home.join(key))
    }

    fn facts(&self, bucket: &str, key: &str) -> S3Result<(PathBuf, fs::Metadata)> {
        let path = self.path(bucket, key)?;
        match fs::metadata(&path) {
            Ok(facts) if facts.is_file() => Ok((path, facts)),
            _ => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
        }
    }

    /// Takes a body into a file that nobody sees yet.
    async fn stage(&self, body: Option<StreamingBlob>, length: Option<i64>) -> S3Result<PathBuf> {
        let staged = self.root.join(".staged").join(self.next.fetch_add(1, Relaxed).to_string());
        let mut file = fs::File::create_new(&staged).map_err(internal)?;
        let mut taken = 0;
        if let Some(mut body) = body {
            while let Some(bytes) = body.next().await {
                let bytes = bytes.map_err(|error| s3_error!(IncompleteBody, "{error}"))?;
                file.write_all(&bytes).map_err(internal)?;
                taken += bytes.len() as i64;
            }
        }
        if length.is_some_and(|length| length != taken) {
            return Err(s3_error!(IncompleteBody, "{taken} bytes came"));
        }
        self.stamp(&file)?;
        Ok(staged)
    }

    /// Makes a staged file the object, in one step.
    fn publish(&self, staged: &Path, path: &Path, only_if_absent: bool) -> S3Result<()> {
        let _one_at_a_time = self.publishing.lock().expect("no holder of this lock panics");
        if only_if_absent && path.exists() {
            fs::remove_file(staged).map_err(internal)?;
            return Err(s3_error!(PreconditionFailed, "the object exists"));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(internal)?;
        }
        fs::rename(staged, path).map_err(internal)
    }

    fn delete(&self, bucket: &str, key: &str) -> S3Result<()> {
        match fs::remove_file(self.path(bucket, key)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(internal(error)),
            _ => Ok(()),
        }
    }
}

fn internal(error: io::Error) -> s3s::S3Error {
    s3_error!(InternalError, "{error}")
}

/// Enough to tell two contents apart.
fn tag(facts: &fs::Metadata) -> ETag {
    let changed = facts.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    ETag::Strong(format!("{:x}-{:x}", facts.len(), changed.unwrap_or_default().as_nanos()))
}

fn timestamp(facts: &fs::Metadata) -> Option<Timestamp> {
    facts.modified().ok().map(Timestamp::from)
}

/// `if-none-match: *` is the only condition that anybody here asks for.
fn wants_absent(condition: Option<&ETagCondition>) -> bool {
    condition.is_some_and(ETagCondition::is_any)
}

#[async_trait::async_trait]
impl S3 for Buckets {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let path = self.path(&input.bucket, &input.key)?;
        let staged = self.stage(input.body, input.content_length).await?;
        let e_tag = tag(&fs::metadata(&staged).map_err(internal)?);
        self.publish(&staged, &path, wants_absent(input.if_none_match.as_ref()))?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(e_tag), ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let (path, facts) = self.facts(&input.bucket, &input.key)?;
        let whole = facts.len();
        let range = input.range.map(|range| range.check(whole)).transpose()?;
        let part = range.clone().unwrap_or(0..whole);
        let mut file = fs::File::open(path).map_err(internal)?;
        file.seek(SeekFrom::Start(part.start)).map_err(internal)?;
        let mut bytes = Vec::new();
        file.take(part.end - part.start).read_to_end(&mut bytes).map_err(internal)?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: i64::try_from(bytes.len()).ok(),
            content_range: range.map(|range| format!("bytes {}-{}/{whole}", range.start, range.end - 1)),
            body: Some(StreamingBlob::from(Body::from(bytes))),
            e_tag: Some(tag(&facts)),
            last_modified: timestamp(&facts),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let (_, facts) = self.facts(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: i64::try_from(facts.len()).ok(),
            e_tag: Some(tag(&facts)),
            last_modified: timestamp(&facts),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let home = self.root.join(&input.bucket);
        if input.bucket.starts_with('.') || !home.is_dir() {
            return Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"));
        }
        let prefix = input.prefix.as_deref().unwrap_or("");
        let after = input.continuation_token.as_deref().max(input.start_after.as_deref()).unwrap_or("");
        let limit =
            input.max_keys.and_then(|keys| usize::try_from(keys).ok()).map_or(PAGE, |keys| keys.min(PAGE));

        // A whole tree is walked for a page of it: enough for tests.
        let below = prefix.rfind('/').map_or("", |end| &prefix[..end]);
        let mut found =
            objects::list(&home.join(below)).map_err(|error| s3_error!(InternalError, "{error:#}"))?;
        let lead = if below.is_empty() { String::new() } else { format!("{below}/") };
        found.iter_mut().for_each(|object| object.key.insert_str(0, &lead));
        let (mut contents, mut folders, mut last) = (Vec::new(), BTreeSet::new(), String::new());
        let mut truncated = false;
        for object in found.into_iter().filter(|object| object.key.starts_with(prefix)) {
            let rest = &object.key[prefix.len()..];
            let folder = input
                .delimiter
                .as_deref()
                .and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()));
            let name = &object.key[..folder.map_or(object.key.len(), |end| prefix.len() + end)];
            if name <= after || folders.contains(name) {
                continue;
            }
            if contents.len() + folders.len() == limit {
                truncated = true;
                break;
            }
            last = name.to_owned();
            if folder.is_some() {
                folders.insert(last.clone());
                continue;
            }
            // It may have been deleted since.
            let Ok(facts) = fs::metadata(&object.path) else { continue };
            contents.push(Object {
                key: Some(object.key),
                size: i64::try_from(facts.len()).ok(),
                e_tag: Some(tag(&facts)),
                last_modified: timestamp(&facts),
                ..Default::default()
            });
        }
        let common = folders.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(contents.len()).ok(),
            contents: Some(contents),
            common_prefixes: Some(common),
            is_truncated: Some(truncated),
            next_continuation_token: truncated.then_some(last),
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.delete(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let mut deleted = Vec::new();
        for object in request.input.delete.objects {
            self.delete(&request.input.bucket, &object.key)?;
            deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        self.path(&input.bucket, &input.key)?;
        let id = format!("upload-{}", self.next.fetch_add(1, Relaxed));
        self.uploads.lock().expect("no holder of this lock panics").insert(id.clone(), BTreeMap::new());
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let staged = self.stage(input.body, input.content_length).await?;
        let e_tag = tag(&fs::metadata(&staged).map_err(internal)?);
        let mut uploads = self.uploads.lock().expect("no holder of this lock panics");
        let Some(parts) = uploads.get_mut(&input.upload_id) else {
            return Err(s3_error!(NoSuchUpload, "The upload does not exist"));
        };
        parts.insert(input.part_number, staged);
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(e_tag), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let path = self.path(&input.bucket, &input.key)?;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts = self.uploads.lock().expect("no holder of this lock panics").remove(&input.upload_id);
        let parts = parts.ok_or_else(|| s3_error!(NoSuchUpload, "The upload does not exist"))?;
        let whole = self.root.join(".staged").join(self.next.fetch_add(1, Relaxed).to_string());
        let mut file = fs::File::create_new(&whole).map_err(internal)?;
        for part in named {
            let number = part.part_number.unwrap_or_default();
            let staged =
                parts.get(&number).ok_or_else(|| s3_error!(InvalidPart, "part {number} is missing"))?;
            io::copy(&mut fs::File::open(staged).map_err(internal)?, &mut file).map_err(internal)?;
        }
        for staged in parts.values() {
            fs::remove_file(staged).map_err(internal)?;
        }
        self.stamp(&file)?;
        let e_tag = tag(&fs::metadata(&whole).map_err(internal)?);
        self.publish(&whole, &path, wants_absent(input.if_none_match.as_ref()))?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(e_tag),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let parts =
            self.uploads.lock().expect("no holder of this lock panics").remove(&request.input.upload_id);
        for staged in parts.unwrap_or_default().values() {
            fs::remove_file(staged).map_err(internal)?;
        }
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
