//! `walkeep expire`: apply retention.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::SystemId;
use proto::config::Config;
use repository::backup::BackupLabel;
use repository::pack::PackName;
use repository::retention::{Compacted, Compaction, DumpVerdict, Plan, Removal, Survey, Swept, Verdict, Why};
use repository::{Branch, Repository};
use restore::program::GlobalArgs;
use serde::Serialize;

use super::list::clock;

/// The arguments of `walkeep expire`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct ExpireArgs {
    /// Change nothing: show what stays and why, what would be condemned, and what would be deleted
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
What no backup to keep needs is condemned first, and deleted by a later run, when the grace period has passed and nobody has come to need \
it since. `walkeep keep LABEL` takes a condemned backup back. It needs the repository only, and may run on another machine: the \
database's host then needs no right to delete.

Examples:
  walkeep expire --dry-run                          what stays and why, what would go
  walkeep expire

Exit codes: 0; 1 failed: nothing that is needed was touched; 2 wrong usage.";

/// Needs the repository only, with the right to delete; so it can run elsewhere than on the database's host.
pub async fn run(global: &GlobalArgs, args: ExpireArgs) -> anyhow::Result<ExitCode> {
    let config = restore::program::load(global)?;
    super::repository_url(&config)?;
    let repository = Repository::from_config(&config).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    let newest = repository.newest_system(&cluster).await?;
    let systems = repository.systems(&cluster).await?;
    let (is_single, mut has_failed) = (systems.len() < 2, false);
    let mut branches = Vec::new();
    for system_id in systems {
        let branch = repository.branch(&cluster, system_id).await;
        let current = system_id == newest;
        match Box::pin(expire(branch, current, &config, args.dry_run)).await {
            Ok(outcome) => branches.push(outcome),
            Err(error) if is_single => return Err(error.into()),
            // The others are none the worse for it.
            Err(error) => {
                has_failed = true;
                branches.push(Outcome::failed(system_id, current, config.retention.grace, &error));
            }
        }
    }
    let outcome = Expired { cluster: cluster.to_string(), dry_run: args.dry_run, branches };
    if args.json {
        super::print_json(&outcome)?;
    } else {
        super::print(&outcome.human())?;
    }
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn expire(
    branch: repository::Result<Branch>,
    current: bool,
    config: &Config,
    dry_run: bool,
) -> repository::Result<Outcome> {
    let (branch, retention) = (branch?, &config.retention);
    let survey = match dry_run {
        true => Survey::make_at(&branch, Timestamp::now()).await?,
        false => Survey::make(&branch).await?,
    };
    let plan = Plan::with_dumps(&survey, retention.keep, config.dump.retention, retention.grace);
    let swept = match dry_run {
        true => None,
        false => Some(branch.sweep(&survey, &plan).await?),
    };
    // After the sweep, since what it deletes was condemned long before: the two have nothing to do with each other.
    let (backups, candidates) = Compaction::candidates(&survey, &plan);
    let usage = branch.usage(backups, candidates).await?;
    let compaction = Compaction::plan(&survey, &plan, &usage);
    let compacted = match dry_run {
        true => None,
        false => Some(branch.compact(&survey, &compaction, retention.grace, jobs()).await?),
    };
    // What goes was stated before it went; what was written anew is stated by whoever states next.
    if !dry_run && let Err(error) = Box::pin(branch.state(None)).await {
        tracing::warn!("all is done, and not stated yet: {error}");
    }
    let rewritten = Rewritten::of(&compaction, compacted.as_ref());
    Ok(Outcome::of(branch.system_id(), current, &plan, swept.as_ref(), rewritten))
}

/// Threads that compress.
fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// What `--json` prints. Keys are promised to users: none goes away.
#[derive(Debug, Serialize)]
struct Expired {
    cluster: String,
    dry_run: bool,
    branches: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    system_identifier: SystemId,
    /// Whether it is the one that the cluster has now.
    current: bool,
    /// The time that counts: the store's; on a dry run this computer's.
    at: Timestamp,
    grace_seconds: u64,
    backups: Vec<Kept>,
    dumps: Vec<Kept>,
    removals: Vec<Gone>,
    rewritten: Rewritten,
    interrupted_uploads: Interrupted,
    freed_bytes: u64,
    held_back: Vec<String>,
}

/// Files that interrupted uploads have left in a directory.
#[derive(Debug, Serialize)]
struct Interrupted {
    files: usize,
    bytes: u64,
}

/// Packs that are written anew, without what nobody needs any more.
#[derive(Debug, Default, Serialize)]
struct Rewritten {
    packs: Vec<String>,
    /// Bytes that are written; on a dry run about so many.
    written_bytes: u64,
    /// Bytes by which the repository is smaller when the old packs have gone; on a dry run about so many.
    gained_bytes: u64,
    /// Backups whose manifests get a new generation.
    backups: Vec<BackupLabel>,
    #[serde(skip)]
    held_back: Vec<String>,
}

impl Rewritten {
    fn of(plan: &Compaction, done: Option<&Compacted>) -> Self {
        let total = |packs: &[(PackName, u64)]| packs.iter().map(|(_, bytes)| bytes).sum::<u64>();
        match done {
            None => Self {
                packs: plan.rewrites.iter().map(|rewrite| rewrite.pack.entry.name().to_string()).collect(),
                written_bytes: plan.copied_bytes(),
                gained_bytes: plan.gained_bytes(),
                backups: plan.backups.iter().map(|backup| backup.label.clone()).collect(),
                held_back: plan.held_back.iter().cloned().collect(),
            },
            Some(done) => Self {
                packs: done.replaced.iter().map(|(pack, _)| pack.to_string()).collect(),
                written_bytes: total(&done.written),
                gained_bytes: total(&done.replaced).saturating_sub(total(&done.written)),
                backups: done.backups.iter().map(|backup| backup.label.clone()).collect(),
                held_back: done.held_back.clone(),
            },
        }
    }

    fn human(&self, dry_run: bool) -> String {
        let (count, of) = (self.packs.len(), self.backups.len());
        let (written, gained) = (HumanBytes(self.written_bytes), HumanBytes(self.gained_bytes));
        match dry_run {
            true => format!(
                "{count} packs of which little is needed would be written anew, about {written}, for {of} backups: about \
                 {gained} gained once the old ones have gone"
            ),
            false => format!(
                "{count} packs of which little is needed were written anew, {written}, for {of} backups: {gained} gained \
                 once the old ones have gone"
            ),
        }
    }
}

#[derive(Debug, Serialize)]
struct Kept {
    label: String,
    kept: bool,
    reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Gone {
    key: String,
    bytes: u64,
    why: String,
    condemned_since: Timestamp,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(skip)]
    class: Class,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// From now on; it is not deleted before the grace period has passed.
    Condemned,
    /// Since an earlier run, and not long enough.
    Waiting,
    /// Long enough; a dry run does not delete it.
    Due,
    Deleted,
    /// The store did not let it go.
    Refused,
    /// It was due, and stays: `held_back` says why.
    Held,
}

/// What people want to have added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Backups,
    CutOff,
    Dumps,
    CutOffDumps,
    Packs,
    Wal,
    Fragments,
    Rest,
}

impl Class {
    fn of(why: &Why) -> Self {
        match why {
            Why::Manifest(_) | Why::BesideManifest(_) => Self::Backups,
            Why::CutOff(_) => Self::CutOff,
            Why::Pack(_) => Self::Packs,
            Why::Wal(..) => Self::Wal,
            Why::WholeSegment(_) | Why::WholeJournal(_) => Self::Fragments,
            Why::Dump(_) | Why::BesideDump(_) => Self::Dumps,
            Why::CutOffDump(_) => Self::CutOffDumps,
            Why::OldGeneration(_)
            | Why::OldSign(_)
            | Why::OldEpoch(_)
            | Why::OldRun
            | Why::OldLook
            | Why::OldDumpSign(_) => Self::Rest,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Backups => "manifests of backups that retention does not keep",
            Self::CutOff => "leftovers of backups that were cut off",
            Self::Dumps => "dumps that retention does not keep",
            Self::CutOffDumps => "leftovers of dumps that were cut off",
            Self::Packs => "packs that no backup needs",
            Self::Wal => "WAL that no backup needs",
            Self::Fragments => "fragments and journals of segments that are stored whole",
            Self::Rest => "old signs of life, manifests, epochs, records of runs and looks",
        }
    }
}

impl Outcome {
    /// Of a branch with which nothing could be done, or not all.
    fn failed(
        system_identifier: SystemId,
        current: bool,
        grace: std::time::Duration,
        error: &repository::Error,
    ) -> Self {
        Self {
            system_identifier,
            current,
            at: Timestamp::now(),
            grace_seconds: grace.as_secs(),
            backups: Vec::new(),
            dumps: Vec::new(),
            removals: Vec::new(),
            rewritten: Rewritten::default(),
            interrupted_uploads: Interrupted { files: 0, bytes: 0 },
            freed_bytes: 0,
            held_back: vec![format!("FAILED, so that nobody knows how far it came: {error}")],
        }
    }

    fn of(
        system_identifier: SystemId,
        current: bool,
        plan: &Plan,
        swept: Option<&Swept>,
        rewritten: Rewritten,
    ) -> Self {
        let state = |removal: &Removal| match swept {
            _ if !removal.is_due && removal.since == plan.now => State::Condemned,
            _ if !removal.is_due => State::Waiting,
            None => State::Due,
            Some(swept) if swept.deleted.contains(&removal.key) => State::Deleted,
            Some(swept) if swept.refused.iter().any(|(key, _)| *key == removal.key) => State::Refused,
            Some(_) => State::Held,
        };
        let gone = |removal: &Removal| Gone {
            key: removal.key.to_string(),
            bytes: removal.size,
            why: removal.why.to_string(),
            condemned_since: removal.since,
            state: state(removal),
            refused: swept.and_then(|swept| {
                swept.refused.iter().find(|(key, _)| *key == removal.key).map(|(_, why)| why.clone())
            }),
            class: Class::of(&removal.why),
        };
        let kept = |verdict: &Verdict| Kept {
            label: verdict.label.to_string(),
            kept: verdict.is_kept(),
            reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
        };
        let dump_kept = |verdict: &DumpVerdict| Kept {
            label: verdict.label.to_string(),
            kept: verdict.is_kept(),
            reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
        };
        let held_back = plan.held_back.iter().chain(swept.iter().flat_map(|swept| &swept.held_back));
        let held_back = held_back.chain(&rewritten.held_back).cloned().collect();
        Self {
            system_identifier,
            current,
            at: plan.now,
            grace_seconds: plan.grace.as_secs(),
            backups: plan.verdicts.iter().map(kept).collect(),
            dumps: plan.dumps.iter().map(dump_kept).collect(),
            removals: plan.removals.iter().map(gone).collect(),
            freed_bytes: swept.map_or(0, |swept| swept.freed_bytes),
            held_back,
            rewritten,
            interrupted_uploads: Interrupted {
                files: plan.interrupted.len(),
                bytes: plan.interrupted.iter().map(|file| file.size).sum(),
            },
        }
    }
}

impl Expired {
    fn human(&self) -> String {
        let mut text = String::new();
        for branch in &self.branches {
            let earlier = if branch.current { "" } else { " (an earlier life of the cluster)" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "cluster {}, system identifier {}{earlier}",
                self.cluster, branch.system_identifier
            );
            branch.write(&mut text, self.dry_run);
        }
        if self.dry_run {
            text += "this was a dry run: nothing was changed\n";
        }
        text
    }
}

impl Outcome {
    fn write(&self, text: &mut String, dry_run: bool) {
        for backup in self.backups.iter().chain(&self.dumps) {
            let (word, why) = match backup.kept {
                true => ("stays", backup.reasons.join("; ")),
                false => ("goes ", "retention does not keep it".to_owned()),
            };
            let _ = writeln!(text, "  {word}  {}  {why}", backup.label);
        }
        let mut sums: BTreeMap<(State, Class), (usize, u64, Timestamp)> = BTreeMap::new();
        for gone in &self.removals {
            let sum = sums.entry((gone.state, gone.class)).or_insert((0, 0, gone.condemned_since));
            *sum = (sum.0 + 1, sum.1 + gone.bytes, sum.2.min(gone.condemned_since));
        }
        if sums.is_empty() {
            *text += "  nothing is to be deleted\n";
        }
        for ((state, class), (count, bytes, since)) in sums {
            let due = since.checked_add(std::time::Duration::from_secs(self.grace_seconds)).unwrap_or(since);
            let fate = match state {
                State::Condemned if dry_run => {
                    format!("would be condemned, and deleted from {} on", clock(due))
                }
                State::Condemned => format!("condemned now; deleted by a run after {}", clock(due)),
                State::Waiting => {
                    format!("condemned since {}; deleted by a run after {}", clock(since), clock(due))
                }
                State::Due => format!("condemned since {}: would be deleted now", clock(since)),
                State::Deleted => "deleted".to_owned(),
                State::Refused => "not deleted: the store does not allow it (yet)".to_owned(),
                State::Held => "due, but held back".to_owned(),
            };
            let _ = writeln!(text, "  {count} objects, {}: {}: {fate}", HumanBytes(bytes), class.words());
        }
        let Interrupted { files, bytes } = self.interrupted_uploads;
        if files > 0 {
            let fate = if dry_run { "would be deleted now" } else { "deleted" };
            let _ =
                writeln!(text, "  {files} files, {}: left by interrupted uploads: {fate}", HumanBytes(bytes));
        }
        if !self.rewritten.packs.is_empty() {
            let _ = writeln!(text, "  {}", self.rewritten.human(dry_run));
        }
        for gone in self.removals.iter().filter(|gone| gone.refused.is_some()).take(3) {
            let _ = writeln!(text, "  {}: {}", gone.key, gone.refused.as_deref().unwrap_or_default());
        }
        for sentence in &self.held_back {
            let _ = writeln!(text, "  {sentence}");
        }
        if self.freed_bytes > 0 {
            let _ = writeln!(text, "  {} freed", HumanBytes(self.freed_bytes));
        }
    }
}
