//! The names of objects.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// An object's key, relative to the repository's root: parts with `/` between them.
///
/// A part has 1 to 255 characters out of ASCII letters, digits and `- _ . + = @ , : ( )`, and is neither `.`
/// nor `..`. So a key is the same on every store, and no key leads out of the repository. The empty key is
/// the root itself: it can be listed and has children, but is no object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key(String);

/// What `=` stands for is escaped, so it may not come from outside itself.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.+@,:()".contains(&byte)
}

impl Key {
    /// The repository's root.
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// Checks a whole key.
    pub fn new(text: &str) -> Result<Self> {
        let valid = |part: &str| {
            (1..=255).contains(&part.len())
                && part.bytes().all(|byte| is_plain(byte) || byte == b'=')
                && part != "."
                && part != ".."
        };
        if text.is_empty() || text.split('/').all(valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(format_args!("{text:?}"), "this cannot be an object's key"))
        }
    }

    /// The key of `part` below this one.
    ///
    /// Total: a character that no key may have is written as `=` and two hexadecimal digits, so that nothing
    /// that is put in can change the structure.
    pub fn child(&self, part: impl fmt::Display) -> Self {
        let mut key = self.0.clone();
        if !key.is_empty() {
            key.push('/');
        }
        let part = part.to_string();
        let dots = part.is_empty() || part == "." || part == "..";
        if part.is_empty() {
            key.push('=');
        }
        for byte in part.bytes() {
            if is_plain(byte) && !dots {
                key.push(byte.into());
            } else {
                // Writing to a string cannot fail.
                let _ = write!(key, "={byte:02X}");
            }
        }
        Self(key)
    }

    /// Everything of `below` under this key.
    pub fn join(&self, below: &Key) -> Self {
        match (self.is_root(), below.is_root()) {
            (true, _) => below.clone(),
            (_, true) => self.clone(),
            _ => Self(format!("{}/{}", self.0, below.0)),
        }
    }

    /// Whether this is the repository's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last part; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// What it lies in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        (!self.is_root()).then(|| Self(self.0.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned()))
    }

    /// The rest of this key below `folder`; `None` if it does not lie in there.
    pub fn below<'a>(&'a self, folder: &Key) -> Option<&'a str> {
        match folder.is_root() {
            true => Some(&self.0),
            false => self.0.strip_prefix(&folder.0)?.strip_prefix('/'),
        }
    }

    /// The parts, from the root down.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Key::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_no_key() {
        for text in ["/", "a/", "/a", "a//b", "a/../b", ".", "a b", "a#1", "a%2F", "ä", "a\0", "a\\b"] {
            assert!(Key::new(text).is_err(), "{text:?}");
        }
        assert!(Key::new("main/7/wal/0=(1),2@x+y:z._-").is_ok());
    }

    #[test]
    fn lies_below_a_folder_only_at_a_part_s_end() {
        let key = Key::new("a/bc/d").unwrap();
        assert_eq!(key.below(&Key::new("a/bc").unwrap()), Some("d"));
        assert_eq!(key.below(&Key::new("a/b").unwrap()), None);
        assert_eq!(key.below(&Key::root()), Some("a/bc/d"));
        assert_eq!(key.below(&key), None);
        assert_eq!((key.name(), key.parent()), ("d", Some(Key::new("a/bc").unwrap())));
    }

    proptest! {
        #[test]
        fn no_part_changes_the_structure(part: String, other: String) {
            let folder = Key::new("folder").unwrap();
            let child = folder.child(&part);
            prop_assume!(child.name().len() <= 255);
            prop_assert_eq!(Key::new(child.as_str()).unwrap(), child.clone());
            prop_assert_eq!(child.parent(), Some(folder.clone()));
            prop_assert_eq!(part == other, child == folder.child(&other));
        }
    }
}
