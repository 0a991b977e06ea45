//! From what is asked for to a plan with the backup's manifest: everything that a restore looks at beforehand.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use proto::SystemId;
use proto::config::Config;
use repository::backup::IndexedManifest;
use repository::catalogue::Inventory;
use repository::statement::Examined;
use repository::{Branch, Repository};

use crate::plan::{Choice, Content, FetchCommand, Options, Plan, check_time, choose, plan};
use crate::program::{GlobalArgs, config_file, failure};
use crate::reach::last_record;

/// A restore that can be carried out, as far as the repository tells.
pub struct Prepared {
    /// What it will do. Nobody has looked at the directories yet.
    pub plan: Plan,
    /// The backup's manifest.
    pub manifest: IndexedManifest,
}

/// Where tablespaces go.
#[derive(Clone, Copy, Debug)]
pub enum Spaces<'a> {
    /// Where they lay, unless the options say otherwise.
    AsAsked,
    /// Below this folder, all of them: a copy must not touch those of the original.
    Within(&'a Path),
}

/// Opens the cluster's branch: the named one, or that begun last.
///
/// # Errors
/// The repository cannot be opened, or has no such branch.
pub async fn open_branch(config: &Config, system_id: Option<SystemId>) -> Result<Branch> {
    let repository = Repository::from_config(config).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    Ok(match system_id {
        Some(system_id) => repository.branch(&cluster, system_id).await?,
        None => repository.only_branch(&cluster).await?,
    })
}

/// Chooses a backup and a way, looks whether WAL is there, and reads the manifest.
///
/// # Errors
/// There is no way to the target, or the repository cannot be read.
pub async fn prepare(
    branch: &Branch,
    inventory: &Inventory,
    options: &Options,
    spaces: Spaces<'_>,
    fetch: &FetchCommand,
) -> Result<Prepared> {
    for backup in &inventory.unreadable {
        tracing::warn!("backup {} cannot be used: {}", backup.label, backup.error);
    }
    let mut choice = choose(inventory, options)?;
    let wal_end_time = inventory.time_before(branch, choice.lineage.timeline(), choice.wal_end).await?;
    check_time(&choice, options, wal_end_time)?;
    choice.last_record = last_record(branch, inventory, &choice, options).await?;
    let backup = branch.backup(&choice.backup.label).await?;
    let manifest = branch.index_manifest(&backup).await?;
    let content =
        Content::of(manifest.entries.iter()).context("cannot read the temporary file with the manifest")?;
    let mut plan = planned(&choice, wal_end_time, &content, options, spaces, fetch)?;
    match branch.examine_statements(inventory, Timestamp::now()).await {
        Ok(examined) => plan.notices.extend(authenticity(&examined)),
        // What the restore itself needs is asked for again: it does not depend on this.
        Err(error) => {
            plan.notices.push(format!("nobody could look whether something was taken away: {error}"));
        }
    }
    Ok(Prepared { plan, manifest })
}

/// What there is to say of who has written the repository. A restore goes on: what it uses is signed, or refused, and what
/// was taken away does not come back by refusing the rest.
fn authenticity(examined: &Examined) -> Vec<String> {
    match examined {
        Examined::Unknown { is_signed: false } => Vec::new(),
        Examined::Unknown { is_signed: true } => vec![
            "the objects are signed, and no key is trusted here (`trusted_keys` in [signing]): nobody looks who has written them"
                .to_owned(),
        ],
        Examined::Known { discrepancies, .. } => discrepancies.iter().map(ToString::to_string).collect(),
    }
}

fn planned(
    choice: &Choice,
    wal_end_time: Option<Timestamp>,
    content: &Content,
    options: &Options,
    spaces: Spaces<'_>,
    fetch: &FetchCommand,
) -> Result<Plan> {
    let Spaces::Within(folder) = spaces else {
        return Ok(plan(choice, wal_end_time, content, options, fetch)?);
    };
    let outside = choice.backup.tablespaces.iter().filter(|space| space.location.as_path().is_absolute());
    let moves =
        outside.map(|space| (space.location.as_path().to_owned(), folder.join(space.oid.to_string())));
    let options = Options { tablespaces: moves.collect(), ..options.clone() };
    Ok(plan(choice, wal_end_time, content, &options, fetch)?)
}

/// How a recovering server will call `restore-cmd`: by absolute paths, since it runs elsewhere.
///
/// # Errors
/// `restore-cmd` is not to be found, or a path cannot be used.
pub fn fetch_command(global: &GlobalArgs, config: &Config, branch: &Branch) -> Result<FetchCommand> {
    let config_file = config_file(global).map(std::path::absolute).transpose();
    let repository = match &global.repository {
        Some(_) => config.repository.as_deref().map(absolute_url).transpose()?,
        None => None,
    };
    Ok(FetchCommand {
        program: restore_cmd()?,
        config: config_file.context("the configuration file's path cannot be used")?,
        repository,
        cluster: branch.cluster().to_string(),
        system_id: branch.system_id(),
    })
}

/// The name of the program that fetches WAL.
const PROGRAM: &str = "restore-cmd";

/// This program, if it is `restore-cmd`; else the one beside it, else the one in `PATH`.
fn restore_cmd() -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot tell where this program lies")?;
    let beside = this.with_file_name(PROGRAM);
    if beside.is_file() {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|file| file.is_file());
    let found = found.and_then(|file| std::path::absolute(file).ok());
    found.ok_or_else(|| {
        failure(
            format!("the program {PROGRAM} is neither beside {} nor in PATH", this.display()),
            "put it into the same folder: the recovering server needs it to fetch WAL",
        )
    })
}

/// A URL that means the same from another directory.
fn absolute_url(url: &str) -> Result<String> {
    if url.contains("://") {
        return Ok(url.to_owned());
    }
    let path = std::path::absolute(url).with_context(|| format!("the repository {url} cannot be used"))?;
    Ok(path.to_string_lossy().into_owned())
}
