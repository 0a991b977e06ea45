//! `walkeep drill`: restore for real, prove it, record the proof.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::config::Config;
use repository::Branch;
use repository::catalogue::Inventory;
use repository::drill::{
    Check, PROOF_FORMAT, Proof, ProofBackup, ProofName, ProofTarget, Reached, Took, Verdict,
};
use restore::plan::{RecoveryTarget, TimelineChoice};
use restore::prepare::open_branch;
use restore::program::{GlobalArgs, Interrupt, TargetArgs, failure, hint, load};
use restore::scratch::{Copy, CopyArgs, Phase, become_user, copy_options};
use serde::Serialize;

use crate::drill::{Checks, random_moment, rounded};

/// The arguments of `walkeep drill`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct DrillArgs {
    /// A moment of the window by chance, instead of the end of WAL
    #[arg(long, conflicts_with_all = ["moment", "target_timeline"])]
    random: bool,

    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    copy: CopyArgs,

    /// A statement that must succeed, and whose truth value, if it is one, must be true; may be given several times,
    /// and comes after those of the configuration
    #[arg(long, value_name = "STATEMENT")]
    sql: Vec<String>,

    /// The database in which they are run
    #[arg(long, value_name = "NAME")]
    database: Option<String>,

    /// Do without pg_amcheck, which reads everything once more
    #[arg(long)]
    no_amcheck: bool,

    /// Print one JSON object: the proof
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
What happens: the backup is restored into a directory of its own, walkeep-scratch-… below --scratch, all tablespaces \
included. PostgreSQL of the same major version is started on it, and recovers to the target. Then every relation of every \
database is read to its last value; pg_amcheck looks at tables and indexes; your own statements are run. At the end everything \
is removed, and the proof is stored in the repository, also if the drill failed: `walkeep list` and `walkeep status` show it.

The copy cannot harm the original: it listens on no network address, only on a Unix socket in its own directory; it does not \
archive, wait for standbys, or take up subscriptions; and it does not read the lost server's configuration, but has settings \
of its own. What your data needs besides, such as shared_preload_libraries, goes into --setting or `settings` of [drill].

If a drill is killed, the next one ends its server and removes its directory.

Keys of [drill] in the configuration: scratch, bindir, patience, amcheck, sql, database, settings.

Exit codes: 0 passed; 1 failed, or could not be held; 2 wrong usage.";

/// What `--json` prints: the proof, and where it lies.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    /// The proof's object below the branch; `null` if it could not be stored.
    object: Option<String>,
    #[serde(flatten)]
    proof: &'a Proof,
}

/// Needs the repository, room, and PostgreSQL's programs; no running server.
pub async fn run(global: &GlobalArgs, args: DrillArgs) -> anyhow::Result<ExitCode> {
    become_user(args.copy.run_as())?;
    let config = load(global)?;
    super::repository_url(&config)?;
    let mut interrupt = Interrupt::listen()?;
    let drill = Drill::begin(global.clone(), args, config).await?;
    let mut copy = Copy::begin(drill.args.copy.base(&drill.config))?;
    let held = tokio::select! {
        held = Box::pin(drill.hold(&mut copy)) => Some(held),
        () = interrupt.wait() => None,
    };
    let proof = held.as_ref().and_then(|held| drill.proof(&copy, held));
    let removed = copy.remove().await;
    let Some(held) = held else {
        removed?;
        return Err(failure(
            "the drill was stopped by a signal",
            "nothing of it was left, and nothing recorded",
        ));
    };
    if let Err(error) = removed {
        tracing::warn!("{error:#}; the next drill tries again");
    }
    let Some(proof) = proof else {
        // It says nothing about the repository.
        return held.map(|_| ExitCode::FAILURE);
    };
    let stored = drill.branch.put_proof(&proof).await;
    let printed = Printed { object: stored.as_ref().ok().map(|name| name.key().to_string()), proof: &proof };
    if drill.args.json {
        super::print_json(&printed)?;
    } else {
        super::print(&human(&proof, stored.as_ref().ok()))?;
    }
    let stored = stored.context("the proof could not be stored");
    match (held, &proof.failure) {
        (Err(error), _) => {
            let hint = hint(&error).unwrap_or_else(|| NEXT.to_owned());
            Err(failure(format!("the drill has failed: {error:#}"), hint))
        }
        (Ok(_), Some(found)) => Err(failure(format!("the drill has failed: {found}"), NEXT)),
        (Ok(_), None) => stored.map(|_| ExitCode::SUCCESS),
    }
}

const NEXT: &str = "look with `walkeep verify --deep` whether the repository is whole, and take a new backup with `walkeep \
                    backup --full`";

/// A drill that can be held.
struct Drill {
    global: GlobalArgs,
    args: DrillArgs,
    config: Config,
    branch: Branch,
    inventory: Inventory,
    target: RecoveryTarget,
    timeline: TimelineChoice,
    started_at: Timestamp,
}

/// What its checks have found, and how long they took.
struct Held {
    checks: Vec<Check>,
    checked_in: Option<f64>,
    failure: Option<String>,
}

impl Drill {
    async fn begin(global: GlobalArgs, args: DrillArgs, config: Config) -> anyhow::Result<Self> {
        let branch = open_branch(&config, args.target.system_id()).await?;
        let started_at = Timestamp::now();
        let inventory = Inventory::load(&branch).await?;
        let (mut timeline, mut target) = (args.target.timeline(), args.target.target());
        if args.random {
            let windows = inventory.listing(branch.cluster(), branch.system_id()).windows;
            let chosen = random_moment(&windows, &mut rand::rng()).ok_or_else(|| {
                failure("nothing can be restored yet, so no moment can be chosen", "walkeep list")
            })?;
            (timeline, target) = (TimelineChoice::Number(chosen.0), chosen.1);
        }
        Ok(Self { global, args, config, branch, inventory, target, timeline, started_at })
    }

    /// Brings the copy up and checks it.
    ///
    /// # Errors
    /// It does not come up. What the checks find is no error.
    async fn hold(&self, copy: &mut Copy) -> anyhow::Result<Held> {
        let (args, config) = (&self.args, &self.config);
        let options = copy_options(&args.target, self.target.clone(), self.timeline);
        let wanted = args.copy.wanted(&self.global, config, (&self.branch, &self.inventory), options)?;
        Box::pin(copy.plan(&wanted)).await?;
        if let Some(plan) = copy.plan.as_ref().filter(|_| !args.json) {
            super::print(&plan.announced())?;
        }
        Box::pin(copy.bring_up(&wanted)).await?;
        let (Some(server), Some(binaries)) = (&copy.server, &copy.binaries) else {
            anyhow::bail!("the copy has no server");
        };
        let checks = Checks {
            jobs: args.copy.jobs(),
            amcheck: config.drill.amcheck && !args.no_amcheck,
            sql: config.drill.sql.iter().chain(&args.sql).cloned().collect(),
            database: args.database.clone().unwrap_or_else(|| config.drill.database.clone()),
            quiet: self.global.quiet,
        };
        let begun = Instant::now();
        let done = Box::pin(checks.run(server, binaries)).await;
        let checked_in = Some(rounded(begun.elapsed()));
        Ok(match done {
            Ok(checks) => Held { failure: verdict_of(&checks), checks, checked_in },
            Err(error) => {
                let failure = server.blame(&format!("the checks could not be finished: {error:#}"));
                Held { checks: Vec::new(), checked_in, failure: Some(failure.to_string()) }
            }
        })
    }

    /// What is to be recorded. `None` if the drill says nothing about the repository: this computer could not hold it, or
    /// the target was named by hand and there is no way to it.
    fn proof(&self, copy: &Copy, held: &anyhow::Result<Held>) -> Option<Proof> {
        let by_hand = self.target != RecoveryTarget::Latest && !self.args.random;
        let named = by_hand || self.args.target.backup().is_some();
        match (held, copy.phase) {
            (Err(_), Phase::Machine) => return None,
            (Err(_), Phase::Plan) if named => return None,
            _ => {}
        }
        let (checks, checked_in, failure) = match held {
            Ok(held) => (held.checks.clone(), held.checked_in, held.failure.clone()),
            Err(error) => (Vec::new(), None, Some(format!("{error:#}"))),
        };
        let verdict = if failure.is_none() { Verdict::Passed } else { Verdict::Failed };
        let plan = copy.plan.as_ref();
        let took = [copy.planned_in, copy.restored_in, copy.recovered_in].map(|time| time.map(rounded));
        let recovery_seconds = copy.recovered_in.and(Some(took.into_iter().flatten().sum::<f64>()));
        Some(Proof {
            format: PROOF_FORMAT,
            verdict,
            started_at: self.started_at,
            finished_at: Timestamp::now(),
            program: format!("walkeep {}", env!("CARGO_PKG_VERSION")),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            postgres: copy
                .server
                .as_ref()
                .and(copy.binaries.as_ref())
                .map(|found| found.version().to_owned()),
            target: proof_target(&self.target, self.args.random),
            backup: plan.map(|plan| ProofBackup {
                label: plan.backup.clone(),
                kind: plan.kind,
                server_version: plan.server_version,
                files: plan.files,
                size_bytes: plan.size_bytes,
                read_bytes: copy.outcome.as_ref().map_or(0, |outcome| outcome.read_bytes),
            }),
            reached: copy.reached.zip(plan).map(|(lsn, plan)| Reached {
                timeline: plan.timeline,
                lsn,
                time: copy.reached_time,
                wal_bytes: lsn.bytes_since(plan.wal_from),
            }),
            took: Took { plan: took[0], restore: took[1], recovery: took[2], checks: checked_in },
            recovery_seconds: recovery_seconds.map(|seconds| (seconds * 1000.0).round() / 1000.0),
            checks,
            failure,
        })
    }
}

/// What the checks that failed have found, in one line.
fn verdict_of(checks: &[Check]) -> Option<String> {
    let failed = checks.iter().filter(|check| check.passed == Some(false));
    let words: Vec<String> = failed
        .map(|check| format!("{}: {}", check.name, check.problems.first().map_or("failed", String::as_str)))
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn proof_target(target: &RecoveryTarget, random: bool) -> ProofTarget {
    let (kind, value) = match target {
        RecoveryTarget::Latest => ("latest", None),
        RecoveryTarget::Immediate => ("immediate", None),
        RecoveryTarget::Time(time) => ("time", Some(time.instant().to_string())),
        RecoveryTarget::Lsn(lsn) => ("lsn", Some(lsn.to_string())),
        RecoveryTarget::Xid(xid) => ("xid", Some(xid.to_string())),
        RecoveryTarget::Name(name) => ("name", Some(name.as_str().to_owned())),
    };
    ProofTarget { kind: kind.to_owned(), value, random }
}

/// What it came to.
fn human(proof: &Proof, name: Option<&ProofName>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, words: String| {
        let _ = writeln!(text, "{name:<12} {words}");
    };
    if let (Some(backup), Some(seconds)) = (&proof.backup, proof.took.restore) {
        line(
            "restored",
            format!("{} files, {} in {seconds:.1} s", backup.files, HumanBytes(backup.size_bytes)),
        );
    }
    if let (Some(reached), Some(seconds)) = (&proof.reached, proof.took.recovery) {
        let time = reached.time.map(|time| format!(", last transaction {time}")).unwrap_or_default();
        let wal = HumanBytes(reached.wal_bytes);
        line("recovered", format!("to {}{time}; {wal} of WAL in {seconds:.1} s", reached.lsn));
    }
    for check in &proof.checks {
        let how = match check.passed {
            Some(true) => "passed",
            Some(false) => "FAILED",
            None => "left out",
        };
        line(&check.name, format!("{how}: {} ({:.1} s)", check.summary, check.seconds));
        for problem in &check.problems {
            line("", problem.clone());
        }
    }
    let verdict = match (proof.verdict, proof.recovery_seconds) {
        (Verdict::Passed, Some(seconds)) => {
            format!("PASSED: open {seconds:.1} s after the first look into the repository")
        }
        (Verdict::Passed, None) => "PASSED".to_owned(),
        (Verdict::Failed, _) => "FAILED".to_owned(),
    };
    line("verdict", verdict);
    if let Some(name) = name {
        line("proof", name.key().to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_done_is_no_failure() {
        let check = |passed, problems: &[&str]| Check {
            name: "sql".into(),
            passed,
            summary: String::new(),
            problems: problems.iter().map(|&problem| problem.into()).collect(),
            seconds: 0.0,
        };
        assert_eq!(verdict_of(&[check(None, &[]), check(Some(true), &[])]), None);
        assert_eq!(verdict_of(&[check(Some(false), &["a", "b"])]).unwrap(), "sql: a");
    }
}
