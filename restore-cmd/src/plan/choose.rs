//! Which backup, along which timelines, and whether there is WAL all the way to the target.

use jiff::Timestamp;
use proto::wal::SegmentSize;
use proto::{Lsn, TimelineId};
use repository::backup::BackupLabel;
use repository::manifest::ManifestHead;

use super::target::utc;
use super::wal::{Lineage, WalMap};
use super::{Options, RecoveryTarget, TimelineChoice};

/// What a repository holds of one cluster, as far as a plan needs to know.
#[derive(Clone, Debug)]
pub struct Holdings {
    /// The complete backups, in any order.
    pub backups: Vec<ManifestHead>,
    /// The WAL.
    pub wal: WalMap,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backup.
    pub backup: ManifestHead,
    /// The way to the timeline that is pinned.
    pub lineage: Lineage,
    /// Where WAL ends without a hole.
    pub wal_end: Lsn,
    /// Up to where WAL is surely needed: the target where it is a position, the backup's end for an immediate one,
    /// otherwise all that there is.
    pub wal_needed: Lsn,
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

fn refuse<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { message: message.into(), hint: hint.into() })
}

/// Chooses. What the server's clock said at the end of WAL is asked for afterwards: see [`check_time`].
///
/// # Errors
/// There is no way to the target; the message says what there is instead.
pub fn choose(holdings: &Holdings, options: &Options) -> Result<Choice, Refusal> {
    let Holdings { backups, wal, .. } = holdings;
    if backups.is_empty() {
        return refuse(
            "the repository has no complete backup of this cluster",
            "take one with `walkeep backup`; without a base backup WAL alone restores nothing",
        );
    }
    let named = options.backup.as_ref().map(|label| find(backups, label)).transpose()?;
    let lineage = lineage(holdings, options, named)?;
    let backup = match named {
        Some(backup) => check_named(backup, &lineage, options)?,
        None => newest(holdings, &lineage, options)?,
    };
    let wal_end = wal.reach(&lineage, backup.start_lsn);
    check_wal(holdings, &lineage, backup, wal_end, options)?;
    let wal_needed = match options.target {
        RecoveryTarget::Lsn(lsn) => lsn.max(backup.stop_lsn),
        RecoveryTarget::Immediate => backup.stop_lsn,
        _ => wal_end,
    };
    Ok(Choice { backup: backup.clone(), lineage, wal_end, wal_needed })
}

fn find<'a>(backups: &'a [ManifestHead], label: &BackupLabel) -> Result<&'a ManifestHead, Refusal> {
    if let Some(backup) = backups.iter().find(|backup| backup.label == *label) {
        return Ok(backup);
    }
    let mut labels: Vec<&str> = backups.iter().map(|backup| backup.label.as_str()).collect();
    labels.sort_unstable();
    let newest = labels.split_off(labels.len().saturating_sub(5));
    refuse(
        format!("there is no complete backup {label}"),
        format!("the newest ones are {}; `walkeep list` shows all", newest.join(", ")),
    )
}

/// The lineage that is to be followed.
fn lineage(holdings: &Holdings, options: &Options, named: Option<&ManifestHead>) -> Result<Lineage, Refusal> {
    let wal = &holdings.wal;
    let read = |timeline: TimelineId| match wal.lineage(timeline) {
        Ok(lineage) => Ok(lineage),
        Err(why) => refuse(
            format!("timeline {timeline} cannot be followed: {why}"),
            "name another one with --target-timeline; `walkeep list` shows which there are",
        ),
    };
    let lineage = match options.timeline {
        TimelineChoice::Number(timeline) => read(timeline)?,
        TimelineChoice::Current => {
            let backup = match named {
                Some(backup) => Some(backup),
                None => candidates(&holdings.backups, options).max_by_key(|backup| &backup.label),
            };
            let newest = holdings.backups.iter().max_by_key(|backup| &backup.label);
            match backup.or(newest) {
                Some(backup) => read(backup.stop_timeline)?,
                None => read(TimelineId::FIRST)?,
            }
        }
        TimelineChoice::Latest => {
            // The newest that leads through a backup: the named one, or any.
            let leads = |lineage: &Lineage| match named {
                Some(backup) => lineage.holds(backup.stop_timeline, backup.stop_lsn),
                None => holdings.backups.iter().any(|b| lineage.holds(b.stop_timeline, b.stop_lsn)),
            };
            let mut found = None;
            for timeline in wal.timelines().into_iter().rev() {
                match wal.lineage(timeline) {
                    Ok(lineage) if leads(&lineage) => {
                        found = Some(lineage);
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => drop(read(timeline)?),
                }
            }
            match (found, named) {
                (Some(lineage), _) => lineage,
                (None, Some(backup)) => read(backup.stop_timeline)?,
                (None, None) => {
                    let newest = holdings.backups.iter().max_by_key(|backup| &backup.label);
                    read(newest.map_or(TimelineId::FIRST, |backup| backup.stop_timeline))?
                }
            }
        }
    };
    // A target before the fork needs nothing of the child.
    if let RecoveryTarget::Lsn(lsn) = options.target {
        let timeline = lineage.timeline_at(lsn);
        if timeline != lineage.timeline() && !wal.begins(&lineage) {
            return read(timeline);
        }
    }
    if !wal.begins(&lineage) {
        let (child, fork) =
            lineage.legs().last().map_or((TimelineId::FIRST, Lsn(0)), |leg| (leg.timeline, leg.from));
        let parent = lineage.legs().iter().rev().nth(1).map_or(TimelineId::FIRST, |leg| leg.timeline);
        return refuse(
            format!(
                "timeline {child} forks from timeline {parent} at {fork}, but the repository has no WAL of \
                 timeline {child} there"
            ),
            format!(
                "its WAL may still be on that server: archive it. Or restore what timeline {parent} has, with \
                 --target-timeline {parent}"
            ),
        );
    }
    Ok(lineage)
}

/// Backups that end before the target.
fn candidates<'a>(backups: &'a [ManifestHead], options: &Options) -> impl Iterator<Item = &'a ManifestHead> {
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
    if !lineage.holds(backup.stop_timeline, backup.stop_lsn) {
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
    holdings: &'a Holdings,
    lineage: &Lineage,
    options: &Options,
) -> Result<&'a ManifestHead, Refusal> {
    let on_way = |backup: &&ManifestHead| lineage.holds(backup.stop_timeline, backup.stop_lsn);
    let newest = candidates(&holdings.backups, options).filter(on_way).max_by_key(|backup| &backup.label);
    if let Some(backup) = newest {
        return Ok(backup);
    }
    let timeline = lineage.timeline();
    match holdings.backups.iter().filter(on_way).min_by_key(|backup| backup.stop_lsn) {
        Some(first) => {
            let end = holdings.wal.reach(lineage, first.start_lsn);
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
    holdings: &Holdings,
    lineage: &Lineage,
    backup: &ManifestHead,
    wal_end: Lsn,
    options: &Options,
) -> Result<(), Refusal> {
    let resumes = holdings.wal.resumes(lineage, wal_end);
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

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;
    use proto::config::ClusterName;
    use proto::{SystemId, wal::SegmentNo};
    use repository::backup::BackupKind;
    use repository::manifest::{Controls, MANIFEST_FORMAT};

    use super::super::wal::tests::{SIZE, listing, timeline};
    use super::super::{Archive, TargetAction, TargetTime};
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    /// A backup within one segment, which ends so many seconds after the epoch of these tests.
    fn backup(number: u32, segment: u64, second: i64) -> ManifestHead {
        let start = SegmentNo(segment).start(SIZE);
        ManifestHead {
            format: MANIFEST_FORMAT,
            label: BackupLabel::next(at(second), BackupKind::Full, None),
            kind: BackupKind::Full,
            parent: None,
            cluster: "main".parse::<ClusterName>().unwrap(),
            system_id: SystemId(7),
            server_version: 150_018,
            segment_size: SIZE,
            data_checksums: true,
            timeline: timeline(number),
            start_lsn: start + 0x28,
            checkpoint_lsn: start + 0x60,
            stop_timeline: timeline(number),
            stop_lsn: start + 0x100,
            started_at: at(second - 1),
            finished_at: at(second),
            from_standby: false,
            label_note: None,
            size_bytes: 0,
            stored_bytes: 0,
            tablespaces: Vec::new(),
            wal_ranges: Vec::new(),
            server_manifest: None,
            damaged_page_count: 0,
            damaged_pages: Vec::new(),
            external_config: Vec::new(),
            controls: Controls::default(),
        }
    }

    fn holdings(
        backups: &[ManifestHead],
        segments: &[(u32, Range<u64>)],
        histories: &[(u32, &str)],
    ) -> Holdings {
        let wal = WalMap::new(&listing(segments, histories), SIZE);
        Holdings { backups: backups.to_vec(), wal, segment_size: SIZE }
    }

    fn to(target: RecoveryTarget) -> Options {
        Options {
            pgdata: "/srv/pg".into(),
            backup: None,
            target,
            exclusive: false,
            timeline: TimelineChoice::Latest,
            action: TargetAction::Promote,
            standby: false,
            archive: Archive::Keep,
            tablespaces: Vec::new(),
        }
    }

    fn time(second: i64) -> RecoveryTarget {
        RecoveryTarget::Time(TargetTime::at(at(second)))
    }

    fn segment(chosen: &Choice) -> u64 {
        SIZE.segment_at(chosen.backup.start_lsn).0
    }

    const FORK: &str = "1\t0/6000158\tx\n";

    #[test]
    fn takes_the_newest_backup_that_ends_before_the_target() {
        let two = holdings(&[backup(1, 2, 100), backup(1, 5, 200)], &[(1, 2..9)], &[]);
        assert_eq!(segment(&choose(&two, &to(RecoveryTarget::Latest)).unwrap()), 5);
        assert_eq!(segment(&choose(&two, &to(time(199))).unwrap()), 2);
        assert_eq!(segment(&choose(&two, &to(time(200))).unwrap()), 5);
        assert_eq!(segment(&choose(&two, &to(RecoveryTarget::Lsn(Lsn(0x500_0000)))).unwrap()), 2);
        let error = choose(&two, &to(time(99))).unwrap_err();
        assert!(
            error.message.contains("before the first backup: timeline 1 can be restored from 0/2000100"),
            "{error}"
        );
    }

    #[test]
    fn a_target_beyond_the_wal_is_refused_with_the_window() {
        let one = holdings(&[backup(1, 2, 100)], &[(1, 2..9)], &[]);
        for (lsn, refused) in [(0x8FF_FFFF, false), (0x900_0000, true), (0xA00_0000, true)] {
            let chosen = choose(&one, &to(RecoveryTarget::Lsn(Lsn(lsn))));
            assert_eq!(chosen.is_err(), refused, "{lsn:X}");
            if let Err(error) = chosen {
                assert!(error.message.contains("to 0/9000000"), "{error}");
            }
        }
        let options = to(time(500));
        let chosen = choose(&one, &options).unwrap();
        assert!(
            check_time(&chosen, &options, Some(at(500))).is_ok()
                && check_time(&chosen, &options, None).is_ok()
        );
        let error = check_time(&chosen, &options, Some(at(499))).unwrap_err();
        assert!(error.message.contains("0/9000000") && error.message.contains("UTC"), "{error}");
    }

    #[test]
    fn a_backup_whose_own_wal_is_missing_is_refused() {
        let torn = holdings(&[backup(1, 2, 100)], &[(1, 3..9)], &[]);
        let error = choose(&torn, &to(RecoveryTarget::Immediate)).unwrap_err();
        assert!(error.message.contains("needs WAL from 0/2000028 to 0/2000100"), "{error}");
    }

    #[test]
    fn follows_the_newest_timeline_that_leads_through_a_backup() {
        let forked =
            |child: Range<u64>| holdings(&[backup(1, 2, 100)], &[(1, 2..12), (2, child)], &[(2, FORK)]);
        let chosen = choose(&forked(6..9), &to(RecoveryTarget::Latest)).unwrap();
        assert_eq!((chosen.lineage.timeline(), chosen.wal_end), (timeline(2), Lsn(0x900_0000)));
        // The parent goes on, but that is not what happened.
        assert!(choose(&forked(6..9), &to(RecoveryTarget::Lsn(Lsn(0x980_0000)))).is_err());
        let error = choose(&forked(0..0), &to(RecoveryTarget::Latest)).unwrap_err();
        assert!(error.message.contains("no WAL of timeline 2 there"), "{error}");
        let early = choose(&forked(0..0), &to(RecoveryTarget::Lsn(Lsn(0x500_0000)))).unwrap();
        assert_eq!(early.lineage.timeline(), timeline(1));
        let old = Options { timeline: TimelineChoice::Current, ..to(RecoveryTarget::Latest) };
        let chosen = choose(&forked(6..9), &old).unwrap();
        assert_eq!((chosen.lineage.timeline(), chosen.wal_end), (timeline(1), Lsn(0xC00_0000)));
    }

    #[test]
    fn a_backup_beyond_the_fork_does_not_lead_to_the_child() {
        let both = [backup(1, 2, 100), backup(1, 8, 200)];
        let forked = holdings(&both, &[(1, 2..12), (2, 6..9)], &[(2, FORK)]);
        assert_eq!(segment(&choose(&forked, &to(RecoveryTarget::Latest)).unwrap()), 2);
        let named = Options { backup: Some(both[1].label.clone()), ..to(RecoveryTarget::Latest) };
        // By name, it leads to its own timeline.
        assert_eq!(choose(&forked, &named).unwrap().lineage.timeline(), timeline(1));
        let child = Options { timeline: TimelineChoice::Number(timeline(2)), ..named };
        assert!(choose(&forked, &child).unwrap_err().message.contains("does not come from there"));
    }

    #[test]
    fn a_hole_on_the_way_is_refused() {
        let holed = holdings(&[backup(1, 2, 100)], &[(1, 2..5), (1, 6..9)], &[]);
        let error = choose(&holed, &to(RecoveryTarget::Latest)).unwrap_err();
        assert!(error.message.contains("missing from 0/5000000 to 0/6000000"), "{error}");
        assert!(choose(&holed, &to(RecoveryTarget::Immediate)).is_ok());
        assert!(choose(&holed, &to(RecoveryTarget::Lsn(Lsn(0x4F0_0000)))).is_ok());
        assert!(choose(&holed, &to(RecoveryTarget::Lsn(Lsn(0x6F0_0000)))).is_err());
    }

    #[test]
    fn says_which_backups_there_are() {
        let none = holdings(&[], &[(1, 2..5)], &[]);
        assert!(
            choose(&none, &to(RecoveryTarget::Latest)).unwrap_err().message.contains("no complete backup")
        );
        let one = holdings(&[backup(1, 2, 100)], &[(1, 2..5)], &[]);
        let named = Options { backup: Some(backup(1, 2, 50).label), ..to(RecoveryTarget::Latest) };
        let error = choose(&one, &named).unwrap_err();
        assert!(error.hint.contains(one.backups[0].label.as_str()), "{}", error.hint);
    }

    proptest! {
        /// Whatever there is: what is chosen can be replayed from the backup's start to what is needed.
        #[test]
        fn a_choice_has_all_its_wal(
            backups in proptest::collection::vec((1u32..4, 2u64..12, 0i64..1000), 0..4),
            segments in proptest::collection::vec((1u32..4, 1u64..10, 1u64..8), 0..5),
            fork in 2u64..12,
            second in 0x200_0000u64..0xF00_0000,
            lsn: u64,
            target in 0u8..4,
        ) {
            let heads: Vec<_> = backups.into_iter().map(|(t, s, at)| backup(t, s, at)).collect();
            let segments: Vec<_> = segments.into_iter().map(|(t, from, n)| (t, from..from + n)).collect();
            let child = format!("1\t0/{:X}\tx\n", fork << 24 | 0x158);
            let grandchild = format!("{child}2\t0/{second:X}\ty\n");
            let holdings = holdings(&heads, &segments, &[(2, &child), (3, &grandchild)]);
            let target = match target {
                0 => RecoveryTarget::Latest,
                1 => RecoveryTarget::Immediate,
                2 => time((lsn % 1200) as i64),
                _ => RecoveryTarget::Lsn(Lsn(lsn % 0x1000_0000)),
            };
            if let Ok(chosen) = choose(&holdings, &to(target.clone())) {
                prop_assert!(chosen.backup.stop_lsn <= chosen.wal_needed);
                prop_assert!(chosen.wal_needed <= chosen.wal_end);
                prop_assert!(chosen.lineage.holds(chosen.backup.stop_timeline, chosen.backup.stop_lsn));
                // Every segment on the way is there under the name that the server will ask for.
                let mut start = SIZE.floor(chosen.backup.start_lsn);
                while start < chosen.wal_needed {
                    let asked = chosen.lineage.asked(start, SIZE);
                    let number = SIZE.segment_at(start).0;
                    prop_assert!(segments.iter().any(|(t, range)| timeline(*t) == asked && range.contains(&number)));
                    start = start + SIZE.bytes();
                }
            }
        }
    }
}
