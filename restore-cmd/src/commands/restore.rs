//! `restore-cmd restore`

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result};
use indicatif::{HumanBytes, HumanDuration};
use proto::config::Config;
use repository::Branch;
use repository::catalogue::Inventory;
use repository::drill::{Proof, Verdict};
use restore::execute::{Existing, Outcome, check, execute, foreign, survey};
use restore::late::{judge_late, late_tablespaces};
use restore::plan::{Archive, Estimate, Options, Plan, TargetAction, check_room};
use restore::prepare::{Prepared, Spaces, fetch_command, open_branch, prepare};
use restore::program::{GlobalArgs, Progress, TargetArgs, failure, load, no_password};

/// Restore a backup into a data directory, ready to recover to a target
#[derive(clap::Args, Debug)]
#[command(after_long_help = MANUAL)]
pub(crate) struct Args {
    /// The data directory to restore into; made if it is missing
    #[arg(long, value_name = "DIR")]
    pgdata: PathBuf,

    #[command(flatten)]
    target: TargetArgs,

    /// What the server does at the target
    #[arg(long, value_enum, value_name = "ACTION", default_value_t)]
    target_action: TargetAction,

    /// Put the tablespace at OLD to NEW; may be given several times
    #[arg(long, value_name = "OLD=NEW")]
    tablespace: Vec<TablespaceArg>,

    /// Keep what is right of this cluster's data directory in DIR, fetch the rest, remove what is foreign; also goes on with
    /// a restore that was cut off
    #[arg(long, conflicts_with = "force")]
    delta: bool,

    /// Remove the data directory that is in DIR first; nothing else is ever removed
    #[arg(long)]
    force: bool,

    /// Threads that decompress and packs that are read at once; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,

    /// Make the server a standby; if neither --primary-conninfo nor its postgresql.conf names a primary, it gets its WAL from
    /// the repository alone
    #[arg(long)]
    standby: bool,

    /// The primary that the standby streams from: libpq keywords or a URI, without a password
    #[arg(long, value_name = "CONNINFO", requires = "standby")]
    primary_conninfo: Option<String>,

    /// Whether the restored server archives: off for a copy beside the original
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    archive: Archive,

    /// Restore even where the file systems do not seem to have room enough, as where they compress
    #[arg(long)]
    no_space_check: bool,

    /// Do not look through the WAL for tablespaces that were made after the backup: saves reading it twice, where there are none
    #[arg(long)]
    no_tablespace_check: bool,

    /// Print the plan, say whether it can be carried out, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
First comes a plan: which backup and timeline, whether WAL is there without a gap up to the target, how much room it takes. A target that \
cannot be reached is refused before anything is written. What is read is verified while it is written; pg_control comes last, so that a \
directory whose restore was cut off cannot be started. The server then recovers by itself, with the restore_command that is written \
for it.

Examples:
  restore-cmd restore --pgdata DIR                                           to the end of WAL
  restore-cmd restore --pgdata DIR --target-time '2026-11-24 03:10:00+01' --dry-run
  restore-cmd restore --pgdata DIR --target-lsn 0/5000028 --target-exclusive
  restore-cmd restore --pgdata DIR --delta                                   keeps what is right in DIR already
  restore-cmd restore --pgdata DIR --standby                                 a standby
  restore-cmd restore --pgdata DIR --archive off                             a copy, which must not archive

Exit codes: 0; 1 failed or refused; 2 wrong usage.";

#[derive(Clone, Debug)]
struct TablespaceArg(PathBuf, PathBuf);

impl FromStr for TablespaceArg {
    type Err = String;

    /// As in `pg_basebackup`: a `=` within a path is written `\=`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            let letter = match letter {
                '\\' => letters.next_if_eq(&'=').unwrap_or('\\'),
                '=' => {
                    parts.push(String::new());
                    continue;
                }
                other => other,
            };
            if let Some(part) = parts.last_mut() {
                part.push(letter);
            }
        }
        match parts.as_slice() {
            [old, new] if old.starts_with('/') && new.starts_with('/') => Ok(Self(old.into(), new.into())),
            _ => Err("OLD=NEW is expected, two absolute paths; a = within one is written \\=".to_owned()),
        }
    }
}

pub(crate) fn run(global: &GlobalArgs, args: &Args) -> Result<()> {
    spare_memory();
    let config = load(global)?;
    let options = options(args)?;
    if !args.dry_run {
        check_user()?;
        // Before anything is asked of the repository. Tablespaces are looked at with the plan, and whose files these are.
        let existing = if args.force || args.delta { Existing::Replace } else { Existing::Refuse };
        check(&options.pgdata, existing, &[])?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(restore(global, args, &config, &options))
}

/// What glibc's allocator reads when a program starts: how many pools of freed memory there are. By default one a thread
/// keeps some megabytes each, and a restore, whose frames go from thread to thread, takes twice the memory.
const POOLS: &str = "MALLOC_ARENA_MAX";

/// Begins anew, as the same process, with two pools, unless somebody has decided about them.
fn spare_memory() {
    if std::env::var_os(POOLS).is_some() {
        return;
    }
    let mut words = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = words.next() {
        again.arg0(name);
    }
    // Returns only if it fails: then it goes on as it is.
    let error = again.args(words).env(POOLS, "2").exec();
    tracing::debug!("cannot begin anew with less memory: {error}");
}

async fn restore(global: &GlobalArgs, args: &Args, config: &Config, options: &Options) -> Result<()> {
    let branch = open_branch(config, args.target.system_id()).await?;
    let existing = match (args.force, args.delta) {
        (true, _) => Existing::Replace,
        (_, true) => Existing::Delta(branch.system_id()),
        _ => Existing::Refuse,
    };
    let inventory = Inventory::load(&branch).await?;
    let fetch = fetch_command(global, config, &branch)?;
    let Prepared { mut plan, manifest } =
        prepare(&branch, &inventory, options, Spaces::AsAsked, &fetch).await?;
    plan.places = survey(&plan.places, existing)?;
    if args.delta {
        plan.foreign = Some(foreign(&plan.pgdata, &plan.tablespaces, &manifest.entries)?);
    }
    plan.estimate = Some(Estimate::of(plan.read_bytes, plan.wal_bytes(), &proofs(&branch).await));
    let late = look_for_late(global, args, &branch, &inventory, &plan).await?;
    plan.notices.extend(late.iter().flatten().cloned());
    if args.dry_run {
        print(args, &plan, None)?;
    }
    late?;
    check(&plan.pgdata, existing, &plan.tablespaces)?;
    if !args.no_space_check {
        check_room(&plan.places)?;
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.json {
        print!("{plan}");
    }
    let progress =
        if global.quiet { Progress::hidden() } else { Progress::new("restore", Some(plan.read_bytes)) };
    let outcome = execute(&branch, manifest, &plan, existing, jobs(args), &progress).await;
    progress.finish();
    print(args, &plan, Some(&outcome?))
}

/// What there is to say of tablespaces that replay will make; inside, why it must not.
async fn look_for_late(
    global: &GlobalArgs,
    args: &Args,
    branch: &Branch,
    inventory: &Inventory,
    plan: &Plan,
) -> Result<Result<Vec<String>>> {
    if args.no_tablespace_check {
        return Ok(Ok(Vec::new()));
    }
    let progress = match global.quiet {
        true => Progress::hidden(),
        false => Progress::new("look through WAL", Some(plan.wal_bytes())),
    };
    let late = late_tablespaces(branch, inventory, plan, &progress).await;
    progress.finish();
    Ok(judge_late(&late?, plan.server_version / 10_000))
}

/// So many of the newest drills are asked how long they took.
const PROOFS: usize = 3;

/// The newest drills that passed. An estimate can do without: whoever cannot read them restores all the same.
async fn proofs(branch: &Branch) -> Vec<Proof> {
    let names = branch.proofs().await.unwrap_or_default();
    let mut proofs = Vec::new();
    for name in names.iter().rev().filter(|name| name.verdict == Verdict::Passed).take(PROOFS) {
        proofs.extend(branch.read_proof(name).await.ok());
    }
    proofs
}

fn jobs(args: &Args) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    args.jobs.map_or(processors, usize::from)
}

fn options(args: &Args) -> Result<Options> {
    let absolute = |path: &Path| {
        let absolute = std::path::absolute(path);
        absolute.with_context(|| format!("{} is no path that could be restored to", path.display()))
    };
    let tablespaces =
        args.tablespace.iter().map(|TablespaceArg(old, new)| (old.clone(), new.clone())).collect();
    if let Some(conninfo) = &args.primary_conninfo {
        no_password(conninfo, "--primary-conninfo")?;
    }
    let pgdata = absolute(&args.pgdata)?;
    if pgdata.parent().is_none() {
        return Err(failure("the root directory is no data directory", "name another one with --pgdata"));
    }
    Ok(Options {
        pgdata,
        backup: args.target.backup().cloned(),
        target: args.target.target(),
        exclusive: args.target.exclusive(),
        timeline: args.target.timeline(),
        action: args.target_action,
        standby: args.standby,
        primary: args.primary_conninfo.clone(),
        archive: args.archive,
        tablespaces,
    })
}

/// A server refuses to run as root, and files of root's would be of no use to it.
fn check_user() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Err(failure(
            "restore must not run as root: the files would be root's, and PostgreSQL does not run as root",
            "run it as the server's user, as with `sudo -u postgres restore-cmd restore …`",
        ));
    }
    Ok(())
}

fn print(args: &Args, plan: &Plan, outcome: Option<&Outcome>) -> Result<()> {
    if args.json {
        let json = serde_json::json!({ "plan": plan, "outcome": outcome });
        println!("{json}");
        return Ok(());
    }
    let Some(outcome) = outcome else {
        print!("{plan}");
        return Ok(());
    };
    for notice in &outcome.notices {
        println!("{:<12} {notice}", "note");
    }
    for (path, block) in &outcome.damage.listed {
        println!(
            "{:<12} page {block} of {path} has a wrong checksum; it is as the server sent it",
            "damaged"
        );
    }
    println!(
        "restored     {} files, {} in {} (content {:.1} s, with syncing {:.1} s)",
        outcome.files,
        HumanBytes(outcome.size_bytes),
        HumanDuration(outcome.restored_in),
        outcome.copied_in.as_secs_f64(),
        outcome.restored_in.as_secs_f64()
    );
    if outcome.kept_bytes > 0 {
        let (kept, read) = (HumanBytes(outcome.kept_bytes), HumanBytes(outcome.read_bytes));
        println!("kept         {kept} that were there already; {read} were read");
    }
    println!("next         start the server: pg_ctl -D {} start", plan.pgdata.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_is_moved_from_one_absolute_path_to_another() {
        let TablespaceArg(old, new) = r"/a\=b/c=/d\x".parse().unwrap();
        assert_eq!((old, new), ("/a=b/c".into(), r"/d\x".into()));
        for text in ["", "/a", "a=/b", "/a=b", "/a=/b=/c", "=/b"] {
            assert!(text.parse::<TablespaceArg>().is_err(), "{text}");
        }
    }
}
