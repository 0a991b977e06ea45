//! `[backup]`: from where backups are taken, and how fast.

use std::str::FromStr;

use super::ConfigError;
use super::values::Reader;

/// `[backup]`: how `walkeep backup` takes base backups. WAL is never held back: whatever is set here, it goes to the
/// repository as fast as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupConfig {
    /// `from`: of several hosts in `postgres`, which kind is to be read: `"primary"`, `"standby"`, or
    /// `"prefer-standby"`: a primary where no standby answers. Default: what `target_session_attrs` in `postgres`
    /// says; without that the primary of several hosts, and a single host whatever it is.
    pub from: Option<TakeFrom>,
    /// `source`: how the server's files are read: `"protocol"`: the server sends them; `"local"`: from its data directory,
    /// beside it; `"auto"`: locally where that is possible, unless the server can tell what has changed. Default
    /// `"protocol"`.
    pub source: BackupSource,
    /// `read_rate`: the most that the server is to read and send, per second, such as `"50MiB"`; from 32 KiB to 1 GiB.
    /// Default: no limit.
    pub read_rate: Option<ReadRate>,
    /// `upload_rate`: the most of a backup's data that goes to the repository, per second, such as `"20MiB"`; from 32
    /// KiB on. Default: no limit.
    pub upload_rate: Option<UploadRate>,
}

/// Which kind of server a backup is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeFrom {
    /// One that is not in recovery.
    Primary,
    /// One that is.
    Standby,
    /// A standby; a primary where none answers.
    PreferStandby,
}

impl FromStr for TakeFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "standby" => Ok(Self::Standby),
            "prefer-standby" => Ok(Self::PreferStandby),
            _ => Err("\"primary\", \"standby\" or \"prefer-standby\" is expected".into()),
        }
    }
}

/// How the server's files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackupSource {
    /// The server sends them.
    #[default]
    Protocol,
    /// From its data directory, on the same machine.
    Local,
    /// Locally where that is possible, unless the server can tell what has changed.
    Auto,
}

impl FromStr for BackupSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "protocol" => Ok(Self::Protocol),
            "local" => Ok(Self::Local),
            "auto" => Ok(Self::Auto),
            _ => Err("\"protocol\", \"local\" or \"auto\" is expected".into()),
        }
    }
}

const KIB: u64 = 1 << 10;

/// The least rate: below it a connection looks dead. It is PostgreSQL's, too.
const LEAST: u64 = 32 * KIB;

/// PostgreSQL limits its own reading to 1 GiB a second at most.
const MOST_READ: u64 = 1 << 30;

/// How fast a server is read: bytes a second, whole KiB, as PostgreSQL counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRate(u64);

/// How fast a backup's data is stored: bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadRate(u64);

impl ReadRate {
    /// In KiB a second, 32 to 1,048,576.
    pub fn kib(self) -> u32 {
        // At most 2^20, by the bounds of `from_str`.
        (self.0 / KIB) as u32
    }
}

impl UploadRate {
    /// Bytes a second, at least 32 KiB.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ReadRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rate = bytes(text).filter(|rate| (LEAST..=MOST_READ).contains(rate));
        rate.map(Self).ok_or_else(|| format!("{FORM}, from 32KiB to 1GiB a second, is expected"))
    }
}

impl FromStr for UploadRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rate = bytes(text).filter(|rate| *rate >= LEAST);
        rate.map(Self).ok_or_else(|| format!("{FORM}, at least 32KiB a second, is expected"))
    }
}

pub(super) const FORM: &str = "a size with its unit, such as 500KiB, 20MiB or 20MB";

/// A size: a whole number and a unit.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => KIB,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<BackupConfig, ConfigError> {
    Ok(BackupConfig {
        from: reader.parsed("backup.from")?,
        source: reader.parsed("backup.source")?.unwrap_or_default(),
        read_rate: reader.parsed("backup.read_rate")?,
        upload_rate: reader.parsed("backup.upload_rate")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0B", Some(0)),
            ("32KiB", Some(32 << 10)),
            ("50 MB", Some(50_000_000)),
            ("1GiB", Some(1 << 30)),
            ("17kB", Some(17_000)),
            ("50", None),
            ("MiB", None),
            ("-1MiB", None),
            ("1.5MiB", None),
            ("1mib", None),
            ("99999999999999999GiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn rates_have_bounds() {
        assert_eq!("32KiB".parse::<ReadRate>().map(ReadRate::kib), Ok(32));
        assert_eq!("1GiB".parse::<ReadRate>().map(ReadRate::kib), Ok(1 << 20));
        assert_eq!("1000001B".parse::<ReadRate>().map(ReadRate::kib), Ok(976));
        assert!("31KiB".parse::<ReadRate>().is_err() && "2GiB".parse::<ReadRate>().is_err());
        assert_eq!("2GiB".parse::<UploadRate>().map(UploadRate::bytes), Ok(2 << 30));
        assert!("1B".parse::<UploadRate>().unwrap_err().contains("at least 32KiB"));
    }
}
