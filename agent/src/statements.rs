//! The daemon states now and then what there is in the repository, and notices when its own statement has gone.

use std::time::Duration;

use proto::config::ClusterName;
use repository::Repository;
use repository::statement::Stated;
use tokio::sync::watch;
use tracing::{debug, error, warn};

use crate::notify::{Event, EventKind, Events};
use crate::stop::stopped;

/// A statement promises the next one within so many intervals: one may be missed.
const PROMISED: u32 = 2;

/// States, each `interval`, until `stop` becomes true. A statement that cannot be made is made the next time: until then
/// what is new is not protected from being taken away unnoticed, and nothing else is wrong.
pub(crate) async fn keep_stating(
    repository: Repository,
    cluster: ClusterName,
    interval: Duration,
    events: Events,
    mut stop: watch::Receiver<bool>,
) {
    let mut last: Option<Stated> = None;
    loop {
        match Box::pin(state(&repository, &cluster, interval, last.as_ref())).await {
            Ok(Next { stated, own_is_gone }) => {
                if let (true, Some(last)) = (own_is_gone, &last) {
                    let message = format!(
                        "statement {} of what there is, which this agent made at {}, has gone: somebody has put the \
                         repository back, or taken something away; run `walkeep verify`",
                        last.number, last.made_at
                    );
                    error!(%cluster, "{message}");
                    events.tell(Event::now(EventKind::RolledBack, message));
                }
                last = stated.or(last);
            }
            Err(error @ repository::Error::NotBegun { .. }) => debug!(%cluster, "nothing to state: {error}"),
            Err(error) => warn!(%cluster, "cannot state what there is in the repository: {error}"),
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stopped(&mut stop) => return,
        }
    }
}

struct Next {
    stated: Option<Stated>,
    own_is_gone: bool,
}

async fn state(
    repository: &Repository,
    cluster: &ClusterName,
    interval: Duration,
    last: Option<&Stated>,
) -> repository::Result<Next> {
    let branch = repository.only_branch(cluster).await?;
    let own_is_gone = match last {
        Some(last) => !branch.still_states(last).await?,
        None => false,
    };
    Ok(Next { stated: branch.state(Some(interval * PROMISED)).await?, own_is_gone })
}
