//! Which logical backups stay, and which go: computed from a survey.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use proto::config::DumpRetention;

use super::plan::Why;
use super::survey::Survey;
use crate::Key;
use crate::ObjectInfo;
use crate::backup::SILENCE;
use crate::dump::{Contents, DumpFile, DumpLabel, Member, Selection, object_key, parse_member};

/// Whether a dump stays, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DumpVerdict {
    /// Which.
    pub label: DumpLabel,
    /// Why it stays; none: it goes.
    pub reasons: Vec<DumpReason>,
}

impl DumpVerdict {
    /// Whether it stays.
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Why a dump stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DumpReason {
    /// Nothing says that any should go.
    NoRetention,
    /// It is among the newest of its series, so many of which stay.
    Newest(u32),
    /// It is younger.
    Young(Duration),
    /// It is the last of its series: something always stays.
    Last,
    /// Files of it are not there, or not as long as they were. Somebody should look; it replaces no other.
    Broken,
    /// Nobody can tell what it is.
    Unreadable,
    /// The store's times cannot be relied on.
    Doubt,
    /// It was completed after the objects were listed.
    New,
}

impl fmt::Display for DumpReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRetention => f.write_str("neither `keep` nor `window` is set in [dump]"),
            Self::Newest(1) => f.write_str("it is the newest of its kind"),
            Self::Newest(count) => write!(f, "it is among the newest {count} of its kind"),
            Self::Young(window) => {
                let days = window.as_secs() / 86_400;
                match window.as_secs() % 86_400 {
                    0 => write!(f, "it is younger than {days} d"),
                    _ => write!(f, "it is younger than {} s", window.as_secs()),
                }
            }
            Self::Last => f.write_str("it is the last of its kind"),
            Self::Broken => f.write_str("files of it are missing: `walkeep verify` names them"),
            Self::Unreadable => f.write_str("nobody can tell what it is: it cannot be read"),
            Self::Doubt => f.write_str("the store's times cannot be relied on"),
            Self::New => f.write_str("it was completed just now"),
        }
    }
}

/// What of the dumps goes.
type Removals<'a> = Vec<(&'a ObjectInfo, Why)>;

/// Judges all dumps, and what was left of cut off ones. Dumps that were asked for alike are a series, and only those of one
/// series replace each other: a table that was dumped by hand does not push out the night's dump of everything.
/// `doubt`: whether the store's times cannot be relied on; then everything stays.
pub(super) fn judge(
    survey: &Survey,
    retention: DumpRetention,
    doubt: bool,
) -> (Vec<DumpVerdict>, Removals<'_>) {
    let mut completed: BTreeMap<DumpLabel, Timestamp> = BTreeMap::new();
    let mut last_sign: BTreeMap<DumpLabel, Timestamp> = BTreeMap::new();
    for object in &survey.objects {
        let Some((label, member)) = parse_member(&object.key) else { continue };
        if member == Member::Contents {
            completed.insert(label.clone(), object.modified);
        }
        let last = last_sign.entry(label).or_insert(object.modified);
        *last = object.modified.max(*last);
    }
    let mut series: BTreeMap<&Selection, Vec<&DumpLabel>> = BTreeMap::new();
    let sizes: BTreeMap<&Key, u64> = survey.objects.iter().map(|object| (&object.key, object.size)).collect();
    let is_broken = |dump: &Contents| {
        let is_there =
            |file: &DumpFile| sizes.get(&object_key(&dump.label, &file.object)) == Some(&file.stored_bytes);
        // One that was completed after the listing has files that were stored after it, too.
        completed.contains_key(&dump.label) && !dump.files().all(is_there)
    };
    let mut verdicts: Vec<DumpVerdict> = Vec::new();
    for dump in &survey.dumps.whole {
        if is_broken(dump) {
            // It does not count: what cannot be brought back is no reason to let an older one go.
            verdicts.push(DumpVerdict { label: dump.label.clone(), reasons: vec![DumpReason::Broken] });
            continue;
        }
        series.entry(&dump.selection).or_default().push(&dump.label);
    }
    for labels in series.values() {
        // Newest first: labels sort by time.
        for (rank, &label) in (0u32..).zip(labels.iter().rev()) {
            let mut reasons = Vec::new();
            match completed.get(label) {
                None => reasons.push(DumpReason::New),
                Some(at) => {
                    let age = survey.now.duration_since(*at);
                    // What is dated after now is young.
                    let is_young = |window: &Duration| age.is_negative() || age.unsigned_abs() < *window;
                    reasons.extend(retention.keep.filter(|keep| rank < *keep).map(DumpReason::Newest));
                    reasons.extend(retention.window.filter(is_young).map(DumpReason::Young));
                }
            }
            if retention == DumpRetention::default() {
                reasons.push(DumpReason::NoRetention);
            }
            if doubt {
                reasons.push(DumpReason::Doubt);
            }
            if rank == 0 && reasons.is_empty() {
                reasons.push(DumpReason::Last);
            }
            verdicts.push(DumpVerdict { label: label.clone(), reasons });
        }
    }
    let unreadable = survey.dumps.unreadable.iter().map(|(label, _)| label.clone());
    verdicts.extend(unreadable.map(|label| DumpVerdict { label, reasons: vec![DumpReason::Unreadable] }));
    verdicts.sort_by(|a, b| a.label.cmp(&b.label));
    let removals = removals(survey, &verdicts, &completed, &last_sign);
    (verdicts, removals)
}

fn removals<'a>(
    survey: &'a Survey,
    verdicts: &[DumpVerdict],
    completed: &BTreeMap<DumpLabel, Timestamp>,
    last_sign: &BTreeMap<DumpLabel, Timestamp>,
) -> Removals<'a> {
    let of = |kept: bool| {
        let chosen = verdicts.iter().filter(move |verdict| verdict.is_kept() == kept);
        chosen.map(|verdict| &verdict.label).collect::<BTreeSet<_>>()
    };
    let (kept, going) = (of(true), of(false));
    let is_silent = |label: &DumpLabel| {
        let last = last_sign.get(label);
        last.is_some_and(|last| survey.now.duration_since(*last).as_secs() >= SILENCE.as_secs() as i64)
    };
    let mut removals = Vec::new();
    for object in &survey.objects {
        let Some((label, member)) = parse_member(&object.key) else { continue };
        let why = match member {
            Member::Stray => continue,
            Member::Contents if going.contains(&label) => Why::Dump(label),
            Member::Contents => continue,
            _ if going.contains(&label) => Why::BesideDump(label),
            Member::Alive if kept.contains(&label) => Why::OldDumpSign(label),
            _ if kept.contains(&label) || completed.contains_key(&label) => continue,
            _ if survey.running_dumps.contains(&label) || !is_silent(&label) => continue,
            _ => Why::CutOffDump(label),
        };
        removals.push((object, why));
    }
    removals
}
