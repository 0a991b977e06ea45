//! `.history` files: where a timeline came from.

use super::WalError;
use crate::{Lsn, TimelineId};

/// One fork on the way to a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where it was left: the first byte that is no longer its own.
    pub switch: Lsn,
    /// For people; in no set encoding.
    pub reason: Vec<u8>,
}

/// The ancestors of one timeline, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// Whose history it is.
    pub timeline: TimelineId,
    /// The forks, oldest first; none for timeline 1.
    pub entries: Vec<HistoryEntry>,
}

impl TimelineHistory {
    /// Reads the content of `<timeline>.history`.
    ///
    /// PostgreSQL's rules: a timeline, an LSN and a free text on each line, blank lines and `#` comments between,
    /// timelines ascending. The LSNs need not ascend: a recovery that aimed at one timeline may have stopped
    /// before that timeline began.
    pub fn parse(timeline: TimelineId, content: &[u8]) -> Result<TimelineHistory, WalError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |why| WalError::History { line: index + 1, why };
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let entry = HistoryEntry::parse(line).ok_or_else(|| wrong(""))?;
            if entries.last().is_some_and(|last| last.timeline >= entry.timeline) {
                return Err(wrong(": timelines must ascend"));
            }
            if entry.timeline >= timeline {
                return Err(wrong(": an ancestor must be an earlier timeline than the file's own"));
            }
            entries.push(entry);
        }
        if entries.is_empty() && timeline != TimelineId::FIRST {
            return Err(WalError::EmptyHistory);
        }
        Ok(TimelineHistory { timeline, entries })
    }

    /// Where `ancestor` was left on the way to this timeline; `None` if it is no ancestor.
    pub fn switch_from(&self, ancestor: TimelineId) -> Option<Lsn> {
        self.entries.iter().find(|entry| entry.timeline == ancestor).map(|entry| entry.switch)
    }

    /// The timeline from which this one was forked.
    pub fn parent(&self) -> Option<&HistoryEntry> {
        self.entries.last()
    }

    /// Which timeline the byte at `lsn` belongs to, as PostgreSQL decides it: the newest that had begun there.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let mut timeline = self.timeline;
        for entry in self.entries.iter().rev() {
            if lsn >= entry.switch {
                break;
            }
            timeline = entry.timeline;
        }
        timeline
    }
}

impl HistoryEntry {
    fn parse(line: &[u8]) -> Option<HistoryEntry> {
        let field = |line: &[u8]| {
            let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
            let (field, rest) = line.split_at_checked(end)?;
            Some((std::str::from_utf8(field).ok()?.to_owned(), rest.trim_ascii_start().to_vec()))
        };
        let (timeline, rest) = field(line)?;
        let (switch, reason) = field(&rest)?;
        Some(HistoryEntry { timeline: timeline.parse().ok()?, switch: switch.parse().ok()?, reason })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn parse(number: u32, text: &str) -> Result<TimelineHistory, WalError> {
        TimelineHistory::parse(timeline(number), text.as_bytes())
    }

    #[test]
    fn follows_the_forks() {
        let history =
            parse(5, "# by hand\n1\t0/3000158\tno recovery target specified\n\n3\t0/5000000\t\n").unwrap();
        assert_eq!(history.entries.len(), 2);
        assert_eq!(history.entries[0].reason, b"no recovery target specified");
        assert_eq!(history.switch_from(timeline(1)), Some(Lsn(0x300_0158)));
        assert_eq!(history.switch_from(timeline(2)), None);
        assert_eq!(history.parent().map(|entry| entry.timeline), Some(timeline(3)));
        for (lsn, number) in [(0, 1), (0x300_0157, 1), (0x300_0158, 3), (0x4FF_FFFF, 3), (0x500_0000, 5)] {
            assert_eq!(history.timeline_at(Lsn(lsn)), timeline(number), "{lsn:X}");
        }
    }

    #[test]
    fn a_recovery_may_have_stopped_before_its_target_timeline_began() {
        let history = parse(3, "1\t0/5000000\tx\n\n2\t0/4000000\ty\n").unwrap();
        assert_eq!(history.timeline_at(Lsn(0x3FF_FFFF)), timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x400_0000)), timeline(3));
        assert_eq!(history.timeline_at(Lsn(0x600_0000)), timeline(3));
    }

    #[test]
    fn refuses_what_is_no_history() {
        for (number, text) in [
            (2, ""),
            (2, "1"),
            (2, "1\t0/0/0\tx"),
            (2, "0\t0/1\tx"),
            (2, "2\t0/1\tx"),
            (4, "2\t0/1\tx\n2\t0/2\ty"),
            (2, "garbage"),
        ] {
            assert!(parse(number, text).is_err(), "{text:?}");
        }
        assert!(parse(1, "").is_ok());
        let error = parse(9, "1\t0/1\tx\n\nnonsense").unwrap_err();
        assert!(error.to_string().starts_with("line 3 of the history file"), "{error}");
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(number in 1..9u32, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = TimelineHistory::parse(timeline(number), &bytes);
        }

        #[test]
        fn reads_what_servers_write(
            forks in proptest::collection::btree_map(1..100u32, (any::<u64>(), "[ -~]{0,20}"), 1..8),
        ) {
            let text: String = forks
                .iter()
                .map(|(number, (lsn, reason))| format!("{number}\t{}\t{}\n\n", Lsn(*lsn), reason))
                .collect();
            let history = parse(100, &text).unwrap();
            prop_assert_eq!(history.entries.len(), forks.len());
            for (number, (lsn, _)) in forks {
                prop_assert_eq!(history.switch_from(timeline(number)), Some(Lsn(lsn)));
            }
        }
    }
}
