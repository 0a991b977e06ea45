//! Names that users choose and that end up in keys and commands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::DEFAULT_CLUSTER;

/// The user's name for one PostgreSQL cluster: a part of every key of the repository.
///
/// ASCII letters, digits, `-`, `_`, `.`; 1 to 63 of them; the first is not a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

/// The text cannot name a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" cannot name a cluster: 1 to 63 letters, digits, '-', '_' and '.', not beginning with '.'")]
pub struct ClusterNameError(String);

/// A replication slot's name by PostgreSQL's rule: 1 to 63 of `a`–`z`, `0`–`9` and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

/// The text cannot name a slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" cannot name a replication slot: 1 to 63 lower-case letters, digits and '_' are allowed")]
pub struct SlotNameError(String);

/// At most this much of a wrong name is repeated in a message.
const SHOWN: usize = 80;

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(text: &str) -> Result<Self, ClusterNameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let valid = (1..=63).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed);
        if valid { Ok(Self(text.to_owned())) } else { Err(ClusterNameError(shortened(text))) }
    }
}

impl FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(text: &str) -> Result<Self, SlotNameError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let valid = (1..=63).contains(&text.len()) && text.bytes().all(allowed);
        if valid { Ok(Self(text.to_owned())) } else { Err(SlotNameError(shortened(text))) }
    }
}

impl Default for ClusterName {
    /// `main`
    fn default() -> Self {
        Self(DEFAULT_CLUSTER.to_owned())
    }
}

impl Default for SlotName {
    /// `walkeep`
    fn default() -> Self {
        Self("walkeep".to_owned())
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The plain text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_type!(ClusterName);
text_type!(SlotName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_fits_into_a_key() {
        for name in ["main", "a", "Prod-1.eu_west", &"x".repeat(63)] {
            assert_eq!(name.parse::<ClusterName>().unwrap().as_str(), name);
        }
        for name in ["", ".", "..", ".a", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(name.parse::<ClusterName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_slot_name_is_what_postgresql_takes() {
        for name in ["walkeep", "_", "0", &"x".repeat(63)] {
            assert_eq!(name.parse::<SlotName>().unwrap().as_str(), name);
        }
        for name in ["", "A", "a-b", "a b", "a'b", &"x".repeat(64)] {
            assert!(name.parse::<SlotName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_wrong_name_is_not_repeated_at_length() {
        let error = "/".repeat(10_000).parse::<ClusterName>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }
}
