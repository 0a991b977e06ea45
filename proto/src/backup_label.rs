//! `backup_label`: where replay of a base backup begins.

use crate::wal::SegmentName;
use crate::{Lsn, TimelineId};

/// Where a backup was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupFrom {
    /// On a primary.
    Primary,
    /// On a standby.
    Standby,
}

/// The content of a `backup_label` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabelFile {
    /// `START WAL LOCATION`: replay begins here.
    pub start: Lsn,
    /// The segment that holds `start`.
    pub start_segment: SegmentName,
    /// `CHECKPOINT LOCATION`
    pub checkpoint: Lsn,
    /// `BACKUP FROM`
    pub backup_from: BackupFrom,
    /// `START TIME`, as the server wrote it, in its own `log_timezone`.
    pub start_time: String,
    /// `LABEL`, raw.
    pub label: Vec<u8>,
    /// `START TIMELINE`
    pub timeline: TimelineId,
    /// `INCREMENTAL FROM LSN` and `TLI`: the parent's start.
    pub incremental_from: Option<(Lsn, TimelineId)>,
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backup_label is malformed: {0}")]
pub struct BackupLabelError(pub String);

impl BackupLabelFile {
    /// Reads the file's content. A `.backup` file of `pg_wal` is the same with a few lines more.
    ///
    /// Lines that are not known are passed over: later versions may add some.
    pub fn parse(content: &[u8]) -> Result<BackupLabelFile, BackupLabelError> {
        let lines = Lines(content);
        let location = lines.text("START WAL LOCATION")?;
        let (start, segment) = location
            .strip_suffix(')')
            .and_then(|location| location.split_once(" (file "))
            .ok_or_else(|| wrong("START WAL LOCATION", location))?;
        let parent_lsn = lines.optional("INCREMENTAL FROM LSN")?;
        let parent_timeline = lines.optional("INCREMENTAL FROM TLI")?;
        Ok(BackupLabelFile {
            start: start.parse().map_err(|_| wrong("START WAL LOCATION", location))?,
            start_segment: segment.parse().map_err(|_| wrong("START WAL LOCATION", location))?,
            checkpoint: lines.parsed("CHECKPOINT LOCATION")?,
            backup_from: match lines.text("BACKUP FROM")? {
                // PostgreSQL 13 still says "master".
                "primary" | "master" => BackupFrom::Primary,
                "standby" => BackupFrom::Standby,
                other => return Err(wrong("BACKUP FROM", other)),
            },
            start_time: lines.text("START TIME")?.to_owned(),
            label: lines.find("LABEL").ok_or_else(|| missing("LABEL"))?.to_vec(),
            timeline: lines.parsed("START TIMELINE")?,
            incremental_from: match (parent_lsn, parent_timeline) {
                (Some(lsn), Some(timeline)) => Some((lsn, timeline)),
                (None, None) => None,
                (Some(_), None) => return Err(missing("INCREMENTAL FROM TLI")),
                (None, Some(_)) => return Err(missing("INCREMENTAL FROM LSN")),
            },
        })
    }
}

/// The content without the lines that tell of an incremental backup's parent: a server refuses to start with them,
/// since they say that the directory is no whole one.
pub fn without_parent(content: &[u8]) -> Vec<u8> {
    let lines = content.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"INCREMENTAL FROM ")).flatten().copied().collect()
}

fn missing(key: &str) -> BackupLabelError {
    BackupLabelError(format!("its line \"{key}\" is missing"))
}

fn wrong(key: &str, value: &str) -> BackupLabelError {
    let value: String = value.chars().take(80).collect();
    BackupLabelError(format!("its line \"{key}\" says \"{value}\""))
}

/// The lines of a file, each `KEY: value`.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn find(&self, key: &str) -> Option<&'a [u8]> {
        let value = |line: &'a [u8]| line.strip_prefix(key.as_bytes())?.strip_prefix(b": ");
        self.0.split(|byte| *byte == b'\n').find_map(value)
    }

    fn text(&self, key: &str) -> Result<&'a str, BackupLabelError> {
        let value = self.find(key).ok_or_else(|| missing(key))?;
        std::str::from_utf8(value).map_err(|_| wrong(key, &String::from_utf8_lossy(value)))
    }

    fn parsed<T: std::str::FromStr>(&self, key: &str) -> Result<T, BackupLabelError> {
        let text = self.text(key)?;
        text.parse().map_err(|_| wrong(key, text))
    }

    fn optional<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, BackupLabelError> {
        self.find(key).map(|_| self.parsed(key)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\n\
        CHECKPOINT LOCATION: 0/9000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\n\
        START TIME: 2026-11-24 02:00:00 UTC\nLABEL: nightly: one\nSTART TIMELINE: 1\n";

    #[test]
    fn reads_each_line() {
        let label = BackupLabelFile::parse(TEXT.as_bytes()).unwrap();
        assert_eq!((label.start, label.checkpoint), (Lsn(0x900_0028), Lsn(0x900_0060)));
        assert_eq!(label.start_segment.to_string(), "000000010000000000000009");
        assert_eq!((label.backup_from, label.timeline), (BackupFrom::Standby, TimelineId::FIRST));
        assert_eq!(
            (label.start_time.as_str(), label.label.as_slice()),
            ("2026-11-24 02:00:00 UTC", &b"nightly: one"[..])
        );
        assert_eq!(label.incremental_from, None);
        let incremental = format!("{TEXT}INCREMENTAL FROM LSN: 0/5000028\nINCREMENTAL FROM TLI: 1\n");
        let label = BackupLabelFile::parse(incremental.as_bytes()).unwrap();
        assert_eq!(label.incremental_from, Some((Lsn(0x500_0028), TimelineId::FIRST)));
        assert_eq!(without_parent(incremental.as_bytes()), TEXT.as_bytes());
        assert_eq!(without_parent(TEXT.as_bytes()), TEXT.as_bytes());
    }

    #[test]
    fn a_missing_or_wrong_line_is_named() {
        for line in TEXT.lines().filter(|line| !line.starts_with("BACKUP METHOD")) {
            let key = line.split_once(": ").unwrap().0;
            let error = BackupLabelFile::parse(TEXT.replace(line, "").as_bytes()).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
            if !["LABEL", "START TIME"].contains(&key) {
                let error =
                    BackupLabelFile::parse(TEXT.replace(line, &format!("{key}: x")).as_bytes()).unwrap_err();
                assert!(error.to_string().contains(key), "{error}");
            }
        }
        let half = format!("{TEXT}INCREMENTAL FROM LSN: 0/5000028\n");
        assert!(BackupLabelFile::parse(half.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn never_panics_on_any_line(value in proptest::collection::vec(any::<u8>(), 0..40), index in 0..7usize) {
            let line = TEXT.lines().nth(index).unwrap();
            let key = line.split_once(": ").unwrap().0;
            let mut bytes = TEXT.replace(line, "").into_bytes();
            bytes.extend(key.as_bytes().iter().chain(b": ").chain(&value));
            let _ = BackupLabelFile::parse(&bytes);
        }
    }
}
