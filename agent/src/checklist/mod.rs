//! The operator's checklists: what is to be looked at each day, week and month, each item green, yellow or red, with the evidence and
//! what to do.
//!
//! `gather` asks whoever knows (the server, by [`crate::health`], the agent, the repository) and answers with `Seen`: plain data.
//! The `items` are pure. `report` writes them for people, as text and as one page of HTML with `plots` of what was kept.

mod gather;
mod items;
mod page;
mod plots;
mod seen;

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

pub use gather::gather;
pub use items::{Item, Level};
pub use page::page;
pub use plots::{Plot, plots};
pub use seen::Seen;

/// Which checklist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Backups, WAL, room, connections, replication, the server's log, the schedule
    Daily,
    /// The week's backups, indexes, slow statements, growth, dead rows, memory, verification
    Weekly,
    /// Restores for proof, cleaning up, what comes to an end, trends
    Monthly,
}

impl Kind {
    /// The word on the command line and in names of files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }
}

/// A checklist that was gone through.
#[derive(Debug, Clone, Serialize)]
pub struct Checklist {
    /// No item is red.
    pub ok: bool,
    /// Which.
    pub checklist: Kind,
    /// Whose.
    pub cluster: String,
    /// When.
    pub at: Timestamp,
    /// The worst of its items.
    pub level: Level,
    /// How many are of each colour, and what is not green, in one line.
    pub summary: String,
    /// All of them.
    pub items: Vec<Item>,
}

impl Checklist {
    /// Goes through it.
    pub fn of(kind: Kind, seen: &Seen) -> Self {
        let items = items::of(kind, seen);
        let level = items.iter().map(|item| item.level).max().unwrap_or(Level::Green);
        let (cluster, at, summary) = (seen.cluster.clone(), seen.now, summary(kind, &items));
        Self { ok: level < Level::Red, checklist: kind, cluster, at, level, summary, items }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} checklist of {}, {}\n\n",
            self.checklist.as_str(),
            self.cluster,
            self.at.strftime("%Y-%m-%d %H:%M:%SZ")
        );
        for item in &self.items {
            let word = match item.level {
                Level::Green => "green ",
                Level::Yellow => "YELLOW",
                Level::Red => "RED   ",
            };
            // Writing to a String cannot fail, here and above.
            let _ = writeln!(text, "{word}  {}", item.title);
            for line in &item.evidence {
                let _ = writeln!(text, "        {line}");
            }
            for line in item.todo.iter().flat_map(|todo| todo.lines()) {
                let _ = writeln!(text, "        > {line}");
            }
        }
        let _ = writeln!(text, "\n{}", self.summary);
        text
    }
}

/// The worst first.
fn summary(kind: Kind, items: &[Item]) -> String {
    let count = |level| items.iter().filter(|item| item.level == level).count();
    let mut text = format!(
        "{}: {} red, {} yellow, {} green",
        kind.as_str(),
        count(Level::Red),
        count(Level::Yellow),
        count(Level::Green)
    );
    let mut bad: Vec<&Item> = items.iter().filter(|item| item.level > Level::Green).collect();
    bad.sort_by_key(|item| std::cmp::Reverse(item.level));
    for item in bad {
        let _ = write!(text, "; {}", item.title);
    }
    text
}
