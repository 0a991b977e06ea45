//! Looking again and again, beside all else that the agent does.

use std::sync::Arc;

use proto::config::Config;
use proto::conninfo::ConnInfo;
use repository::Repository;
use repository::look::LogPosition;
use tokio::sync::{Mutex, watch};
use tracing::debug;

use super::{Examination, kept, look};
use crate::looks::Shared;

/// What the last look has found. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct HealthState(pub(crate) Shared<Examination>);

/// What a watch needs.
pub struct Watch {
    /// The configuration; of it the thresholds and the interval.
    pub config: Config,
    /// How to reach the server: with a connection of its own for each look.
    pub postgres: ConnInfo,
    /// Where one look a day is kept.
    pub repository: Repository,
    /// Where whoever asks finds what was found.
    pub state: HealthState,
}

impl Watch {
    /// Looks until `stop` becomes true. Whatever fails is told by the state, and changes nothing else.
    pub async fn keep(self, stop: watch::Receiver<bool>) {
        let (every, shared) = (self.config.health.interval, self.state.0.clone());
        // How far this agent has read the server's log itself.
        let read: Arc<Mutex<Option<LogPosition>>> = Arc::default();
        let watch = Arc::new(self);
        let once = move || {
            let (watch, read) = (watch.clone(), read.clone());
            async move { watch.once(&mut *read.lock().await).await }
        };
        shared.keep_looking(every, stop, once).await;
    }

    async fn once(&self, read: &mut Option<LogPosition>) -> Result<Examination, String> {
        let cluster = self.config.cluster.clone().unwrap_or_default();
        let earlier = kept::recall_within_patience(&self.repository, &cluster).await;
        let from = read.clone().or_else(|| earlier.log.clone());
        let found = Box::pin(look(&self.config, &self.postgres, &earlier, from)).await;
        let found = found.map_err(|error| format!("{error:#}"))?;
        if let Some(log) = &found.observed.log {
            *read = Some(LogPosition { file: log.file.clone(), offset: log.offset });
        }
        if earlier.is_time
            && let Err(error) = kept::keep(&self.repository, &cluster, &found.observed).await
        {
            // It is tried again with the next look.
            debug!("a look at the server could not be kept: {error}");
        }
        Ok(found)
    }
}
