use std::ops::Range;

use proptest::prelude::*;
use proto::config::ClusterName;
use proto::wal::{SegmentName, SegmentNo, SegmentSize};
use proto::{Digest, SystemId, TimelineId};
use repository::backup::BackupKind;
use repository::catalogue::UnreadableBackup;
use repository::manifest::{Controls, MANIFEST_FORMAT};
use repository::{HistoryFile, WalListing};

use super::super::{Archive, TargetAction, TargetTime, TimelineChoice};
use super::*;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

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

/// With whole segments and histories by number.
fn holdings(
    backups: &[ManifestHead],
    segments: &[(u32, Range<u64>)],
    histories: &[(u32, &str)],
) -> Inventory {
    let mut listing = WalListing::default();
    for (number, range) in segments {
        let wal = listing.timelines.entry(timeline(*number)).or_default();
        for segment in range.clone() {
            let name = SegmentName::new(timeline(*number), SegmentNo(segment), SIZE);
            wal.segments.insert(name, vec![Digest::of(b"x")]);
        }
    }
    for (number, text) in histories {
        let file = HistoryFile { digest: Digest::of(text.as_bytes()), content: (*text).to_owned().into() };
        listing.histories.entry(timeline(*number)).or_default().push(file);
    }
    Inventory::new(backups.to_vec(), listing, SIZE)
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
        primary: None,
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
        check_time(&chosen, &options, Some(at(500))).is_ok() && check_time(&chosen, &options, None).is_ok()
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
    let forked = |child: Range<u64>| holdings(&[backup(1, 2, 100)], &[(1, 2..12), (2, child)], &[(2, FORK)]);
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
    assert_eq!(choose(&holed, &to(RecoveryTarget::Immediate)).unwrap().resumes, Some(Lsn(0x600_0000)));
    assert!(choose(&holed, &to(RecoveryTarget::Lsn(Lsn(0x4F0_0000)))).is_ok());
    assert!(choose(&holed, &to(RecoveryTarget::Lsn(Lsn(0x6F0_0000)))).is_err());
}

/// What is missing may hold the transactions that were asked for.
#[test]
fn a_time_behind_a_hole_is_refused() {
    let whole = holdings(&[backup(1, 2, 100)], &[(1, 2..5)], &[]);
    let holed = holdings(&[backup(1, 2, 100)], &[(1, 2..5), (1, 6..9)], &[]);
    let mut disputed = holdings(&[backup(1, 2, 100)], &[(1, 2..6)], &[]);
    let name = SegmentName::new(timeline(1), SegmentNo(5), SIZE);
    disputed
        .wal
        .timelines
        .get_mut(&timeline(1))
        .unwrap()
        .segments
        .get_mut(&name)
        .unwrap()
        .push(Digest::of(b"y"));
    let disputed = Inventory::new(disputed.backups, disputed.wal, SIZE);
    let options = to(time(500));
    let record = Lsn(0x4F0_0000);
    let moment = |inventory: &Inventory, end: Option<i64>, seen| {
        let chosen = choose(inventory, &options).unwrap();
        assert_eq!(chosen.wal_end, Lsn(0x500_0000));
        check_time(&chosen, &options, end.map(at))
            .and_then(|()| last_moment(&chosen, &options, end.map(at), seen))
    };
    for end in [None, Some(500)] {
        assert_eq!(moment(&whole, end, Seen::Nothing(record)), Ok(Some(record)));
        assert_eq!(moment(&whole, end, Seen::Later), Ok(None));
        assert_eq!(moment(&whole, end, Seen::Unknown), Ok(None));
    }
    for inventory in [&holed, &disputed] {
        for (end, seen) in [(None, Seen::Nothing(record)), (None, Seen::Unknown), (Some(499), Seen::Later)] {
            let error = moment(inventory, end, seen).unwrap_err();
            assert!(error.message.contains("missing at 0/5000000"), "{end:?} {seen:?}: {error}");
        }
        assert_eq!(moment(inventory, None, Seen::Later), Ok(None));
        // What lies before the hole was sent later, so the moment is there.
        assert_eq!(moment(inventory, Some(500), Seen::Unknown), Ok(None));
        assert_eq!(moment(inventory, Some(500), Seen::Nothing(record)), Ok(Some(record)));
    }
    // The parent's WAL beyond the fork is no hole in the child's.
    let forked = holdings(&[backup(1, 2, 100)], &[(1, 2..12), (2, 6..9)], &[(2, FORK)]);
    assert_eq!(choose(&forked, &options).unwrap().beyond, None);
}

#[test]
fn a_backup_that_cannot_be_read_is_not_one_that_is_not_there() {
    let broken = backup(1, 5, 200);
    let error = repository::Error::Corrupt { key: "backup/x".into(), why: "bad".into() };
    let unreadable = UnreadableBackup { label: broken.label.clone(), error };
    let mut one = holdings(&[backup(1, 2, 100)], &[(1, 2..9)], &[]);
    one.unreadable.push(unreadable.clone());
    assert_eq!(segment(&choose(&one, &to(RecoveryTarget::Latest)).unwrap()), 2);
    let named = Options { backup: Some(broken.label.clone()), ..to(RecoveryTarget::Latest) };
    assert!(choose(&one, &named).unwrap_err().message.contains("cannot be used"));
    let mut none = holdings(&[], &[(1, 2..9)], &[]);
    none.unreadable.push(unreadable);
    assert!(choose(&none, &to(RecoveryTarget::Latest)).unwrap_err().message.contains("cannot be used"));
}

#[test]
fn says_which_backups_there_are() {
    let none = holdings(&[], &[(1, 2..5)], &[]);
    assert!(choose(&none, &to(RecoveryTarget::Latest)).unwrap_err().message.contains("no complete backup"));
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
            prop_assert!(chosen.lineage.contains(chosen.backup.stop_timeline, chosen.backup.stop_lsn));
            // Every segment on the way is there under one of the names that the server will ask for.
            let mut start = SIZE.floor(chosen.backup.start_lsn);
            while start < chosen.wal_needed {
                let number = SIZE.segment_at(start);
                let there = |of: TimelineId| {
                    segments.iter().any(|(t, range)| timeline(*t) == of && range.contains(&number.0))
                };
                prop_assert!(chosen.lineage.timelines_of(number, SIZE).any(|part| there(part.timeline)));
                start = start + SIZE.bytes();
            }
        }
    }
}
