//! Statements: what there is in a branch, signed, one after the other.
//!
//! A signature under each object tells that nobody else has written it, but not that nothing was taken away, nor that what
//! is there is the newest. So whoever writes states now and then what there is: which backups, by the generation of their
//! manifests, which WAL, which history files; what was removed on purpose; and by when the next statement comes. Each names
//! the digests of those before it that it knew of. What was stated and is not there any more, although nobody has stated
//! its removal, was taken away by somebody who may write to the store, and has no key.
//!
//! Nothing is locked: of two that state at the same time each makes an object of its own, and the next one joins them.
//! What was removed stays removed, so the order does not matter.
//!
//! A store that is put back as a whole to an earlier moment looks, by itself, as it did then. That is told by the time of
//! the newest statement, which is late then, and by the running agent, which remembers its own.

mod compare;
mod keep;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use jiff::Timestamp;
use proto::{Digest, Lsn, TimelineId};
use serde::{Deserialize, Serialize};

pub use compare::{Discrepancy, Present};
pub use keep::{Examined, Stated};

use crate::backup::{BackupLabel, Generation};
use crate::catalogue::Coverage;

/// The version of a statement's JSON.
const FORMAT: u32 = 1;

/// So many removed backups are remembered: only a statement that was made at the same moment could bring one back.
const REMEMBERED: usize = 1000;

/// What there is, as one writer knew it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Statement {
    format: u32,
    /// One more than the highest of those before it.
    pub number: u64,
    /// The digests of the statements before it, none of which another one had named.
    pub previous: BTreeSet<Digest>,
    /// When the first of all was made, by its writer's clock.
    pub began_at: Timestamp,
    /// When it was made, by its writer's clock.
    pub made_at: Timestamp,
    /// By when the next one was promised; `None` if nobody has.
    pub next_by: Option<Timestamp>,
    /// Backups, with the generation that counts.
    #[serde(with = "generations")]
    pub backups: BTreeMap<BackupLabel, Generation>,
    /// Backups that were removed on purpose, the newest of them.
    pub removed: BTreeSet<BackupLabel>,
    /// WAL that can be used.
    pub wal: Vec<Stretch>,
    /// WAL that was removed on purpose.
    pub removed_wal: Vec<Stretch>,
    /// History files, as they are named below `wal/`.
    pub histories: BTreeSet<String>,
}

/// Some WAL of one timeline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Stretch {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte.
    pub from_lsn: Lsn,
    /// The first byte after it.
    pub to_lsn: Lsn,
}

/// What is put into a statement beyond what those before it say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct News {
    pub(crate) backups: BTreeMap<BackupLabel, Generation>,
    pub(crate) removed: BTreeSet<BackupLabel>,
    pub(crate) wal: Vec<Stretch>,
    pub(crate) removed_wal: Vec<Stretch>,
    pub(crate) histories: BTreeSet<String>,
}

type Wal = BTreeMap<TimelineId, Coverage>;

fn by_timeline<'a>(stretches: impl IntoIterator<Item = &'a Stretch>) -> Wal {
    let mut ranges: BTreeMap<TimelineId, Vec<Range<Lsn>>> = BTreeMap::new();
    for stretch in stretches {
        ranges.entry(stretch.timeline).or_default().push(stretch.from_lsn..stretch.to_lsn);
    }
    ranges.into_iter().map(|(timeline, ranges)| (timeline, ranges.into_iter().collect())).collect()
}

fn stretches(wal: &Wal) -> Vec<Stretch> {
    let all = wal.iter().flat_map(|(timeline, coverage)| {
        let stretch =
            |range: &Range<Lsn>| Stretch { timeline: *timeline, from_lsn: range.start, to_lsn: range.end };
        coverage.ranges().iter().map(stretch)
    });
    all.collect()
}

/// The parts of `wal` that are not in `other`.
fn without(wal: &Wal, other: &Wal) -> Vec<Stretch> {
    let missing = wal.iter().flat_map(|(timeline, coverage)| {
        coverage.ranges().iter().flat_map(move |range| {
            let left = other.get(timeline).map_or_else(|| vec![range.clone()], |other| other.missing(range));
            left.into_iter().map(|range| Stretch {
                timeline: *timeline,
                from_lsn: range.start,
                to_lsn: range.end,
            })
        })
    });
    missing.collect()
}

impl Statement {
    /// The next one after `heads`, which nobody has named yet, at `now`.
    pub(crate) fn after(
        heads: &[(Digest, Self)],
        news: News,
        now: Timestamp,
        next_by: Option<Timestamp>,
    ) -> Self {
        let number = heads.iter().map(|(_, head)| head.number).max().unwrap_or(0) + 1;
        let began_at = heads.iter().map(|(_, head)| head.began_at).min().unwrap_or(now);
        // Whoever promises nothing keeps what was promised.
        let promised = heads.iter().filter_map(|(_, head)| head.next_by).max();
        let mut backups = news.backups;
        let mut removed = news.removed;
        let (mut wal, mut removed_wal, mut histories) = (news.wal, news.removed_wal, news.histories);
        for (_, head) in heads {
            for (label, generation) in &head.backups {
                let known = backups.entry(label.clone()).or_insert(*generation);
                *known = (*known).max(*generation);
            }
            removed.extend(head.removed.iter().cloned());
            wal.extend(&head.wal);
            removed_wal.extend(&head.removed_wal);
            histories.extend(head.histories.iter().cloned());
        }
        backups.retain(|label, _| !removed.contains(label));
        while removed.len() > REMEMBERED {
            removed.pop_first();
        }
        let removed_wal = by_timeline(&removed_wal);
        Self {
            format: FORMAT,
            number,
            previous: heads.iter().map(|(digest, _)| *digest).collect(),
            began_at,
            made_at: now,
            next_by: next_by.or(promised),
            backups,
            removed,
            wal: without(&by_timeline(&wal), &removed_wal),
            removed_wal: stretches(&removed_wal),
            histories,
        }
    }

    /// Whether this program can read it.
    fn is_known(&self) -> bool {
        self.format == FORMAT
    }
}

/// Generations as they are in names.
mod generations {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::backup::{BackupLabel, Generation};

    pub(super) fn serialize<S: Serializer>(
        all: &BTreeMap<BackupLabel, Generation>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(all.iter().map(|(label, generation)| (label, generation.to_string())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<BackupLabel, Generation>, D::Error> {
        let all = BTreeMap::<BackupLabel, String>::deserialize(deserializer)?;
        let read = all.into_iter().map(|(label, text)| match text.parse() {
            Ok(generation) => Ok((label, generation)),
            Err(()) => Err(de::Error::custom("that is no generation of a manifest")),
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn stretch(from: u64, to: u64) -> Stretch {
        Stretch { timeline: TimelineId::FIRST, from_lsn: Lsn(from), to_lsn: Lsn(to) }
    }

    pub(super) fn label(day: u32) -> BackupLabel {
        format!("202611{day:02}T013015Z-full-1a2b3c").parse().unwrap()
    }

    pub(super) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn named(statement: &Statement) -> (Digest, Statement) {
        (Digest::of(&serde_json::to_vec(statement).unwrap()), statement.clone())
    }

    #[test]
    fn what_was_removed_stays_removed_whoever_states_first() {
        let news = News {
            backups: [(label(1), Generation::FIRST), (label(2), Generation::FIRST)].into(),
            wal: vec![stretch(0, 50), stretch(50, 80)],
            ..News::default()
        };
        let first = Statement::after(&[], news.clone(), at(10), Some(at(20)));
        assert_eq!((first.number, first.wal.as_slice()), (1, &[stretch(0, 80)][..]));
        // One removes, another, who has looked before, states what was there.
        let removal =
            News { removed: [label(1)].into(), removed_wal: vec![stretch(0, 30)], ..News::default() };
        let removed = Statement::after(&[named(&first)], removal, at(11), None);
        let later = News { wal: vec![stretch(0, 90)], ..news };
        let late = Statement::after(&[named(&first)], later, at(12), Some(at(22)));
        for heads in [[named(&removed), named(&late)], [named(&late), named(&removed)]] {
            let joined = Statement::after(&heads, News::default(), at(13), None);
            assert_eq!(joined.backups, [(label(2), Generation::FIRST)].into());
            assert_eq!((joined.number, joined.wal.as_slice()), (3, &[stretch(30, 90)][..]));
            assert_eq!((joined.began_at, joined.next_by, joined.previous.len()), (at(10), Some(at(22)), 2));
        }
    }

    #[test]
    fn is_read_as_it_was_written() {
        let generation = Generation::FIRST.next().unwrap();
        let news = News {
            backups: [(label(3), generation)].into(),
            histories: ["00000002.history-00".to_owned()].into(),
            ..News::default()
        };
        let statement = Statement::after(&[], news, at(1), None);
        let json = serde_json::to_string(&statement).unwrap();
        assert!(json.contains(&format!("\"{}\":\"{generation}\"", label(3))), "{json}");
        assert_eq!(serde_json::from_str::<Statement>(&json).unwrap(), statement);
        assert!(serde_json::from_str::<Statement>(&json.replace(&generation.to_string(), "2")).is_err());
    }
}
