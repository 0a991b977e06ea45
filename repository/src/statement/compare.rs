//! What was stated, held against what there is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;

use super::{Statement, Stretch, Wal, by_timeline, without};
use crate::backup::{BackupLabel, Generation};

/// What there is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Present {
    pub(super) backups: BTreeMap<BackupLabel, Generation>,
    pub(super) wal: Wal,
    pub(super) histories: BTreeSet<String>,
    /// When the oldest backup that can be read was finished.
    pub(super) oldest: Option<Timestamp>,
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
        matches!(self, Self::Late { .. })
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
        if let Some(oldest) = present.oldest.filter(|oldest| *oldest < self.began_at) {
            found.push(Discrepancy::BegunAnew { began_at: self.began_at, oldest });
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
            oldest: Some(at(150)),
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
            oldest: Some(at(99)),
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
}
