//! What a branch holds, and what can be restored from it.

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::Timestamp;
use proto::config::ClusterName;
use proto::wal::SegmentSize;
use proto::wal::history::TimelineHistory;
use proto::{Lsn, SystemId, TimelineId};
use serde::Serialize;

use super::lineage::MissingFork;
use super::{Coverage, Lineage};
use crate::backup::{BackupKind, BackupLabel};
use crate::manifest::ManifestHead;
use crate::{Error, HistoryFile, WalListing};

/// A branch's backups and WAL.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Whole backups, oldest first.
    pub backups: Vec<ManifestHead>,
    /// Backups whose manifests are there and cannot be used.
    pub unreadable: Vec<UnreadableBackup>,
    /// The names of all WAL.
    pub wal: WalListing,
    /// The histories that can be relied on.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Timelines whose history files cannot be relied on, and why.
    pub broken_histories: BTreeMap<TimelineId, BrokenHistory>,
    /// What is there of each timeline's WAL.
    pub coverage: BTreeMap<TimelineId, Coverage>,
    /// The server's clock when it sent the byte before that position; only of ends of windows.
    pub end_times: BTreeMap<(TimelineId, Lsn), Timestamp>,
    segment_size: SegmentSize,
}

/// A backup whose manifest is damaged, encrypted for others, or of a newer format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnreadableBackup {
    /// Its label.
    pub label: BackupLabel,
    /// What is the matter.
    pub error: Error,
}

/// Why nobody can tell where a timeline came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BrokenHistory {
    /// There is none.
    #[error("its history file is missing")]
    Missing,
    /// A file of that name is none.
    #[error("its history file is damaged")]
    Damaged,
    /// Several, and they tell of different forks.
    #[error("two servers were promoted to it, and their history files disagree")]
    Contradictory,
}

/// A stretch of WAL at every commit of which the cluster can be had back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Window {
    /// The timeline to recover along, with its ancestors.
    pub timeline: TimelineId,
    /// Where the oldest backup in it became consistent: the first possible target.
    pub from_lsn: Lsn,
    /// How far WAL reaches from there without a hole.
    pub to_lsn: Lsn,
    /// When the backup that opens it was finished, by the server's clock.
    pub from_time: Option<Timestamp>,
    /// When the server sent the last of the WAL; `None` if that is not known.
    pub to_time: Option<Timestamp>,
}

/// WAL that is missing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Gap {
    /// The timeline that it belongs to.
    pub timeline: TimelineId,
    /// The first byte that is missing.
    pub from_lsn: Lsn,
    /// The first byte that is there again.
    pub to_lsn: Lsn,
}

/// A backup as `list` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BackupSummary {
    /// Its label.
    pub label: BackupLabel,
    /// Full or incremental.
    pub kind: BackupKind,
    /// The timeline on which it began.
    pub timeline: TimelineId,
    /// Where its replay begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// By the server's clock.
    pub started_at: Timestamp,
    /// By the server's clock.
    pub finished_at: Timestamp,
    /// Bytes of the cluster's files.
    pub size_bytes: u64,
    /// Bytes that it added to the repository.
    pub stored_bytes: u64,
    /// Pages whose checksum was wrong when it was taken.
    pub damaged_pages: u64,
    /// What the operator noted.
    pub note: Option<String>,
    /// Whether all of the WAL that it needs is there, without which it cannot be restored.
    pub restorable: bool,
}

/// What `list --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Listing {
    /// The cluster's name in the repository.
    pub cluster: ClusterName,
    /// Its system identifier.
    pub system_identifier: SystemId,
    /// Oldest first.
    pub backups: Vec<BackupSummary>,
    /// By timeline, then by position.
    pub windows: Vec<Window>,
    /// By timeline, then by position.
    pub gaps: Vec<Gap>,
}

impl Inventory {
    /// Puts together what was read.
    pub fn new(mut backups: Vec<ManifestHead>, wal: WalListing, segment_size: SegmentSize) -> Self {
        backups.sort_by(|a, b| a.label.cmp(&b.label));
        let (mut histories, mut broken_histories) = (BTreeMap::new(), BTreeMap::new());
        for (timeline, files) in &wal.histories {
            match agreed(*timeline, files) {
                Ok(history) => drop(histories.insert(*timeline, history)),
                Err(why) => drop(broken_histories.insert(*timeline, why)),
            }
        }
        let covered = |wal| Coverage::of(wal, segment_size);
        let coverage = wal.timelines.iter().map(|(timeline, wal)| (*timeline, covered(wal))).collect();
        let (unreadable, end_times) = (Vec::new(), BTreeMap::new());
        Self { backups, unreadable, wal, histories, broken_histories, coverage, end_times, segment_size }
    }

    /// Bytes in a WAL segment.
    pub fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// The way that leads to `timeline`.
    pub fn lineage(&self, timeline: TimelineId) -> Lineage {
        Lineage::of(timeline, &self.histories)
    }

    /// The way that leads to `timeline`, if that is known for certain.
    ///
    /// # Errors
    /// There is no history file that can be relied on. The first timeline needs none.
    pub fn certain_lineage(&self, timeline: TimelineId) -> Result<Lineage, BrokenHistory> {
        if let Some(why) = self.broken_histories.get(&timeline) {
            return Err(*why);
        }
        if timeline != TimelineId::FIRST && !self.histories.contains_key(&timeline) {
            return Err(BrokenHistory::Missing);
        }
        Ok(self.lineage(timeline))
    }

    /// What is there of a timeline's WAL, ascending, under its own name.
    pub fn coverage(&self, timeline: TimelineId) -> &[Range<Lsn>] {
        self.coverage.get(&timeline).map(Coverage::ranges).unwrap_or_default()
    }

    /// Timelines that something is there of, ascending.
    pub fn timelines(&self) -> Vec<TimelineId> {
        let with_wal =
            self.coverage.iter().filter(|(_, wal)| wal.end().is_some()).map(|(timeline, _)| *timeline);
        let mut timelines: Vec<_> = with_wal.chain(self.backups.iter().map(|b| b.stop_timeline)).collect();
        timelines.sort_unstable();
        timelines.dedup();
        timelines
    }

    /// Timelines that the repository knows of, if only by a history file, ascending.
    pub fn known_timelines(&self) -> Vec<TimelineId> {
        let told = self.histories.keys().chain(self.broken_histories.keys()).copied();
        let mut timelines: Vec<_> = self.timelines().into_iter().chain(told).collect();
        timelines.sort_unstable();
        timelines.dedup();
        timelines
    }

    /// All WAL of `lineage` that is there.
    pub fn available(&self, lineage: &Lineage) -> Coverage {
        lineage.available(&self.coverage, self.segment_size)
    }

    /// Checks that the WAL of `lineage` from `from` to `to` is there; else the first position that is not.
    pub fn wal_complete(&self, lineage: &Lineage, from: Lsn, to: Lsn) -> Result<(), Lsn> {
        let reached = self.available(lineage).reach(from);
        if reached >= to { Ok(()) } else { Err(reached) }
    }

    /// Checks that recovery from `from` on along `lineage` finds each timeline's WAL where that was forked. A
    /// history file alone does not make a timeline that can be followed.
    pub fn check_forks(&self, lineage: &Lineage, from: Lsn) -> Result<(), MissingFork> {
        lineage.check_forks(from, &self.coverage)
    }

    /// How far recovery gets from `backup` along `lineage`: the first byte of WAL that is not there. `None`
    /// if the backup does not lie on this lineage, if WAL is missing that it needs to become consistent, or
    /// if the timeline that the lineage leads to cannot be reached.
    pub fn reach(&self, backup: &ManifestHead, lineage: &Lineage) -> Option<Lsn> {
        let available = self.available(lineage);
        self.reach_within(backup, lineage, &available)
    }

    fn reach_within(&self, backup: &ManifestHead, lineage: &Lineage, available: &Coverage) -> Option<Lsn> {
        if !on_lineage(backup, lineage) {
            return None;
        }
        self.check_forks(lineage, backup.stop_lsn).ok()?;
        let reached = available.reach(backup.start_lsn);
        // On a child of the backup's timeline nothing is reached before the fork has been passed.
        let on_it = backup.stop_timeline == lineage.timeline() || reached > lineage.last().from;
        (reached >= backup.stop_lsn && on_it).then_some(reached)
    }

    /// What can be restored, by timeline, then by position. Windows on one timeline neither overlap nor
    /// touch.
    pub fn windows(&self) -> Vec<Window> {
        let mut windows = Vec::new();
        for timeline in self.timelines() {
            let lineage = self.lineage(timeline);
            let available = self.available(&lineage);
            let mut found: Vec<Window> = self
                .backups
                .iter()
                .filter_map(|backup| Some((backup, self.reach_within(backup, &lineage, &available)?)))
                .map(|(backup, to_lsn)| Window {
                    timeline,
                    from_lsn: backup.stop_lsn,
                    to_lsn,
                    from_time: Some(backup.finished_at),
                    to_time: self.end_times.get(&(timeline, to_lsn)).copied(),
                })
                .collect();
            found.sort_by_key(|window| window.from_lsn);
            // From within one window the end is always the same, so a later backup in it adds nothing.
            found.dedup_by(|later, earlier| later.from_lsn <= earlier.to_lsn);
            windows.extend(found);
        }
        windows
    }

    /// Missing WAL, by timeline, then by position: from the oldest backup on a lineage to the newest WAL on
    /// it.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut missing: BTreeMap<TimelineId, Vec<Range<Lsn>>> = BTreeMap::new();
        for timeline in self.timelines() {
            let lineage = self.lineage(timeline);
            let backups = || self.backups.iter().filter(|backup| on_lineage(backup, &lineage));
            let Some(start) = backups().map(|backup| backup.start_lsn).min() else { continue };
            let newest = self.coverage.get(&timeline).and_then(Coverage::end);
            let Some(end) = backups().map(|backup| backup.stop_lsn).chain(newest).max() else { continue };
            for range in self.available(&lineage).missing(&(start..end)) {
                for part in lineage.parts() {
                    let share = range.start.max(part.from)..range.end.min(part.to);
                    missing.entry(part.timeline).or_default().push(share);
                }
            }
        }
        let joined = missing.into_iter().map(|(timeline, ranges)| (timeline, Coverage::from_iter(ranges)));
        let gap = |timeline, range: &Range<Lsn>| Gap { timeline, from_lsn: range.start, to_lsn: range.end };
        joined
            .flat_map(|(tli, ranges)| ranges.ranges().iter().map(|r| gap(tli, r)).collect::<Vec<_>>())
            .collect()
    }

    /// What `list` shows.
    pub fn listing(&self, cluster: &ClusterName, system_id: SystemId) -> Listing {
        Listing {
            cluster: cluster.clone(),
            system_identifier: system_id,
            backups: self.backups.iter().map(|backup| self.summary(backup)).collect(),
            windows: self.windows(),
            gaps: self.gaps(),
        }
    }

    fn summary(&self, head: &ManifestHead) -> BackupSummary {
        BackupSummary {
            label: head.label.clone(),
            kind: head.kind,
            timeline: head.timeline,
            start_lsn: head.start_lsn,
            stop_lsn: head.stop_lsn,
            started_at: head.started_at,
            finished_at: head.finished_at,
            size_bytes: head.size_bytes,
            stored_bytes: head.stored_bytes,
            damaged_pages: head.damaged_page_count,
            note: head.label_note.clone(),
            restorable: self.reach(head, &self.lineage(head.stop_timeline)).is_some(),
        }
    }
}

/// Whether recovery from `backup` can go along `lineage`.
fn on_lineage(backup: &ManifestHead, lineage: &Lineage) -> bool {
    lineage.contains(backup.timeline, backup.start_lsn)
        && lineage.contains(backup.stop_timeline, backup.stop_lsn)
}

/// The history that all of a timeline's files tell, if they agree on timelines and forks.
fn agreed(timeline: TimelineId, files: &[HistoryFile]) -> Result<TimelineHistory, BrokenHistory> {
    let mut agreed: Option<TimelineHistory> = None;
    for file in files {
        let history = TimelineHistory::parse(timeline, &file.content).map_err(|_| BrokenHistory::Damaged)?;
        match &agreed {
            Some(first) if !forks(first).eq(forks(&history)) => return Err(BrokenHistory::Contradictory),
            Some(_) => {}
            None => agreed = Some(history),
        }
    }
    agreed.ok_or(BrokenHistory::Missing)
}

fn forks(history: &TimelineHistory) -> impl Iterator<Item = (TimelineId, Lsn)> {
    history.entries.iter().map(|entry| (entry.timeline, entry.switch))
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
pub(crate) mod tests;
