//! When a restore was last proven, as `list` and `status` tell it.

use indicatif::HumanDuration;
use jiff::Timestamp;
use proto::Lsn;
use repository::Branch;
use repository::drill::{Proof, ProofName, Verdict};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The newest drill, and the newest that passed: often the same one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastDrills {
    /// The newest, however it ended; `None`: there was none.
    pub last_drill: Option<LastDrill>,
    /// The newest that passed.
    pub last_passed_drill: Option<LastDrill>,
}

/// What is told of a drill. All but the first four keys come from the proof itself, which whoever has no key of an
/// encrypted repository cannot read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastDrill {
    /// The object with the whole proof, below the cluster's branch.
    pub object: String,
    /// How it ended.
    pub verdict: Verdict,
    /// When it began.
    pub started_at: Timestamp,
    /// How long ago that is.
    pub age_seconds: u64,
    /// The backup that was restored.
    pub backup: Option<String>,
    /// Where recovery ended.
    pub reached_lsn: Option<Lsn>,
    /// When the last transaction before that had ended.
    pub reached_time: Option<Timestamp>,
    /// From the first look into the repository until the server was open.
    pub recovery_seconds: Option<f64>,
    /// What went wrong.
    pub failure: Option<String>,
}

impl LastDrills {
    /// Looks into the repository: one listing, and at most two small objects.
    ///
    /// # Errors
    /// The repository cannot be listed. A proof that cannot be read is told by its name alone.
    pub async fn of(branch: &Branch, now: Timestamp) -> repository::Result<Self> {
        let names = branch.proofs().await?;
        let passed = names.iter().rev().find(|name| name.verdict == Verdict::Passed);
        let (last, passed) = (names.last(), passed);
        let last_drill = told(branch, last, now).await;
        let last_passed_drill = match last == passed {
            true => last_drill.clone(),
            false => told(branch, passed, now).await,
        };
        Ok(Self { last_drill, last_passed_drill })
    }

    /// One or two lines for people.
    pub fn lines(&self) -> Vec<String> {
        let Some(last) = &self.last_drill else {
            return vec!["never: prove that it can be restored with `walkeep drill`".to_owned()];
        };
        let mut lines = vec![last.line()];
        match &self.last_passed_drill {
            Some(passed) if passed.object != last.object => lines.push(passed.line()),
            Some(_) => {}
            None => lines.push("none has passed".to_owned()),
        }
        lines
    }
}

async fn told(branch: &Branch, name: Option<&ProofName>, now: Timestamp) -> Option<LastDrill> {
    let name = name?;
    let proof = branch.read_proof(name).await;
    let proof = proof.inspect_err(|error| tracing::debug!("cannot read a proof: {error}")).ok();
    Some(LastDrill::of(name, proof.as_ref(), now))
}

impl LastDrill {
    fn of(name: &ProofName, proof: Option<&Proof>, now: Timestamp) -> Self {
        let reached = proof.and_then(|proof| proof.reached);
        Self {
            object: name.key().to_string(),
            verdict: name.verdict,
            started_at: name.started_at,
            age_seconds: u64::try_from(now.duration_since(name.started_at).as_secs()).unwrap_or(0),
            backup: proof.and_then(|proof| proof.backup.as_ref()).map(|backup| backup.label.to_string()),
            reached_lsn: reached.map(|reached| reached.lsn),
            reached_time: reached.and_then(|reached| reached.time),
            recovery_seconds: proof.and_then(|proof| proof.recovery_seconds),
            failure: proof.and_then(|proof| proof.failure.clone()),
        }
    }

    fn line(&self) -> String {
        let at = self.started_at.strftime("%Y-%m-%d %H:%M:%SZ");
        let age = HumanDuration(Duration::from_secs(self.age_seconds));
        let mut line = format!("{} {at}, {age} ago", self.verdict);
        if let Some(backup) = &self.backup {
            line += &format!(": {backup}");
        }
        if let Some(seconds) = self.recovery_seconds {
            line += &format!(", open after {seconds:.1} s");
        }
        if let Some(failure) = &self.failure {
            line += &format!(": {failure}");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_the_last_and_the_last_that_passed() {
        let drill = |object: &str, verdict, age_seconds| LastDrill {
            object: object.into(),
            verdict,
            started_at: Timestamp::UNIX_EPOCH,
            age_seconds,
            backup: Some("label".into()),
            reached_lsn: None,
            reached_time: None,
            recovery_seconds: (verdict == Verdict::Passed).then_some(12.34),
            failure: (verdict == Verdict::Failed).then(|| "the pack is damaged".into()),
        };
        let (bad, good) = (drill("b", Verdict::Failed, 60), drill("a", Verdict::Passed, 86_400));
        let both = LastDrills { last_drill: Some(bad.clone()), last_passed_drill: Some(good.clone()) };
        assert_eq!(
            both.lines(),
            [
                "failed 1970-01-01 00:00:00Z, 60 seconds ago: label: the pack is damaged",
                "passed 1970-01-01 00:00:00Z, 24 hours ago: label, open after 12.3 s",
            ]
        );
        let one = LastDrills { last_drill: Some(good.clone()), last_passed_drill: Some(good) };
        assert_eq!(one.lines().len(), 1);
        assert_eq!(
            LastDrills { last_drill: Some(bad), last_passed_drill: None }.lines()[1],
            "none has passed"
        );
        assert!(LastDrills::default().lines()[0].starts_with("never"));
    }
}
