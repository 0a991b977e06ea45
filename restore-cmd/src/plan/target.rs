//! The recovery target: the point at which replay shall end.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use proto::Lsn;
use serde::{Serialize, Serializer};

/// Where recovery ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", content = "value", rename_all = "lowercase")]
pub enum RecoveryTarget {
    /// After the last WAL that the repository has.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// After the last commit up to an instant.
    Time(TargetTime),
    /// After the record that begins at, or first behind, a position.
    Lsn(Lsn),
    /// After the commit or abort of a transaction.
    Xid(u32),
    /// After a named restore point.
    Name(TargetName),
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryTarget::Latest => f.write_str("the end of WAL"),
            RecoveryTarget::Immediate => f.write_str("the end of the backup"),
            RecoveryTarget::Time(time) => write!(f, "{time}"),
            RecoveryTarget::Lsn(lsn) => write!(f, "LSN {lsn}"),
            RecoveryTarget::Xid(xid) => write!(f, "transaction {xid}"),
            RecoveryTarget::Name(name) => write!(f, "restore point \"{}\"", name.as_str()),
        }
    }
}

/// An instant, and how the words that named it were understood. Microseconds, as PostgreSQL counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetTime {
    instant: Timestamp,
    understood: String,
}

/// The words name no instant, or more than one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// In none of the forms.
    #[error(
        "\"{0}\" is not a time: one such as \"2026-11-24 01:30:15+00\" or \"2026-11-24T01:30:15.25Z\" is expected"
    )]
    Malformed(String),
    /// The local clocks skip it, or show it twice.
    #[error(
        "\"{text}\" does not name one instant in the time zone {zone}: clocks are changed there; give the offset as well, such as \"{text}+00\""
    )]
    Ambiguous {
        /// What was given.
        text: String,
        /// By whose rules.
        zone: String,
    },
}

impl TargetTime {
    /// Reads RFC 3339 and the like: date, `T` or a space, time, fraction, then `Z`, `UTC`, an offset, or nothing.
    /// Without an offset it is meant in `local`.
    pub fn parse(text: &str, local: &TimeZone) -> Result<Self, TimeError> {
        let malformed = || TimeError::Malformed(text.chars().take(64).collect());
        let words = normalise(text).ok_or_else(malformed)?;
        if let Ok(zoned) = words.parse::<Zoned>() {
            return Ok(Self::new(zoned.timestamp(), format!("{zoned}")));
        }
        if let Ok(instant) = words.parse::<Timestamp>() {
            return Ok(Self::new(instant, "the offset that was given".to_owned()));
        }
        let civil: DateTime = words.parse().map_err(|_| malformed())?;
        let zone = local.iana_name().unwrap_or("of this machine").to_owned();
        let ambiguous = local.to_ambiguous_zoned(civil);
        match ambiguous.unambiguous() {
            Ok(zoned) => {
                let offset = zoned.offset();
                Ok(Self::new(zoned.timestamp(), format!("local time, zone {zone}, offset {offset}")))
            }
            Err(_) => Err(TimeError::Ambiguous { text: text.trim().to_owned(), zone }),
        }
    }

    /// An instant that needs no explanation.
    pub fn at(instant: Timestamp) -> Self {
        Self::new(instant, "UTC".to_owned())
    }

    fn new(instant: Timestamp, understood: String) -> Self {
        let micros = instant.as_microsecond();
        Self { instant: Timestamp::from_microsecond(micros).unwrap_or(instant), understood }
    }

    /// The instant.
    pub fn instant(&self) -> Timestamp {
        self.instant
    }

    /// In whose time zone the words were read.
    pub fn understood(&self) -> &str {
        &self.understood
    }

    /// As PostgreSQL's setting: with its offset, so that no server's time zone can change its meaning.
    pub fn setting(&self) -> String {
        self.instant.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
    }
}

/// A space before the offset goes, and `UTC` or `GMT` becomes `Z`; jiff then reads what PostgreSQL's users write.
fn normalise(text: &str) -> Option<String> {
    let text = text.trim();
    if text.len() > 64 || !text.is_ascii() {
        return None;
    }
    for zone in [" UTC", " GMT", " utc", " Z"] {
        if let Some(front) = text.strip_suffix(zone) {
            return Some(format!("{front}Z"));
        }
    }
    match text.rsplit_once(' ') {
        Some((front, offset)) if offset.starts_with(['+', '-']) => {
            Some(format!("{}{offset}", front.trim_end()))
        }
        _ => Some(text.to_owned()),
    }
}

/// Always in UTC: `2026-11-24 01:30:15.25 UTC`.
impl fmt::Display for TargetTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&utc(self.instant))
    }
}

impl Serialize for TargetTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.instant)
    }
}

/// How times are shown to people: UTC, and saying so.
pub(crate) fn utc(instant: Timestamp) -> String {
    let text = instant.strftime("%Y-%m-%d %H:%M:%S%.f").to_string();
    format!("{} UTC", text.trim_end_matches('.'))
}

/// The name of a restore point made by `pg_create_restore_point`: 1 to 63 bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct TargetName(String);

/// The text cannot name a restore point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a restore point's name has 1 to 63 bytes and no control characters")]
pub struct TargetNameError;

impl TargetName {
    /// Checks the name as the server would.
    pub fn new(name: &str) -> Result<Self, TargetNameError> {
        let valid = (1..=63).contains(&name.len()) && !name.chars().any(char::is_control);
        valid.then(|| Self(name.to_owned())).ok_or(TargetNameError)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn berlin() -> TimeZone {
        // By its rule, since a machine need not have a time zone database.
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn setting(text: &str) -> String {
        TargetTime::parse(text, &berlin()).unwrap().setting()
    }

    #[test]
    fn an_offset_is_taken_as_given() {
        for text in [
            "2026-11-24 01:30:15+00",
            "2026-11-24 01:30:15 +00",
            "2026-11-24 01:30:15 UTC",
            "2026-11-24T01:30:15Z",
            "2026-11-24T02:30:15+01:00",
            "2026-11-24 02:30:15+0100",
            "2026-11-23 20:30:15-05",
            "  2026-11-24 01:30:15.000000+00 ",
        ] {
            assert_eq!(setting(text), "2026-11-24 01:30:15.000000+00", "{text}");
        }
    }

    #[test]
    fn without_an_offset_it_is_local_time_and_says_so() {
        let time = TargetTime::parse("2026-07-01 12:00:00.25", &berlin()).unwrap();
        assert_eq!(time.setting(), "2026-07-01 10:00:00.250000+00");
        assert_eq!(time.to_string(), "2026-07-01 10:00:00.25 UTC");
        assert_eq!(time.understood(), "local time, zone of this machine, offset +02");
        assert_eq!(setting("2026-07-01"), "2026-06-30 22:00:00.000000+00");
        assert_eq!(setting("2026-07-01 12:00"), "2026-07-01 10:00:00.000000+00");
    }

    #[test]
    fn an_hour_that_comes_twice_or_never_needs_an_offset() {
        for text in ["2026-10-25 02:30:00", "2026-03-29 02:30:00"] {
            let error = TargetTime::parse(text, &berlin()).unwrap_err();
            assert!(matches!(error, TimeError::Ambiguous { .. }), "{text}");
        }
        assert_eq!(setting("2026-10-25 02:30:00+01"), "2026-10-25 01:30:00.000000+00");
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in ["", "now", "yesterday", "2026-13-01", "2026-11-24 25:00:00", "12:00", "1795483815", "é"]
        {
            assert!(TargetTime::parse(text, &berlin()).is_err(), "{text}");
        }
    }

    #[test]
    fn restore_points_have_the_servers_limits() {
        assert!(TargetName::new("before the migration").is_ok());
        for name in ["", "a\nb", &"x".repeat(64)] {
            assert!(TargetName::new(name).is_err());
        }
    }

    proptest! {
        #[test]
        fn the_setting_names_the_same_instant(micros in 0i64..4_000_000_000_000_000) {
            let time = TargetTime::at(Timestamp::from_microsecond(micros).unwrap());
            let again = TargetTime::parse(&time.setting(), &berlin()).unwrap();
            prop_assert_eq!(again.instant(), time.instant());
            prop_assert_eq!(TargetTime::parse(&time.to_string(), &berlin()).unwrap().instant(), time.instant());
        }

        #[test]
        fn never_panics(text: String) {
            let _ = TargetTime::parse(&text, &berlin());
        }
    }
}
