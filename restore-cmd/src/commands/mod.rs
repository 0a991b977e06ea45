//! The verbs of `restore-cmd`.

pub(crate) mod fetch;
pub(crate) mod restore;

use anyhow::Result;
use proto::SystemId;
use proto::config::{ClusterName, Config, DEFAULT_CLUSTER};
use repository::{Branch, Repository};

/// The cluster that the configuration names, or the usual one.
fn cluster(config: &Config) -> Result<ClusterName> {
    match &config.cluster {
        Some(cluster) => Ok(cluster.clone()),
        None => Ok(DEFAULT_CLUSTER.parse()?),
    }
}

/// Opens the cluster's branch: the named one, or that begun last.
async fn open_branch(config: &Config, system_id: Option<SystemId>) -> Result<Branch> {
    let repository = Repository::from_config(config).await?;
    let cluster = cluster(config)?;
    Ok(match system_id {
        Some(system_id) => repository.branch(&cluster, system_id).await?,
        None => repository.only_branch(&cluster).await?,
    })
}
