//! What `walkeep status` shows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::config::ClusterName;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::archive::{ArchiveState, ArchiveStatus};
use crate::drill::LastDrills;
use crate::schedule::{ScheduleState, ScheduleStatus, ShownSchedule};
use crate::stream::{StreamState, StreamStatus};

/// How long what was read of the last backup is good enough.
const FRESH: Duration = Duration::from_secs(10);

/// How long it is that there was none: whoever has just taken the first one looks.
const NONE_YET: Duration = Duration::from_secs(1);

/// How long the answer waits for the repository.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everything that the agent knows of itself. Cheap to clone.
#[derive(Clone)]
pub struct AgentState {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// What the stream does.
    pub stream: StreamState,
    /// What the archiver's calls led to.
    pub archive: ArchiveState,
    /// What the schedule has done and will do.
    pub schedule: ScheduleState,
    last_backup: Arc<Mutex<Looked<serde_json::Value>>>,
    last_drills: Arc<Mutex<Looked<LastDrills>>>,
    source: Arc<dyn BackupSource>,
}

/// Who can be asked for the newest backup, and for the drills.
pub trait BackupSource: Send + Sync {
    /// The newest backup, as `list` shows it; `None` if there is none or nobody can tell.
    fn newest(&self) -> futures::future::BoxFuture<'static, Option<serde_json::Value>>;

    /// The last drills; `None` if nobody can tell.
    fn drills(&self) -> futures::future::BoxFuture<'static, Option<LastDrills>>;
}

/// What was read of the repository, and when.
#[derive(Default)]
struct Looked<T> {
    value: Option<T>,
    read: Option<Instant>,
}

/// The answer, as JSON and in words.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// The cluster's name.
    pub cluster: String,
    /// Streaming.
    pub stream: StreamStatus,
    /// `archive_command`.
    pub archive: ArchiveStatus,
    /// The newest backup.
    pub last_backup: Option<serde_json::Value>,
    /// The last drills; absent if nobody can tell.
    #[serde(flatten)]
    pub last_drills: Option<LastDrills>,
    /// The schedule; `null`: nothing is scheduled.
    pub schedule: Option<ScheduleStatus>,
    /// The last thing that went wrong since the agent was started.
    pub last_error: Option<String>,
    /// When it was last seen.
    pub last_error_at: Option<jiff::Timestamp>,
}

impl AgentState {
    /// Nothing has happened yet.
    pub fn new(cluster: ClusterName, source: Arc<dyn BackupSource>) -> Self {
        Self {
            cluster,
            stream: StreamState::default(),
            archive: ArchiveState::default(),
            schedule: ScheduleState::default(),
            last_backup: Arc::default(),
            last_drills: Arc::default(),
            source,
        }
    }

    /// A backup was taken here: what was read of the last one is old.
    pub async fn backup_taken(&self) {
        self.last_backup.lock().await.read = None;
    }

    /// The state at this moment.
    pub async fn report(&self) -> StatusReport {
        let (last_backup, last_drills) = tokio::join!(
            look(&self.last_backup, || self.source.newest()),
            look(&self.last_drills, || self.source.drills()),
        );
        let last_error = self.stream.last_error();
        let archive = self.archive.status();
        StatusReport {
            cluster: self.cluster.to_string(),
            stream: self.stream.status(),
            last_backup,
            last_drills,
            schedule: self.schedule.status(),
            last_error: last_error.as_ref().map(|e| e.message.clone()).or_else(|| archive.last_error.clone()),
            last_error_at: last_error.map(|error| error.at),
            archive,
        }
    }
}

/// What was looked up lately, or is now.
async fn look<T: Clone>(
    last: &Mutex<Looked<T>>,
    ask: impl FnOnce() -> futures::future::BoxFuture<'static, Option<T>>,
) -> Option<T> {
    let mut last = last.lock().await;
    let enough = if last.value.is_some() { FRESH } else { NONE_YET };
    if last.read.is_none_or(|read| read.elapsed() > enough) {
        // An old answer is better than none while the repository is away.
        if let Ok(newest) = tokio::time::timeout(PATIENCE, ask()).await {
            last.value = newest;
        }
        last.read = Some(Instant::now());
    }
    last.value.clone()
}

impl StatusReport {
    /// The shape that `walkeep status --json` promises.
    pub fn to_json(&self) -> String {
        // Plain data with text keys always becomes JSON.
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"last_error\":\"{error}\"}}"))
    }
}

/// What the human form reads from the JSON; all of it may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Shown {
    cluster: String,
    stream: ShownStream,
    archive: ShownArchive,
    last_backup: Option<serde_json::Value>,
    last_error: Option<String>,
    last_error_at: Option<String>,
    schedule: Option<ShownSchedule>,
    #[serde(flatten)]
    last_drills: LastDrills,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShownStream {
    state: String,
    timeline: Option<u32>,
    received_lsn: Option<String>,
    durable_lsn: Option<String>,
    server_lsn: Option<String>,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShownArchive {
    last_segment: Option<String>,
    failed: u64,
    stored: u64,
}

impl Shown {
    /// In words, one thing a line.
    pub(crate) fn text(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push(format!("{name:<13}{value}\n"));
        line("cluster", self.cluster.clone());
        let stream = &self.stream;
        let timeline = stream.timeline.map(|timeline| format!(", timeline {timeline}")).unwrap_or_default();
        line("stream", format!("{}{timeline}", stream.state));
        for (name, lsn) in [
            ("  server", &stream.server_lsn),
            ("  received", &stream.received_lsn),
            ("  durable", &stream.durable_lsn),
        ] {
            if let Some(lsn) = lsn {
                line(name, lsn.clone());
            }
        }
        if let (Some(bytes), Some(seconds)) = (stream.lag_bytes, stream.lag_seconds) {
            line("  lag", format!("{}, {seconds:.1} s", indicatif::HumanBytes(bytes)));
        }
        let archive = &self.archive;
        let last = archive.last_segment.as_deref().unwrap_or("nothing yet");
        line("archive", format!("{last} ({} stored, {} failed)", archive.stored, archive.failed));
        let label = |backup: &serde_json::Value| backup.get("label")?.as_str().map(str::to_owned);
        line("last backup", self.last_backup.as_ref().and_then(label).unwrap_or_else(|| "none".to_owned()));
        for (at, words) in self.last_drills.lines().into_iter().enumerate() {
            line(if at == 0 { "last drill" } else { "" }, words);
        }
        let scheduled = self.schedule.iter().flat_map(ShownSchedule::lines);
        for (at, words) in scheduled.enumerate() {
            line(if at == 0 { "schedule" } else { "" }, words);
        }
        if let Some(error) = &self.last_error {
            let at = self.last_error_at.as_deref().map(|at| format!(" ({at})")).unwrap_or_default();
            line("last error", format!("{error}{at}"));
        }
        lines.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl BackupSource for Nothing {
        fn newest(&self) -> futures::future::BoxFuture<'static, Option<serde_json::Value>> {
            Box::pin(std::future::ready(None))
        }

        fn drills(&self) -> futures::future::BoxFuture<'static, Option<LastDrills>> {
            Box::pin(std::future::ready(Some(LastDrills::default())))
        }
    }

    #[tokio::test]
    async fn the_promised_keys_are_there_and_the_words_can_read_them() {
        let state = AgentState::new("main".parse().unwrap(), Arc::new(Nothing));
        state.stream.update(|status| {
            status.timeline = proto::TimelineId::new(3);
            status.durable_lsn = Some(proto::Lsn(0x100_0000));
            status.server_lsn = Some(proto::Lsn(0x100_0400));
            status.lag_seconds = Some(0.25);
        });
        let json = state.report().await.to_json();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        for key in ["cluster", "stream", "archive", "last_backup", "last_drill", "schedule", "last_error"] {
            assert!(value.get(key).is_some(), "{key}");
        }
        let stream = &value["stream"];
        for key in
            ["state", "timeline", "received_lsn", "durable_lsn", "server_lsn", "lag_bytes", "lag_seconds"]
        {
            assert!(stream.get(key).is_some(), "{key}");
        }
        assert_eq!(stream["state"], "streaming");
        assert_eq!(stream["durable_lsn"], "0/1000000");
        assert_eq!(stream["lag_bytes"], 1024);
        assert_eq!(value["archive"]["failed"], 0);
        let text = serde_json::from_str::<Shown>(&json).unwrap().text();
        assert!(text.contains("stream       streaming, timeline 3\n"), "{text}");
    }
}
