//! Whole segments.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use proto::wal::SegmentName;
use proto::{Digest, ServerTime};
use tokio::sync::mpsc;

use super::Stored;
use super::names::{WalObject, log_folder};
use crate::sealed::{Header, Kind, SealWriter};
use crate::store::SyncUpload;
use crate::task::joined;
use crate::{Branch, Error, Key, Result, chance};

impl Branch {
    /// Stores a whole segment.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another content is stored under this name. Then both are, and an operator has
    /// to settle it. [`Error::Invalid`] if the content has not the segment's size, or not this digest.
    pub async fn put_segment(
        &self,
        name: SegmentName,
        digest: Digest,
        server_time: Option<ServerTime>,
        content: Bytes,
    ) -> Result<Stored> {
        let header = self.segment_header(name, digest, server_time)?;
        self.put_segment_under(header, name, digest, content).await
    }

    pub(super) async fn put_segment_under(
        &self,
        header: Header,
        name: SegmentName,
        digest: Digest,
        content: Bytes,
    ) -> Result<Stored> {
        self.put_segment_parcel(&mut self.parcel_of(header, name, digest, vec![content])).await
    }

    /// Stores a whole segment in bounded memory. The content is digested while it passes; if it is not what
    /// `digest` says, nothing is stored.
    pub async fn put_segment_stream(
        &self,
        name: SegmentName,
        digest: Digest,
        server_time: Option<ServerTime>,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<Stored> {
        if chance::is_seeded() {
            let gathered = content.try_collect::<BytesMut>().await;
            let gathered = gathered.map_err(|error| unreadable(&told(name), error))?;
            return self.put_segment(name, digest, server_time, gathered.freeze()).await;
        }
        let header = self.segment_header(name, digest, server_time)?;
        if self.stored_before(name, digest).await? {
            return Ok(Stored::Already);
        }
        self.put_stream(&told(name), header, self.segment_size().bytes(), digest, content).await?;
        self.judge(name, digest).await
    }

    /// Stores an object under its header's name in bounded memory, if the content has this length and this digest:
    /// else nothing becomes visible. Durable when this returns. `what` names it in messages.
    pub(super) async fn put_stream(
        &self,
        what: &str,
        header: Header,
        size: u64,
        digest: Digest,
        mut content: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<()> {
        let key = self.key(&Key::new(&header.name)?);
        let upload = SyncUpload::new(self.store().upload(&key).await?);
        let (sealing, name) = (self.sealing()?.clone(), what.to_owned());
        let (pieces, mut incoming) = mpsc::channel::<Bytes>(4);
        let writing = tokio::task::spawn_blocking(move || {
            let mut writer = SealWriter::new(upload, &header, &sealing)?;
            while let Some(piece) = incoming.blocking_recv() {
                writer.write_raw(&piece)?;
                if writer.raw_length() > size {
                    break;
                }
            }
            // Cut short by an error of the source, too, it has not the right length and stays invisible.
            let (upload, sealed) = writer.finish()?;
            match check_content(&name, size, digest, sealed.raw_length, sealed.digest) {
                Ok(()) => upload.finish(),
                Err(error) => {
                    upload.abort();
                    Err(error)
                }
            }
        });
        let mut source = Ok(());
        while let Some(piece) = content.next().await {
            match piece {
                Ok(piece) => {
                    // A writer that takes no more has failed, and says below why.
                    if pieces.send(piece).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    source = Err(unreadable(what, error));
                    break;
                }
            }
        }
        drop(pieces);
        let written = joined(&key, writing.await);
        source?;
        written.map(|_| ())
    }

    /// The digest of a stored segment, by its name.
    ///
    /// # Errors
    /// [`Error::Conflict`] if there are two.
    pub async fn segment_digest(&self, name: SegmentName) -> Result<Option<Digest>> {
        match self.segment_digests(name).await?[..] {
            [] => Ok(None),
            [digest] => Ok(Some(digest)),
            ref digests => Err(self.conflict(name, digests)),
        }
    }

    /// The digest of a stored segment that is durable when this returns, whoever has stored it: what may be acknowledged.
    /// To see a segment is less.
    ///
    /// # Errors
    /// As [`Branch::segment_digest`]; or it cannot be made durable.
    pub async fn durable_segment(&self, name: SegmentName) -> Result<Option<Digest>> {
        let digest = self.segment_digest(name).await?;
        if let Some(digest) = digest {
            self.store().settle(&self.key(&segment_key(name, digest))).await?;
        }
        Ok(digest)
    }

    /// A whole segment, verified.
    pub async fn read_segment(&self, name: SegmentName) -> Result<Bytes> {
        let digest = self.require_segment(name).await?;
        let object = segment_key(name, digest);
        let size = self.segment_size().bytes();
        let (_, content, actual) = self.get_digested(Kind::Segment, &object, size).await?;
        self.check_length(&object, content.len() as u64)?;
        self.check_digest(&object, digest, actual)?;
        Ok(content)
    }

    /// Writes a whole segment to `writer` in bounded memory, and returns its length. Only if this succeeds is
    /// what was written right.
    pub async fn read_segment_to(
        &self,
        name: SegmentName,
        writer: impl Write + Send + 'static,
    ) -> Result<u64> {
        let digest = self.require_segment(name).await?;
        self.read_segment_content_to(name, digest, writer).await
    }

    /// [`Branch::read_segment_to`] for whoever has looked up the digest already.
    pub async fn read_segment_content_to(
        &self,
        name: SegmentName,
        digest: Digest,
        writer: impl Write + Send + 'static,
    ) -> Result<u64> {
        let size = self.segment_size().bytes();
        self.copy_content(Kind::Segment, &segment_key(name, digest), digest, size, writer).await
    }

    /// A stored segment's clear header: whose clock said what when it was sent. Not proven.
    pub async fn peek_segment(&self, name: SegmentName) -> Result<Header> {
        let digest = self.require_segment(name).await?;
        self.peek(Kind::Segment, &segment_key(name, digest)).await
    }

    pub(super) fn segment_header(
        &self,
        name: SegmentName,
        digest: Digest,
        server_time: Option<ServerTime>,
    ) -> Result<Header> {
        let number = name.number(self.segment_size()).map_err(|why| Error::invalid(name, why))?;
        let mut header = self.header(Kind::Segment, &segment_key(name, digest));
        header.timeline = Some(name.timeline);
        header.from = Some(number.start(self.segment_size()));
        header.to = Some(number.end(self.segment_size()));
        header.server_time = server_time;
        Ok(header)
    }

    /// Whether exactly this content is stored already. Another content beside it is an error at once; another
    /// alone is one as soon as ours is there too, so that both are kept.
    pub(super) async fn stored_before(&self, name: SegmentName, digest: Digest) -> Result<bool> {
        let digests = self.segment_digests(name).await?;
        if !digests.contains(&digest) {
            return Ok(false);
        }
        // An object becomes visible whole, so its size needs no look. Its name may be visible before it is durable.
        self.store().settle(&self.key(&segment_key(name, digest))).await?;
        if digests.len() > 1 { Err(self.conflict(name, &digests)) } else { Ok(true) }
    }

    /// What makes a segment's acknowledgement true: our object was put durably, and a listing made after that
    /// shows no other content. Of two writers with different contents the later lister sees both, so at least
    /// one of them is stopped.
    pub(super) async fn judge(&self, name: SegmentName, digest: Digest) -> Result<Stored> {
        let digests = self.segment_digests(name).await?;
        match digests[..] {
            [only] if only == digest => Ok(Stored::New),
            ref digests if digests.contains(&digest) => Err(self.conflict(name, digests)),
            _ => Err(Error::Unreachable {
                what: format!("segment {name} in {}", self.store().description()),
                why: "the store took it, but does not list it".into(),
            }),
        }
    }

    async fn segment_digests(&self, name: SegmentName) -> Result<Vec<Digest>> {
        let folder = self.key(&log_folder(name.timeline, name.log));
        let objects = self.store().list_starting(&folder, &format!("{name}-")).await?;
        let digests = objects.iter().filter_map(|object| {
            match WalObject::parse(&Key::new(object.key.below(self.root())?).ok()?)? {
                WalObject::Segment(found, digest) if found == name => Some(digest),
                _ => None,
            }
        });
        Ok(digests.collect())
    }

    async fn require_segment(&self, name: SegmentName) -> Result<Digest> {
        self.segment_digest(name).await?.ok_or_else(|| Error::Absent {
            what: format!("segment {name} in {}/{}", self.store().description(), self.root()),
        })
    }

    fn conflict(&self, name: SegmentName, digests: &[Digest]) -> Error {
        let found = digests.iter().map(|digest| self.key(&segment_key(name, *digest)).to_string());
        Error::Conflict { what: format!("segment {name}"), found: found.collect() }
    }

    fn check_length(&self, object: &Key, length: u64) -> Result<()> {
        let size = self.segment_size().bytes();
        if length == size {
            return Ok(());
        }
        Err(Error::corrupt(self.key(object), format_args!("it holds {length} bytes, a segment has {size}")))
    }

    pub(super) fn check_digest(&self, object: &Key, named: Digest, actual: Digest) -> Result<()> {
        if named == actual {
            return Ok(());
        }
        Err(Error::corrupt(
            self.key(object),
            format_args!("its content's digest is {actual}, not the one in its name"),
        ))
    }
}

/// What an error of a content's source means: one of ours that was carried through, such as a store that does not
/// answer, or a file that cannot be read.
fn unreadable(what: &str, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::invalid(what, format_args!("its content cannot be read: {error}")),
    }
}

pub(crate) fn segment_key(name: SegmentName, digest: Digest) -> Key {
    WalObject::Segment(name, digest).key()
}

pub(super) fn told(name: SegmentName) -> String {
    format!("segment {name}")
}

pub(super) fn check_content(
    what: &str,
    size: u64,
    digest: Digest,
    length: u64,
    actual: Digest,
) -> Result<()> {
    if length != size {
        return Err(Error::invalid(
            what,
            format_args!("its content has {length} bytes, where {size} are expected"),
        ));
    }
    if digest != actual {
        return Err(Error::invalid(
            what,
            format_args!("its content's digest is {actual}, not {digest} as announced"),
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::Ordering::SeqCst;

    use proto::config::StorageConfig;
    use proto::wal::{SegmentSize, WalFile};
    use proto::{SystemId, TimelineId};

    use super::*;
    use crate::{BranchFacts, Repository, Sealing, Store, Stored, Unsealing};

    #[test]
    fn what_a_source_says_is_carried_through() {
        let away = Error::Unreachable { what: "the store".into(), why: "it is away".into() };
        assert_eq!(unreadable("segment", std::io::Error::other(away.clone())), away);
        let damaged = unreadable("segment", std::io::Error::other("a bad disk"));
        assert!(matches!(damaged, Error::Invalid { .. }), "{damaged}");
    }

    pub(in crate::wal) async fn open(folder: &Path) -> Branch {
        let url = format!("file://{}", folder.display());
        let store = Store::open(&url, &StorageConfig::default()).unwrap();
        Repository::create(store.clone()).await.unwrap();
        let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
        let facts = BranchFacts { segment_size: SegmentSize::new(1 << 20).unwrap(), server_version: 150_018 };
        repository.begin_branch(&"main".parse().unwrap(), SystemId(7), facts).await.unwrap()
    }

    /// The folders that were synced since this was last asked.
    fn synced(branch: &Branch) -> BTreeSet<PathBuf> {
        std::mem::take(&mut *branch.store().syncs().unwrap().done.lock().unwrap()).into_iter().collect()
    }

    /// Its writer may have been killed, or its disk have failed, between showing it and making it durable.
    #[tokio::test]
    async fn what_is_seen_is_made_durable_before_it_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let name: SegmentName = "000000010000000000000002".parse().unwrap();
        let (content, history) = (Bytes::from(vec![7; 1 << 20]), Bytes::from("1\t0/200100\tx\n"));
        let (digest, file) = (Digest::of(&content), WalFile::History(TimelineId::new(2).unwrap()));
        let writer = open(folder.path()).await;
        writer.put_segment(name, digest, None, content.clone()).await.unwrap();
        writer.put_wal_file(file, history.clone()).await.unwrap();

        let wal = folder.path().join("main/7/wal");
        let log = wal.join("00000001/00000000");
        let way: BTreeSet<_> = log.ancestors().take(3).map(Path::to_owned).collect();
        let branch = open(folder.path()).await;
        synced(&branch);
        assert_eq!(branch.durable_segment(name).await.unwrap(), Some(digest));
        assert!(synced(&branch).is_superset(&way), "the folder, and each above it");
        assert_eq!(branch.put_segment(name, digest, None, content.clone()).await.unwrap(), Stored::Already);
        assert!(synced(&branch).contains(&log));
        assert_eq!(branch.put_wal_file(file, history.clone()).await.unwrap(), Stored::Already);
        assert!(synced(&branch).contains(&wal));
        let listing = branch.durable_wal_listing().await.unwrap();
        assert_eq!(listing.timelines.len(), 1);
        assert!(synced(&branch).contains(&log));

        let fail_once = || branch.store().syncs().unwrap().failing.store(1, SeqCst);
        fail_once();
        assert!(branch.put_segment(name, digest, None, content.clone()).await.is_err());
        assert_eq!(branch.put_segment(name, digest, None, content).await.unwrap(), Stored::Already);
        fail_once();
        assert!(branch.durable_segment(name).await.is_err());
        fail_once();
        assert!(branch.put_wal_file(file, history).await.is_err());
        fail_once();
        assert!(branch.durable_wal_listing().await.is_err());
    }
}
