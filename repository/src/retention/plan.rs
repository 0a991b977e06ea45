//! What goes: computed from a survey, without clock, network or file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use proto::config::{DumpRetention, Retention};
use proto::wal::{SegmentName, WalFile};
use proto::{Lsn, TimelineId};

use super::dumps::{self, DumpVerdict};
use super::keep::is_due;
use super::needed::needed;
use super::policy::{Case, Verdict, judge};
use super::{Condemned, Survey};
use crate::backup::{BackupLabel, Member, SILENCE, parse_member};
use crate::catalogue::Coverage;
use crate::dump::DumpLabel;
use crate::look::LookName;
use crate::pack::PackName;
use crate::run::{Job, RunName};
use crate::store::Leftover;
use crate::wal::{Epoch, FragmentName, JournalName, WalObject};
use crate::{Key, ObjectInfo};

/// So many seconds, by the store's clock, is every run of a scheduled job remembered: 30 days.
const REMEMBERED: i64 = 30 * 24 * 3600;

/// The same of looks at the server: 400 days, so that a year can be compared with the one before.
const LOOKS_REMEMBERED: i64 = 400 * 24 * 3600;

/// Why an object goes. In the order in which they are deleted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// A manifest of a backup that the policy keeps no longer.
    Manifest(BackupLabel),
    /// What lies beside such a manifest.
    BesideManifest(BackupLabel),
    /// A manifest that a newer generation has replaced.
    OldGeneration(BackupLabel),
    /// A sign of life of a backup that is complete.
    OldSign(BackupLabel),
    /// A backup that was cut off.
    CutOff(BackupLabel),
    /// No manifest that stays names this pack.
    Pack(PackName),
    /// No backup that stays needs this WAL.
    Wal(TimelineId, Lsn),
    /// The segment of this fragment is stored whole. Looked at once more before the fragment goes.
    WholeSegment(FragmentName),
    /// The segment of this journal is stored whole. Looked at once more before the journal goes.
    WholeJournal(JournalName),
    /// An epoch that is over, and none of whose tails is there any more.
    OldEpoch(Epoch),
    /// A record of a scheduled job that newer ones have replaced.
    OldRun,
    /// What makes a dump exist that retention keeps no longer.
    Dump(DumpLabel),
    /// What lies beside that.
    BesideDump(DumpLabel),
    /// A sign of life of a dump that is complete.
    OldDumpSign(DumpLabel),
    /// A dump that was cut off.
    CutOffDump(DumpLabel),
    /// A look at the server from long ago.
    OldLook,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Manifest(label) | Why::BesideManifest(label) => {
                write!(f, "retention does not keep backup {label}")
            }
            Why::OldGeneration(label) => write!(f, "a newer manifest of backup {label} replaces it"),
            Why::OldSign(label) => write!(f, "backup {label} is complete and needs no sign of life"),
            Why::CutOff(label) => write!(f, "backup {label} was cut off"),
            Why::Pack(_) => f.write_str("no backup that stays needs this pack"),
            Why::Wal(..) => f.write_str("no backup that stays needs this WAL"),
            Why::WholeSegment(FragmentName { segment, .. })
            | Why::WholeJournal(JournalName { segment, .. }) => {
                write!(f, "segment {segment} is stored whole")
            }
            Why::OldEpoch(_) => f.write_str("this epoch is over"),
            Why::OldRun => f.write_str("newer runs of this scheduled job are recorded"),
            Why::Dump(label) | Why::BesideDump(label) => write!(f, "retention does not keep dump {label}"),
            Why::OldDumpSign(label) => write!(f, "dump {label} is complete and needs no sign of life"),
            Why::CutOffDump(label) => write!(f, "dump {label} was cut off"),
            Why::OldLook => f.write_str("it tells how the server was more than a year ago"),
        }
    }
}

/// An object that goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removal {
    /// Below the branch.
    pub key: Key,
    /// Bytes in the store.
    pub size: u64,
    /// Why.
    pub why: Why,
    /// Since when it is condemned, by the store's clock; now, if it was not before.
    pub since: Timestamp,
    /// Whether the grace period has passed.
    pub is_due: bool,
}

/// What stays and what goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Oldest backup first.
    pub verdicts: Vec<Verdict>,
    /// Oldest dump first.
    pub dumps: Vec<DumpVerdict>,
    /// In the order in which they are deleted.
    pub removals: Vec<Removal>,
    /// Files of uploads that were interrupted. Nobody writes to them any more, so they need not be condemned.
    pub interrupted: Vec<Leftover>,
    /// What holds removals back, in plain sentences.
    pub held_back: Vec<String>,
    /// How long condemned objects wait.
    pub grace: Duration,
    /// The store's clock when the survey was made.
    pub now: Timestamp,
}

impl Plan {
    /// Decides what goes; of dumps nothing but what was cut off.
    pub fn new(survey: &Survey, retention: Option<Retention>, grace: Duration) -> Self {
        Self::with_dumps(survey, retention, DumpRetention::default(), grace)
    }

    /// Decides what goes, of dumps as well.
    pub fn with_dumps(
        survey: &Survey,
        retention: Option<Retention>,
        dumps: DumpRetention,
        grace: Duration,
    ) -> Self {
        let finished = survey.finished();
        let (broken, doubt) = (survey.without_packs(), survey.doubt());
        let case = Case {
            inventory: &survey.inventory,
            finished: &finished,
            broken: &broken,
            doubt: doubt.as_deref(),
            keeps: &survey.keeps,
            running: &survey.running,
            now: survey.now,
        };
        let (verdicts, horizon) = judge(&case, retention);
        let is_doubtful = doubt.is_some();
        let (at_work, cut_off) = survey.incomplete();
        let mut planner =
            Planner { survey, at_work, cut_off, reasons: Vec::new(), held_back: Vec::from_iter(doubt) };
        let kept: BTreeMap<&BackupLabel, &Verdict> =
            verdicts.iter().filter(|verdict| verdict.is_kept()).map(|v| (&v.label, v)).collect();
        planner.backups(&kept);
        planner.packs(&kept);
        planner.wal(&kept, horizon);
        planner.runs();
        let (dumps, removals) = dumps::judge(survey, dumps, is_doubtful);
        planner.reasons.extend(removals);
        planner.looks();
        let Planner { mut reasons, held_back, .. } = planner;
        reasons.sort_by(|a, b| (&a.1, &a.0.key).cmp(&(&b.1, &b.0.key)));
        let removal = |(object, why): (&ObjectInfo, Why)| {
            let since = survey.condemned.since.get(&object.key).copied().unwrap_or(survey.now);
            let is_due = is_due(since, survey.now, grace) && survey.condemned.since.contains_key(&object.key);
            Removal { key: object.key.clone(), size: object.size, why, since, is_due }
        };
        let removals = reasons.into_iter().map(removal).collect();
        let silence = i64::try_from(grace.max(SILENCE).as_secs()).unwrap_or(i64::MAX);
        let is_silent = |file: &&Leftover| survey.now.duration_since(file.modified).as_secs() >= silence;
        let interrupted = survey.uploads.iter().filter(is_silent).cloned().collect();
        Plan { verdicts, dumps, removals, interrupted, held_back, grace, now: survey.now }
    }

    /// What is condemned once this plan is made known.
    pub fn condemned(&self) -> Condemned {
        Condemned { since: self.removals.iter().map(|r| (r.key.clone(), r.since)).collect() }
    }
}

struct Planner<'a> {
    survey: &'a Survey,
    at_work: BTreeSet<BackupLabel>,
    cut_off: BTreeSet<BackupLabel>,
    reasons: Vec<(&'a ObjectInfo, Why)>,
    held_back: Vec<String>,
}

impl Planner<'_> {
    fn backups(&mut self, kept: &BTreeMap<&BackupLabel, &Verdict>) {
        let survey = self.survey;
        for object in &survey.objects {
            let Some((label, member)) = parse_member(&object.key) else { continue };
            let generation = survey.generations.get(&label).copied();
            let why = match (generation.is_some(), member) {
                (_, Member::Stray) => continue,
                (true, Member::Manifest { generation: this }) if kept.contains_key(&label) => {
                    // The older one may be all that can be read, or a running backup may rely on it.
                    if generation.is_none_or(|newest| this >= newest)
                        || !survey.packs.contains_key(&label)
                        || survey.running.values().flatten().any(|parent| *parent == label)
                    {
                        continue;
                    }
                    Why::OldGeneration(label)
                }
                (true, Member::Alive) if kept.contains_key(&label) => Why::OldSign(label),
                (true, _) if kept.contains_key(&label) => continue,
                (true, Member::Manifest { .. }) => Why::Manifest(label),
                (true, _) => Why::BesideManifest(label),
                (false, Member::Manifest { .. }) => continue,
                (false, _) if self.cut_off.contains(&label) => Why::CutOff(label),
                (false, _) => continue,
            };
            self.reasons.push((object, why));
        }
    }

    /// Of the records of scheduled jobs the young ones stay, and of each job the newest of either outcome.
    fn runs(&mut self) {
        let mut runs: Vec<(RunName, &ObjectInfo)> = self
            .survey
            .objects
            .iter()
            .filter_map(|object| Some((RunName::of_key(&object.key)?, object)))
            .collect();
        runs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut newest: BTreeSet<(Job, bool)> = BTreeSet::new();
        for (run, object) in runs.into_iter().rev() {
            let is_newest = newest.insert((run.job, run.succeeded));
            let is_old = self.survey.now.duration_since(object.modified).as_secs() >= REMEMBERED;
            if is_old && !is_newest {
                self.reasons.push((object, Why::OldRun));
            }
        }
    }

    /// Of the looks at the server the old ones go.
    fn looks(&mut self) {
        for object in &self.survey.objects {
            let is_old = self.survey.now.duration_since(object.modified).as_secs() >= LOOKS_REMEMBERED;
            if is_old && LookName::of_key(&object.key).is_some() {
                self.reasons.push((object, Why::OldLook));
            }
        }
    }

    fn packs(&mut self, kept: &BTreeMap<&BackupLabel, &Verdict>) {
        let survey = self.survey;
        let mut needed: BTreeSet<&PackName> = BTreeSet::new();
        for label in kept.keys() {
            match survey.packs.get(*label) {
                Some(packs) => needed.extend(packs.keys()),
                None => {
                    self.held_back.push(format!(
                        "no pack goes while the manifest of backup {label} cannot be read: it may need any of them"
                    ));
                    return;
                }
            }
        }
        for (older, packs) in &survey.older {
            match packs {
                Some(packs) => needed.extend(packs),
                None => {
                    self.held_back.push(format!(
                        "no pack goes while an older manifest of backup {} cannot be read, with which a running one is \
                         compared",
                        older.label
                    ));
                    return;
                }
            }
        }
        for object in &survey.objects {
            let Some(pack) = crate::pack::parse_key(&object.key) else { continue };
            // A running backup's packs are named by no manifest yet.
            if !needed.contains(&pack) && !self.at_work.contains(pack.label()) {
                self.reasons.push((object, Why::Pack(pack)));
            }
        }
    }

    fn wal(&mut self, kept: &BTreeMap<&BackupLabel, &Verdict>, horizon: Option<Timestamp>) {
        let inventory = &self.survey.inventory;
        let size = inventory.segment_size();
        let unreadable = inventory.unreadable.first();
        if let Some(backup) = unreadable {
            self.held_back.push(format!(
                "no WAL goes while the manifest of backup {} cannot be read: it may need any of it",
                backup.label
            ));
        }
        let opens = |head: &crate::manifest::ManifestHead| {
            kept.get(&head.label).map(|verdict| verdict.reasons.iter().any(|reason| reason.opens_a_window()))
        };
        let needed =
            needed(inventory, inventory.backups.iter().filter_map(|head| Some((head, opens(head)?))));
        let has_backup = inventory.backups.iter().any(|head| kept.contains_key(&head.label));
        let is_old = |object: &ObjectInfo| horizon.is_some_and(|horizon| object.modified < horizon);
        let may_go = |segment: SegmentName, object: &ObjectInfo| {
            let timeline = segment.timeline;
            // Without its history nobody knows which backups a timeline can be reached from.
            let is_known = timeline == TimelineId::FIRST || inventory.histories.contains_key(&timeline);
            let Ok(number) = segment.number(size) else { return None };
            let bytes = number.start(size)..number.end(size);
            let is_needed =
                needed.get(&timeline).is_some_and(|wal: &Coverage| wal.within(&bytes).next().is_some());
            (unreadable.is_none() && has_backup && is_known && !is_needed && is_old(object))
                .then_some(bytes.start)
        };
        let mut with_fragments = BTreeSet::new();
        let mut epochs = Vec::new();
        for object in &self.survey.objects {
            let Some(wal) = WalObject::parse(&object.key) else {
                epochs.extend(crate::wal::parse_epoch(&object.key).map(|epoch| (object, epoch)));
                continue;
            };
            let why = match wal {
                WalObject::Segment(name, _) => {
                    may_go(name, object).map(|start| Why::Wal(name.timeline, start))
                }
                WalObject::File(WalFile::Partial(name) | WalFile::Backup(name, _), _) => {
                    may_go(name, object).map(|start| Why::Wal(name.timeline, start))
                }
                WalObject::File(WalFile::History(_) | WalFile::Segment(_), _) => None,
                WalObject::Fragment(fragment) => match may_go(fragment.segment, object) {
                    Some(start) => Some(Why::Wal(fragment.segment.timeline, start)),
                    None if self.survey.is_whole(fragment.segment) => Some(Why::WholeSegment(fragment)),
                    None => None,
                },
                WalObject::Journal(journal) => match may_go(journal.segment, object) {
                    Some(start) => Some(Why::Wal(journal.segment.timeline, start)),
                    None if self.survey.is_whole(journal.segment) => Some(Why::WholeJournal(journal)),
                    None => None,
                },
            };
            match wal {
                WalObject::Fragment(FragmentName { epoch, .. })
                | WalObject::Journal(JournalName { epoch, .. }) => drop(with_fragments.insert(epoch)),
                WalObject::Segment(..) | WalObject::File(..) => {}
            }
            self.reasons.extend(why.map(|why| (object, why)));
        }
        // The highest number is never given up: the next epoch counts on from it.
        let highest = epochs.iter().map(|(_, epoch)| epoch.number).max();
        for (object, epoch) in epochs {
            if Some(epoch.number) != highest && !with_fragments.contains(&epoch) && is_old(object) {
                self.reasons.push((object, Why::OldEpoch(epoch)));
            }
        }
    }
}
