//! Proofs of restores: `drill/<time>-<verdict>-<writer>`, one object for each drill, whether it passed or failed.
//!
//! A proof holds nothing of the database's content, so that whoever may plan a restore may read it. It is never changed and
//! never deleted by `expire`: when a restore was last proven must stay known.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proto::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::backup::{BackupKind, BackupLabel};
use crate::{Branch, Error, Key, Kind, Result, WriterId};

/// Under which proofs lie.
const FOLDER: &str = "drill";

/// The version of a proof's form. Keys that a reader does not know are ignored.
pub const PROOF_FORMAT: u32 = 1;

/// No proof is longer.
const LONGEST: u64 = 4 << 20;

/// How the time is written: `20261124T013015123Z`.
pub(crate) const TIME_LENGTH: usize = 19;

/// How a drill ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The server came up at the target, and every check passed.
    Passed,
    /// It did not, or one did not.
    Failed,
}

impl Verdict {
    /// The word in names and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A proof's name: when the drill began, by the clock of the computer that held it; how it ended; whose it is.
///
/// The order of names is that of time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProofName {
    /// To the millisecond.
    pub started_at: Timestamp,
    /// So that nothing needs to be read to know when a restore was last proven.
    pub verdict: Verdict,
    writer: WriterId,
}

impl ProofName {
    /// The key below the branch.
    pub fn key(&self) -> Key {
        Key::root().child(FOLDER).child(self)
    }
}

impl fmt::Display for ProofName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.started_at.strftime("%Y%m%dT%H%M%S%3fZ");
        write!(f, "{time}-{}-{}", self.verdict, self.writer)
    }
}

/// The text names no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not the name of a proof: one such as 20261124T013015123Z-passed-00000000000000a1 is expected"
)]
pub struct ProofNameError(String);

impl FromStr for ProofName {
    type Err = ProofNameError;

    fn from_str(text: &str) -> Result<Self, ProofNameError> {
        let parse = || {
            let (time, rest) = text.split_at_checked(TIME_LENGTH)?;
            let (verdict, writer) = rest.strip_prefix('-')?.split_once('-')?;
            let verdict = match verdict {
                "passed" => Verdict::Passed,
                "failed" => Verdict::Failed,
                _ => return None,
            };
            Some(Self { started_at: parse_time(time)?, verdict, writer: writer.parse().ok()? })
        };
        parse()
            // One text for each name.
            .filter(|name| name.to_string() == text)
            .ok_or_else(|| ProofNameError(text.chars().take(64).collect()))
    }
}

/// The time in a name, to the millisecond: `20261124T013015123Z`.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let (seconds, millis) = text.strip_suffix('Z')?.split_at_checked(15)?;
    let seconds = DateTime::strptime("%Y%m%dT%H%M%S", seconds).ok()?.to_zoned(TimeZone::UTC).ok()?;
    let millis: i64 = millis.parse().ok()?;
    Timestamp::from_millisecond(seconds.timestamp().as_millisecond().checked_add(millis)?).ok()
}

/// What a drill did and found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// [`PROOF_FORMAT`].
    pub format: u32,
    /// How it ended.
    pub verdict: Verdict,
    /// By the clock of the computer that held it.
    pub started_at: Timestamp,
    /// By the same clock: after the checks, before the scratch directory was removed.
    pub finished_at: Timestamp,
    /// Name and version of the program.
    pub program: String,
    /// The computer's name.
    pub host: String,
    /// The version of the PostgreSQL that was started, as it names itself. `None`: it did not come to that.
    pub postgres: Option<String>,
    /// What was asked for.
    pub target: ProofTarget,
    /// What was restored. `None`: no backup was found for the target.
    pub backup: Option<ProofBackup>,
    /// Where the server stood when it opened. `None`: it never did.
    pub reached: Option<Reached>,
    /// How long each phase took, in seconds.
    pub took: Took,
    /// From the first look into the repository until the server was open for writing, in seconds: the measured time of
    /// recovery. `None`: it never was.
    pub recovery_seconds: Option<f64>,
    /// Each check, in the order in which they were done.
    pub checks: Vec<Check>,
    /// What went wrong, in words; `None` if nothing did.
    pub failure: Option<String>,
}

/// The target of a drill.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProofTarget {
    /// `latest`, `immediate`, `time`, `lsn`, `xid` or `name`.
    pub kind: String,
    /// Its value; a time in RFC 3339.
    pub value: Option<String>,
    /// Whether the drill chose the moment by chance.
    pub random: bool,
}

/// The restored backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProofBackup {
    /// Its label.
    pub label: BackupLabel,
    /// Its kind.
    pub kind: BackupKind,
    /// As `server_version_num`.
    pub server_version: u32,
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Raw bytes that were read out of packs.
    pub read_bytes: u64,
}

/// Where recovery ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reached {
    /// The timeline whose WAL was replayed.
    pub timeline: TimelineId,
    /// The end of what was replayed.
    pub lsn: Lsn,
    /// When the last transaction ended that was replayed, by the lost server's clock; `None` if none was.
    pub time: Option<Timestamp>,
    /// Bytes of WAL between the backup's beginning and there.
    pub wal_bytes: u64,
}

/// Seconds that each phase took; `None` for one that was not begun, or not ended.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Took {
    /// Choosing the backup and looking whether WAL is there.
    pub plan: Option<f64>,
    /// Writing the backup's files, durably.
    pub restore: Option<f64>,
    /// Replaying WAL until the server opened.
    pub recovery: Option<f64>,
    /// All checks.
    pub checks: Option<f64>,
}

/// One check of the open server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Check {
    /// `relations`, `amcheck` or `sql`.
    pub name: String,
    /// Whether it passed. `None`: it could not be done here, and `summary` says why.
    pub passed: Option<bool>,
    /// What was looked at, in words.
    pub summary: String,
    /// What was found wrong: the first of them.
    pub problems: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Branch {
    /// Stores a proof, durably.
    pub async fn put_proof(&self, proof: &Proof) -> Result<ProofName> {
        let name = ProofName { started_at: proof.started_at, verdict: proof.verdict, writer: self.writer() };
        let key = name.key();
        let json = serde_json::to_vec(proof).map_err(|error| Error::invalid(&key, error))?;
        self.put_sealed(self.header(Kind::Drill, &key), json.into()).await?;
        Ok(name)
    }

    /// The names of all proofs, oldest first. Objects with other names are passed over.
    pub async fn proofs(&self) -> Result<Vec<ProofName>> {
        let listed = self.store().list_folder(&self.key(&Key::root().child(FOLDER))).await?;
        let mut names: Vec<ProofName> =
            listed.objects.iter().filter_map(|object| object.key.name().parse().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a proof.
    pub async fn read_proof(&self, name: &ProofName) -> Result<Proof> {
        let key = name.key();
        let (_, json) = self.get_sealed(Kind::Drill, &key, LONGEST).await?;
        serde_json::from_slice(&json).map_err(|error| Error::corrupt(self.key(&key), error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_ordered_by_time_and_say_how_it_ended() {
        let text = "20261124T013015123Z-passed-00000000000000a1";
        let name: ProofName = text.parse().unwrap();
        assert_eq!((name.verdict, name.to_string().as_str()), (Verdict::Passed, text));
        assert_eq!(name.started_at, "2026-11-24T01:30:15.123Z".parse().unwrap());
        let later: ProofName = "20261124T013015124Z-failed-0000000000000000".parse().unwrap();
        assert!(name < later && name.to_string() < later.to_string());
        for text in [
            "",
            "20261124T013015123Z",
            "20261124T013015123Z-maybe-00000000000000a1",
            "20261124T013015Z-passed-00000000000000a1",
            "20261324T013015123Z-passed-00000000000000a1",
            "20261124T013015123Z-passed-00000000000000A1",
            "20261124T013015+23Z-passed-00000000000000a1",
            "é0261124T013015123Z-passed-00000000000000a1",
        ] {
            assert!(text.parse::<ProofName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_name_survives_the_round_trip(millis in 0i64..4_000_000_000_000, passed: bool, writer: u64) {
            let name = ProofName {
                started_at: Timestamp::from_millisecond(millis).unwrap(),
                verdict: if passed { Verdict::Passed } else { Verdict::Failed },
                writer: WriterId::from_number(writer),
            };
            prop_assert_eq!(name.to_string().parse::<ProofName>().unwrap(), name);
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<ProofName>();
        }
    }
}
