//! Fragments: the part of a segment that has arrived, put together again.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use proto::wal::SegmentName;
use proto::{Digest, ServerTime};

use super::names::{WalObject, tail_folder};
use super::{Epoch, FragmentName, Place};
use crate::sealed::Header;
use crate::{Branch, Error, Key, Kind, Result};

/// The beginning of a segment, put together from fragments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tail {
    /// The segment's first `valid` bytes.
    pub bytes: Bytes,
    /// How many there are.
    pub valid: u32,
    /// The epoch that they are from.
    pub epoch: Epoch,
    /// The server's clock when the last of them was sent.
    pub server_time: Option<ServerTime>,
}

/// Fragments that are read side by side.
const IN_FLIGHT: usize = 8;

/// A fragment may be removed while it is read: its segment has become whole, or it was merged. Then look
/// again, so often at most.
pub(super) const LOOKS: usize = 5;

impl Branch {
    /// Stores bytes `from..to` of a segment. When this returns they are durable: they are stored under a name
    /// of this epoch alone, which nobody else writes.
    pub async fn put_fragment(
        &self,
        epoch: &Epoch,
        name: SegmentName,
        from: u32,
        to: u32,
        server_time: ServerTime,
        content: Bytes,
    ) -> Result<FragmentName> {
        let digest = Digest::of(&content);
        let fragment = FragmentName { segment: name, epoch: *epoch, from, to, digest, place: Place::Object };
        let header = self.fragment_header(&fragment, server_time)?;
        if content.len() as u64 != u64::from(to - from) {
            let why = format_args!("{} bytes do not make it", content.len());
            return Err(Error::invalid(fragment.key(), why));
        }
        self.put_sealed(header, content).await?;
        Ok(fragment)
    }

    pub(super) fn fragment_header(&self, fragment: &FragmentName, server_time: ServerTime) -> Result<Header> {
        let size = self.segment_size();
        let FragmentName { segment, from, to, .. } = *fragment;
        let number = segment.number(size).map_err(|why| Error::invalid(fragment.key(), why))?;
        if from >= to || u64::from(to) > size.bytes() {
            let why = format_args!("a segment of {} bytes has no such part", size.bytes());
            return Err(Error::invalid(fragment.key(), why));
        }
        let mut header = self.header(Kind::Fragment, &fragment.key());
        header.timeline = Some(segment.timeline);
        header.from = Some(number.start(size) + u64::from(from));
        header.to = Some(number.start(size) + u64::from(to));
        header.server_time = Some(server_time);
        Ok(header)
    }

    /// The fragments of a segment, and what its journals hold, in the order of epoch and place.
    pub async fn fragments(&self, name: SegmentName) -> Result<Vec<FragmentName>> {
        let objects = self.store().list_folder(&self.key(&tail_folder(name))).await?.objects;
        let (mut fragments, mut journals) = (Vec::new(), Vec::new());
        for object in &objects {
            let below = object.key.below(self.root()).and_then(|name| Key::new(name).ok());
            match below.as_ref().and_then(WalObject::parse) {
                Some(WalObject::Fragment(fragment)) => fragments.push(fragment),
                Some(WalObject::Journal(journal)) => journals.push(journal),
                _ => {}
            }
        }
        fragments.extend(self.measure(&journals).await?);
        fragments.sort_unstable();
        Ok(fragments)
    }

    /// One fragment, verified.
    pub async fn read_fragment(&self, fragment: &FragmentName) -> Result<Bytes> {
        Ok(self.read_fragment_at(fragment).await?.0)
    }

    pub(super) async fn read_fragment_at(
        &self,
        fragment: &FragmentName,
    ) -> Result<(Bytes, Option<ServerTime>)> {
        if let Some(journal) = fragment.journal() {
            return self.read_journal(journal, fragment).await;
        }
        let length = fragment.to - fragment.from;
        let name = fragment.key();
        let (header, content, actual) = self.get_digested(Kind::Fragment, &name, length.into()).await?;
        if content.len() != length as usize {
            let why = format!("it holds {} bytes instead of {length}", content.len());
            return Err(Error::corrupt(self.key(&name), why));
        }
        self.check_digest(&name, fragment.digest, actual)?;
        Ok((content, header.server_time))
    }

    /// When the server sent the last byte of a fragment, if that was written down. Not proven.
    pub(crate) async fn fragment_time(&self, fragment: &FragmentName) -> Result<Option<ServerTime>> {
        match fragment.journal() {
            Some(journal) => Ok(self.read_journal(journal, fragment).await?.1),
            None => Ok(self.peek(Kind::Fragment, &fragment.key()).await?.server_time),
        }
    }

    /// The longest beginning of a segment that the fragments of one epoch hold; `None` if no epoch holds its
    /// first byte.
    ///
    /// # Errors
    /// [`Error::Conflict`] if two epochs disagree on bytes that both hold: there have been two servers.
    pub async fn read_tail(&self, name: SegmentName) -> Result<Option<Tail>> {
        let mut vanished = None;
        for _ in 0..LOOKS {
            match self.try_read_tail(name).await {
                Err(Error::Absent { what }) => vanished = Some(what),
                outcome => return outcome,
            }
        }
        Err(Error::Unreachable {
            what: format!("the tail of segment {name}"),
            why: format!("it changed each time it was read; {} went last", vanished.unwrap_or_default()),
        })
    }

    async fn try_read_tail(&self, name: SegmentName) -> Result<Option<Tail>> {
        let mut longest: Option<Tail> = None;
        for (epoch, run) in runs(&self.fragments(name).await?) {
            let tail = self.read_run(epoch, &run).await?;
            longest = Some(match longest {
                None => tail,
                Some(other) => {
                    let common = tail.bytes.len().min(other.bytes.len());
                    if tail.bytes[..common] != other.bytes[..common] {
                        let found = [other.epoch, epoch].map(|epoch| format!("epoch {epoch}"));
                        return Err(Error::Conflict {
                            what: format!("the tail of segment {name}"),
                            found: found.to_vec(),
                        });
                    }
                    if tail.valid > other.valid { tail } else { other }
                }
            });
        }
        Ok(longest)
    }

    async fn read_run(&self, epoch: Epoch, run: &[FragmentName]) -> Result<Tail> {
        let mut contents = stream::iter(run.iter().copied())
            .map(
                |fragment| async move { Ok::<_, Error>((fragment, self.read_fragment_at(&fragment).await?)) },
            )
            .buffered(IN_FLIGHT);
        let mut bytes = BytesMut::new();
        let mut server_time = None;
        while let Some((fragment, (content, sent))) = contents.try_next().await? {
            // Fragments of one epoch may overlap: the run says only that there is no hole.
            let known = bytes.len() - fragment.from as usize;
            if bytes[fragment.from as usize..] != content[..known] {
                return Err(Error::Conflict {
                    what: format!("the tail of segment {}", fragment.segment),
                    found: vec![
                        format!("epoch {epoch} up to {known}"),
                        self.key(&fragment.key()).to_string(),
                    ],
                });
            }
            bytes.extend_from_slice(&content[known..]);
            server_time = server_time.max(sent);
        }
        let valid = run.last().map_or(0, |fragment| fragment.to);
        Ok(Tail { bytes: bytes.freeze(), valid, epoch, server_time })
    }
}

/// For each epoch that holds the segment's first byte: the fragments that reach furthest from there without a
/// hole, as few as possible, so that larger ones are preferred to those that were merged into them.
pub(super) fn runs(fragments: &[FragmentName]) -> BTreeMap<Epoch, Vec<FragmentName>> {
    let mut epochs: BTreeMap<Epoch, Vec<FragmentName>> = BTreeMap::new();
    for fragment in fragments {
        epochs.entry(fragment.epoch).or_default().push(*fragment);
    }
    epochs.values_mut().for_each(|fragments| *fragments = run(fragments));
    epochs.retain(|_, run| !run.is_empty());
    epochs
}

pub(super) fn run(fragments: &[FragmentName]) -> Vec<FragmentName> {
    let mut sorted = fragments.to_vec();
    sorted.sort_unstable_by_key(|fragment| (fragment.from, std::cmp::Reverse(fragment.to), fragment.digest));
    let mut run: Vec<FragmentName> = Vec::new();
    let mut candidates = sorted.into_iter().peekable();
    loop {
        let end = run.last().map_or(0, |fragment| fragment.to);
        let mut furthest: Option<FragmentName> = None;
        while let Some(next) = candidates.next_if(|next| next.from <= end) {
            if next.to > furthest.map_or(end, |furthest| furthest.to) {
                furthest = Some(next);
            }
        }
        match furthest {
            Some(fragment) => run.push(fragment),
            None => return run,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::TimelineId;

    use super::*;
    use crate::WriterId;

    fn fragment(epoch: u32, from: u32, to: u32) -> FragmentName {
        FragmentName {
            segment: SegmentName { timeline: TimelineId::FIRST, log: 0, seg: 1 },
            epoch: Epoch { number: epoch, writer: WriterId::from_number(7) },
            from,
            to,
            digest: Digest::of(&[]),
            place: Place::Object,
        }
    }

    /// The same by marking every byte.
    fn reach(fragments: &[FragmentName]) -> u32 {
        let mut held = [false; 64];
        fragments.iter().for_each(|f| held[f.from as usize..f.to as usize].fill(true));
        held.iter().take_while(|held| **held).count() as u32
    }

    proptest! {
        #[test]
        fn a_run_reaches_as_far_as_there_is_no_hole(
            places in prop::collection::vec((0..60u32, 1..20u32), 0..20)
        ) {
            let fragments: Vec<_> =
                places.iter().map(|(from, length)| fragment(1, *from, (from + length).min(64))).collect();
            let run = run(&fragments);
            prop_assert_eq!(run.last().map_or(0, |f| f.to), reach(&fragments));
            prop_assert_eq!(reach(&run), reach(&fragments));
            prop_assert!(run.iter().all(|f| fragments.contains(f)));
            // None too many: without any of them there is a hole.
            for left_out in 0..run.len() {
                let mut rest = run.clone();
                rest.remove(left_out);
                prop_assert!(reach(&rest) < reach(&run));
            }
            let joined = |pair: &[FragmentName]| (pair[0].from..=pair[0].to).contains(&pair[1].from);
            prop_assert!(run.windows(2).all(joined));
        }
    }

    #[test]
    fn epochs_are_never_mixed() {
        let fragments = [fragment(1, 0, 10), fragment(2, 10, 20), fragment(3, 0, 5), fragment(3, 5, 8)];
        let runs = runs(&fragments);
        assert_eq!(runs.keys().map(|epoch| epoch.number).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(runs.values().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
    }
}
