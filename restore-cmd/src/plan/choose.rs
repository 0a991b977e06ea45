//! Which backup, along which timelines, and whether there is WAL all the way to the target.

use jiff::Timestamp;
use proto::Lsn;
use repository::backup::BackupLabel;
use repository::catalogue::{Inventory, Lineage};
use repository::manifest::ManifestHead;

use super::follow::{check_forks, follow};
use super::target::utc;
use super::{Options, RecoveryTarget};

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backup.
    pub backup: ManifestHead,
    /// The way to the timeline that is pinned.
    pub lineage: Lineage,
    /// Where WAL ends without a hole.
    pub wal_end: Lsn,
    /// Where there is WAL again behind that hole, if there is any.
    pub resumes: Option<Lsn>,
    /// Up to where WAL is surely needed: the target where it is a position, the backup's end for an immediate one,
    /// otherwise all that there is.
    pub wal_needed: Lsn,
    /// Up to where there is WAL of this lineage behind `wal_end`, out of reach: behind a hole, or of disputed content.
    pub beyond: Option<Lsn>,
    /// For a time after which no transaction has ended: where the last record begins. Recovery ends there.
    pub last_record: Option<Lsn>,
}

/// What the WAL that can be reached tells of a target that is a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A transaction ended after it: recovery stops there.
    Later,
    /// None did. The last record begins here.
    Nothing(Lsn),
    /// Not all of it was looked into.
    Unknown,
}

/// Why a restore cannot be planned. Each is a sentence and a hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What stands in the way.
    pub message: String,
    /// What to do.
    pub hint: String,
}

pub(crate) fn refuse<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { message: message.into(), hint: hint.into() })
}

/// Chooses. What the server's clock said at the end of WAL is asked for afterwards: see [`check_time`].
///
/// # Errors
/// There is no way to the target; the message says what there is instead.
pub fn choose(inventory: &Inventory, options: &Options) -> Result<Choice, Refusal> {
    let backups = &inventory.backups;
    check_readable(inventory, options.backup.as_ref())?;
    let named = options.backup.as_ref().map(|label| find(backups, label)).transpose()?;
    let lineage = follow(inventory, options, named)?;
    let backup = match named {
        Some(backup) => check_named(backup, &lineage, options)?,
        None => newest(inventory, &lineage, options)?,
    };
    check_forks(inventory, &lineage, backup)?;
    let wal_end = reach(inventory, &lineage, backup);
    let available = inventory.available(&lineage);
    let resumes = available.ranges().iter().map(|range| range.start).find(|start| *start > wal_end);
    check_wal(backup, wal_end, resumes, options)?;
    let wal_needed = match options.target {
        RecoveryTarget::Lsn(lsn) => lsn.max(backup.stop_lsn),
        RecoveryTarget::Immediate => backup.stop_lsn,
        _ => wal_end,
    };
    let beyond = beyond(inventory, &lineage, wal_end);
    Ok(Choice { backup: backup.clone(), lineage, wal_end, resumes, wal_needed, beyond, last_record: None })
}

/// Up to where there is WAL of the lineage behind `wal_end`: behind a hole, or of which nobody knows which content is right.
fn beyond(inventory: &Inventory, lineage: &Lineage, wal_end: Lsn) -> Option<Lsn> {
    let size = inventory.segment_size();
    let disputed = lineage.parts().iter().flat_map(|part| {
        let segments = inventory.wal.timelines.get(&part.timeline).into_iter().flat_map(|wal| &wal.segments);
        let disputed = segments.filter(|(_, digests)| digests.len() > 1);
        disputed.filter_map(move |(name, _)| Some(name.number(size).ok()?.end(size).min(part.to)))
    });
    disputed.chain(inventory.available(lineage).end()).max().filter(|end| *end > wal_end)
}

/// How far WAL goes without a hole from where the backup begins.
fn reach(inventory: &Inventory, lineage: &Lineage, backup: &ManifestHead) -> Lsn {
    inventory.available(lineage).reach(backup.start_lsn)
}

/// A backup that is there and cannot be read must not look as if there were none.
fn check_readable(inventory: &Inventory, named: Option<&BackupLabel>) -> Result<(), Refusal> {
    let unreadable = &inventory.unreadable;
    let wanted = unreadable.iter().find(|backup| Some(&backup.label) == named);
    match wanted.or_else(|| unreadable.last().filter(|_| inventory.backups.is_empty())) {
        Some(backup) => refuse(
            format!("backup {} cannot be used: {}", backup.label, backup.error),
            backup.error.hint().unwrap_or("restore another backup with --backup"),
        ),
        None if inventory.backups.is_empty() => refuse(
            "the repository has no complete backup of this cluster",
            "take one with `walkeep backup`; without a base backup WAL alone restores nothing",
        ),
        None => Ok(()),
    }
}

fn find<'a>(backups: &'a [ManifestHead], label: &BackupLabel) -> Result<&'a ManifestHead, Refusal> {
    if let Some(backup) = backups.iter().find(|backup| backup.label == *label) {
        return Ok(backup);
    }
    // Oldest first.
    let newest: Vec<&str> = backups.iter().rev().take(5).rev().map(|backup| backup.label.as_str()).collect();
    refuse(
        format!("there is no complete backup {label}"),
        format!("the newest ones are {}; `walkeep list` shows all", newest.join(", ")),
    )
}

/// Backups that end before the target.
pub(super) fn candidates<'a>(
    backups: &'a [ManifestHead],
    options: &Options,
) -> impl Iterator<Item = &'a ManifestHead> {
    backups.iter().filter(|backup| ends_before(backup, &options.target))
}

fn ends_before(backup: &ManifestHead, target: &RecoveryTarget) -> bool {
    match target {
        RecoveryTarget::Lsn(lsn) => backup.stop_lsn <= *lsn,
        RecoveryTarget::Time(time) => backup.finished_at <= time.instant(),
        _ => true,
    }
}

fn check_named<'a>(
    backup: &'a ManifestHead,
    lineage: &Lineage,
    options: &Options,
) -> Result<&'a ManifestHead, Refusal> {
    let timeline = lineage.timeline();
    if !lineage.contains(backup.stop_timeline, backup.stop_lsn) {
        return refuse(
            format!(
                "backup {} ends on timeline {} at {}, and timeline {timeline} does not come from there",
                backup.label, backup.stop_timeline, backup.stop_lsn
            ),
            "name an earlier backup, or --target-timeline current",
        );
    }
    if !ends_before(backup, &options.target) {
        return refuse(
            format!(
                "{} lies before the end of backup {}: {}",
                understood(&options.target),
                backup.label,
                end_of(backup)
            ),
            "name an earlier backup, or leave out --backup: a suitable one is found if there is any",
        );
    }
    Ok(backup)
}

/// The target, and in which time zone it was read.
fn understood(target: &RecoveryTarget) -> String {
    match target {
        RecoveryTarget::Time(time) => format!("{time} ({})", time.understood()),
        other => other.to_string(),
    }
}

fn end_of(backup: &ManifestHead) -> String {
    format!("{}, {}", backup.stop_lsn, utc(backup.finished_at))
}

fn newest<'a>(
    inventory: &'a Inventory,
    lineage: &Lineage,
    options: &Options,
) -> Result<&'a ManifestHead, Refusal> {
    let on_way = |backup: &&ManifestHead| lineage.contains(backup.stop_timeline, backup.stop_lsn);
    let newest = candidates(&inventory.backups, options).filter(on_way).max_by_key(|backup| &backup.label);
    if let Some(backup) = newest {
        return Ok(backup);
    }
    let timeline = lineage.timeline();
    match inventory.backups.iter().filter(on_way).min_by_key(|backup| backup.stop_lsn) {
        Some(first) => {
            let end = reach(inventory, lineage, first);
            refuse(
                format!(
                    "{} lies before the first backup: timeline {timeline} can be restored from {} to {end}",
                    understood(&options.target),
                    end_of(first)
                ),
                "choose a later target",
            )
        }
        None => refuse(
            format!("no backup leads to timeline {timeline}"),
            "choose another one with --target-timeline; `walkeep list` shows backups and their timelines",
        ),
    }
}

fn check_wal(
    backup: &ManifestHead,
    wal_end: Lsn,
    resumes: Option<Lsn>,
    options: &Options,
) -> Result<(), Refusal> {
    let label = &backup.label;
    if wal_end < backup.stop_lsn {
        return refuse(
            format!(
                "backup {label} needs WAL from {} to {}, but the repository's ends at {wal_end}",
                backup.start_lsn, backup.stop_lsn
            ),
            "restore an older backup with --backup; find out with `walkeep verify` what became of that WAL",
        );
    }
    let window = format!("from {} to {wal_end}", end_of(backup));
    match (&options.target, resumes) {
        (RecoveryTarget::Lsn(lsn), _) if *lsn >= wal_end => {
            let hint = match resumes {
                Some(next) => format!("WAL is missing from {wal_end} to {next}; choose a target before it"),
                None if *lsn == wal_end => {
                    "to restore to the end of WAL leave the target out: at its end there is no record yet"
                        .to_owned()
                }
                None => "choose an earlier target, or leave it out to restore to the end of WAL".to_owned(),
            };
            refuse(
                format!("LSN {lsn} lies after the last WAL: backup {label} can be restored {window}"),
                hint,
            )
        }
        (RecoveryTarget::Lsn(_) | RecoveryTarget::Immediate | RecoveryTarget::Time(_), _) | (_, None) => {
            Ok(())
        }
        (target, Some(next)) => refuse(
            format!("WAL is missing from {wal_end} to {next}, on the way to {target}"),
            format!("what can be restored of backup {label} is {window}; name a target in there"),
        ),
    }
}

/// Checks a time target against the server's clock at the end of WAL, as far as the repository knows it.
///
/// # Errors
/// WAL ends before the target.
pub fn check_time(
    choice: &Choice,
    options: &Options,
    wal_end_time: Option<Timestamp>,
) -> Result<(), Refusal> {
    let (RecoveryTarget::Time(target), Some(last)) = (&options.target, wal_end_time) else { return Ok(()) };
    if target.instant() <= last {
        return Ok(());
    }
    if let Some(beyond) = choice.beyond {
        return behind_a_hole(choice, options, beyond);
    }
    refuse(
        format!(
            "{} lies after the last WAL: backup {} can be restored from {} to {}, {}",
            understood(&options.target),
            choice.backup.label,
            end_of(&choice.backup),
            choice.wal_end,
            utc(last)
        ),
        "choose an earlier target, or leave it out to restore to the end of WAL",
    )
}

/// Where recovery to a time ends if no transaction ended after it: with the last record, which is the same moment. But not
/// where WAL goes on behind a hole, unless what lies before the hole was sent after the target: what is missing may hold the
/// very transactions that were asked for.
///
/// # Errors
/// Nobody knows whether the target lies before the hole.
pub fn last_moment(
    choice: &Choice,
    options: &Options,
    wal_end_time: Option<Timestamp>,
    seen: Seen,
) -> Result<Option<Lsn>, Refusal> {
    let RecoveryTarget::Time(target) = &options.target else { return Ok(None) };
    let sent_later = wal_end_time.is_some_and(|last| target.instant() <= last);
    match (choice.beyond.filter(|_| !sent_later), seen) {
        (_, Seen::Later) | (None, Seen::Unknown) => Ok(None),
        (None, Seen::Nothing(record)) => Ok(Some(record)),
        (Some(beyond), _) => behind_a_hole(choice, options, beyond),
    }
}

fn behind_a_hole<T>(choice: &Choice, options: &Options, beyond: Lsn) -> Result<T, Refusal> {
    refuse(
        format!(
            "WAL is missing at {}, and there is more of it up to {beyond}: {} may lie behind the hole",
            choice.wal_end,
            understood(&options.target)
        ),
        format!(
            "backup {} can be restored from {} to {}; name a target in there, with --target-lsn or an earlier time",
            choice.backup.label,
            end_of(&choice.backup),
            choice.wal_end
        ),
    )
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
