//! Whoever restores. It knows what servers wrote and what was acknowledged, and demands it of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use proto::wal::{SegmentName, SegmentNo};
use proto::{Digest, Lsn, TimelineId};
use repository::catalogue::{Coverage, Inventory};
use repository::{Branch, Error, FragmentName, TimelineWal};

use crate::cluster::{Promise, State};
use crate::store::Network;
use crate::wal::{Written, size};

type Result<T = ()> = std::result::Result<T, String>;

/// Reads without a network between: what it does not find is not there.
pub(crate) struct Reader {
    branch: Branch,
    network: Arc<Network>,
    /// What there was after so many changes.
    inventory: Option<(u64, Arc<Inventory>)>,
    /// What was readable before.
    seen: Option<Arc<Inventory>>,
    /// Whole segments as they were read: what has a digest in its name never changes.
    whole: BTreeMap<SegmentName, (Digest, Bytes)>,
    /// Tails as they were read of these fragments, which do not change either.
    tails: BTreeMap<SegmentName, (Vec<FragmentName>, Bytes)>,
    /// What was found right, of the same.
    right: BTreeSet<(SegmentName, Digest)>,
    right_fragments: BTreeSet<FragmentName>,
}

impl Reader {
    pub(crate) fn new(branch: Branch, network: Arc<Network>) -> Self {
        Self {
            branch,
            network,
            inventory: None,
            seen: None,
            whole: BTreeMap::new(),
            tails: BTreeMap::new(),
            right: BTreeSet::new(),
            right_fragments: BTreeSet::new(),
        }
    }

    pub(crate) fn inventory(&mut self) -> Result<Arc<Inventory>> {
        let changes = self.network.changes();
        if let Some((then, inventory)) = &self.inventory
            && *then == changes
        {
            return Ok(inventory.clone());
        }
        let listing = now(self.branch.wal_listing(), "the listing")?;
        let inventory = Arc::new(Inventory::new(Vec::new(), listing, size()));
        self.inventory = Some((changes, inventory.clone()));
        Ok(inventory)
    }

    /// A whole segment that has one content.
    fn segment(&mut self, name: SegmentName, digest: Digest) -> Result<Bytes> {
        if let Some((known, content)) = self.whole.get(&name)
            && *known == digest
        {
            return Ok(content.clone());
        }
        let content = now(self.branch.read_segment(name), name)?;
        self.whole.insert(name, (digest, content.clone()));
        Ok(content)
    }

    /// What fragments hold of a segment's beginning.
    fn tail(&mut self, name: SegmentName, wal: &TimelineWal) -> std::result::Result<Bytes, Error> {
        let fragments: Vec<_> = wal.fragments.iter().filter(|f| f.segment == name).copied().collect();
        if let Some((known, content)) = self.tails.get(&name)
            && *known == fragments
        {
            return Ok(content.clone());
        }
        let tail = self.branch.read_tail(name).now_or_never().expect("memory answers at once")?;
        let content = tail.map(|tail| tail.bytes).unwrap_or_default();
        self.tails.insert(name, (fragments, content.clone()));
        Ok(content)
    }

    /// Each whole segment and each tail of a timeline, where there is no doubt about it.
    pub(crate) fn held(&mut self, timeline: TimelineId) -> Vec<(Lsn, Bytes)> {
        let inventory = self.inventory().expect("readable");
        let Some(wal) = inventory.wal.timelines.get(&timeline) else { return Vec::new() };
        let tailed = wal.fragments.iter().map(|fragment| fragment.segment);
        let names: BTreeSet<SegmentName> = wal.segments.keys().copied().chain(tailed).collect();
        let held = names.into_iter().filter_map(|name| {
            let content = match wal.segments.get(&name).map(Vec::as_slice) {
                Some([digest]) => self.segment(name, *digest).ok()?,
                Some(_) => return None,
                None => self.tail(name, wal).ok()?,
            };
            if content.is_empty() {
                return None;
            }
            Some((name.number(size()).ok()?.start(size()), content))
        });
        held.collect()
    }

    /// By names alone: what was acknowledged is there, and what was readable still is.
    pub(crate) fn glance(&mut self, state: &State) -> Result {
        let inventory = self.inventory()?;
        if has_strangers(state) {
            // Names do not tell whose bytes they are.
            return Ok(());
        }
        for promise in &state.promises {
            let timeline = state.writings[promise.writing].timeline;
            let lineage = inventory.lineage(timeline);
            if let Err(missing) = inventory.wal_complete(&lineage, promise.from, promise.to) {
                return Err(format!(
                    "acknowledged and not there: {missing} on timeline {timeline}, of {promise:?}"
                ));
            }
        }
        for (timeline, wal) in &inventory.wal.timelines {
            if let Some((name, _)) = wal.segments.iter().find(|(_, digests)| digests.len() > 1) {
                return Err(format!("two contents of {name}"));
            }
            let (empty, coverage) = (Coverage::default(), &inventory.coverage[timeline]);
            let before = self.seen.as_ref().and_then(|seen| seen.coverage.get(timeline)).unwrap_or(&empty);
            if let Some(gone) = before.ranges().iter().flat_map(|range| coverage.missing(range)).next() {
                return Err(format!("was readable and is gone: {gone:?} on timeline {timeline}"));
            }
        }
        self.seen = Some(inventory);
        Ok(())
    }

    /// By content: what is there is what servers wrote, and what was acknowledged can be read.
    pub(crate) fn look(&mut self, state: &State) -> Result {
        self.glance(state)?;
        let inventory = self.inventory()?;
        for (timeline, wal) in &inventory.wal.timelines {
            self.objects(state, *timeline, wal)?;
        }
        for promise in &state.promises {
            let writing = &state.writings[promise.writing];
            let (first, last) = (size().segment_at(promise.from), size().segment_before(promise.to));
            for segment in (first.0..=last.0).map(SegmentNo) {
                let range = Promise {
                    from: promise.from.max(segment.start(size())),
                    to: promise.to.min(segment.end(size())),
                    ..*promise
                };
                if range.from >= range.to {
                    continue;
                }
                if has_strangers(state) {
                    self.somewhere(&inventory, writing, range)?;
                } else {
                    self.along(&inventory, writing, range)?;
                }
            }
        }
        Ok(())
    }

    /// Every object's bytes were written by one server of that timeline.
    fn objects(&mut self, state: &State, timeline: TimelineId, wal: &TimelineWal) -> Result {
        let writings = || state.writings.iter().filter(|writing| writing.timeline == timeline);
        let wrote = |what: &dyn std::fmt::Display, bytes: &Bytes, start: Lsn| {
            let end = start + bytes.len() as u64;
            match writings().any(|writing| writing.end >= end && writing.bytes(start, end) == *bytes) {
                true => Ok(()),
                false => Err(format!("{what} holds bytes that nobody wrote")),
            }
        };
        for (name, digests) in &wal.segments {
            let number = name.number(size()).map_err(|error| error.to_string())?;
            for digest in digests.iter().filter(|_| digests.len() > 1) {
                let written = |w: &&Written| w.end >= number.end(size()) && w.digest(number) == *digest;
                if writings().find(written).is_none() {
                    return Err(format!("{name}-{digest} was written by nobody"));
                }
            }
            if let [digest] = digests[..]
                && !self.right.contains(&(*name, digest))
            {
                wrote(name, &self.segment(*name, digest)?, number.start(size()))?;
                self.right.insert((*name, digest));
            }
        }
        let mut tails = BTreeSet::new();
        for fragment in &wal.fragments {
            let number = fragment.segment.number(size()).map_err(|error| error.to_string())?;
            let start = number.start(size()) + u64::from(fragment.from);
            if !self.right_fragments.contains(fragment) {
                let bytes = now(self.branch.read_fragment(fragment), fragment.key())?;
                wrote(&fragment.key(), &bytes, start)?;
                self.right_fragments.insert(*fragment);
            }
            tails.insert(fragment.segment);
        }
        for name in tails {
            let number = name.number(size()).map_err(|error| error.to_string())?;
            match self.tail(name, wal) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => wrote(&format_args!("the tail of {name}"), &bytes, number.start(size()))?,
                Err(Error::Conflict { .. }) if has_strangers(state) => {}
                Err(error) => return Err(format!("the tail of {name}: {error}")),
            }
        }
        Ok(())
    }

    /// Reads an acknowledged range within one segment as recovery would.
    fn along(&mut self, inventory: &Inventory, writing: &Written, range: Promise) -> Result {
        let segment = size().segment_at(range.from);
        let start = segment.start(size());
        for part in inventory.lineage(writing.timeline).timelines_of(segment, size()) {
            let Some(wal) = inventory.wal.timelines.get(&part.timeline) else { continue };
            let name = SegmentName::new(part.timeline, segment, size());
            if !wal.segments.contains_key(&name) && wal.tail_length(name) == 0 {
                continue;
            }
            let content = match wal.segments.get(&name).map(Vec::as_slice) {
                Some([digest]) => self.segment(name, *digest)?,
                Some(_) => return Err(format!("two contents of {name}")),
                None => self.tail(name, wal).map_err(|error| format!("the tail of {name}: {error}"))?,
            };
            let end = part.to.min(start + content.len() as u64);
            let place = |at: Lsn| at.bytes_since(start) as usize;
            if end < range.to {
                return Err(format!("{name} ends at {end}, {} was acknowledged", range.to));
            }
            if content[place(range.from)..place(range.to)] != writing.bytes(range.from, range.to) {
                return Err(format!("{name} holds other bytes than were acknowledged: {range:?}"));
            }
            return Ok(());
        }
        Err(format!("nothing is there of {range:?}"))
    }

    /// Two servers have written one timeline: what was acknowledged to either is there, whoever has to choose.
    fn somewhere(&self, inventory: &Inventory, writing: &Written, range: Promise) -> Result {
        let segment = size().segment_at(range.from);
        let mut there = Vec::new();
        for part in inventory.lineage(writing.timeline).timelines_of(segment, size()) {
            let Some(wal) = inventory.wal.timelines.get(&part.timeline) else { continue };
            let name = SegmentName::new(part.timeline, segment, size());
            if wal.segments.get(&name).is_some_and(|digests| digests.contains(&writing.digest(segment))) {
                return Ok(());
            }
            // The segment of a fork holds the parent's bytes up to there, whatever follows.
            if wal.segments.contains_key(&name) && part.to < segment.end(size()) {
                let content = now(self.branch.read_segment(name), name)?;
                let same = |to: &u64| {
                    content[..*to as usize]
                        == writing.bytes(segment.start(size()), segment.start(size()) + *to)
                };
                let to = part.to.bytes_since(segment.start(size()));
                if same(&to) {
                    there.push(segment.start(size())..part.to);
                }
            }
            let ours = |fragment: &&FragmentName| {
                let from = segment.start(size()) + u64::from(fragment.from);
                let to = segment.start(size()) + u64::from(fragment.to);
                let bytes = now(self.branch.read_fragment(fragment), fragment.key());
                bytes.is_ok_and(|bytes| bytes == writing.bytes(from, to))
            };
            // A listing leaves out what journals hold of a segment that is there whole.
            let fragments = now(self.branch.fragments(name), name)?;
            there.extend(fragments.iter().filter(ours).map(|fragment| {
                let start = segment.start(size());
                start + u64::from(fragment.from)..start + u64::from(fragment.to)
            }));
        }
        let there: Coverage = there.into_iter().collect();
        match there.missing(&(range.from..range.to))[..] {
            [] => Ok(()),
            _ => Err(format!("acknowledged to one of two servers, and not there: {range:?}")),
        }
    }
}

/// Whether two servers have written the same timeline.
pub(crate) fn has_strangers(state: &State) -> bool {
    let timelines: BTreeSet<TimelineId> = state.writings.iter().map(|writing| writing.timeline).collect();
    timelines.len() < state.writings.len()
}

/// What memory answers at once.
fn now<T>(read: impl Future<Output = repository::Result<T>>, what: impl std::fmt::Display) -> Result<T> {
    let read = read.now_or_never().expect("memory answers at once");
    read.map_err(|error| format!("{what}: {error}"))
}
