//! Paths of a backup's files, and how text carries bytes of any kind.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest path in bytes: Linux' `PATH_MAX`, less the final zero.
const MAX_PATH: usize = 4095;

/// Longest part of a path in bytes: `NAME_MAX`.
const MAX_PART: usize = 255;

/// Percent-encodes bytes: letters, digits and `/._-+=@:,` stand for themselves, all others become `%XX` with
/// upper-case digits. The result has no white space, no quotes and nothing that a shell or awk would
/// interpret.
pub fn escape(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if is_plain(byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Reads what [`escape`] writes and nothing else, so that equal bytes always have equal text.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let value = nibble(rest.next()?)? << 4 | nibble(rest.next()?)?;
            bytes.push((!is_plain(value)).then_some(value)?);
        } else {
            bytes.push(is_plain(byte).then_some(byte)?);
        }
    }
    Some(bytes)
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'/' | b'.' | b'_' | b'-' | b'+' | b'=' | b'@' | b':' | b',')
}

/// Bytes in no known encoding, written [`escape`]d: where a tablespace lies, where a configuration file came
/// from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawBytes(pub Vec<u8>);

impl RawBytes {
    /// As a path of the operating system's.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl fmt::Debug for RawBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl Serialize for RawBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for RawBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        unescape(&text)
            .map(RawBytes)
            .ok_or_else(|| serde::de::Error::custom("not percent-encoded as it should be"))
    }
}

/// A path that stays below the directory it is joined to: relative, of raw bytes, without `.`, `..`, empty
/// parts and NUL.
///
/// It says nothing about links that lie on the way: whoever writes files must not follow them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafePath(Vec<u8>);

/// The bytes are no path that may be written below a data directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{path}\" is not a path below the data directory: {why}")]
pub struct PathError {
    path: String,
    why: &'static str,
}

impl SafePath {
    /// Checks `bytes`. A single trailing slash (tar writes it behind directories) is the caller's to remove.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        match fault(&bytes) {
            None => Ok(Self(bytes)),
            Some(why) => Err(PathError { path: escape(&bytes[..bytes.len().min(200)]), why }),
        }
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path, relative.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Its parts, outermost first; at least one.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/')
    }

    /// The path without its last part; `None` if it has only one.
    pub fn parent(&self) -> Option<SafePath> {
        let slash = self.0.iter().rposition(|&byte| byte == b'/')?;
        Some(Self(self.0[..slash].to_vec()))
    }

    /// `below`, put under this path.
    pub fn join(&self, below: &SafePath) -> Result<SafePath, PathError> {
        Self::new([self.as_bytes(), b"/", below.as_bytes()].concat())
    }

    /// Whether this path lies under the folder `ancestor`.
    pub fn is_below(&self, ancestor: &SafePath) -> bool {
        self.0.strip_prefix(ancestor.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

fn fault(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("it is empty");
    }
    if bytes.len() > MAX_PATH {
        return Some("it is longer than 4,095 bytes");
    }
    if bytes.contains(&0) {
        return Some("it contains a zero byte");
    }
    if bytes[0] == b'/' {
        return Some("it is absolute");
    }
    bytes.split(|&byte| byte == b'/').find_map(|part| match part {
        b"" => Some("it has an empty part"),
        b"." | b".." => Some("it has a part that is . or .."),
        _ if part.len() > MAX_PART => Some("it has a part of more than 255 bytes"),
        _ => None,
    })
}

impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape(&self.0))
    }
}

impl fmt::Debug for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads the percent-encoded form that [`SafePath`] displays.
impl FromStr for SafePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let broken = || PathError {
            path: text.chars().take(200).collect(),
            why: "it is not percent-encoded as it should be",
        };
        Self::new(unescape(text).ok_or_else(broken)?)
    }
}

impl Serialize for SafePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SafePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_leads_out_of_the_directory() {
        for path in
            ["", "/", "/etc/passwd", ".", "..", "a/..", "a/../b", "./a", "a/.", "a//b", "a/", "//", "a\0b"]
        {
            assert!(SafePath::new(path).is_err(), "{path:?}");
        }
        assert!(SafePath::new("x".repeat(256)).is_err());
        assert!(SafePath::new("x/".repeat(2048) + "x").is_err());
    }

    #[test]
    fn takes_odd_names() {
        for path in ["...", "..a", "a b", "-rf", "a\\b", "~", "%2e%2e", "\n", "a\tb/c"] {
            let safe = SafePath::new(path).unwrap();
            assert_eq!(safe.to_string().parse(), Ok(safe.clone()), "{path:?}");
            assert!(!safe.to_string().contains(['\n', '\t', ' ', '\\']), "{path:?}");
        }
        assert_eq!(SafePath::new("pg\tdata/é%").unwrap().to_string(), "pg%09data/%C3%A9%25");
    }

    #[test]
    fn encoded_dots_and_slashes_are_no_way_around() {
        for text in ["%2E%2E/a", "%2e%2e/a", "a%2Fb", "%41", "%", "%4", "%ZZ", "é"] {
            assert!(text.parse::<SafePath>().is_err(), "{text}");
        }
    }

    #[test]
    fn parents_and_children() {
        let path = SafePath::new("base/5/1259").unwrap();
        assert_eq!(path.parent(), Some(SafePath::new("base/5").unwrap()));
        assert!(path.is_below(&SafePath::new("base").unwrap()));
        assert!(!path.is_below(&SafePath::new("bas").unwrap()) && !path.is_below(&path));
        assert_eq!(SafePath::new("base").unwrap().join(&SafePath::new("5/1259").unwrap()), Ok(path));
    }

    proptest! {
        #[test]
        fn any_bytes_survive_escaping(bytes: Vec<u8>) {
            let text = escape(&bytes);
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(unescape(&text), Some(bytes));
        }

        #[test]
        fn text_has_one_form(text in "[a-zA-Z0-9%./ ]{0,12}") {
            if let Some(bytes) = unescape(&text) {
                prop_assert_eq!(escape(&bytes), text);
            }
        }

        #[test]
        fn a_safe_path_stays_below(
            bytes in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..12),
        ) {
            if let Ok(path) = SafePath::new(bytes.clone()) {
                prop_assert!(path.as_path().components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(path.as_bytes(), bytes);
            }
        }
    }
}
