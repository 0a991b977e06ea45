//! Looks that are kept in the repository, so that growth can be told by whoever asks, on whatever machine.

use std::time::Duration;

use jiff::Timestamp;
use proto::config::{ClusterName, Config};
use repository::look::{Figures, LogPosition};
use repository::{Branch, Repository};
use tokio::time::timeout;

use super::growth;
use super::observed::Observed;

/// A repository that does not answer within this only takes growth away.
const PATIENCE: Duration = Duration::from_secs(20);

/// What earlier looks tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Earlier {
    /// The one that growth is measured against.
    pub(super) base: Option<Figures>,
    /// How far the last one has read the server's log.
    pub(super) log: Option<LogPosition>,
    /// Why nothing is known, where that is no matter of course.
    pub(super) unknown: Option<String>,
    /// Whether the next look is to be kept.
    pub(super) is_time: bool,
}

/// Asks the repository of the configuration, if there is one.
pub(super) async fn recall(config: &Config) -> Earlier {
    if config.repository.is_none() {
        return Earlier::default();
    }
    let asked = async {
        let repository = Box::pin(Repository::from_config(config)).await?;
        recall_from(&repository, &config.cluster.clone().unwrap_or_default()).await
    };
    within(Box::pin(asked)).await
}

/// Asks a repository that is open.
pub(super) async fn recall_within_patience(repository: &Repository, cluster: &ClusterName) -> Earlier {
    within(Box::pin(recall_from(repository, cluster))).await
}

async fn within(asked: impl Future<Output = repository::Result<Earlier>>) -> Earlier {
    let unknown = match timeout(PATIENCE, asked).await {
        Ok(Ok(earlier)) => return earlier,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the repository does not answer".to_owned(),
    };
    Earlier { unknown: Some(unknown), ..Earlier::default() }
}

async fn recall_from(repository: &Repository, cluster: &ClusterName) -> repository::Result<Earlier> {
    let branch = repository.only_branch(cluster).await?;
    let names = branch.looks().await?;
    let now = Timestamp::now();
    let mut earlier = Earlier { is_time: growth::is_time(&names, now), ..Earlier::default() };
    if let Some(base) = growth::base(&names, now) {
        earlier.base = Some(branch.look(base).await?);
    }
    if let Some(last) = names.last() {
        earlier.log = branch.look(last).await?.log;
    }
    Ok(earlier)
}

/// Keeps a look in the repository of the configuration. If that fails another one will be.
pub(super) async fn keep_by(config: &Config, observed: &Observed) {
    let kept = async {
        let repository = Box::pin(Repository::from_config(config)).await?;
        keep(&repository, &config.cluster.clone().unwrap_or_default(), observed).await
    };
    match timeout(PATIENCE, Box::pin(kept)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("the look at the server could not be kept: {error}"),
        Err(_) => tracing::warn!("the look at the server could not be kept: the repository does not answer"),
    }
}

/// Keeps a look.
pub(super) async fn keep(
    repository: &Repository,
    cluster: &ClusterName,
    observed: &Observed,
) -> repository::Result<()> {
    let branch: Branch = repository.only_branch(cluster).await?;
    branch.keep_look(&growth::figures(observed)).await.map(drop)
}
