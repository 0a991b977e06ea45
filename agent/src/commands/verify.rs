//! `walkeep verify`: is all there that is needed, and, if asked for, is each byte what was written?

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::config::UploadRate;
use repository::Branch;
use repository::audit::{Audit, Trouble, TroubleKind};
use repository::statement::{Examined, Stated};
use restore::program::{GlobalArgs, Progress};

use super::list::clock;
use crate::finding::{Finding, Findings};

/// The arguments of `walkeep verify`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct VerifyArgs {
    /// Read every byte of every pack and of all WAL, and compare it with its digest; else names, sizes and manifests
    #[arg(long)]
    deep: bool,

    /// The most to read of packs and WAL per second, counted uncompressed, such as 50MiB; at least 32KiB
    #[arg(long, value_name = "RATE", requires = "deep")]
    max_rate: Option<UploadRate>,

    /// State that what is missing was removed on purpose, after you have found out that it was. With [signing] only
    #[arg(long)]
    accept_losses: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
Needs the repository only. Says of what is missing or damaged which backups, and which stretch of WAL, it costs.

Examples:
  walkeep verify                                    names, sizes, manifests, and the continuity of WAL
  walkeep verify --deep --max-rate 100MiB           every byte, no faster than that

Exit codes: 0 nothing is damaged; 1 something is, or could not be read; 2 wrong usage.";

/// Needs the repository only. Exit code 1 if anything cannot be restored that is listed.
pub async fn run(global: &GlobalArgs, args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let (_, repository, cluster) = super::open(global).await?;
    let systems = repository.systems(&cluster).await?;
    let is_single = systems.len() < 2;
    let mut findings = Vec::new();
    for system_id in systems {
        let branch = repository.branch(&cluster, system_id).await;
        match Box::pin(verify(branch, &args, global.quiet)).await {
            Ok(found) => findings.extend(found),
            Err(error) if is_single => return Err(error),
            // The others are looked at nevertheless.
            Err(error) => findings.push(Finding::error(
                "repository",
                format!("system identifier {system_id}: nobody knows what is there: {error:#}"),
                "mend that, and run it again",
            )),
        }
    }
    if findings.is_empty() {
        repository.only_branch(&cluster).await?;
    }
    let findings = Findings::new(findings);
    if args.json {
        super::print_json(&findings)?;
    } else {
        super::print(&findings.text())?;
    }
    Ok(findings.exit_code())
}

/// What is found in one branch.
async fn verify(
    branch: repository::Result<Branch>,
    args: &VerifyArgs,
    quiet: bool,
) -> anyhow::Result<Vec<Finding>> {
    let branch = branch?;
    let mut audit = Audit::quick(&branch).await?;
    let mut read = String::new();
    if args.deep {
        let bytes = audit.deep_bytes();
        let progress = if quiet { Progress::hidden() } else { Progress::new("verify", Some(bytes)) };
        let troubles = audit.deep(&branch, args.max_rate, |bytes| progress.add(bytes)).await;
        progress.finish();
        let troubles = troubles.context("not everything could be read")?;
        audit.troubles.extend(troubles);
        read = format!(", {} read", HumanBytes(progress.done()));
    }
    let mut findings: Vec<Finding> = audit.troubles.iter().map(|trouble| finding(trouble, &audit)).collect();
    if args.accept_losses {
        for loss in branch.accept_losses(&audit.inventory).await? {
            findings.push(Finding::note("accepted", loss.to_string()));
        }
    }
    let examined = branch.examine_statements(&audit.inventory, Timestamp::now()).await?;
    findings.extend(authenticity(&examined));
    let wal: usize = audit.inventory.wal.timelines.values().map(|wal| wal.segments.len()).sum();
    if audit.troubles.is_empty() {
        findings.push(Finding::ok(
            "repository",
            format!(
                "system identifier {}: {} backups, {} packs, {wal} segments, {} dumps{read}; all there, and whole",
                branch.system_id(),
                audit.inventory.backups.len(),
                audit.packs.len(),
                audit.dumps.whole.len(),
            ),
        ));
    }
    Ok(findings)
}

const TAKE: &str = "walkeep backup --full";

const UNLOCK: &str = "set identity_file or metadata_identity_file in [encryption]";

const UNCLOSE: &str = "run it where identity_file in [encryption] names the identity that reads everything";

const MISSING: &str = "find out who may write to the repository, and bring back what is gone from a copy or an older version of the \
     objects; if you have removed it yourself: walkeep verify --accept-losses";

/// Whether all of it was written by whom we trust, and nothing was taken away.
fn authenticity(examined: &Examined) -> Vec<Finding> {
    let code = "authenticity";
    match examined {
        Examined::Unknown { is_signed: false } => vec![Finding::ok(
            code,
            "nothing is signed: whoever may write to the repository can replace what is there, or take it away, and nobody \
             can tell",
        )],
        Examined::Unknown { is_signed: true } => vec![Finding::ok(
            code,
            "the objects are signed, and no key is trusted here (`trusted_keys` in [signing]): nobody has looked who has \
             written them, or whether something was taken away",
        )],
        Examined::Known { newest: Some(Stated { number, digest, made_at, .. }), discrepancies }
            if discrepancies.is_empty() =>
        {
            let digest = digest.to_string();
            let (short, at) = (digest.get(..16).unwrap_or(&digest), clock(*made_at));
            vec![Finding::ok(
                code,
                format!(
                    "nothing is missing of what statement {number} ({short}…) of {at} says; all manifests are signed by trusted keys"
                ),
            )]
        }
        Examined::Known { discrepancies, .. } => {
            let told = discrepancies.iter().map(|found| match found.is_doubtful() {
                true => Finding::warning(
                    code,
                    found.to_string(),
                    "look whether the agent is running: walkeep status",
                ),
                false => Finding::error(code, found.to_string(), MISSING),
            });
            told.collect()
        }
    }
}

const SETTLE: &str =
    "find out which server is right, and move the other one's object out of the repository by hand";

fn finding(trouble: &Trouble, audit: &Audit) -> Finding {
    let mut message = trouble.message.clone();
    if !trouble.backups.is_empty() {
        let labels: Vec<&str> = trouble.backups.iter().map(|label| label.as_str()).collect();
        message += &format!("; cannot be restored because of it: {}", labels.join(", "));
    }
    if let Some((timeline, wal)) = &trouble.wal
        && trouble.kind != TroubleKind::Gap
    {
        message += &format!("; no restore goes past {} on timeline {timeline} from before it", wal.start);
    }
    match trouble.kind {
        TroubleKind::Manifest => Finding::error("manifest", message, TAKE),
        TroubleKind::Locked => Finding::error("locked", message, UNLOCK),
        TroubleKind::Closed => Finding::warning("closed", message, UNCLOSE),
        TroubleKind::Pack => Finding::error("pack", message, TAKE),
        TroubleKind::BackupWal => Finding::error("backup_wal", message, TAKE),
        TroubleKind::Segment => Finding::error("segment", message, TAKE),
        TroubleKind::Conflict => Finding::error("conflict", message, SETTLE),
        TroubleKind::History => Finding::error("history", message, SETTLE),
        TroubleKind::Gap if is_past(trouble, audit) => {
            Finding::note("gap", message + "; later backups are not affected")
        }
        TroubleKind::Gap => Finding::error("gap", message, TAKE),
        TroubleKind::Fragment if trouble.wal.is_some() => Finding::error("fragment", message, TAKE),
        TroubleKind::Fragment => Finding::warning("fragment", message, "walkeep expire"),
        TroubleKind::ServerManifest | TroubleKind::BlockDigests => {
            Finding::warning("increment", message + "; the next incremental backup does without", TAKE)
        }
        TroubleKind::SmallFile => Finding::note("small_file", message + "; no restore needs it"),
        TroubleKind::Dump => Finding::error("dump", message, "walkeep dump"),
        TroubleKind::Stray => Finding::note("stray", message + "; nothing reads it"),
    }
}

/// Whether a backup that can be restored begins after the gap: then the present is protected.
fn is_past(gap: &Trouble, audit: &Audit) -> bool {
    let Some((timeline, wal)) = &gap.wal else { return false };
    audit.inventory.windows().iter().any(|window| window.timeline >= *timeline && window.from_lsn >= wal.end)
}
