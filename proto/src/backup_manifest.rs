//! `backup_manifest`, versions 1 (PostgreSQL 13–16) and 2 (17 and later).
//!
//! JSON, one file a line, closed by a SHA-256 over every byte before the line that holds it. What is written here
//! is byte for byte what a server writes for the same files.

mod write;

use std::borrow::Cow;

use serde::Deserialize;

pub use write::BackupManifestWriter;

use crate::checksum::sha256;
use crate::{Lsn, SystemId, TimelineId};

/// The algorithms of `MANIFEST_CHECKSUMS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32C.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A file's checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it was computed.
    pub algorithm: ChecksumAlgorithm,
    /// The bytes in the order of the manifest's text. See [`Checksum::crc32c`].
    pub bytes: Vec<u8>,
}

impl Checksum {
    /// From a CRC-32C: the manifest has it in the order of a little-endian host's memory.
    pub fn from_crc32c(value: u32) -> Self {
        Self { algorithm: ChecksumAlgorithm::Crc32c, bytes: value.to_le_bytes().to_vec() }
    }

    /// As the number, if it is a CRC-32C.
    pub fn crc32c(&self) -> Option<u32> {
        let bytes: [u8; 4] = self.bytes.as_slice().try_into().ok()?;
        (self.algorithm == ChecksumAlgorithm::Crc32c).then(|| u32::from_le_bytes(bytes))
    }
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the data directory; raw bytes in no set encoding.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970-01-01 UTC.
    pub last_modified: i64,
    /// `None` where the server was told `NONE`.
    pub checksum: Option<Checksum>,
}

/// WAL that the backup needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// On this timeline.
    pub timeline: TimelineId,
    /// From here.
    pub start: Lsn,
    /// Up to here.
    pub end: Lsn,
}

/// A whole manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupManifest {
    /// 1 or 2.
    pub version: u8,
    /// Since version 2.
    pub system_id: Option<SystemId>,
    /// In the server's order.
    pub files: Vec<FileEntry>,
    /// Newest timeline first.
    pub wal_ranges: Vec<WalRange>,
}

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON that a server writes.
    #[error("the backup manifest is malformed: {0}")]
    Malformed(String),
    /// Neither 1 nor 2.
    #[error("backup manifest version {0} is not known")]
    Version(u64),
    /// Cut off or changed.
    #[error("the backup manifest is damaged: its own checksum does not fit its content")]
    Checksum,
}

/// The manifest's JSON. Names that are not here are refused, as PostgreSQL refuses them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u64,
    #[serde(rename = "System-Identifier")]
    system_id: Option<u64>,
    #[serde(rename = "Files", borrow)]
    files: Vec<FileLine<'a>>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RangeLine>,
    #[serde(rename = "Manifest-Checksum", borrow)]
    checksum: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct FileLine<'a> {
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(rename = "Encoded-Path", borrow)]
    encoded_path: Option<Cow<'a, str>>,
    size: u64,
    #[serde(rename = "Last-Modified", borrow)]
    last_modified: Cow<'a, str>,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    algorithm: Option<Cow<'a, str>>,
    #[serde(borrow)]
    checksum: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeLine {
    #[serde(rename = "Timeline")]
    timeline: TimelineId,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl BackupManifest {
    /// Reads a manifest and verifies its own checksum.
    pub fn parse(content: &[u8]) -> Result<BackupManifest, ManifestError> {
        let malformed = |error: &dyn std::fmt::Display| ManifestError::Malformed(error.to_string());
        // The checksum covers all lines but the last. Looked at first: what was cut off is damaged, not malformed.
        let body = content.strip_suffix(b"\n").ok_or(ManifestError::Checksum)?;
        let covered = body.iter().rposition(|byte| *byte == b'\n').ok_or(ManifestError::Checksum)? + 1;
        let (covered, last) = content.split_at(covered);
        let found = hex(&sha256(covered));
        let stated = last.strip_prefix(b"\"Manifest-Checksum\": \"").and_then(|line| line.get(..found.len()));
        if stated != Some(found.as_bytes()) {
            return Err(ManifestError::Checksum);
        }
        let text = std::str::from_utf8(content).map_err(|error| malformed(&error))?;
        let document: Document<'_> = serde_json::from_str(text).map_err(|error| malformed(&error))?;
        if document.checksum != found {
            return Err(ManifestError::Checksum);
        }
        let version = match (document.version, document.system_id) {
            (1, None) => 1,
            (2, Some(_)) => 2,
            (1, Some(_)) => return Err(malformed(&"a system identifier, which version 1 does not have")),
            (2, None) => return Err(malformed(&"no system identifier, which version 2 has")),
            (other, _) => return Err(ManifestError::Version(other)),
        };
        Ok(BackupManifest {
            version,
            system_id: document.system_id.map(SystemId),
            files: document.files.into_iter().map(FileLine::entry).collect::<Result<_, _>>()?,
            wal_ranges: document
                .wal_ranges
                .into_iter()
                .map(|range| WalRange { timeline: range.timeline, start: range.start, end: range.end })
                .collect(),
        })
    }
}

impl FileLine<'_> {
    fn entry(self) -> Result<FileEntry, ManifestError> {
        let malformed = |what: &str| ManifestError::Malformed(what.to_owned());
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_owned().into_bytes(),
            (None, Some(encoded)) => {
                from_hex(&encoded).ok_or_else(|| malformed("an encoded path is not hexadecimal"))?
            }
            _ => return Err(malformed("a file has no path, or two")),
        };
        let checksum = match (self.algorithm, self.checksum) {
            (None, None) => None,
            (Some(name), Some(hex)) => {
                let algorithm = ChecksumAlgorithm::named(&name)
                    .ok_or_else(|| malformed("a file's checksum is of an algorithm that is not known"))?;
                let bytes = from_hex(&hex).filter(|bytes| bytes.len() == algorithm.length());
                let bytes = bytes
                    .ok_or_else(|| malformed("a file's checksum does not have its algorithm's length"))?;
                Some(Checksum { algorithm, bytes })
            }
            _ => return Err(malformed("a file has half a checksum")),
        };
        let last_modified =
            read_time(&self.last_modified).ok_or_else(|| malformed("a file's time is not one in GMT"))?;
        Ok(FileEntry { path, size: self.size, last_modified, checksum })
    }
}

impl ChecksumAlgorithm {
    const ALL: [ChecksumAlgorithm; 5] = [
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Sha224,
        ChecksumAlgorithm::Sha256,
        ChecksumAlgorithm::Sha384,
        ChecksumAlgorithm::Sha512,
    ];

    /// As manifests and BASE_BACKUP's options have it.
    pub const fn name(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Sha224 => "SHA224",
            ChecksumAlgorithm::Sha256 => "SHA256",
            ChecksumAlgorithm::Sha384 => "SHA384",
            ChecksumAlgorithm::Sha512 => "SHA512",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of such a checksum.
    pub const fn length(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Sha224 => 28,
            ChecksumAlgorithm::Sha256 => 32,
            ChecksumAlgorithm::Sha384 => 48,
            ChecksumAlgorithm::Sha512 => 64,
        }
    }
}

const TIME: &str = "%Y-%m-%d %H:%M:%S GMT";

fn read_time(text: &str) -> Option<i64> {
    let time = jiff::civil::DateTime::strptime(TIME, text).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// A time outside of the years −9999 to 9999 is written as the epoch: nobody compares it.
fn write_time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime(TIME).to_string()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> BackupManifest {
        BackupManifest {
            version: 2,
            system_id: Some(SystemId(7_500_000_000_000_000_001)),
            files: vec![
                FileEntry {
                    path: b"base/5/1259".to_vec(),
                    size: 8192,
                    last_modified: 1_700_000_000,
                    checksum: Some(Checksum::from_crc32c(0x2247_748A)),
                },
                FileEntry { path: b"na\xFFme".to_vec(), size: 0, last_modified: 0, checksum: None },
            ],
            wal_ranges: vec![WalRange { timeline: TimelineId::FIRST, start: Lsn(0x28), end: Lsn(0x100) }],
        }
    }

    #[test]
    fn is_written_as_a_server_writes_it() {
        let text = String::from_utf8(sample().write()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            &lines[..lines.len() - 1],
            [
                "{ \"PostgreSQL-Backup-Manifest-Version\": 2,",
                "\"System-Identifier\": 7500000000000000001,",
                "\"Files\": [",
                "{ \"Path\": \"base/5/1259\", \"Size\": 8192, \"Last-Modified\": \"2023-11-14 22:13:20 GMT\", \
                 \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"8a744722\" },",
                "{ \"Encoded-Path\": \"6e61ff6d65\", \"Size\": 0, \"Last-Modified\": \"1970-01-01 00:00:00 GMT\" }",
                "],",
                "\"WAL-Ranges\": [",
                "{ \"Timeline\": 1, \"Start-LSN\": \"0/28\", \"End-LSN\": \"0/100\" }",
                "],",
            ]
        );
        assert_eq!(BackupManifest::parse(text.as_bytes()), Ok(sample()));
    }

    #[test]
    fn any_change_is_told() {
        let bytes = sample().write();
        for cut in 0..bytes.len() {
            assert_eq!(BackupManifest::parse(&bytes[..cut]), Err(ManifestError::Checksum), "{cut}");
        }
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(BackupManifest::parse(&changed).is_err(), "{index}");
        }
    }

    /// A manifest with these lines instead of its own, and a right checksum.
    fn with(replace: &str, by: &str) -> Result<BackupManifest, ManifestError> {
        let text = String::from_utf8(sample().write()).unwrap();
        let text = &text[..text.rfind("\"Manifest-Checksum\"").unwrap()];
        assert!(text.contains(replace));
        let text = text.replace(replace, by);
        let checksum = hex(&sha256(text.as_bytes()));
        BackupManifest::parse(format!("{text}\"Manifest-Checksum\": \"{checksum}\"}}\n").as_bytes())
    }

    #[test]
    fn malformed_manifests_are_refused() {
        assert!(with("base", "base").is_ok());
        assert_eq!(with("Version\": 2", "Version\": 3"), Err(ManifestError::Version(3)));
        for (replace, by) in [
            ("Version\": 2", "Version\": 1"),
            ("\"System-Identifier\": 7500000000000000001,", ""),
            ("\"Size\": 8192", "\"Size\": -1"),
            ("\"Size\": 8192", "\"Size\": 99999999999999999999"),
            ("\"Size\": 8192, ", ""),
            ("\"Path\": \"base/5/1259\", ", ""),
            ("\"Path\"", "\"Encoded-Path\": \"00\", \"Path\""),
            ("6e61ff6d65", "6e61ff6d6"),
            ("6e61ff6d65", "zz"),
            ("CRC32C", "CRC32"),
            ("8a744722", "8a7447"),
            (", \"Checksum\": \"8a744722\"", ""),
            ("2023-11-14 22:13:20 GMT", "2023-13-14 22:13:20 GMT"),
            ("2023-11-14 22:13:20 GMT", "2023-11-14 22:13:20"),
            ("\"Timeline\": 1", "\"Timeline\": 0"),
            ("0/28", "028"),
            ("\"Start-LSN\"", "\"Begin-LSN\""),
        ] {
            assert!(matches!(with(replace, by), Err(ManifestError::Malformed(_))), "{replace} -> {by}");
        }
    }

    #[test]
    fn deep_nesting_does_no_harm() {
        let deep = "[".repeat(100_000);
        assert!(matches!(
            with("\"Path\": \"base/5/1259\"", &format!("\"Path\": {deep}")),
            Err(ManifestError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn survives_a_round_trip(
            files in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..20), any::<u64>(), 0..253_402_300_800_i64, any::<Option<u32>>()), 0..5),
            ranges in proptest::collection::vec((1..9u32, any::<u64>(), any::<u64>()), 0..3),
            system_id: Option<u64>,
        ) {
            let manifest = BackupManifest {
                version: if system_id.is_some() { 2 } else { 1 },
                system_id: system_id.map(SystemId),
                files: files.into_iter().map(|(path, size, last_modified, checksum)| FileEntry {
                    path, size, last_modified, checksum: checksum.map(Checksum::from_crc32c),
                }).collect(),
                wal_ranges: ranges.into_iter().map(|(timeline, start, end)| WalRange {
                    timeline: TimelineId::new(timeline).unwrap(), start: Lsn(start), end: Lsn(end),
                }).collect(),
            };
            prop_assert_eq!(BackupManifest::parse(&manifest.write()), Ok(manifest));
        }

        #[test]
        fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = BackupManifest::parse(&bytes);
        }
    }
}
