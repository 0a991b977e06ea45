//! Deciding what a restore does, and proving beforehand that it can be done.
//!
//! Pure: what the repository holds is its [`Inventory`](repository::catalogue::Inventory). A dry run is the [`Plan`],
//! printed.

mod choose;
mod content;
mod estimate;
mod follow;
mod options;
mod room;
mod settings;
mod tablespaces;
mod target;

use std::fmt;
use std::path::PathBuf;

use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::config::ClusterName;
use proto::{Lsn, SystemId, TimelineId};
use repository::backup::{BackupKind, BackupLabel};
use repository::catalogue::Lineage;
use repository::manifest::{EXTERNAL_PREFIX, Entry};
use serde::Serialize;

pub(crate) use choose::refuse;
pub use choose::{Choice, Refusal, Seen, check_time, choose, last_moment};
pub use content::Content;
pub use estimate::Estimate;
pub use options::{Archive, Options, TargetAction, TimelineChoice};
pub use room::{Place, check_room};
pub use settings::{FetchCommand, Signal, pins_timeline, settings};
pub use tablespaces::{TablespaceMove, place, tablespace_map};
pub use target::{RecoveryTarget, TargetName, TargetNameError, TargetTime, TimeError};

use crate::conf::{self, Setting};
use options::lossy;
use target::utc;

/// What a restore will do: plain data.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Plan {
    /// The cluster's name in the repository.
    pub cluster: ClusterName,
    /// The cluster.
    pub system_identifier: SystemId,
    /// Where to.
    #[serde(serialize_with = "lossy")]
    pub pgdata: PathBuf,
    /// The base backup.
    pub backup: BackupLabel,
    /// Its kind.
    pub kind: BackupKind,
    /// As `server_version_num`.
    pub server_version: u32,
    /// The end of the backup: nothing earlier can be restored from it.
    pub consistent_lsn: Lsn,
    /// The server's clock then.
    pub consistent_time: Timestamp,
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// How a time was understood, if one was given.
    pub target_understood: Option<String>,
    /// The timeline that recovery follows.
    pub timeline: TimelineId,
    /// The way there.
    pub lineage: Lineage,
    /// Replay begins here.
    pub wal_from: Lsn,
    /// WAL goes so far without a hole.
    pub wal_to: Lsn,
    /// The server's clock at about that point, if known.
    pub wal_to_time: Option<Timestamp>,
    /// Files to be written.
    pub files: u64,
    /// Folders.
    pub directories: u64,
    /// Bytes of these files.
    pub size_bytes: u64,
    /// Packs to be read.
    pub packs: usize,
    /// Raw bytes to be read from them.
    pub read_bytes: u64,
    /// How long it will take; `None` where nobody asked what earlier drills have measured.
    pub estimate: Option<Estimate>,
    /// What `--delta` will remove; `None` where nothing is kept.
    pub foreign: Option<Foreign>,
    /// Tablespaces.
    pub tablespaces: Vec<TablespaceMove>,
    /// The places that it fills, and what they take.
    pub places: Vec<Place>,
    /// What becomes of the server.
    pub signal: Signal,
    /// What goes into `postgresql.auto.conf`; `synchronous_standby_names` is added if the backup set it.
    pub settings: Vec<Setting>,
    /// What the operator should know.
    pub notices: Vec<String>,
}

/// What is in the directories and is not the backup's.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Foreign {
    /// Files and links, and folders with all that is in them: each counts once.
    pub entries: u64,
    /// The first of them by name.
    pub first: Vec<String>,
}

/// Puts the plan together from what was chosen and what the backup's manifest comes to.
///
/// # Errors
/// Tablespaces cannot go where they should.
pub fn plan(
    choice: &Choice,
    wal_end_time: Option<Timestamp>,
    content: &Content,
    options: &Options,
    fetch: &FetchCommand,
) -> Result<Plan, Refusal> {
    let head = &choice.backup;
    let mut tablespaces = place(&head.tablespaces, &options.tablespaces, &options.pgdata)?;
    for space in &mut tablespaces {
        space.folder = content.spaces.get(&space.oid).and_then(|found| found.folder.clone());
    }
    Ok(Plan {
        cluster: head.cluster.clone(),
        system_identifier: head.system_id,
        pgdata: options.pgdata.clone(),
        backup: head.label.clone(),
        kind: head.kind,
        server_version: head.server_version,
        consistent_lsn: head.stop_lsn,
        consistent_time: head.finished_at,
        target_understood: match &options.target {
            RecoveryTarget::Time(time) => Some(time.understood().to_owned()),
            _ => None,
        },
        target: options.target.clone(),
        timeline: choice.lineage.timeline(),
        lineage: choice.lineage.clone(),
        wal_from: head.start_lsn,
        wal_to: choice.wal_end,
        wal_to_time: wal_end_time,
        files: content.files,
        directories: content.directories,
        size_bytes: content.size_bytes,
        packs: content.packs(),
        read_bytes: content.read_bytes,
        estimate: None,
        foreign: None,
        places: room::places(content, &tablespaces, &options.pgdata),
        tablespaces,
        signal: if options.standby { Signal::Standby } else { Signal::Recovery },
        settings: settings(choice, options, fetch),
        notices: notices(choice, wal_end_time, options),
    })
}

fn notices(choice: &Choice, wal_end_time: Option<Timestamp>, options: &Options) -> Vec<String> {
    let mut notices = Vec::new();
    let head = &choice.backup;
    if options.target != RecoveryTarget::Latest && !options.standby {
        let then = match options.action {
            TargetAction::Promote => "the server opens for writing, on a new timeline",
            TargetAction::Pause => {
                "the server waits, open for reading, until pg_wal_replay_resume() is called"
            }
            TargetAction::Shutdown => {
                "the server stops; remove recovery.signal before it is started for good"
            }
        };
        notices.push(format!("at the target {then} (recovery_target_action = {})", options.action));
    }
    if options.target == RecoveryTarget::Latest && options.action != TargetAction::Promote {
        notices.push(format!(
            "without a target the server opens at the end of WAL: recovery_target_action = {} has no effect",
            options.action
        ));
    }
    if matches!(options.target, RecoveryTarget::Xid(_) | RecoveryTarget::Name(_)) {
        notices.push(
            "only replay can tell whether the target is in the WAL; if it is not, the server says so and stops"
                .to_owned(),
        );
    }
    if let Some(record) = choice.last_record {
        notices.push(format!(
            "no transaction ended after the target: recovery ends with the last record that there is now, at {record}"
        ));
    } else if matches!(options.target, RecoveryTarget::Time(_)) && wal_end_time.is_none() {
        notices.push(
            "the repository does not know how far in time its WAL goes: if it ends before the target, the server \
             says so and stops"
                .to_owned(),
        );
    }
    if settings::reads_ahead_into_a_hole(choice) {
        notices.push(format!(
            "WAL is missing behind {}, so the server must not read ahead: once it is open, give recovery_prefetch back \
             with ALTER SYSTEM RESET",
            choice.wal_end
        ));
    }
    if head.damaged_page_count > 0 {
        notices.push(format!(
            "the backup was taken with {} damaged page(s), which are restored as they were",
            head.damaged_page_count
        ));
    }
    if !pins_timeline(options) {
        notices.push("the standby follows the newest timeline, also those that are still to come".to_owned());
    }
    if options.archive == Archive::Keep && !options.standby {
        notices.push(
            "the server will archive as the lost one did; for a copy beside the original use --archive off"
                .to_owned(),
        );
    }
    notices
}

impl Plan {
    /// Bytes of WAL that will be replayed: all that there is on the way, unless the target is a position.
    pub fn wal_bytes(&self) -> u64 {
        let to = match self.target {
            RecoveryTarget::Lsn(lsn) => lsn.clamp(self.consistent_lsn, self.wal_to),
            RecoveryTarget::Immediate => self.consistent_lsn,
            _ => self.wal_to,
        };
        to.bytes_since(self.wal_from)
    }

    /// Bytes that its files take in all places together.
    pub fn room(&self) -> u64 {
        self.places.iter().map(|place| place.needed_bytes).sum()
    }

    /// A few lines that say what is going to be copied, where no directory of the user's is concerned.
    pub fn announced(&self) -> String {
        let understood = self.target_understood.as_ref().map(|how| format!(" ({how})")).unwrap_or_default();
        let free = self.places.iter().filter_map(|place| place.free_bytes).min();
        let free = free.map(|free| format!(", {} free", HumanBytes(free))).unwrap_or_default();
        let (size, room) = (HumanBytes(self.size_bytes), HumanBytes(self.room()));
        let wal = HumanBytes(self.wal_bytes());
        let lines = [
            ("backup", format!("{} of PostgreSQL {}", self.backup, version(self.server_version))),
            ("target", format!("{}{understood}", self.target)),
            ("content", format!("{} files, {size}; up to {wal} of WAL", self.files)),
            (
                "room",
                format!("{}: {room} needed, besides WAL while it is replayed{free}", self.pgdata.display()),
            ),
        ];
        lines.map(|(name, text)| format!("{name:<12} {text}\n")).concat()
    }
}

/// Whether an entry is a configuration file from outside the data directory.
pub(crate) fn is_external(entry: &Entry) -> bool {
    entry.path().parts().next() == Some(EXTERNAL_PREFIX.as_bytes())
}

/// A version as people write it: 15.18.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

/// For people; JSON is for programs.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(f, "{name:<12} {text}");
        line("backup", format!("{} of PostgreSQL {}", self.backup, version(self.server_version)))?;
        line("consistent", format!("from {}, {}", self.consistent_lsn, utc(self.consistent_time)))?;
        let understood = self.target_understood.as_ref().map(|how| format!(" ({how})")).unwrap_or_default();
        line("target", format!("{}{understood}", self.target))?;
        let way: Vec<String> = self.lineage.parts().iter().map(|part| part.timeline.to_string()).collect();
        line("timeline", way.join(" → "))?;
        let time = self.wal_to_time.map(|time| format!(", {}", utc(time))).unwrap_or_default();
        line("WAL", format!("from {} to {}{time}, no hole", self.wal_from, self.wal_to))?;
        let (size, read) = (HumanBytes(self.size_bytes), HumanBytes(self.read_bytes));
        line("content", format!("{} files, {size}; {read} from {} packs", self.files, self.packs))?;
        line("into", self.pgdata.display().to_string())?;
        for space in &self.tablespaces {
            let moved = match space.in_place || space.from == space.to {
                true => String::new(),
                false => format!(", now at {}", space.to.display()),
            };
            line("tablespace", format!("{} {}{moved}", space.oid, space.from.display()))?;
        }
        for place in &self.places {
            let (path, needed) = (place.path.display(), HumanBytes(place.needed_bytes));
            let free =
                place.free_bytes.map(|free| format!(", {} free", HumanBytes(free))).unwrap_or_default();
            line("room", format!("{path}: {needed} needed{free}"))?;
            if place.removed_files > 0 {
                let (files, bytes) = (place.removed_files, HumanBytes(place.removed_bytes));
                line("removed", format!("{files} files, {bytes}, that are in {path} now"))?;
            }
        }
        if let Some(foreign) = self.foreign.as_ref().filter(|foreign| foreign.entries > 0) {
            let more = foreign.entries - foreign.first.len() as u64;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            line("removed", format!("{}{more}, not the backup's", foreign.first.join(", ")))?;
        }
        if let Some(estimate) = &self.estimate {
            line("time", estimate.to_string())?;
        }
        line("start with", self.signal.file_name().to_owned())?;
        for setting in &self.settings {
            line("setting", format!("{} = {}", setting.name, conf::quote(&setting.value)))?;
        }
        self.notices.iter().try_for_each(|notice| line("note", notice.clone()))
    }
}
