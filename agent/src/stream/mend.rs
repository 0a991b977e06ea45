//! Makes whole what an earlier agent has left in fragments.
//!
//! Fragments are acknowledged as soon as they are durable. An agent that dies between the last fragment of a
//! segment and the whole segment has let the slot move on, so the server will not send that segment again.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use proto::Digest;
use proto::wal::SegmentName;
use repository::sealed::from_io;
use repository::{Branch, WalListing};
use tracing::info;

use super::error::StreamError;
use super::start::{Ambiguous, KnownTail, tails};

/// Stores each segment of which one epoch has all fragments and which is not stored whole; adds it to `stored`.
///
/// Without the key that opens them nobody can: then they stay as they are. A restore reads fragments as well.
///
/// # Errors
/// Two epochs have all of a segment, and differ: an operator has to decide.
pub(super) async fn mend(branch: &Branch, stored: &mut WalListing) -> Result<(), StreamError> {
    let size = branch.segment_size().bytes();
    let in_fragments: BTreeSet<SegmentName> = stored
        .timelines
        .values()
        .flat_map(|wal| wal.fragments.iter().map(|fragment| fragment.segment))
        .filter(|segment| {
            stored.timelines.get(&segment.timeline).is_none_or(|wal| !wal.segments.contains_key(segment))
        })
        .collect();
    for segment in in_fragments {
        let complete: Vec<KnownTail> =
            tails(stored, segment).into_iter().filter(|tail| u64::from(tail.length) == size).collect();
        match make_whole(branch, segment, complete).await {
            Ok(Some(digest)) => {
                info!(cluster = %branch.cluster(), %segment, "made whole what an earlier agent had left in fragments");
                stored.timelines.entry(segment.timeline).or_default().segments.insert(segment, vec![digest]);
            }
            Ok(None) => {}
            Err(StreamError::Repository(repository::Error::Locked { .. })) => {
                info!(cluster = %branch.cluster(), %segment, "stays in fragments: no identity here opens them");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Stores a segment out of the first of these tails, each of which has all of it; `None` if there is none.
async fn make_whole(
    branch: &Branch,
    segment: SegmentName,
    complete: Vec<KnownTail>,
) -> Result<Option<Digest>, StreamError> {
    let mut digests = BTreeSet::new();
    for tail in &complete {
        digests.insert(digest(branch, tail).await?);
    }
    let (Some(tail), Some(digest)) = (complete.into_iter().next(), digests.first().copied()) else {
        return Ok(None);
    };
    if digests.len() > 1 {
        return Err(Ambiguous { segment, digests: digests.into_iter().collect() }.into());
    }
    branch.put_segment_stream(segment, digest, None, content(branch.clone(), tail)).await?;
    Ok(Some(digest))
}

async fn digest(branch: &Branch, tail: &KnownTail) -> Result<Digest, StreamError> {
    let mut hasher = blake3::Hasher::new();
    let mut content = content(branch.clone(), tail.clone());
    while let Some(piece) = content.next().await {
        hasher.update(&piece.map_err(|error| from_io(tail.segment, error))?);
    }
    Ok(hasher.finalize().into())
}

/// The bytes of the tail, a fragment at a time, each verified.
fn content(branch: Branch, tail: KnownTail) -> BoxStream<'static, std::io::Result<Bytes>> {
    let mut end = 0;
    let parts = tail.fragments.into_iter().map(move |fragment| {
        // Merged fragments overlap; what was given out already is left out.
        let skip = (end - fragment.from) as usize;
        end = fragment.to;
        (fragment, skip)
    });
    let parts: Vec<_> = parts.collect();
    stream::iter(parts)
        .then(move |(fragment, skip)| {
            let branch = branch.clone();
            async move {
                let content = branch.read_fragment(&fragment).await.map_err(std::io::Error::other)?;
                Ok(content.slice(skip.min(content.len())..))
            }
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use proto::config::{CompressionConfig, EncryptionConfig, StorageConfig};
    use proto::wal::SegmentSize;
    use proto::{Lsn, ServerTime, SystemId, TimelineId};
    use repository::{BranchFacts, EpochFacts, Repository, Sealing, Store, Unsealing};

    use super::*;

    const MIB: u32 = 1 << 20;

    async fn branch(folder: &std::path::Path) -> Branch {
        sealed_branch(folder, Sealing::plain(1)).await
    }

    async fn sealed_branch(folder: &std::path::Path, sealing: Sealing) -> Branch {
        let url = format!("file://{}", folder.join("repository").display());
        let store = Store::create(&url, &StorageConfig::default()).unwrap();
        Repository::create(store.clone()).await.unwrap();
        let repository = Repository::open(store, sealing, Unsealing::default()).await.unwrap();
        let facts =
            BranchFacts { segment_size: SegmentSize::new(MIB.into()).unwrap(), server_version: 150_018 };
        repository.begin_branch(&"test".parse().unwrap(), SystemId(7), facts).await.unwrap()
    }

    async fn put(branch: &Branch, segment: SegmentName, content: &Bytes, ranges: &[(u32, u32)]) {
        let facts = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(0), slot: None };
        let epoch = branch.claim_epoch(facts).await.unwrap();
        for &(from, to) in ranges {
            let piece = content.slice(from as usize..to as usize);
            branch.put_fragment(&epoch, segment, from, to, ServerTime(0), piece).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn complete_fragments_become_a_segment_and_incomplete_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let branch = branch(folder.path()).await;
        let content: Bytes = (0..MIB).map(|n| (n.wrapping_mul(2_654_435_761) >> 20) as u8).collect();
        let name = |n: u32| format!("0000000100000000{n:08X}").parse::<SegmentName>().unwrap();
        put(&branch, name(1), &content, &[(0, 1000), (0, 5000), (1000, 5000), (5000, MIB)]).await;
        // No epoch has all of this one, though both together do.
        put(&branch, name(2), &content, &[(0, 5000)]).await;
        put(&branch, name(2), &content, &[(5000, MIB)]).await;

        let mut listing = branch.wal_listing().await.unwrap();
        mend(&branch, &mut listing).await.unwrap();
        assert!(branch.read_segment(name(1)).await.unwrap() == content);
        assert_eq!(branch.segment_digest(name(2)).await.unwrap(), None);
        assert_eq!(listing.timelines, branch.wal_listing().await.unwrap().timelines);
    }

    /// The database's host needs no secret to write: what it cannot read must not keep it from streaming.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_here_can_open_stays_in_fragments() {
        let folder = tempfile::tempdir().unwrap();
        let recipient = "age177lptu768p682qttxmydyt0ghuk0wjthfs3e4cvve3rdrqye735sp0yc4u";
        let encryption = EncryptionConfig { recipients: vec![recipient.to_owned()], ..Default::default() };
        let sealing = Sealing::from_config(&CompressionConfig::default(), &encryption).unwrap();
        let branch = sealed_branch(folder.path(), sealing).await;
        let segment: SegmentName = "000000010000000000000001".parse().unwrap();
        put(&branch, segment, &vec![1; MIB as usize].into(), &[(0, 5000), (5000, MIB)]).await;
        let mut listing = branch.wal_listing().await.unwrap();
        mend(&branch, &mut listing).await.unwrap();
        assert_eq!(branch.segment_digest(segment).await.unwrap(), None);
        assert_eq!(listing.timelines, branch.wal_listing().await.unwrap().timelines);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn epochs_that_differ_stop_it() {
        let folder = tempfile::tempdir().unwrap();
        let branch = branch(folder.path()).await;
        let segment: SegmentName = "000000010000000000000001".parse().unwrap();
        put(&branch, segment, &vec![1; MIB as usize].into(), &[(0, MIB)]).await;
        put(&branch, segment, &vec![2; MIB as usize].into(), &[(0, MIB)]).await;
        let mut listing = branch.wal_listing().await.unwrap();
        let refused = mend(&branch, &mut listing).await;
        assert!(matches!(refused, Err(StreamError::Ambiguous(_))), "{refused:?}");
        assert_eq!(branch.segment_digest(segment).await.unwrap(), None);
    }
}
