use proptest::prelude::*;
use proto::Digest;
use proto::wal::{SegmentName, SegmentNo};

use super::*;
use crate::manifest::text_tests;
use crate::{Epoch, FragmentName, Place, WriterId};

pub(crate) fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

pub(crate) fn mib(number: u64) -> Lsn {
    Lsn(number << 20)
}

pub(crate) fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn history_text(forks: &[(u32, Lsn)]) -> Vec<u8> {
    forks.iter().flat_map(|(parent, lsn)| format!("{parent}\t{lsn}\tno reason\n\n").into_bytes()).collect()
}

pub(crate) fn history(timeline: u32, forks: &[(u32, Lsn)]) -> (TimelineId, TimelineHistory) {
    (tli(timeline), TimelineHistory::parse(tli(timeline), &history_text(forks)).unwrap())
}

/// What the tests put into a branch.
#[derive(Default)]
pub(crate) struct World {
    wal: WalListing,
    backups: Vec<ManifestHead>,
}

impl World {
    pub(crate) fn segments(mut self, timeline: u32, numbers: Range<u64>) -> Self {
        for number in numbers {
            self.add_segment(timeline, number);
        }
        self
    }

    fn add_segment(&mut self, timeline: u32, number: u64) {
        let name = SegmentName::new(tli(timeline), SegmentNo(number), size());
        let wal = self.wal.timelines.entry(tli(timeline)).or_default();
        wal.segments.insert(name, vec![Digest::of(b"")]);
    }

    fn add_tail(&mut self, timeline: u32, number: u64, length: u32) {
        let segment = SegmentName::new(tli(timeline), SegmentNo(number), size());
        let epoch = Epoch { number: 1, writer: WriterId::from_number(1) };
        let (digest, place) = (Digest::of(b""), Place::Object);
        let fragment = FragmentName { segment, epoch, from: 0, to: length, digest, place };
        let fragments = &mut self.wal.timelines.entry(tli(timeline)).or_default().fragments;
        fragments.push(fragment);
        fragments.sort();
    }

    pub(crate) fn tail(mut self, timeline: u32, number: u64, length: u32) -> Self {
        self.add_tail(timeline, number, length);
        self
    }

    fn history(mut self, timeline: u32, forks: &[(u32, Lsn)]) -> Self {
        let content = history_text(forks);
        let file = HistoryFile { digest: Digest::of(&content), content: content.into() };
        self.wal.histories.entry(tli(timeline)).or_default().push(file);
        self
    }

    pub(crate) fn backup(mut self, timeline: u32, start: Lsn, stop: Lsn) -> Self {
        let second = 1_795_483_815 + self.backups.len() as i64;
        let now = Timestamp::from_second(second).unwrap();
        self.backups.push(ManifestHead {
            label: BackupLabel::next(now, BackupKind::Full, None),
            timeline: tli(timeline),
            stop_timeline: tli(timeline),
            start_lsn: start,
            stop_lsn: stop,
            finished_at: now,
            segment_size: size(),
            ..text_tests::head()
        });
        self
    }

    pub(crate) fn inventory(self) -> Inventory {
        Inventory::new(self.backups, self.wal, size())
    }
}

/// (timeline, from, to)
fn windows(inventory: &Inventory) -> Vec<(u32, Lsn, Lsn)> {
    inventory.windows().iter().map(|w| (w.timeline.get(), w.from_lsn, w.to_lsn)).collect()
}

fn gaps(inventory: &Inventory) -> Vec<(u32, Lsn, Lsn)> {
    inventory.gaps().iter().map(|g| (g.timeline.get(), g.from_lsn, g.to_lsn)).collect()
}

#[test]
fn a_window_goes_from_consistency_to_the_last_fragment() {
    let world = World::default().segments(1, 2..5).tail(1, 5, 1234).backup(1, mib(2) + 40, mib(3) + 7);
    let mut inventory = world.inventory();
    assert_eq!(windows(&inventory), [(1, mib(3) + 7, mib(5) + 1234)]);
    assert_eq!(gaps(&inventory), []);
    assert!(inventory.listing(&"main".parse().unwrap(), SystemId(1)).backups[0].restorable);
    let time = inventory.backups[0].finished_at;
    let window = &inventory.windows()[0];
    assert_eq!((window.from_time, window.to_time), (Some(time), None));
    inventory.end_times.insert((tli(1), mib(5) + 1234), time);
    assert_eq!(inventory.windows()[0].to_time, Some(time));
}

/// A gap is shown, and healed by a new backup.
#[test]
fn a_gap_closes_a_window_and_the_next_backup_opens_another() {
    let world = World::default()
        .segments(1, 2..4)
        .segments(1, 6..9)
        .backup(1, mib(2), mib(2) + 9)
        .backup(1, mib(3) + 5, mib(7))
        .backup(1, mib(6) + 5, mib(7));
    let inventory = world.inventory();
    assert_eq!(windows(&inventory), [(1, mib(2) + 9, mib(4)), (1, mib(7), mib(9))]);
    assert_eq!(gaps(&inventory), [(1, mib(4), mib(6))]);
    let listing = inventory.listing(&"main".parse().unwrap(), SystemId(1));
    assert_eq!(listing.backups.iter().map(|b| b.restorable).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn a_backup_without_its_own_wal_opens_nothing() {
    let inventory = World::default().segments(1, 2..3).backup(1, mib(2), mib(3) + 1).inventory();
    assert_eq!(windows(&inventory), []);
    assert_eq!(gaps(&inventory), [(1, mib(3), mib(3) + 1)]);
}

#[test]
fn a_failover_goes_on_in_the_child() {
    let fork = mib(5) + 100;
    let world = World::default()
        .segments(1, 2..5)
        .tail(1, 5, 300)
        .segments(2, 5..8)
        .history(2, &[(1, fork)])
        .backup(1, mib(2), mib(3))
        .backup(2, mib(6), mib(6) + 8);
    let inventory = world.inventory();
    // The old primary's last 200 bytes are a branch that the new one never had: shown, not hidden.
    assert_eq!(windows(&inventory), [(1, mib(3), mib(5) + 300), (2, mib(3), mib(8))]);
    assert_eq!(gaps(&inventory), []);
    assert_eq!(inventory.wal_complete(&inventory.lineage(tli(2)), mib(2), mib(8)), Ok(()));
    assert_eq!(inventory.wal_complete(&inventory.lineage(tli(2)), mib(2), mib(9)), Err(mib(8)));
}

#[test]
fn a_child_without_wal_at_the_fork_cannot_be_reached() {
    let fork = mib(5) + 100;
    let world = || {
        let world = World::default().segments(1, 2..9).history(2, &[(1, fork)]);
        world.backup(1, mib(2), mib(3))
    };
    let inventory = world().segments(2, 6..8).inventory();
    assert_eq!(windows(&inventory), [(1, mib(3), mib(9))]);
    assert_eq!(gaps(&inventory), [(2, fork, mib(6))]);
    assert!(inventory.check_forks(&inventory.lineage(tli(2)), mib(3)).is_err());
    let inventory = world().segments(2, 5..8).inventory();
    assert_eq!(windows(&inventory), [(1, mib(3), mib(9)), (2, mib(3), mib(8))]);
}

#[test]
fn a_backup_beyond_the_fork_does_not_lead_to_the_child() {
    let world = World::default().segments(1, 2..9).segments(2, 5..8).history(2, &[(1, mib(5) + 100)]).backup(
        1,
        mib(6),
        mib(7),
    );
    assert_eq!(windows(&world.inventory()), [(1, mib(7), mib(9))]);
}

#[test]
fn contradicting_histories_are_not_followed() {
    let world = World::default()
        .segments(1, 2..6)
        .segments(2, 5..8)
        .history(2, &[(1, mib(5) + 100)])
        .history(2, &[(1, mib(5) + 200)])
        .backup(1, mib(2), mib(3));
    let inventory = world.inventory();
    assert_eq!(inventory.certain_lineage(tli(2)), Err(BrokenHistory::Contradictory));
    assert_eq!(windows(&inventory), [(1, mib(3), mib(6))]);
}

#[test]
fn the_listing_s_json_is_the_promised_one() {
    let world = World::default().segments(1, 2..5).backup(1, mib(2) + 40, mib(3) + 7);
    let listing = world.inventory().listing(&"main".parse().unwrap(), SystemId(u64::MAX));
    let json = serde_json::to_value(&listing).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(json["cluster"], "main");
    assert_eq!(json["system_identifier"], "18446744073709551615");
    assert_eq!(json["backups"][0]["start_lsn"], "0/200028");
    assert_eq!(json["backups"][0]["started_at"], "2026-11-24T01:30:15Z");
    assert_eq!(json["backups"][0]["kind"], "full");
    assert_eq!(json["windows"][0]["timeline"], 1);
    assert_eq!(json["windows"][0]["to_time"], serde_json::Value::Null);
    assert_eq!(keys(&json["windows"][0]), ["from_lsn", "from_time", "timeline", "to_lsn", "to_time"]);
    assert_eq!(keys(&json), ["backups", "cluster", "gaps", "system_identifier", "windows"]);
}

/// Positions of the model are quarters of a segment.
const QUARTER: u64 = 1 << 18;
const QUARTERS: u64 = 40;

/// A history of three timelines, each quarter of their WAL there or not.
#[derive(Clone, Debug)]
struct Model {
    /// For timelines 2 and 3: parent and fork.
    forks: [(u32, u64); 2],
    /// For each timeline and segment: how many quarters are there.
    held: Vec<Vec<u64>>,
    /// Timeline, start and stop.
    backups: Vec<(u32, u64, u64)>,
}

fn any_model() -> impl Strategy<Value = Model> {
    let held = prop_oneof![2 => Just(4u64), 1 => 0u64..5];
    let segments = proptest::collection::vec(held, (QUARTERS / 4) as usize);
    let backup = (1u32..4, 0..QUARTERS - 1, 0u64..6);
    (
        (1..QUARTERS, prop_oneof![Just(1u32), Just(2)], 1..QUARTERS),
        proptest::collection::vec(segments, 3),
        proptest::collection::vec(backup, 0..4),
    )
        .prop_map(|((first, parent, second), held, backups)| {
            let second = if parent == 2 { second.max(first) } else { second };
            let forks = [(1, first), (parent, second)];
            let own = |timeline: u32| if timeline == 1 { 0 } else { forks[timeline as usize - 2].1 };
            let backups = backups.into_iter().map(|(timeline, start, length)| {
                let start = start.max(own(timeline)).min(QUARTERS - 1);
                (timeline, start, (start + length).min(QUARTERS))
            });
            Model { forks, held, backups: backups.collect() }
        })
}

impl Model {
    fn world(&self) -> World {
        let forks = |timeline: u32| -> Vec<(u32, Lsn)> {
            let mut forks = Vec::new();
            let mut timeline = timeline;
            while timeline > 1 {
                let (parent, fork) = self.forks[timeline as usize - 2];
                forks.insert(0, (parent, Lsn(fork * QUARTER)));
                timeline = parent;
            }
            forks
        };
        let mut world = World::default().history(2, &forks(2)).history(3, &forks(3));
        for (timeline, held) in (1..).zip(&self.held) {
            for (number, quarters) in (0..).zip(held) {
                match quarters {
                    0 => {}
                    4 => world.add_segment(timeline, number),
                    _ => world.add_tail(timeline, number, (quarters * QUARTER) as u32),
                }
            }
        }
        for (timeline, start, stop) in &self.backups {
            world = world.backup(*timeline, Lsn(start * QUARTER), Lsn(stop * QUARTER));
        }
        world
    }

    /// The timelines that lead to this one, the newest first, each with the position up to which it is
    /// followed.
    fn chain(&self, timeline: u32) -> Vec<(u32, u64)> {
        let (mut chain, mut end, mut timeline) = (Vec::new(), u64::MAX, timeline);
        loop {
            chain.push((timeline, end));
            if timeline == 1 {
                return chain;
            }
            (timeline, end) = self.forks[timeline as usize - 2];
        }
    }

    /// Which timeline of the chain the quarter belongs to.
    fn owner(&self, timeline: u32, quarter: u64) -> u32 {
        let chain = self.chain(timeline);
        chain.iter().rev().find(|(_, end)| quarter < *end).unwrap().0
    }

    fn holds(&self, timeline: u32, quarter: u64) -> bool {
        self.held[timeline as usize - 1].get((quarter / 4) as usize).is_some_and(|held| quarter % 4 < *held)
    }

    /// Whether the quarter can be had on the way to `timeline`: from its owner, or from a later timeline that
    /// began in the same segment and so has a copy.
    fn there(&self, timeline: u32, quarter: u64) -> bool {
        let owner = self.owner(timeline, quarter);
        self.chain(timeline).into_iter().take_while(|(tli, _)| *tli != owner).any(|(tli, end)| {
            let begun = self.forks[tli as usize - 2].1;
            begun / 4 == quarter / 4 && quarter < end && self.holds(tli, quarter)
        }) || self.holds(owner, quarter)
    }

    fn on_chain(&self, timeline: u32, of: u32, position: u64) -> bool {
        let from = if of == 1 { 0 } else { self.forks[of as usize - 2].1 };
        self.chain(timeline).iter().any(|(tli, end)| *tli == of && from <= position && position <= *end)
    }

    /// The positions that can be recovered to on `timeline`.
    fn targets(&self, timeline: u32) -> Vec<u64> {
        let mut targets = std::collections::BTreeSet::new();
        for &(of, start, stop) in &self.backups {
            if !self.on_chain(timeline, of, start) || !self.on_chain(timeline, of, stop) {
                continue;
            }
            let forks = self.chain(timeline).into_iter().filter(|(tli, end)| {
                *tli > 1 && self.forks[*tli as usize - 2].1 >= stop && self.forks[*tli as usize - 2].1 < *end
            });
            let reachable = forks.into_iter().all(|(tli, _)| self.holds(tli, self.forks[tli as usize - 2].1));
            let reach = (start..).find(|quarter| !self.there(timeline, *quarter)).unwrap();
            let arrived = of == timeline || reach > self.forks[timeline as usize - 2].1;
            if reachable && arrived && reach >= stop {
                targets.extend(stop..=reach);
            }
        }
        targets.into_iter().collect()
    }

    /// Owner and position of each quarter that is missing.
    fn missing(&self) -> Vec<(u32, u64)> {
        let mut missing = std::collections::BTreeSet::new();
        for timeline in 1..=3 {
            let newest = (0..QUARTERS).rev().find(|quarter| self.holds(timeline, *quarter));
            if newest.is_none() && !self.backups.iter().any(|backup| backup.0 == timeline) {
                continue;
            }
            let on: Vec<_> = self
                .backups
                .iter()
                .copied()
                .filter(|(of, start, stop)| {
                    self.on_chain(timeline, *of, *start) && self.on_chain(timeline, *of, *stop)
                })
                .collect();
            let Some(first) = on.iter().map(|backup| backup.1).min() else { continue };
            let last = on.iter().map(|backup| backup.2).chain(newest.map(|newest| newest + 1)).max().unwrap();
            let holes = (first..last).filter(|quarter| !self.there(timeline, *quarter));
            missing.extend(holes.map(|quarter| (self.owner(timeline, quarter), quarter)));
        }
        missing.into_iter().collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn agrees_with_a_model_quarter_by_quarter(model in any_model()) {
        let inventory = model.world().inventory();
        for timeline in 1..=3 {
            let lineage = inventory.lineage(tli(timeline));
            let windows: Vec<_> = inventory.windows().into_iter().filter(|w| w.timeline == tli(timeline)).collect();
            let targets: Vec<u64> =
                windows.iter().flat_map(|w| w.from_lsn.0 / QUARTER..=w.to_lsn.0 / QUARTER).collect();
            prop_assert_eq!(targets, model.targets(timeline));
            for (from, to) in [(0, 8), (5, 9), (3, QUARTERS)] {
                let first = (from..to).find(|quarter| !model.there(timeline, *quarter));
                let expected = first.map_or(Ok(()), |quarter| Err(Lsn(quarter * QUARTER)));
                prop_assert_eq!(
                    inventory.wal_complete(&lineage, Lsn(from * QUARTER), Lsn(to * QUARTER)),
                    expected
                );
            }
        }
        let missing: Vec<_> = inventory.gaps().iter()
            .flat_map(|gap| {
                let quarters = gap.from_lsn.0 / QUARTER..gap.to_lsn.0 / QUARTER;
                quarters.map(|quarter| (gap.timeline.get(), quarter))
            })
            .collect();
        prop_assert_eq!(missing, model.missing());
    }
}
