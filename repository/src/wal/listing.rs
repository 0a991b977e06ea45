//! What WAL a branch holds, by names: plain data, from one listing.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use proto::wal::{SegmentName, WalFile};
use proto::{Digest, Lsn, TimelineId};

use super::names::{WalObject, log_folder, log_of, timeline_folder, wal_folder};
use super::{Epoch, FragmentName, HistoryFile, JournalName, tail};
use crate::{Branch, Error, Key, ObjectInfo, Result};

/// All WAL of one timeline that a branch holds, by name only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimelineWal {
    /// Whole segments with their digests; more than one digest is a conflict that nobody has settled.
    pub segments: BTreeMap<SegmentName, Vec<Digest>>,
    /// Fragments, in the order of segment, epoch, and place. What journals hold is among them, but for segments that are
    /// there whole.
    pub fragments: Vec<FragmentName>,
    /// All journals, whatever they hold.
    pub journals: Vec<JournalName>,
    /// `.partial` and `.backup` files with their digests.
    pub files: BTreeMap<WalFile, Vec<Digest>>,
}

impl TimelineWal {
    /// How many bytes of a segment's beginning the fragments of one epoch hold at most; 0 if none holds the
    /// first. What [`Branch::read_tail`] will find, if no two epochs disagree.
    pub fn tail_length(&self, segment: SegmentName) -> u32 {
        let start = self.fragments.partition_point(|fragment| fragment.segment < segment);
        let fragments = &self.fragments[start..];
        let end = fragments.partition_point(|fragment| fragment.segment == segment);
        let mut epochs: BTreeMap<Epoch, Vec<FragmentName>> = BTreeMap::new();
        for fragment in &fragments[..end] {
            epochs.entry(fragment.epoch).or_default().push(*fragment);
        }
        let reached = epochs.values().filter_map(|fragments| Some(tail::run(fragments).last()?.to));
        reached.max().unwrap_or_default()
    }
}

/// Everything under `wal/`: plain data.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WalListing {
    /// By timeline.
    pub timelines: BTreeMap<TimelineId, TimelineWal>,
    /// The history files, fetched. More than one for a timeline where two servers were promoted to it.
    pub histories: BTreeMap<TimelineId, Vec<HistoryFile>>,
    /// Objects whose names are not ours.
    pub strays: Vec<Key>,
}

impl WalListing {
    /// Sorts names into a listing. The history files are only counted here: their timelines are returned.
    fn collect(branch: &Key, objects: &[ObjectInfo]) -> (Self, Vec<TimelineId>) {
        let mut listing = Self::default();
        let mut histories = Vec::new();
        for object in objects {
            let name = object.key.below(branch).and_then(|name| Key::new(name).ok());
            match name.as_ref().and_then(WalObject::parse) {
                Some(WalObject::Segment(name, digest)) => {
                    listing.timeline(name.timeline).segments.entry(name).or_default().push(digest);
                }
                Some(WalObject::Fragment(fragment)) => {
                    listing.timeline(fragment.segment.timeline).fragments.push(fragment);
                }
                Some(WalObject::Journal(journal)) => {
                    listing.timeline(journal.segment.timeline).journals.push(journal);
                }
                Some(WalObject::File(WalFile::History(timeline), _)) => histories.push(timeline),
                Some(WalObject::File(file, digest)) => {
                    let timeline = match file {
                        WalFile::Segment(name) | WalFile::Partial(name) | WalFile::Backup(name, _) => {
                            name.timeline
                        }
                        WalFile::History(timeline) => timeline,
                    };
                    listing.timeline(timeline).files.entry(file).or_default().push(digest);
                }
                None => listing.strays.push(object.key.clone()),
            }
        }
        for timeline in listing.timelines.values_mut() {
            timeline.fragments.sort_unstable();
        }
        histories.dedup();
        (listing, histories)
    }

    fn timeline(&mut self, timeline: TimelineId) -> &mut TimelineWal {
        self.timelines.entry(timeline).or_default()
    }
}

/// History files that are read side by side.
const IN_FLIGHT: usize = 8;

impl Branch {
    /// Everything under `wal/`, with the history files' contents.
    pub async fn wal_listing(&self) -> Result<WalListing> {
        let objects = self.store().list(&self.key(&wal_folder())).await?;
        let (mut listing, histories) = WalListing::collect(self.root(), &objects);
        self.look_into_journals(&mut listing).await?;
        listing.histories = stream::iter(histories)
            .map(async |timeline| {
                Ok::<_, Error>((timeline, self.read_wal_file(WalFile::History(timeline)).await?))
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(listing)
    }

    /// The same; and all whole segments in it are durable when this returns, whoever has stored them.
    pub async fn durable_wal_listing(&self) -> Result<WalListing> {
        let listing = self.wal_listing().await?;
        let mut settled = None;
        for name in listing.timelines.values().flat_map(|wal| wal.segments.keys()) {
            // In order, so each folder comes once.
            if settled.replace((name.timeline, name.log)) != Some((name.timeline, name.log)) {
                let folder = log_folder(name.timeline, name.log);
                self.store().settle(&self.key(&folder.child(name))).await?;
            }
        }
        Ok(listing)
    }

    /// What is stored of the segments that share a timeline and the middle part of their names.
    pub async fn folder_listing(&self, timeline: TimelineId, log: u32) -> Result<TimelineWal> {
        let objects = self.store().list(&self.key(&log_folder(timeline, log))).await?;
        let (mut listing, _) = WalListing::collect(self.root(), &objects);
        self.look_into_journals(&mut listing).await?;
        Ok(listing.timelines.remove(&timeline).unwrap_or_default())
    }

    /// A journal's name does not say how far it goes.
    async fn look_into_journals(&self, listing: &mut WalListing) -> Result<()> {
        for wal in listing.timelines.values_mut() {
            let needed = wal.journals.iter().filter(|journal| !wal.segments.contains_key(&journal.segment));
            let needed: Vec<JournalName> = needed.copied().collect();
            wal.fragments.extend(self.measure(&needed).await?);
            wal.fragments.sort_unstable();
        }
        Ok(())
    }

    /// The timelines of which a history file is stored, ascending.
    pub async fn history_timelines(&self) -> Result<Vec<TimelineId>> {
        let files = self.store().list_folder(&self.key(&wal_folder())).await?.objects;
        let (_, mut timelines) = WalListing::collect(self.root(), &files);
        timelines.sort_unstable();
        timelines.dedup();
        Ok(timelines)
    }

    /// Where the newest WAL of a timeline ends: a whole segment's end, or a tail's. By names only; what lies
    /// before may have holes. `None` if there is none.
    pub async fn newest_wal(&self, timeline: TimelineId) -> Result<Option<Lsn>> {
        let folders = self.store().list_folder(&self.key(&timeline_folder(timeline))).await?.folders;
        let mut logs: Vec<u32> = folders.iter().filter_map(log_of).collect();
        logs.sort_unstable();
        for log in logs.into_iter().rev() {
            let newest = self.newest_of(&self.folder_listing(timeline, log).await?);
            if newest.is_some() {
                return Ok(newest);
            }
        }
        Ok(None)
    }

    fn newest_of(&self, wal: &TimelineWal) -> Option<Lsn> {
        let size = self.segment_size();
        let whole = wal.segments.keys().filter_map(|name| Some(name.number(size).ok()?.end(size)));
        let mut tailed: Vec<SegmentName> = wal.fragments.iter().map(|fragment| fragment.segment).collect();
        tailed.dedup();
        let tails = tailed.into_iter().filter_map(|name| {
            let length = wal.tail_length(name);
            (length > 0).then_some(name.number(size).ok()?.start(size) + u64::from(length))
        });
        whole.chain(tails).max()
    }
}
