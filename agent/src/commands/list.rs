//! `walkeep list`: which backups there are, and from where to where the cluster can be restored.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::{Lsn, SystemId, TimelineId};
use repository::catalogue::{Gap, Inventory, UnreadableBackup, Window};
use repository::dump::Dumps;
use repository::manifest::ManifestHead;
use restore::dump::{DumpLine, UnreadableDump, told};
use restore::program::GlobalArgs;
use serde::Serialize;

use crate::drill::LastDrills;

/// The arguments of `walkeep list`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
Needs the repository only. A window is what can be restored: any moment between its two ends. A gap is WAL that is missing: no moment in \
it, and none behind it until the next backup, can be reached.

Examples:
  walkeep list
  walkeep list --json | jq '.windows'

Exit codes: 0; 1 the repository cannot be read; 2 wrong usage.";

/// Needs the repository only: it is asked for when the server is gone, too.
pub async fn run(global: &GlobalArgs, args: ListArgs) -> anyhow::Result<ExitCode> {
    let (_, repository, cluster) = super::open(global).await?;
    let branch = repository.only_branch(&cluster).await?;
    let mut others = repository.systems(&cluster).await?;
    others.retain(|system_id| *system_id != branch.system_id());
    let inventory = Inventory::load(&branch).await?;
    let dumps = Dumps::load(&branch).await?;
    let found = inventory.listing(&cluster, branch.system_id());
    let heads = inventory.backups.iter().zip(&found.backups);
    let listing = Listing {
        cluster: cluster.to_string(),
        system_identifier: branch.system_id(),
        other_system_identifiers: others,
        backups: heads
            .map(|(head, summary)| BackupLine {
                restorable: Some(summary.restorable),
                ..BackupLine::of(head)
            })
            .collect(),
        unreadable: inventory.unreadable.iter().map(Unreadable::of).collect(),
        windows: found.windows,
        gaps: found.gaps,
        dumps: dumps.whole.iter().map(DumpLine::of).collect(),
        unreadable_dumps: UnreadableDump::of(&dumps, |_| true),
        drills: LastDrills::of(&branch, Timestamp::now()).await?,
    };
    if args.json {
        super::print_json(&listing)?;
    } else {
        super::print(&listing.human(std::io::stdout().is_terminal()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What `--json` prints. Keys are promised to users: none goes away.
#[derive(Debug, Serialize)]
struct Listing {
    cluster: String,
    system_identifier: SystemId,
    /// Earlier lives of the cluster, from before a pg_upgrade or initdb.
    other_system_identifiers: Vec<SystemId>,
    /// Oldest first.
    backups: Vec<BackupLine>,
    /// Complete, but their manifests cannot be used.
    unreadable: Vec<Unreadable>,
    windows: Vec<Window>,
    gaps: Vec<Gap>,
    /// Logical backups, oldest first.
    dumps: Vec<DumpLine>,
    unreadable_dumps: Vec<UnreadableDump>,
    #[serde(flatten)]
    drills: LastDrills,
}

#[derive(Debug, Serialize)]
struct Unreadable {
    label: String,
    error: String,
}

/// One backup, as `list` and `backup` print it.
#[derive(Debug, Clone, Serialize)]
pub struct BackupLine {
    label: String,
    kind: String,
    timeline: TimelineId,
    start_lsn: Lsn,
    stop_lsn: Lsn,
    started_at: Timestamp,
    finished_at: Timestamp,
    size_bytes: u64,
    stored_bytes: u64,
    note: Option<String>,
    server_version: u32,
    from_standby: bool,
    damaged_pages: u64,
    damaged_files: Vec<DamagedFile>,
    /// Whether all the WAL is there without which it cannot be restored. Absent where that was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    restorable: Option<bool>,
}

#[derive(Debug, Clone, Serialize)]
struct DamagedFile {
    path: String,
    blocks: Vec<u32>,
}

impl BackupLine {
    /// What the head of its manifest says.
    pub fn of(head: &ManifestHead) -> Self {
        Self {
            label: head.label.to_string(),
            kind: head.kind.to_string(),
            timeline: head.timeline,
            start_lsn: head.start_lsn,
            stop_lsn: head.stop_lsn,
            started_at: head.started_at,
            finished_at: head.finished_at,
            size_bytes: head.size_bytes,
            stored_bytes: head.stored_bytes,
            note: head.label_note.clone(),
            server_version: head.server_version,
            from_standby: head.from_standby,
            damaged_pages: head.damaged_page_count,
            damaged_files: head
                .damaged_pages
                .iter()
                .map(|file| DamagedFile { path: file.path.to_string(), blocks: file.blocks.clone() })
                .collect(),
            restorable: None,
        }
    }
}

impl Unreadable {
    fn of(backup: &UnreadableBackup) -> Self {
        Self { label: backup.label.to_string(), error: backup.error.to_string() }
    }
}

impl Listing {
    /// For people. `picture`: with a drawing, for a terminal.
    fn human(&self, picture: bool) -> String {
        let mut text = format!("cluster {}, system identifier {}\n", self.cluster, self.system_identifier);
        for other in &self.other_system_identifiers {
            text += &format!("  (an earlier one is kept too: system identifier {other})\n");
        }
        text += "\n";
        if self.backups.is_empty() {
            text += "no backup: take one with `walkeep backup`\n";
        } else {
            text += &table(&self.backups);
        }
        for backup in &self.unreadable {
            let _ = writeln!(text, "{} cannot be read: {}", backup.label, backup.error);
        }
        text += "\n";
        if self.windows.is_empty() {
            text += "nothing can be restored yet\n";
        } else {
            text += "can be restored to any moment\n";
        }
        for window in &self.windows {
            let moment = |lsn: Lsn, time: Option<Timestamp>| match time {
                Some(time) => format!("{} ({lsn})", clock(time)),
                None => lsn.to_string(),
            };
            let from = moment(window.from_lsn, window.from_time);
            let to = moment(window.to_lsn, window.to_time);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  timeline {:<3} from {from}\n               to   {to}", window.timeline);
        }
        if picture {
            text += &self.picture();
        }
        for gap in &self.gaps {
            let missing = HumanBytes(gap.to_lsn.bytes_since(gap.from_lsn));
            let _ = writeln!(
                text,
                "gap on timeline {}: WAL from {} to {} is missing ({missing}); no restore goes across it, and a new \
                 backup makes what follows restorable",
                gap.timeline, gap.from_lsn, gap.to_lsn
            );
        }
        let dumps = told(&self.dumps, &self.unreadable_dumps);
        if !dumps.is_empty() {
            text += &format!("\n{dumps}\n");
        }
        for (at, line) in self.drills.lines().into_iter().enumerate() {
            let _ = writeln!(text, "{:<10} {line}", if at == 0 { "last drill" } else { "" });
        }
        text
    }

    /// Each timeline as one line: where WAL reaches, and where backups begin to be of use.
    fn picture(&self) -> String {
        const CELLS: u64 = 64;
        let mut text = String::new();
        let mut timelines: Vec<TimelineId> = self.windows.iter().map(|window| window.timeline).collect();
        timelines.dedup();
        for timeline in timelines {
            let windows = || self.windows.iter().filter(|window| window.timeline == timeline);
            let from = windows().map(|window| window.from_lsn).min().unwrap_or_default();
            let to = windows().map(|window| window.to_lsn).max().unwrap_or_default();
            let length = to.bytes_since(from).max(1);
            let cell =
                |lsn: Lsn| u128::from(lsn.bytes_since(from)) * u128::from(CELLS - 1) / u128::from(length);
            let mut cells = vec!['·'; CELLS as usize];
            for window in windows() {
                let range = cell(window.from_lsn)..=cell(window.to_lsn);
                cells
                    .iter_mut()
                    .zip(0u128..)
                    .filter(|(_, at)| range.contains(at))
                    .for_each(|(c, _)| *c = '━');
            }
            for backup in self.backups.iter().filter(|backup| backup.timeline == timeline) {
                let at = cell(backup.stop_lsn) as usize;
                if let Some(cell) = cells.get_mut(at).filter(|_| (from..=to).contains(&backup.stop_lsn)) {
                    *cell = '●';
                }
            }
            let cells: String = cells.into_iter().collect();
            let _ = writeln!(text, "\n  timeline {timeline:<3} {cells}");
        }
        if !text.is_empty() {
            text += "               ● backup   ━ every moment   · nothing\n\n";
        }
        text
    }
}

fn table(backups: &[BackupLine]) -> String {
    let mut rows =
        vec![["BACKUP", "KIND", "TL", "FROM", "TO", "FINISHED", "SIZE", "STORED"].map(str::to_owned)];
    rows.extend(backups.iter().map(|backup| {
        [
            backup.label.clone(),
            backup.kind.clone(),
            backup.timeline.to_string(),
            backup.start_lsn.to_string(),
            backup.stop_lsn.to_string(),
            clock(backup.finished_at),
            HumanBytes(backup.size_bytes).to_string(),
            HumanBytes(backup.stored_bytes).to_string(),
        ]
    }));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += line.join("  ").trim_end();
        text += "\n";
        let Some(backup) = at.checked_sub(1).and_then(|at| backups.get(at)) else { continue };
        if let Some(note) = &backup.note {
            let _ = writeln!(text, "    {note}");
        }
        if backup.from_standby {
            text += "    taken from a standby\n";
        }
        if backup.restorable == Some(false) {
            text += "    cannot be restored: WAL that it needs is missing\n";
        }
        if backup.damaged_pages > 0 {
            let files: Vec<&str> =
                backup.damaged_files.iter().map(|file| file.path.as_str()).take(3).collect();
            let _ = writeln!(
                text,
                "    {} damaged pages were on the server when it was taken: {}",
                backup.damaged_pages,
                files.join(", ")
            );
        }
    }
    text
}

/// To the second, in UTC.
pub(super) fn clock(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(1_700_000_000 + seconds).unwrap())
    }

    fn backup(label: &str, stop: u64) -> BackupLine {
        BackupLine {
            label: label.into(),
            kind: "full".into(),
            timeline: TimelineId::FIRST,
            start_lsn: Lsn(stop - 100),
            stop_lsn: Lsn(stop),
            started_at: time(0).unwrap(),
            finished_at: time(10).unwrap(),
            size_bytes: 5 << 30,
            stored_bytes: 1 << 30,
            note: Some("before the upgrade".into()),
            server_version: 150_018,
            from_standby: false,
            damaged_pages: 2,
            damaged_files: vec![DamagedFile { path: "base/5/16384".into(), blocks: vec![1, 7] }],
            restorable: Some(true),
        }
    }

    fn listing() -> Listing {
        let window = |from, to| Window {
            timeline: TimelineId::FIRST,
            from_lsn: Lsn(from),
            to_lsn: Lsn(to),
            from_time: time(10),
            to_time: time(99),
        };
        Listing {
            cluster: "main".into(),
            system_identifier: SystemId(7),
            other_system_identifiers: vec![SystemId(6)],
            backups: vec![backup("a", 0x1000), backup("b", 0x9000)],
            unreadable: Vec::new(),
            windows: vec![window(0x1000, 0x5000), window(0x9000, 0x1_0000)],
            dumps: Vec::new(),
            unreadable_dumps: Vec::new(),
            drills: LastDrills::default(),
            gaps: vec![Gap { timeline: TimelineId::FIRST, from_lsn: Lsn(0x5000), to_lsn: Lsn(0x8000) }],
        }
    }

    #[test]
    fn people_see_backups_windows_and_gaps() {
        let text = listing().human(false);
        for words in [
            "an earlier one is kept too: system identifier 6",
            "2023-11-14 22:13:30Z  5.00 GiB  1.00 GiB",
            "before the upgrade",
            "2 damaged pages were on the server when it was taken: base/5/16384",
            "from 2023-11-14 22:13:30Z (0/9000)",
            "last drill never: prove",
            "gap on timeline 1: WAL from 0/5000 to 0/8000 is missing (12.00 KiB)",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
    }

    #[test]
    fn the_picture_shows_backups_windows_and_holes() {
        let picture = listing().picture();
        let line: Vec<char> =
            picture.lines().nth(1).unwrap().trim_start_matches("  timeline 1   ").chars().collect();
        assert_eq!(line.len(), 64, "{picture}");
        // The second backup lies at 0x8000 of 0xF000.
        assert_eq!((line[0], line[33], line[63]), ('●', '●', '━'), "{picture}");
        assert_eq!((line[10], line[25], line[50]), ('━', '·', '━'), "{picture}");
    }

    #[test]
    fn an_empty_repository_says_so() {
        let empty = Listing { backups: Vec::new(), windows: Vec::new(), gaps: Vec::new(), ..listing() };
        let text = empty.human(true);
        assert!(
            text.contains("no backup: take one") && text.contains("nothing can be restored yet"),
            "{text}"
        );
    }

    #[test]
    fn the_promised_keys_are_there() {
        let json = serde_json::to_value(listing()).unwrap();
        assert_eq!((&json["cluster"], &json["system_identifier"]), (&"main".into(), &"7".into()));
        for key in [
            "label",
            "kind",
            "timeline",
            "start_lsn",
            "stop_lsn",
            "started_at",
            "finished_at",
            "size_bytes",
            "stored_bytes",
        ] {
            assert!(!json["backups"][0][key].is_null(), "{key}");
        }
        for key in ["timeline", "from_lsn", "to_lsn", "from_time", "to_time"] {
            assert!(!json["windows"][0][key].is_null(), "{key}");
        }
        assert_eq!(json["gaps"][0]["from_lsn"], "0/5000");
    }
}
