//! `walkeep rekey`: let those read who were added to the recipients.

use std::process::ExitCode;

use clap::Args;
use restore::program::{GlobalArgs, failure};

/// The arguments of `walkeep rekey`.
#[derive(Debug, Args)]
pub struct RekeyArgs {
    /// Change nothing: show for which backups there is something to do
    #[arg(long)]
    dry_run: bool,

    /// Go on without a metadata identity: whoever has one cannot read the new manifests
    #[arg(long)]
    no_metadata: bool,
}

/// What it does not do.
const CLOSED: &str = "\
packs, and WAL that was stored before, stay as they are: who was added to the recipients sees these backups, and cannot
restore them without one of the earlier identities. Take one that he can restore: walkeep backup --full
where recipients were replaced, and none has stayed, no identity restores these backups alone: a present one opens their
manifests, and an earlier one their packs and WAL; put both into `identity_file`
who was taken out of the recipients can still read what was stored before
";

/// Needs the repository, and an identity that opens manifests: the metadata identity will do.
pub async fn run(global: &GlobalArgs, args: RekeyArgs) -> anyhow::Result<ExitCode> {
    let (config, repository, cluster) = super::open(global).await?;
    // Clear headers do not tell whether a metadata identity is among their readers.
    if config.encryption.metadata_identity_file.is_none() && !args.no_metadata {
        return Err(failure(
            "no `metadata_identity_file` is set in [encryption]: a host that reads manifests with one could not read them any \
             more",
            "run it where it is set, such as on the database's host; if there is none: walkeep rekey --no-metadata",
        ));
    }
    let mut done = 0;
    for system_id in repository.systems(&cluster).await? {
        let branch = repository.branch(&cluster, system_id).await?;
        if !branch.sealing()?.encrypts() {
            return Err(failure(
                format!("cluster {cluster} is not encrypted, so there is nothing to encrypt anew"),
                "an encrypted cluster begins with `recipients` in [encryption] and `walkeep init`",
            ));
        }
        if args.dry_run {
            let (due, already) = branch.to_rekey().await?;
            for backup in &due {
                super::print(&format!("backup {} would get a new manifest\n", backup.label))?;
            }
            super::print(&format!("{} to do, {} done already\n", due.len(), already.len()))?;
            continue;
        }
        let told = |backup: &repository::backup::BackupRef| {
            // A reader that has gone away wanted no more.
            let _ = super::print(&format!("backup {}: manifest {}\n", backup.label, backup.generation));
        };
        let rekeyed = Box::pin(branch.rekey(config.retention.grace, told)).await?;
        Box::pin(branch.state(None)).await?;
        for label in &rekeyed.changed {
            super::print(&format!("backup {label} has changed meanwhile: run it again\n"))?;
        }
        super::print(&format!("{} backups, {} done already\n", rekeyed.done.len(), rekeyed.already.len()))?;
        done += rekeyed.done.len();
    }
    if done > 0 {
        super::print(CLOSED)?;
    }
    Ok(ExitCode::SUCCESS)
}
