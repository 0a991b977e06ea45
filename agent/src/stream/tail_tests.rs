//! The tail against a model of the repository: whatever the order of completions, the promises hold.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::stream::objects::MAX_OBJECTS;
use crate::stream::pace::SLOW;

const MIB: u64 = 1 << 20;
const START: u64 = 7 * MIB;

fn source(from: Lsn, length: usize) -> Vec<u8> {
    (from.0..from.0 + length as u64).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn size() -> SegmentSize {
    SegmentSize::new(MIB).unwrap()
}

fn start(flush: Flush, known: Vec<Checkpoint>) -> TailStart {
    let (timeline, start, journals) = (TimelineId::FIRST, Lsn(START), false);
    TailStart { timeline, segment_size: size(), start, flush, journals, known }
}

/// A repository, and the jobs that are on their way to it.
#[derive(Default)]
struct World {
    flying: Vec<Action>,
    fragments: BTreeSet<(SegmentNo, u32, u32)>,
    /// What is in journals.
    records: BTreeSet<(SegmentNo, u32, u32)>,
    segments: BTreeSet<SegmentNo>,
    most_objects: usize,
}

impl World {
    fn collect(&mut self, tail: &mut Tail, now: Tick) {
        tail.plan(now);
        while let Some(action) = tail.next_action() {
            match action {
                Action::Delete { segment, ranges } => {
                    let segment = segment.number(size()).unwrap();
                    for range in ranges {
                        assert!(self.fragments.remove(&(segment, range.start, range.end)), "deleted once");
                    }
                }
                Action::DeleteJournals { segment, window } => {
                    let number = segment.number(size()).unwrap();
                    assert!(self.fragments.contains(&(number, window.start, window.end)), "replaced before");
                    let written = |action: &Action| matches!(action, Action::Append(put) if put.segment == segment && put.window == window.start);
                    assert!(!self.flying.iter().any(written), "deleted while it is written");
                    self.records.retain(|(of, from, _)| *of != number || !window.contains(from));
                }
                put => self.flying.push(put),
            }
        }
        for &(segment, ..) in &self.fragments {
            let objects = self.fragments.iter().filter(|(s, ..)| *s == segment).count();
            self.most_objects = self.most_objects.max(objects);
        }
    }

    /// One job in flight ends.
    fn land(&mut self, tail: &mut Tail, mut which: usize) {
        let is_append = |action: &Action| matches!(action, Action::Append(_));
        if is_append(&self.flying[which]) {
            // Records are written in the order in which they were asked for.
            which = self.flying.iter().position(is_append).unwrap();
        }
        match self.flying.remove(which) {
            Action::Append(put) => {
                let segment = put.segment.number(size()).unwrap();
                let from = segment.start(size()) + u64::from(put.range.start);
                assert!(put.content[..] == source(from, put.range.len())[..], "a record's bytes");
                assert!(put.window <= put.range.start);
                self.records.insert((segment, put.range.start, put.range.end));
                tail.stored(put.job);
            }
            Action::PutFragment(put) => {
                let segment = put.segment.number(size()).unwrap();
                let from = segment.start(size()) + u64::from(put.range.start);
                assert!(put.content.concat() == source(from, put.range.len()), "a fragment's bytes");
                self.fragments.insert((segment, put.range.start, put.range.end));
                tail.stored(put.job);
            }
            Action::PutSegment(put) => {
                let segment = put.segment.number(size()).unwrap();
                let expected = source(segment.start(size()), MIB as usize);
                assert_eq!(put.digest, Digest::of(&expected));
                match put.content {
                    Content::Memory(pieces) => assert!(pieces.concat() == expected, "a segment's bytes"),
                    Content::Fragments(ranges) => {
                        let mut end = 0;
                        for range in ranges {
                            assert_eq!(range.start, end);
                            assert!(self.fragments.contains(&(segment, range.start, range.end)));
                            end = range.end;
                        }
                        assert_eq!(u64::from(end), MIB);
                    }
                }
                self.segments.insert(segment);
                tail.stored(put.job);
            }
            Action::Delete { .. } | Action::DeleteJournals { .. } => unreachable!(),
        }
        assert!(tail.durable() <= self.contiguous(), "acknowledged beyond what is there");
        assert!(tail.durable() <= tail.received());
    }

    /// The end of what a reader finds without a hole.
    fn contiguous(&self) -> Lsn {
        let mut segment = size().segment_at(Lsn(START));
        while self.segments.contains(&segment) {
            segment = segment.next();
        }
        let (mut from, mut at) = (segment, 0);
        let held = || self.fragments.iter().chain(&self.records);
        loop {
            let next = held().filter(|(s, f, _)| *s == from && *f <= at).map(|(.., t)| *t).max();
            match next {
                Some(to) if to > at => at = to,
                _ if u64::from(at) == MIB || self.segments.contains(&from) => (from, at) = (from.next(), 0),
                _ => return from.start(size()) + u64::from(at),
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Receive(usize),
    Wait(u64),
    Land(usize),
    Hurry,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..128 * 1024usize).prop_map(Step::Receive),
        2 => (1..2000usize).prop_map(Step::Receive),
        3 => (1..1500u64).prop_map(Step::Wait),
        6 => any::<usize>().prop_map(Step::Land),
        1 => Just(Step::Hurry),
    ];
    prop::collection::vec(step, 1..250)
}

fn play(mut tail: Tail, steps: Vec<Step>) -> (Tail, World) {
    let (mut world, mut now) = (World::default(), Tick::ZERO);
    for step in steps {
        match step {
            Step::Receive(length) if tail.wants_bytes() => {
                let bytes = source(tail.received(), length);
                tail.receive(tail.received(), &bytes, ServerTime(0), now).unwrap();
            }
            Step::Receive(_) => {}
            Step::Wait(millis) => now += Tick::from_millis(millis),
            Step::Land(which) if !world.flying.is_empty() => {
                let which = which % world.flying.len();
                world.land(&mut tail, which);
            }
            Step::Land(_) => {}
            Step::Hurry => tail.hurry(),
        }
        world.collect(&mut tail, now);
    }
    tail.hurry();
    world.collect(&mut tail, now);
    while !world.flying.is_empty() {
        world.land(&mut tail, 0);
        world.collect(&mut tail, now);
    }
    (tail, world)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn everything_is_stored_and_nothing_acknowledged_early(
        steps in steps(),
        at_once: bool,
        journals: bool,
        window in prop_oneof![Just(MIB), Just(MIB / 4), Just(MIB / 8 * 3)],
    ) {
        let flush = if at_once { Flush::AtOnce } else { Flush::Every(Duration::from_secs(1)) };
        let start = TailStart { journals, ..start(flush, Vec::new()) };
        let (tail, world) = play(Tail::with_window(start, window), steps);
        prop_assert!(tail.is_idle());
        prop_assert_eq!(tail.durable(), tail.received());
        prop_assert_eq!(world.contiguous(), tail.received());
        let whole = size().segment_at(tail.received()).0 - size().segment_at(Lsn(START)).0;
        prop_assert_eq!(world.segments.len() as u64, whole, "each complete segment is stored whole");
        prop_assert!(world.most_objects <= MAX_OBJECTS, "{} objects", world.most_objects);
        prop_assert!(journals || world.records.is_empty());
        let windows = |(_, from, to): &(SegmentNo, u32, u32)| u64::from(to - from) <= window;
        prop_assert!(!journals || world.fragments.iter().all(windows), "nothing is merged");
        prop_assert_eq!(tail.lag(Duration::from_secs(3600)), Duration::ZERO);
    }
}

#[test]
fn a_segment_that_fills_before_the_flush_leaves_no_fragment() {
    let mut tail = Tail::new(start(Flush::Every(Duration::from_secs(1)), Vec::new()));
    let mut world = World::default();
    while tail.received() < Lsn(START + MIB) {
        tail.receive(tail.received(), &source(tail.received(), 65536), ServerTime(0), Tick::ZERO).unwrap();
        world.collect(&mut tail, Tick::from_millis(500));
    }
    assert!(matches!(&world.flying[..], [Action::PutSegment(_)]));
}

#[test]
fn one_flush_at_a_time_gathers_the_next_group() {
    let mut tail = Tail::new(start(Flush::AtOnce, Vec::new()));
    let mut world = World::default();
    for length in [100, 200, 300] {
        tail.receive(tail.received(), &source(tail.received(), length), ServerTime(0), Tick::ZERO).unwrap();
        world.collect(&mut tail, Tick::ZERO);
    }
    assert_eq!(world.flying.len(), 1);
    world.land(&mut tail, 0);
    assert_eq!(tail.durable(), Lsn(START + 100));
    world.collect(&mut tail, Tick::ZERO);
    world.land(&mut tail, 0);
    assert_eq!(tail.durable(), Lsn(START + 600));
}

#[test]
fn records_never_overlap_and_the_store_may_be_as_slow_as_it_likes() {
    let mut tail = Tail::new(TailStart { journals: true, ..start(Flush::AtOnce, Vec::new()) });
    let mut world = World::default();
    for millis in 0..100 {
        let bytes = source(tail.received(), 100);
        tail.receive(tail.received(), &bytes, ServerTime(0), Tick::from_millis(millis)).unwrap();
        world.collect(&mut tail, Tick::from_millis(millis));
    }
    assert_eq!((world.flying.len(), tail.deadline()), (1, None));
    world.land(&mut tail, 0);
    world.collect(&mut tail, Tick::from_millis(100));
    world.land(&mut tail, 0);
    assert_eq!((world.records.len(), tail.durable()), (2, Lsn(START + 10_000)));
}

#[test]
fn flushes_overlap_while_the_store_is_slow_and_only_the_prefix_counts() {
    let mut tail = Tail::new(start(Flush::AtOnce, Vec::new()));
    let mut world = World::default();
    for millis in 0..100 {
        tail.receive(
            tail.received(),
            &source(tail.received(), 100),
            ServerTime(0),
            Tick::from_millis(millis),
        )
        .unwrap();
        world.collect(&mut tail, Tick::from_millis(millis));
    }
    assert_eq!(world.flying.len(), MAX_FLUSHES, "one at once, then one every {SLOW:?}");
    world.land(&mut tail, 1);
    assert_eq!(tail.durable(), Lsn(START), "a hole lies before it");
    world.land(&mut tail, 0);
    assert_eq!(tail.durable(), Lsn(START + 1100));
    assert_eq!(tail.deadline(), Some(Tick::from_millis(40)));
}

#[test]
fn nothing_is_stored_until_all_that_is_known_was_compared() {
    let known = vec![
        Checkpoint {
            at: Lsn(START + MIB),
            digest: Digest::of(&source(Lsn(START), MIB as usize)),
            whole: true,
        },
        Checkpoint {
            at: Lsn(START + MIB + 5000),
            digest: Digest::of(&source(Lsn(START + MIB), 5000)),
            whole: false,
        },
    ];
    let mut tail = Tail::new(start(Flush::AtOnce, known));
    let mut world = World::default();
    world.segments.insert(size().segment_at(Lsn(START)));
    while tail.received() < Lsn(START + MIB + 4096) {
        tail.receive(tail.received(), &source(tail.received(), 4096), ServerTime(0), Tick::ZERO).unwrap();
        world.collect(&mut tail, Tick::ZERO);
    }
    assert!(world.flying.is_empty());
    assert_eq!(tail.durable(), Lsn(START + MIB), "the repository has that segment");
    tail.receive(tail.received(), &source(tail.received(), 4096), ServerTime(0), Tick::ZERO).unwrap();
    world.collect(&mut tail, Tick::ZERO);
    world.land(&mut tail, 0);
    assert_eq!(tail.durable(), Lsn(START + MIB + 8192));
}

#[test]
fn other_bytes_than_the_repository_has_are_refused() {
    let known = vec![Checkpoint { at: Lsn(START + 5000), digest: Digest::of(b"other"), whole: false }];
    let mut tail = Tail::new(start(Flush::AtOnce, known));
    let refused = tail.receive(Lsn(START), &source(Lsn(START), 8192), ServerTime(0), Tick::ZERO);
    assert_eq!(refused, Err(TailError::Diverged(Diverged { at: Lsn(START + 5000) })));
}

#[test]
fn a_jump_of_the_server_is_refused() {
    let mut tail = Tail::new(start(Flush::AtOnce, Vec::new()));
    let refused = tail.receive(Lsn(START + 1), &[0], ServerTime(0), Tick::ZERO);
    assert_eq!(refused, Err(TailError::OutOfOrder { expected: Lsn(START), got: Lsn(START + 1) }));
}

#[test]
fn a_store_that_lags_stops_the_reading_and_memory_stays_bounded() {
    let mut tail = Tail::new(start(Flush::Every(Duration::from_secs(1)), Vec::new()));
    let mut world = World::default();
    while tail.wants_bytes() {
        tail.receive(tail.received(), &source(tail.received(), 131_072), ServerTime(0), Tick::ZERO).unwrap();
        world.collect(&mut tail, Tick::ZERO);
        assert!(tail.received().bytes_since(Lsn(START)) <= 2 * WINDOW, "reads on without a bound");
    }
    world.land(&mut tail, 0);
    assert!(tail.wants_bytes());
}
