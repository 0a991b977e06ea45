//! Along which timelines.

use proto::TimelineId;
use repository::catalogue::{Inventory, Lineage};
use repository::manifest::ManifestHead;

use super::choose::{Refusal, candidates, refuse};
use super::{Options, RecoveryTarget, TimelineChoice};

/// The lineage that is to be followed.
pub(super) fn follow(
    inventory: &Inventory,
    options: &Options,
    named: Option<&ManifestHead>,
) -> Result<Lineage, Refusal> {
    let lineage = match options.timeline {
        TimelineChoice::Number(timeline) => certain(inventory, timeline)?,
        TimelineChoice::Current => {
            let ends_before = || candidates(&inventory.backups, options).last();
            let backup = named.or_else(ends_before).or_else(|| inventory.backups.last());
            certain(inventory, backup.map_or(TimelineId::FIRST, |backup| backup.stop_timeline))?
        }
        TimelineChoice::Latest => newest(inventory, named)?,
    };
    // A target before a fork needs nothing of the child.
    if let RecoveryTarget::Lsn(lsn) = options.target {
        let part = lineage.part_at(lsn);
        if part.timeline != lineage.timeline() && inventory.check_forks(&lineage, part.to).is_err() {
            return certain(inventory, part.timeline);
        }
    }
    Ok(lineage)
}

fn certain(inventory: &Inventory, timeline: TimelineId) -> Result<Lineage, Refusal> {
    inventory.certain_lineage(timeline).or_else(|why| {
        refuse(
            format!("timeline {timeline} cannot be followed: {why}"),
            "name another one with --target-timeline; `walkeep list` shows which there are",
        )
    })
}

/// The newest one that leads through a backup: the named one, or any. One that may do so, but of which nobody can tell,
/// is not passed over in silence.
fn newest(inventory: &Inventory, named: Option<&ManifestHead>) -> Result<Lineage, Refusal> {
    let through =
        |lineage: &Lineage, backup: &ManifestHead| lineage.contains(backup.stop_timeline, backup.stop_lsn);
    for timeline in inventory.known_timelines().into_iter().rev() {
        let lineage = certain(inventory, timeline)?;
        let leads = match named {
            Some(backup) => through(&lineage, backup),
            None => inventory.backups.iter().any(|backup| through(&lineage, backup)),
        };
        if leads {
            return Ok(lineage);
        }
    }
    let newest = named.or(inventory.backups.last());
    certain(inventory, newest.map_or(TimelineId::FIRST, |backup| backup.stop_timeline))
}

/// A history file tells of a fork; whoever follows it without the WAL behind it would replay the parent beyond it.
pub(super) fn check_forks(
    inventory: &Inventory,
    lineage: &Lineage,
    backup: &ManifestHead,
) -> Result<(), Refusal> {
    inventory.check_forks(lineage, backup.stop_lsn).or_else(|missing| {
        let (child, parent, fork) = (missing.timeline, missing.parent, missing.switch);
        refuse(
            format!(
                "timeline {child} forks from timeline {parent} at {fork}, but the repository has no WAL of \
                 timeline {child} there"
            ),
            format!(
                "its WAL may still be on that server: archive it. Or restore what timeline {parent} has, with \
                 --target-timeline {parent}"
            ),
        )
    })
}
