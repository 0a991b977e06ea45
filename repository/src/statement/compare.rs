//! What was stated, held against what there is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::{Statement, Stretch, Wal, by_timeline, without};
use crate::backup::{BackupLabel, Generation};

/// A backup is stated when it is complete, and if that fails by the next statement of the agent: two of the longest intervals
/// that can be set. Its writer has signed the time; that of the store anybody makes anew who may write to it.
const PATIENCE: SignedDuration = SignedDuration::from_hours(48);

/// What there is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Present {
    pub(super) backups: BTreeMap<BackupLabel, Generation>,
    pub(super) wal: Wal,
    pub(super) histories: BTreeSet<String>,
    /// When the backups that can be read were finished, by their writer's clock.
    pub(super) finished: BTreeMap<BackupLabel, Timestamp>,
}

/// Something is not as it was stated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Discrepancy {
    /// A backup is gone.
    Backup(BackupLabel),
    /// An older manifest of a backup counts than the one that was stated.
    Generation {
        /// The backup.
        label: BackupLabel,
        /// What was stated.
        stated: Generation,
        /// What is there.
        found: Generation,
    },
    /// WAL is gone.
    Wal(Stretch),
    /// A history file is gone.
    History(String),
    /// There is no statement.
    NoStatement,
    /// There are statements that cannot be relied on.
    Unusable(String),
    /// The statements begin after backups had been taken.
    BegunAnew {
        /// When they begin.
        began_at: Timestamp,
        /// The oldest backup.
        oldest: Timestamp,
    },
    /// A backup was never stated, although there was time for it.
    Unstated {
        /// The backup.
        label: BackupLabel,
        /// The generation that counts.
        generation: Generation,
        /// When it was finished.
        finished_at: Timestamp,
    },
    /// The newest statement is older than it should be.
    Late {
        /// When it was made.
        made_at: Timestamp,
        /// By when the next one was promised.
        next_by: Timestamp,
    },
}

impl Discrepancy {
    /// Whether it may as well be that the agent stands still.
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Self::Late { .. } | Self::Unstated { .. })
    }
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(label) => {
                write!(f, "backup {label} was stated, and is gone without anybody having stated its removal")
            }
            Self::Generation { label, stated, found } => write!(
                f,
                "the manifest of backup {label} has been put back from generation {stated}, which was stated, to {found}"
            ),
            Self::Wal(Stretch { timeline, from_lsn, to_lsn }) => write!(
                f,
                "WAL of timeline {timeline} from {from_lsn} to {to_lsn} was stated, and is gone without anybody having \
                 stated its removal"
            ),
            Self::History(name) => write!(f, "the history file {name} was stated, and is gone"),
            Self::NoStatement => f.write_str(
                "there is no statement of what there is, although the objects are signed: all of them have been taken away",
            ),
            Self::Unusable(why) => write!(f, "a statement of what there is cannot be used: {why}"),
            Self::BegunAnew { began_at, oldest } => write!(
                f,
                "the statements of what there is begin at {began_at}, and a backup was finished at {oldest} already: those \
                 before have been taken away"
            ),
            Self::Unstated { label, finished_at, .. } => write!(
                f,
                "backup {label} was finished at {finished_at}, and no statement names it: either none could be made since, or \
                 later ones have been taken away"
            ),
            Self::Late { made_at, next_by } => write!(
                f,
                "the newest statement of what there is was made at {made_at}, and promised another by {next_by}: either the \
                 agent has stood still since, or what is newer has been taken away"
            ),
        }
    }
}

impl Statement {
    /// What is not as this statement says, at `now`; what it does not speak of is no matter.
    pub fn compare(&self, present: &Present, now: Timestamp) -> Vec<Discrepancy> {
        let mut found = Vec::new();
        for (label, stated) in &self.backups {
            match present.backups.get(label) {
                None => found.push(Discrepancy::Backup(label.clone())),
                Some(here) if here < stated => found.push(Discrepancy::Generation {
                    label: label.clone(),
                    stated: *stated,
                    found: *here,
                }),
                Some(_) => {}
            }
        }
        found.extend(without(&by_timeline(&self.wal), &present.wal).into_iter().map(Discrepancy::Wal));
        let gone = self.histories.difference(&present.histories);
        found.extend(gone.cloned().map(Discrepancy::History));
        let oldest = present.finished.values().min().copied();
        if let Some(oldest) = oldest.filter(|oldest| *oldest < self.began_at) {
            found.push(Discrepancy::BegunAnew { began_at: self.began_at, oldest });
        }
        for (label, generation) in &present.backups {
            let Some(finished_at) = present.finished.get(label) else { continue };
            let is_known = self.backups.contains_key(label) || self.removed.contains(label);
            if !is_known && now.duration_since(*finished_at) > PATIENCE {
                found.push(Discrepancy::Unstated {
                    label: label.clone(),
                    generation: *generation,
                    finished_at: *finished_at,
                });
            }
        }
        if let Some(next_by) = self.next_by.filter(|next_by| *next_by < now) {
            found.push(Discrepancy::Late { made_at: self.made_at, next_by });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, label, stretch};
    use super::super::{News, Statement};
    use super::*;

    #[test]
    fn what_was_stated_must_be_there() {
        let second = Generation::FIRST.next().unwrap();
        let news = News {
            backups: [(label(1), Generation::FIRST), (label(2), second)].into(),
            wal: vec![stretch(10, 90)],
            histories: ["00000002.history-00".to_owned()].into(),
            ..News::default()
        };
        let statement = Statement::after(&[], news.clone(), at(100), Some(at(200)));
        let present = Present {
            backups: news.backups.clone(),
            wal: by_timeline(&[stretch(0, 100)]),
            histories: ["00000002.history-00".to_owned(), "00000003.history-00".to_owned()].into(),
            finished: [(label(1), at(150))].into(),
        };
        assert_eq!(statement.compare(&present, at(200)), []);
        assert_eq!(
            statement.compare(&present, at(201)),
            [Discrepancy::Late { made_at: at(100), next_by: at(200) }]
        );
        let less = Present {
            backups: [(label(2), Generation::FIRST)].into(),
            wal: by_timeline(&[stretch(0, 20), stretch(30, 80)]),
            histories: BTreeSet::new(),
            finished: [(label(2), at(99))].into(),
        };
        assert_eq!(
            statement.compare(&less, at(0)),
            [
                Discrepancy::Backup(label(1)),
                Discrepancy::Generation { label: label(2), stated: second, found: Generation::FIRST },
                Discrepancy::Wal(stretch(20, 30)),
                Discrepancy::Wal(stretch(80, 90)),
                Discrepancy::History("00000002.history-00".into()),
                Discrepancy::BegunAnew { began_at: at(100), oldest: at(99) },
            ]
        );
    }

    #[test]
    fn what_there_is_must_be_stated_in_time() {
        let statement = Statement::after(&[], News::default(), at(100), None);
        let present = Present {
            backups: [(label(1), Generation::FIRST), (label(2), Generation::FIRST)].into(),
            // The other one cannot be read: so nobody knows who has put it there.
            finished: [(label(1), at(150))].into(),
            ..Present::default()
        };
        let late = at(151) + PATIENCE;
        assert_eq!(statement.compare(&present, at(150) + PATIENCE), []);
        assert_eq!(
            statement.compare(&present, late),
            [Discrepancy::Unstated { label: label(1), generation: Generation::FIRST, finished_at: at(150) }]
        );
        let removal = News { removed: [label(1)].into(), ..News::default() };
        assert_eq!(Statement::after(&[], removal, at(100), None).compare(&present, late), []);
    }
}
