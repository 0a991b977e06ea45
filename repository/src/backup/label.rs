//! The name of a base backup.

use std::fmt;
use std::str::FromStr;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a backup took from the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// Everything; it shares no pack with an earlier backup.
    Full,
    /// What changed since its parent. Its manifest is complete all the same.
    Incremental,
}

impl BackupKind {
    /// The word that labels and JSON use.
    pub const fn as_str(self) -> &'static str {
        match self {
            BackupKind::Full => "full",
            BackupKind::Incremental => "incremental",
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BackupKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "full" => Ok(BackupKind::Full),
            "incremental" => Ok(BackupKind::Incremental),
            _ => Err(()),
        }
    }
}

/// A backup's label: when it began (UTC), its kind, six random digits, as in `20261124T013015Z-full-1a2b3c`.
///
/// Labels of one cluster are ordered by time, and their order as text is the same. The random part keeps two
/// backups apart that were begun in the same second by agents that did not know of each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupLabel(String);

/// The text is no backup label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a backup label: one such as 20261124T013015Z-full-1a2b3c is expected")]
pub struct LabelError(String);

/// How the time is written: 16 characters.
pub(crate) const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";
pub(crate) const TIME_LENGTH: usize = 16;

/// The last second that four digits of a year can tell.
pub(crate) const LAST_SECOND: i64 = 253_402_300_799;

impl BackupLabel {
    /// A label for a backup that begins now. It is later than `last` even if the clock stands or runs back.
    pub fn next(now: Timestamp, kind: BackupKind, last: Option<&BackupLabel>) -> Self {
        Self::compose(now, kind, last, rand::random())
    }

    fn compose(now: Timestamp, kind: BackupKind, last: Option<&BackupLabel>, random: u32) -> Self {
        let earliest = last.map_or(0, |last| last.started().as_second().saturating_add(1));
        let second = now.as_second().max(earliest).clamp(0, LAST_SECOND);
        let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
        Self(format!("{}-{kind}-{:06x}", time.strftime(TIME_FORMAT), random & 0x00FF_FFFF))
    }

    /// The second in which the backup began, by the agent's clock; later than the clock where labels had to
    /// be kept in order.
    pub fn started(&self) -> Timestamp {
        parse_time(&self.0[..TIME_LENGTH]).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Full or incremental.
    pub fn kind(&self) -> BackupKind {
        if self.0[TIME_LENGTH..].starts_with("-full-") { BackupKind::Full } else { BackupKind::Incremental }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads exactly what [`TIME_FORMAT`] writes.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    if text.len() != TIME_LENGTH || text.get(8..9)? != "T" || text.get(15..16)? != "Z" {
        return None;
    }
    let (month, day) = (number(4, 6)? as i8, number(6, 8)? as i8);
    let date = jiff::civil::Date::new(number(0, 4)? as i16, month, day).ok()?;
    let midnight = date.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    midnight.checked_add((hour * 3600 + minute * 60 + second).seconds()).ok()
}

impl FromStr for BackupLabel {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let valid = || -> Option<()> {
            parse_time(text.get(..TIME_LENGTH)?)?;
            let (kind, random) = text.get(TIME_LENGTH..)?.strip_prefix('-')?.split_once('-')?;
            kind.parse::<BackupKind>().ok()?;
            let hex = random.len() == 6 && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            hex.then_some(())
        };
        valid().map(|()| Self(text.to_owned())).ok_or_else(|| LabelError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for BackupLabel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BackupLabel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn tells_time_and_kind() {
        let label = BackupLabel::compose(at(1_795_483_815), BackupKind::Full, None, 0xFF1A_2B3C);
        assert_eq!(label.as_str(), "20261124T013015Z-full-1a2b3c");
        assert_eq!((label.started(), label.kind()), (at(1_795_483_815), BackupKind::Full));
        let label = BackupLabel::next(at(0), BackupKind::Incremental, None);
        assert_eq!((label.started(), label.kind()), (at(0), BackupKind::Incremental));
    }

    #[test]
    fn refuses_what_is_no_label() {
        for text in [
            "",
            "latest",
            "20261124T013015Z-full",
            "20261124T013015Z-full-1A2B3C",
            "20261124T013015Z-full-1a2b3c0",
            "20261124T013015Z-partial-1a2b3c",
            "20261324T013015Z-full-1a2b3c",
            "20261124T243015Z-full-1a2b3c",
            "20261124 013015Z-full-1a2b3c",
            "../61124T013015Z-full-1a2b3c",
            "é0261124T013015Z-full-1a2b3c",
        ] {
            assert!(text.parse::<BackupLabel>().is_err(), "{text:?}");
        }
    }

    proptest! {
        /// Unique and ordered even if the clock stops or runs back.
        #[test]
        fn never_goes_back(clock in proptest::collection::vec(0i64..LAST_SECOND - 1000, 2..20), kinds: u64) {
            let mut last: Option<BackupLabel> = None;
            for (step, second) in clock.into_iter().enumerate() {
                let kind = if kinds >> step & 1 == 0 { BackupKind::Full } else { BackupKind::Incremental };
                let label = BackupLabel::next(at(second), kind, last.as_ref());
                prop_assert_eq!(label.as_str().parse(), Ok(label.clone()));
                prop_assert!(last.as_ref().is_none_or(|last| *last < label && last.as_str() < label.as_str()));
                prop_assert!(label.started() >= at(second));
                last = Some(label);
            }
        }

        #[test]
        fn never_panics(text: String) {
            let _ = text.parse::<BackupLabel>();
        }

        #[test]
        fn what_is_read_is_written_the_same(text in "20[0-9]{6}T[0-9]{6}Z-(full|incremental)-[0-9a-f]{6}") {
            if let Ok(label) = text.parse::<BackupLabel>() {
                prop_assert_eq!(label.to_string(), text);
            }
        }
    }
}
