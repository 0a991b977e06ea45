//! WAL that a stream stores: first as it was received, then as the object that it becomes, so that memory holds it once.
//!
//! A segment may have to be tried many times while the store is away. What is kept for that is the sealed object; the pieces of
//! which it is made are given up one by one as they are compressed.

use bytes::Bytes;
use proto::wal::SegmentName;
use proto::{Digest, ServerTime};

use super::segment::{check_content, told};
use super::{Epoch, FragmentName, Place, Stored};
use crate::branch::off_thread;
use crate::sealed::{Header, seal_pieces};
use crate::{Branch, Key, Result};

/// WAL on its way into the repository.
///
/// What puts it must not be cancelled while it is being compressed: its pieces would be gone, and every later try would refuse
/// it for its length.
#[derive(Debug)]
pub struct Parcel<N> {
    name: N,
    /// For messages.
    what: String,
    header: Header,
    digest: Digest,
    length: u64,
    body: Body,
}

/// A whole segment.
pub type SegmentParcel = Parcel<SegmentName>;

/// A part of a segment.
pub type FragmentParcel = Parcel<FragmentName>;

#[derive(Debug)]
enum Body {
    Pieces(Vec<Bytes>),
    Sealed(Bytes),
}

/// What is shorter is digested in place.
const SHORT: usize = 64 << 10;

fn digest_of(pieces: &[Bytes]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize().into()
}

impl Branch {
    /// Prepares a whole segment with this digest. Nothing is stored yet.
    pub fn segment_parcel(
        &self,
        name: SegmentName,
        digest: Digest,
        server_time: Option<ServerTime>,
        pieces: Vec<Bytes>,
    ) -> Result<SegmentParcel> {
        Ok(self.parcel_of(self.segment_header(name, digest, server_time)?, name, digest, pieces))
    }

    pub(super) fn parcel_of(
        &self,
        header: Header,
        name: SegmentName,
        digest: Digest,
        pieces: Vec<Bytes>,
    ) -> SegmentParcel {
        let length = self.segment_size().bytes();
        Parcel { name, what: told(name), header, digest, length, body: Body::Pieces(pieces) }
    }

    /// Stores a whole segment, as [`Branch::put_segment`] does. After a failure it can be tried again.
    ///
    /// # Errors
    /// As there.
    pub async fn put_segment_parcel(&self, parcel: &mut SegmentParcel) -> Result<Stored> {
        let (name, digest) = (parcel.name, parcel.digest);
        if self.stored_before(name, digest).await? {
            return Ok(Stored::Already);
        }
        self.put_parcel(parcel).await?;
        self.judge(name, digest).await
    }

    /// Prepares the bytes `from..to` of a segment. Nothing is stored yet.
    pub async fn fragment_parcel(
        &self,
        epoch: &Epoch,
        name: SegmentName,
        (from, to): (u32, u32),
        server_time: ServerTime,
        pieces: Vec<Bytes>,
    ) -> Result<FragmentParcel> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let (digest, pieces) = match length {
            ..SHORT => (digest_of(&pieces), pieces),
            _ => {
                let key = self.key(&Key::root().child(name));
                off_thread(&key, move || Ok((digest_of(&pieces), pieces))).await?
            }
        };
        let name = FragmentName { segment: name, epoch: *epoch, from, to, digest, place: Place::Object };
        let header = self.fragment_header(&name, server_time)?;
        let length = u64::from(to.saturating_sub(from));
        Ok(Parcel { name, what: header.name.clone(), header, digest, length, body: Body::Pieces(pieces) })
    }

    /// Stores it. When this returns it is durable, under a name that nobody else writes. After a failure it can be tried again.
    pub async fn put_fragment_parcel(&self, parcel: &mut FragmentParcel) -> Result<FragmentName> {
        self.put_parcel(parcel).await?;
        Ok(parcel.name)
    }

    async fn put_parcel<N>(&self, parcel: &mut Parcel<N>) -> Result<()> {
        let key = self.key(&Key::new(&parcel.header.name)?);
        let object = match &mut parcel.body {
            Body::Sealed(object) => object.clone(),
            Body::Pieces(pieces) => {
                let (pieces, header) = (std::mem::take(pieces), parcel.header.clone());
                let (sealing, what) = (self.sealing()?.clone(), parcel.what.clone());
                let (digest, length) = (parcel.digest, parcel.length);
                let object = off_thread(&key, move || {
                    let (object, sealed) = seal_pieces(&header, pieces, &sealing)?;
                    check_content(&what, length, digest, sealed.raw_length, sealed.digest)?;
                    Ok(object)
                })
                .await?;
                parcel.body = Body::Sealed(object.clone());
                object
            }
        };
        self.store().put(&key, object).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::SeqCst;

    use futures::TryStreamExt;
    use proto::TimelineId;
    use proto::wal::SegmentSize;

    use super::*;
    use crate::wal::segment::tests::open;
    use crate::{BranchFacts, Repository, Sealing, Store, Unsealing};

    const NAME: SegmentName = SegmentName { timeline: TimelineId::FIRST, log: 0, seg: 2 };

    /// A piece that tells when nobody holds it any more.
    struct Held(Vec<u8>, #[expect(dead_code, reason = "it is dropped with the piece")] Arc<()>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    fn pieces(content: &[u8], count: &Arc<()>) -> Vec<Bytes> {
        content.chunks(100_000).map(|piece| Bytes::from_owner(Held(piece.to_vec(), count.clone()))).collect()
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[tokio::test]
    async fn what_failed_is_tried_again_and_its_pieces_are_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let (branch, content, held) = (open(folder.path()).await, content(1 << 20), Arc::new(()));
        let digest = Digest::of(&content);
        let mut parcel = branch.segment_parcel(NAME, digest, None, pieces(&content, &held)).unwrap();
        assert_eq!(Arc::strong_count(&held), 12);
        branch.store().syncs().unwrap().failing.store(1, SeqCst);
        assert!(branch.put_segment_parcel(&mut parcel).await.is_err());
        assert_eq!(Arc::strong_count(&held), 1, "what is compressed is not held as well");
        assert_eq!(branch.put_segment_parcel(&mut parcel).await.unwrap(), Stored::New);
        assert_eq!(branch.put_segment_parcel(&mut parcel).await.unwrap(), Stored::Already);
        assert_eq!(branch.read_segment(NAME).await.unwrap(), content);
        let other = branch.segment_parcel(NAME, Digest::of(b"other"), None, pieces(&content, &held));
        assert!(branch.put_segment_parcel(&mut other.unwrap()).await.is_err(), "not what was announced");
    }

    /// Of a segment of 16 MiB: so much of it as is not read into memory at once.
    #[tokio::test]
    async fn a_large_fragment_goes_through_in_pieces_and_its_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", folder.path().display()), &Default::default()).unwrap();
        Repository::create(store.clone()).await.unwrap();
        let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
        let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
        let branch =
            repository.begin_branch(&"main".parse().unwrap(), proto::SystemId(7), facts).await.unwrap();
        let (content, held) = (content(5 << 20), Arc::new(()));
        let epoch = Epoch { number: 1, writer: branch.writer() };
        let (range, time) = ((1 << 20, 6 << 20), ServerTime(0));
        let parcel = branch.fragment_parcel(&epoch, NAME, range, time, pieces(&content, &held)).await;
        let fragment = branch.put_fragment_parcel(&mut parcel.unwrap()).await.unwrap();
        assert_eq!(Arc::strong_count(&held), 1);
        branch.verify_fragment(&fragment).await.unwrap();
        assert_eq!(branch.read_fragment(&fragment).await.unwrap(), content);
        let read: Vec<Bytes> = branch.fragment_pieces(fragment).try_collect().await.unwrap();
        assert!(read.len() > 5 && read.concat() == content);

        let path = folder.path().join(branch.key(&fragment.key()).as_str());
        let mut object = fs::read(&path).unwrap();
        let middle = object.len() / 2;
        object[middle] ^= 1;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, object).unwrap();
        assert!(branch.verify_fragment(&fragment).await.is_err());
        assert!(branch.fragment_pieces(fragment).try_collect::<Vec<_>>().await.is_err());
    }
}
