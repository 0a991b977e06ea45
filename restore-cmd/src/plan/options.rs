//! What the operator asks for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use proto::TimelineId;
use repository::backup::BackupLabel;
use serde::{Serialize, Serializer};

use super::RecoveryTarget;

/// A restore as it is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where to: an absolute path.
    pub pgdata: PathBuf,
    /// Which backup; the newest suitable one if not said.
    pub backup: Option<BackupLabel>,
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// Whether what stands exactly at the target is left out.
    pub exclusive: bool,
    /// Along which timeline.
    pub timeline: TimelineChoice,
    /// What the server does at the target.
    pub action: TargetAction,
    /// Whether it becomes a standby.
    pub standby: bool,
    /// What a standby streams from; `None`: it gets its WAL from the repository alone.
    pub primary: Option<String>,
    /// Whether it goes on archiving.
    pub archive: Archive,
    /// Where tablespaces go instead: old location, new location; both absolute.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
}

/// The timeline that recovery follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimelineChoice {
    /// The newest one.
    #[default]
    Latest,
    /// The one on which the backup ended.
    Current,
    /// This one.
    Number(TimelineId),
}

impl FromStr for TimelineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            "current" => Ok(Self::Current),
            number => number
                .parse()
                .map(Self::Number)
                .map_err(|_| "a timeline is \"latest\", \"current\", or a number from 1 on".to_owned()),
        }
    }
}

/// What the server does when it has reached the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TargetAction {
    /// Wait, open for reading.
    Pause,
    /// Open for writing, on a new timeline.
    #[default]
    Promote,
    /// Stop.
    Shutdown,
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Whether the restored server archives its WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Archive {
    /// As the lost server did.
    #[default]
    Keep,
    /// Never: for a copy that lives beside the original.
    Off,
}

/// A path in messages and JSON; bytes that are no UTF-8 are replaced.
pub(super) fn lossy<S: Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
