//! Which backups stay, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use proto::TimelineId;
use proto::config::Retention;

use super::Keep;
use crate::backup::{BackupKind, BackupLabel};
use crate::catalogue::Inventory;
use crate::manifest::ManifestHead;

/// Why a backup stays.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// No retention is configured.
    NoPolicy,
    /// It was finished within the window.
    WithinWindow,
    /// The oldest moments in the window need it, on that timeline.
    OpensWindow(TimelineId),
    /// It is one of the newest full backups, or younger than the oldest of them.
    AmongNewest,
    /// It is the newest backup that can be restored.
    Newest,
    /// A running backup is compared with it.
    ParentOfRunning(BackupLabel),
    /// `walkeep keep`; until then, or for ever.
    Marked(Option<Timestamp>),
    /// No backup can be restored, so none goes.
    NothingRestorable,
    /// Something speaks against any judgement.
    Doubt,
    /// Its manifest cannot be read, so nobody knows.
    Unreadable,
}

impl Reason {
    /// Whether all WAL from this backup on is needed, and not only what makes it consistent.
    pub(super) fn opens_a_window(&self) -> bool {
        !matches!(self, Reason::Marked(_) | Reason::ParentOfRunning(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoPolicy => f.write_str("no retention is configured"),
            Reason::WithinWindow => f.write_str("finished within the window"),
            Reason::OpensWindow(timeline) => write!(f, "the window on timeline {timeline} begins with it"),
            Reason::AmongNewest => f.write_str("not older than the full backups to keep"),
            Reason::Newest => f.write_str("the newest that can be restored"),
            Reason::ParentOfRunning(label) => write!(f, "backup {label} is running, and compared with it"),
            Reason::Marked(None) => f.write_str("to be kept for ever"),
            Reason::Marked(Some(until)) => write!(f, "to be kept until {until}"),
            Reason::NothingRestorable => f.write_str("no backup can be restored, so none goes"),
            Reason::Doubt => f.write_str("nobody can judge what may go"),
            Reason::Unreadable => f.write_str("its manifest cannot be read"),
        }
    }
}

/// What becomes of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Which.
    pub label: BackupLabel,
    /// Why it stays; without any reason it goes.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// Whether it stays.
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// What the policy looks at.
pub(super) struct Case<'a> {
    pub(super) inventory: &'a Inventory,
    /// When each backup's manifest was written, by the store's clock.
    pub(super) finished: &'a BTreeMap<BackupLabel, Timestamp>,
    /// Backups that lack what their manifests name.
    pub(super) broken: &'a BTreeSet<BackupLabel>,
    /// Why nobody can judge what may go.
    pub(super) doubt: Option<&'a str>,
    pub(super) keeps: &'a BTreeMap<BackupLabel, Keep>,
    /// Running backups, with those that they are compared with.
    pub(super) running: &'a BTreeMap<BackupLabel, Option<BackupLabel>>,
    pub(super) now: Timestamp,
}

/// The verdicts, oldest backup first, and the time before which WAL must have been written to be removable.
pub(super) fn judge(case: &Case<'_>, retention: Option<Retention>) -> (Vec<Verdict>, Option<Timestamp>) {
    let mut reasons: BTreeMap<BackupLabel, BTreeSet<Reason>> = BTreeMap::new();
    let all = || case.inventory.backups.iter().map(|head| &head.label);
    reasons.extend(all().map(|label| (label.clone(), BTreeSet::new())));
    let mut keep = |label: &BackupLabel, reason| {
        reasons.entry(label.clone()).or_default().insert(reason);
    };
    for backup in &case.inventory.unreadable {
        keep(&backup.label, Reason::Unreadable);
    }
    for (label, mark) in case.keeps.iter().filter(|(_, mark)| mark.holds(case.now)) {
        keep(label, Reason::Marked(mark.until));
    }
    for (running, parent) in case.running {
        parent.iter().for_each(|parent| keep(parent, Reason::ParentOfRunning(running.clone())));
    }
    let restorable: Vec<&ManifestHead> =
        case.inventory.backups.iter().filter(|head| case.is_restorable(head)).collect();
    let mut horizon = None;
    match (retention, restorable.iter().max_by_key(|head| case.finished(head))) {
        _ if case.doubt.is_some() => all().for_each(|label| keep(label, Reason::Doubt)),
        (None, _) => all().for_each(|label| keep(label, Reason::NoPolicy)),
        (Some(_), None) => all().for_each(|label| keep(label, Reason::NothingRestorable)),
        (Some(Retention::Window(window)), Some(newest)) => {
            keep(&newest.label, Reason::Newest);
            let opens = before(case.now, window);
            horizon = Some(opens);
            for head in case.inventory.backups.iter().filter(|head| case.finished(head) > opens) {
                keep(&head.label, Reason::WithinWindow);
            }
            for (timeline, opening) in case.opening(opens) {
                keep(&opening.label, Reason::OpensWindow(timeline));
            }
        }
        (Some(Retention::Full(count)), Some(newest)) => {
            keep(&newest.label, Reason::Newest);
            let mut full: Vec<Timestamp> = restorable
                .iter()
                .filter(|head| head.kind == BackupKind::Full)
                .map(|head| case.finished(head))
                .collect();
            full.sort_unstable();
            // Fewer than asked for: all of them.
            let oldest = full.iter().rev().nth(count as usize - 1).or(full.first()).copied();
            let oldest = oldest.unwrap_or(Timestamp::MIN);
            horizon = Some(oldest);
            for head in case.inventory.backups.iter().filter(|head| case.finished(head) >= oldest) {
                keep(&head.label, Reason::AmongNewest);
            }
            for (timeline, opening) in case.opening(oldest) {
                keep(&opening.label, Reason::OpensWindow(timeline));
            }
        }
    }
    let verdicts = reasons.into_iter();
    let verdicts = verdicts.map(|(label, reasons)| Verdict { label, reasons: reasons.into_iter().collect() });
    (verdicts.collect(), horizon)
}

fn before(now: Timestamp, window: Duration) -> Timestamp {
    now.checked_sub(window).unwrap_or(Timestamp::MIN)
}

impl Case<'_> {
    fn finished(&self, head: &ManifestHead) -> Timestamp {
        // One whose manifest came after the objects were listed is as young as can be.
        self.finished.get(&head.label).copied().unwrap_or(self.now)
    }

    fn is_restorable(&self, head: &ManifestHead) -> bool {
        let lineage = self.inventory.lineage(head.stop_timeline);
        !self.broken.contains(&head.label) && self.inventory.reach(head, &lineage).is_some()
    }

    /// For each timeline: the newest backup before `opens` from which it can be reached. Also for one that is quiet: nobody
    /// but an operator knows that it is given up.
    fn opening(&self, opens: Timestamp) -> Vec<(TimelineId, &ManifestHead)> {
        let timelines = self.inventory.timelines().into_iter();
        let opening = timelines.filter_map(|timeline| {
            let lineage = self.inventory.lineage(timeline);
            let usable = self.inventory.backups.iter().filter(|head| !self.broken.contains(&head.label));
            let before = usable.filter(|head| self.finished(head) <= opens);
            let reaching = before.filter(|head| self.inventory.reach(head, &lineage).is_some());
            Some((timeline, reaching.max_by_key(|head| self.finished(head))?))
        });
        opening.collect()
    }
}
