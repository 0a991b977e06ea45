//! How long a restore will take: as a drill has measured it, else by an assumption that is named. Pure.

use std::fmt;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};
use repository::drill::{Proof, Verdict};
use serde::Serialize;

use super::target::utc;

/// What is assumed where nothing was measured: bytes of content and of WAL in a second.
const ASSUMED: (f64, f64) = (100e6, 50e6);

/// Shorter phases say more about starting and stopping than about bytes.
const SHORTEST: f64 = 0.5;

/// How long it will take.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Estimate {
    /// Until the server is open.
    pub seconds: f64,
    /// For the content of the backup.
    pub content_seconds: f64,
    /// For WAL: all that there is, unless the target is a position.
    pub wal_seconds: f64,
    /// The drill whose measurements these rates are, by when it was held; `None`: they are an assumption.
    pub measured_at: Option<jiff::Timestamp>,
    /// On which computer.
    pub measured_on: Option<String>,
    /// Bytes of content in a second.
    pub content_rate: f64,
    /// Bytes of WAL in a second; `None`: the drill replayed too little to tell, so this rate is the assumption's.
    pub wal_rate: Option<f64>,
}

impl Estimate {
    /// For so many bytes of content and of WAL, by the newest drill of `proofs` that tells a rate.
    pub fn of(content: u64, wal: u64, proofs: &[Proof]) -> Self {
        let measured = proofs
            .iter()
            .filter(|proof| proof.verdict == Verdict::Passed)
            .filter_map(|proof| Some((proof, content_rate(proof)?)))
            .max_by_key(|(proof, _)| proof.started_at);
        let content_rate = measured.map_or(ASSUMED.0, |(_, rate)| rate);
        let wal_rate = measured.and_then(|(proof, _)| wal_rate(proof));
        let content_seconds = content as f64 / content_rate;
        let wal_seconds = wal as f64 / wal_rate.unwrap_or(ASSUMED.1);
        Self {
            seconds: content_seconds + wal_seconds,
            content_seconds,
            wal_seconds,
            measured_at: measured.map(|(proof, _)| proof.started_at),
            measured_on: measured.map(|(proof, _)| proof.host.clone()),
            content_rate,
            wal_rate,
        }
    }
}

fn content_rate(proof: &Proof) -> Option<f64> {
    let (bytes, seconds) = (proof.backup.as_ref()?.read_bytes, proof.took.restore?);
    (bytes > 0 && seconds >= SHORTEST).then(|| bytes as f64 / seconds)
}

fn wal_rate(proof: &Proof) -> Option<f64> {
    let (bytes, seconds) = (proof.reached?.wal_bytes, proof.took.recovery?);
    // A server's start takes a second by itself.
    (bytes >= 256 << 20 && seconds >= SHORTEST).then(|| bytes as f64 / seconds)
}

/// For people, with where it comes from.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |seconds: f64| HumanDuration(Duration::from_secs_f64(seconds.clamp(1.0, 1e9).ceil()));
        let rate = |bytes: f64| format!("{}/s", HumanBytes(bytes as u64));
        let (content, wal) = (rate(self.content_rate), rate(self.wal_rate.unwrap_or(ASSUMED.1)));
        write!(f, "about {}, at {content} of content and {wal} of WAL", time(self.seconds))?;
        match (&self.measured_at, self.wal_rate) {
            (Some(at), Some(_)) => write!(f, ", as the drill of {} measured", utc(*at))?,
            (Some(at), None) => {
                write!(f, "; the first as the drill of {} measured, the second an assumption", utc(*at))?;
            }
            (None, _) => return f.write_str(", an assumption: no drill has measured it yet"),
        }
        match &self.measured_on {
            Some(host) => write!(f, " on {host}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proto::{Lsn, TimelineId};
    use repository::backup::{BackupKind, BackupLabel};
    use repository::drill::{PROOF_FORMAT, ProofBackup, ProofTarget, Reached, Took};

    use super::*;

    /// A drill that read so many bytes of content in 10 s, and replayed so many of WAL in 20 s.
    fn proof(second: i64, verdict: Verdict, read_bytes: u64, wal_bytes: u64) -> Proof {
        let at = Timestamp::from_second(second).unwrap();
        Proof {
            format: PROOF_FORMAT,
            verdict,
            started_at: at,
            finished_at: at,
            program: "walkeep".into(),
            host: "db1".into(),
            postgres: None,
            target: ProofTarget { kind: "latest".into(), value: None, random: false },
            backup: Some(ProofBackup {
                label: BackupLabel::next(at, BackupKind::Full, None),
                kind: BackupKind::Full,
                server_version: 150_018,
                files: 1,
                size_bytes: read_bytes,
                read_bytes,
            }),
            reached: Some(Reached { timeline: TimelineId::FIRST, lsn: Lsn(1), time: None, wal_bytes }),
            took: Took { plan: None, restore: Some(10.0), recovery: Some(20.0), checks: None },
            recovery_seconds: Some(30.0),
            checks: Vec::new(),
            failure: None,
        }
    }

    #[test]
    fn what_was_measured_last_counts_and_what_was_not_is_called_an_assumption() {
        let none = Estimate::of(1_000_000_000, 500_000_000, &[proof(9, Verdict::Failed, 1, 1)]);
        assert_eq!((none.content_seconds, none.wal_seconds, none.seconds), (10.0, 10.0, 20.0));
        assert!(none.to_string().contains("an assumption: no drill has measured"), "{none}");
        let proofs = [
            proof(2, Verdict::Passed, 2_000_000_000, 2 << 30),
            proof(1, Verdict::Passed, 1, 2 << 30),
            proof(3, Verdict::Failed, 1, 1),
        ];
        let measured = Estimate::of(1_000_000_000, 1 << 30, &proofs);
        assert_eq!((measured.content_seconds, measured.wal_seconds), (5.0, 10.0));
        let text = measured.to_string();
        assert!(text.contains("15 seconds") && text.contains("measured on db1"), "{text}");
        // So little WAL tells no rate.
        let content =
            Estimate::of(1_000_000_000, 500_000_000, &[proof(2, Verdict::Passed, 2_000_000_000, 1 << 20)]);
        assert_eq!((content.content_seconds, content.wal_seconds), (5.0, 10.0));
        assert!(content.to_string().contains("the second an assumption"), "{content}");
    }
}
