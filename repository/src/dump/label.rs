//! The name of a logical backup.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::backup::label::{LAST_SECOND, TIME_FORMAT, TIME_LENGTH, parse_time};

/// What stands between the time and the random part: so nobody takes it for a base backup's label.
const KIND: &str = "-dump-";

/// A dump's label: when it began (UTC), `dump`, six random digits, as in `20261124T013015Z-dump-1a2b3c`.
///
/// Labels of one cluster are ordered by time, and their order as text is the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DumpLabel(String);

/// The text is no dump's label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the label of a dump: one such as 20261124T013015Z-dump-1a2b3c is expected")]
pub struct DumpLabelError(String);

impl DumpLabel {
    /// A label for a dump that begins now. It is later than `last` even if the clock stands or runs back.
    pub fn next(now: Timestamp, last: Option<&DumpLabel>) -> Self {
        let earliest = last.map_or(0, |last| last.started().as_second().saturating_add(1));
        let second = now.as_second().max(earliest).clamp(0, LAST_SECOND);
        let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
        Self(format!("{}{KIND}{:06x}", time.strftime(TIME_FORMAT), rand::random::<u32>() & 0x00FF_FFFF))
    }

    /// The second in which the dump began, by the clock of the computer that took it.
    pub fn started(&self) -> Timestamp {
        parse_time(&self.0[..TIME_LENGTH]).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DumpLabel {
    type Err = DumpLabelError;

    fn from_str(text: &str) -> Result<Self, DumpLabelError> {
        let valid = || -> Option<bool> {
            parse_time(text.get(..TIME_LENGTH)?)?;
            let random = text.get(TIME_LENGTH..)?.strip_prefix(KIND)?;
            Some(random.len() == 6 && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        };
        match valid() {
            Some(true) => Ok(Self(text.to_owned())),
            _ => Err(DumpLabelError(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for DumpLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DumpLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DumpLabel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DumpLabel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backup::BackupLabel;

    #[test]
    fn labels_are_in_order_and_none_is_a_base_backup_s() {
        let first = DumpLabel::next(Timestamp::from_second(1_795_483_815).unwrap(), None);
        assert!(first.as_str().starts_with("20261124T013015Z-dump-"), "{first}");
        let next = DumpLabel::next(Timestamp::UNIX_EPOCH, Some(&first));
        assert!(first < next && first.as_str() < next.as_str());
        assert_eq!(next.started().as_second(), 1_795_483_816);
        assert!(first.as_str().parse::<BackupLabel>().is_err());
    }

    #[test]
    fn refuses_what_is_no_label() {
        for text in [
            "",
            "latest",
            "20261124T013015Z-full-1a2b3c",
            "20261124T013015Z-dump-1A2B3C",
            "20261124T013015Z-dump-1a2b3c0",
            "20261324T013015Z-dump-1a2b3c",
            "../61124T013015Z-dump-1a2b3c",
            "é0261124T013015Z-dump-1a2b3c",
        ] {
            assert!(text.parse::<DumpLabel>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "20[0-9]{6}T[0-9]{6}Z-dump-[0-9a-f]{6}|\\PC*") {
            if let Ok(label) = text.parse::<DumpLabel>() {
                prop_assert_eq!(label.to_string(), text);
            }
        }
    }
}
