//! One file for each verb: its arguments, what it plans, what it prints.

pub mod backup;
pub mod check;
pub mod checklist;
pub mod drill;
pub mod dump;
pub mod expire;
pub mod find;
pub mod health;
pub mod init;
pub mod keep;
pub mod list;
pub mod push;
pub mod run;
pub mod status;
pub mod upkeep;
pub mod verify;

use std::io::{ErrorKind, Write};

use anyhow::Context;
use proto::client::{Replication, SessionOptions};
use proto::config::{ClusterName, Config};
use proto::conninfo::{ConnInfo, TargetSession};
use repository::Repository;
use restore::program::{GlobalArgs, failure, load};

use crate::backup::facts::APPLICATION_NAME;

/// The versions of PostgreSQL that walkeep is made for.
const MAJOR_VERSIONS: std::ops::RangeInclusive<u32> = 13..=18;

/// Where the repository is, or what to do to say so.
pub(crate) fn repository_url(config: &Config) -> anyhow::Result<String> {
    config.repository.clone().ok_or_else(|| {
        failure(
            "no repository is configured",
            "set `repository` in the configuration file, or give --repository, such as file:///var/lib/walkeep",
        )
    })
}

/// What the configuration names: the repository, opened, and the cluster in it.
pub(crate) async fn open(global: &GlobalArgs) -> anyhow::Result<(Config, Repository, ClusterName)> {
    let config = load(global)?;
    repository_url(&config)?;
    let repository = Repository::from_config(&config).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    Ok((config, repository, cluster))
}

/// How to reach the server. Several sessions have to reach the same one, so of several hosts the primary is meant
/// unless the text says otherwise.
pub(crate) fn conninfo(config: &Config) -> anyhow::Result<ConnInfo> {
    let mut info = ConnInfo::resolve(config.postgres.as_deref().unwrap_or_default())?;
    if info.hosts.len() > 1 && info.target_session_attrs == TargetSession::Any {
        info.target_session_attrs = TargetSession::Primary;
    }
    Ok(info)
}

/// Opens a replication session with a server of a version that we know.
pub(crate) async fn connect(info: &ConnInfo) -> anyhow::Result<Replication> {
    let options =
        SessionOptions { application_name: APPLICATION_NAME.to_owned(), ..SessionOptions::default() };
    let replication = Replication::connect(info, &options).await?;
    let version = replication.server_version();
    if !MAJOR_VERSIONS.contains(&version.major()) {
        return Err(failure(
            format!("PostgreSQL {version} is not supported"),
            "walkeep works with PostgreSQL 13 to 18",
        ));
    }
    Ok(replication)
}

/// Writes a result to standard output. A reader that has gone away, such as `head`, wanted no more: that is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// The same for a JSON object.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}
