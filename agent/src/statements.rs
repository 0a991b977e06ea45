//! The daemon states now and then what there is in the repository, and notices when its own statement has gone.

use std::time::Duration;

use proto::SystemId;
use proto::config::ClusterName;
use repository::Repository;
use repository::statement::Stated;
use tokio::sync::watch;
use tracing::{debug, error, warn};

use crate::notify::{Event, EventKind, Events};
use crate::stop::stopped;
use crate::stream::StreamState;

/// A statement promises the next one within so many intervals: one may be missed.
const PROMISED: u32 = 2;

/// States, each `interval`, until `stop` becomes true. A statement that cannot be made is made the next time: until then
/// what is new is not protected from being taken away unnoticed, and nothing else is wrong.
pub(crate) async fn keep_stating(
    repository: Repository,
    cluster: ClusterName,
    interval: Duration,
    stream: StreamState,
    events: Events,
    mut stop: watch::Receiver<bool>,
) {
    let mut last: Option<(SystemId, Stated)> = None;
    loop {
        match Box::pin(state(&repository, &cluster, stream.system_id(), interval, last.as_ref())).await {
            Ok(Next { stated, own_is_gone }) => {
                if let (true, Some((_, last))) = (own_is_gone, &last) {
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
    stated: Option<(SystemId, Stated)>,
    own_is_gone: bool,
}

async fn state(
    repository: &Repository,
    cluster: &ClusterName,
    server: Option<SystemId>,
    interval: Duration,
    last: Option<&(SystemId, Stated)>,
) -> repository::Result<Next> {
    // Of the server that the stream knows; without one it is that begun last, as for whoever asks no server.
    let branch = match server {
        Some(system_id) => repository.branch(cluster, system_id).await?,
        None => repository.only_branch(cluster).await?,
    };
    // A statement in another branch says nothing of this one.
    let own_is_gone = match last {
        Some((system_id, last)) if *system_id == branch.system_id() => !branch.still_states(last).await?,
        _ => false,
    };
    let stated = branch.state(Some(interval * PROMISED)).await?;
    Ok(Next { stated: stated.map(|stated| (branch.system_id(), stated)), own_is_gone })
}
