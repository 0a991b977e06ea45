//! What the agent's schedule has done: `run/<time>-<job>-<outcome>-<writer>`, one object for each run that came to an end.
//!
//! The agent is stateless, so it is these, with the backups and the proofs of restores, that tell which job is due. A run that
//! was cut off leaves none, and is made up for. `expire` sweeps the old ones.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::drill::{TIME_LENGTH, parse_time};
use crate::{Branch, Error, Key, Kind, Result, WriterId};

/// Under which records lie.
const FOLDER: &str = "run";

/// The version of a record's form. Keys that a reader does not know are ignored.
pub const RUN_FORMAT: u32 = 1;

/// No record is longer.
const LONGEST: u64 = 1 << 20;

/// A job that can be scheduled. The order is that in which those are run that are due at once: what protects comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// A full backup.
    Full,
    /// An incremental backup.
    Incremental,
    /// A logical backup.
    Dump,
    /// Retention is applied.
    Expire,
    /// An examination by names, sizes and manifests.
    Verify,
    /// An examination of every byte.
    VerifyDeep,
    /// A restore for proof.
    Drill,
    /// Upkeep of the server's databases.
    Upkeep,
    /// The daily checklist.
    ChecklistDaily,
    /// The weekly checklist.
    ChecklistWeekly,
    /// The monthly checklist.
    ChecklistMonthly,
}

impl Job {
    /// All, in their order.
    pub const ALL: [Job; 11] = [
        Job::Full,
        Job::Incremental,
        Job::Dump,
        Job::Expire,
        Job::Verify,
        Job::VerifyDeep,
        Job::Drill,
        Job::Upkeep,
        Job::ChecklistDaily,
        Job::ChecklistWeekly,
        Job::ChecklistMonthly,
    ];

    /// The word in names, JSON and the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Dump => "dump",
            Self::Expire => "expire",
            Self::Verify => "verify",
            Self::VerifyDeep => "verify_deep",
            Self::Drill => "drill",
            Self::Upkeep => "upkeep",
            Self::ChecklistDaily => "checklist_daily",
            Self::ChecklistWeekly => "checklist_weekly",
            Self::ChecklistMonthly => "checklist_monthly",
        }
    }

    /// Whether it is a checklist: one that fails has found something.
    pub const fn is_checklist(self) -> bool {
        matches!(self, Self::ChecklistDaily | Self::ChecklistWeekly | Self::ChecklistMonthly)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Job {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|job| job.as_str() == text).ok_or(())
    }
}

/// A record's name: when the run began, by the clock of its computer; of which job; how it ended; whose it is.
///
/// The order of names is that of time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RunName {
    /// To the millisecond.
    pub started_at: Timestamp,
    /// Which job.
    pub job: Job,
    /// Whether it succeeded: `ok` in the name, else `failed`.
    pub succeeded: bool,
    writer: WriterId,
}

impl RunName {
    /// The key below the branch.
    pub fn key(&self) -> Key {
        Key::root().child(FOLDER).child(self)
    }

    /// The name in a key below the branch; `None`: it is something else.
    pub(crate) fn of_key(key: &Key) -> Option<Self> {
        key.below(&Key::root().child(FOLDER))?.parse().ok()
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.started_at.strftime("%Y%m%dT%H%M%S%3fZ");
        let outcome = if self.succeeded { "ok" } else { "failed" };
        write!(f, "{time}-{}-{outcome}-{}", self.job, self.writer)
    }
}

/// The text names no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not the name of a run: one such as 20261124T013015123Z-verify-ok-00000000000000a1 is expected"
)]
pub struct RunNameError(String);

impl FromStr for RunName {
    type Err = RunNameError;

    fn from_str(text: &str) -> Result<Self, RunNameError> {
        let parse = || {
            let (time, rest) = text.split_at_checked(TIME_LENGTH)?;
            let (job, rest) = rest.strip_prefix('-')?.split_once('-')?;
            let (outcome, writer) = rest.split_once('-')?;
            let succeeded = match outcome {
                "ok" => true,
                "failed" => false,
                _ => return None,
            };
            Some(Self {
                started_at: parse_time(time)?,
                job: job.parse().ok()?,
                succeeded,
                writer: writer.parse().ok()?,
            })
        };
        parse()
            // One text for each name.
            .filter(|name| name.to_string() == text)
            .ok_or_else(|| RunNameError(text.chars().take(64).collect()))
    }
}

/// What a run did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`RUN_FORMAT`].
    pub format: u32,
    /// Which job.
    pub job: Job,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// The time of the schedule that it was run for.
    pub due_at: Timestamp,
    /// By the clock of the agent's computer.
    pub started_at: Timestamp,
    /// By the same clock.
    pub finished_at: Timestamp,
    /// Name and version of the program.
    pub program: String,
    /// The computer's name.
    pub host: String,
    /// What came of it, or went wrong, in words.
    pub message: Option<String>,
}

impl Branch {
    /// Stores the record of a run, durably.
    pub async fn record_run(&self, run: &Run) -> Result<RunName> {
        let name = RunName {
            started_at: run.started_at,
            job: run.job,
            succeeded: run.succeeded,
            writer: self.writer(),
        };
        let key = name.key();
        let json = serde_json::to_vec(run).map_err(|error| Error::invalid(&key, error))?;
        self.put_sealed(self.header(Kind::Run, &key), json.into()).await?;
        Ok(name)
    }

    /// The names of all recorded runs, oldest first. Objects with other names are passed over.
    pub async fn recorded_runs(&self) -> Result<Vec<RunName>> {
        let listed = self.store().list_folder(&self.key(&Key::root().child(FOLDER))).await?;
        let mut names: Vec<RunName> =
            listed.objects.iter().filter_map(|object| object.key.name().parse().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a record.
    pub async fn recorded_run(&self, name: &RunName) -> Result<Run> {
        let key = name.key();
        let (_, json) = self.get_sealed(Kind::Run, &key, LONGEST).await?;
        serde_json::from_slice(&json).map_err(|error| Error::corrupt(self.key(&key), error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_ordered_by_time_and_say_how_it_ended() {
        let text = "20261124T013015123Z-verify_deep-failed-00000000000000a1";
        let name: RunName = text.parse().unwrap();
        assert_eq!((name.job, name.succeeded, name.to_string().as_str()), (Job::VerifyDeep, false, text));
        assert_eq!(RunName::of_key(&name.key()), Some(name.clone()));
        let later: RunName = "20261124T013015124Z-full-ok-0000000000000000".parse().unwrap();
        assert!(name < later && name.to_string() < later.to_string());
        for text in [
            "",
            "20261124T013015123Z-verify",
            "20261124T013015123Z-verify-ok",
            "20261124T013015123Z-verify-passed-00000000000000a1",
            "20261124T013015123Z-copy-ok-00000000000000a1",
            "20261124T013015Z-full-ok-00000000000000a1",
            "é0261124T013015123Z-full-ok-00000000000000a1",
        ] {
            assert!(text.parse::<RunName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_name_survives_the_round_trip(
            millis in 0i64..4_000_000_000_000, job in 0..Job::ALL.len(), succeeded: bool, writer: u64,
        ) {
            let name = RunName {
                started_at: Timestamp::from_millisecond(millis).unwrap(),
                job: Job::ALL[job],
                succeeded,
                writer: WriterId::from_number(writer),
            };
            prop_assert_eq!(name.to_string().parse::<RunName>().unwrap(), name);
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<RunName>();
        }
    }
}
