//! `[upkeep]`: what is cleaned up in the server's databases, and when that must not be.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use super::values::{DAY, HOUR, MILLISECOND, MINUTE, Reader, SECOND};
use super::{ConfigError, Size};

/// `[upkeep]`: VACUUM, ANALYZE and REINDEX, by `walkeep upkeep`.
#[derive(Clone, PartialEq, Eq)]
pub struct UpkeepConfig {
    /// `enabled`: whether anything may be done. Default `false`: only `--dry-run`.
    pub enabled: bool,
    /// `postgres`: how to reach the server for it: the tables' owner, or `pg_maintain` (17 and later), must do it. May hold a
    /// password, so it is never shown. Default: the key `postgres` at the top.
    pub postgres: Option<String>,
    /// `window`: outside of these hours nothing is begun, and what is at work at their end is ended. By `schedule.timezone`.
    /// Default: any time.
    pub window: Option<DayWindow>,
    /// `budget`: the most time that one run takes. Default `"1h"`; 1 second to 1 day.
    pub budget: Duration,
    /// `lock_timeout`: how long a lock may be waited for, while others wait behind. Default `"2s"`; 10 ms to 10 minutes.
    pub lock_timeout: Duration,
    /// `dead_rows`: a table is vacuumed when so many per cent of its rows are dead. Default 10; 1 to 100.
    pub dead_rows: u32,
    /// `changed_rows`: a table is analyzed when so many per cent of its rows were changed. Default 10; 1 to 100.
    pub changed_rows: u32,
    /// `tables`: a table of thresholds that count instead of `dead_rows` for single tables, by database, schema and name; 100:
    /// never.
    pub tables: BTreeMap<String, u32>,
    /// `reindex`: whether indexes are built anew, CONCURRENTLY. Default `true`.
    pub reindex: bool,
    /// `bloat`: an index is, when so many per cent of it are not needed, by an estimate. Default 50; 1 to 99.
    pub bloat: u32,
    /// `smallest_index`: smaller ones are left alone. Default `"8MiB"`.
    pub smallest_index: Size,
    /// `during_backup`: whether it may be done while a backup is taken. Default `false`.
    pub during_backup: bool,
}

impl Default for UpkeepConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            postgres: None,
            window: None,
            budget: HOUR,
            lock_timeout: 2 * SECOND,
            dead_rows: 10,
            changed_rows: 10,
            tables: BTreeMap::new(),
            reindex: true,
            bloat: 50,
            smallest_index: Size(8 << 20),
            during_backup: false,
        }
    }
}

/// `postgres` may hold a secret: it is left out.
impl std::fmt::Debug for UpkeepConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpkeepConfig")
            .field("enabled", &self.enabled)
            .field("window", &self.window)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// Hours of each day, in minutes since midnight; across midnight where it begins later than it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayWindow {
    from: u32,
    to: u32,
}

/// Minutes of a day.
const OF_A_DAY: u32 = 24 * 60;

impl DayWindow {
    /// The minutes that are left of it at a minute of the day; `None`: it is outside.
    pub fn left(self, minute: u32) -> Option<u32> {
        let length = (self.to + OF_A_DAY - self.from) % OF_A_DAY;
        let passed = (minute + OF_A_DAY - self.from) % OF_A_DAY;
        (passed < length).then(|| length - passed)
    }
}

impl FromStr for DayWindow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let minute = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let (hour, minute): (u32, u32) =
                (digits(hour).then(|| hour.parse().ok())??, digits(minute).then(|| minute.parse().ok())??);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        let both = text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
        match both.filter(|(from, to)| from != to) {
            Some((from, to)) => Ok(Self { from, to }),
            None => Err("two different times of the day, such as \"01:00-05:30\", are expected".to_owned()),
        }
    }
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<UpkeepConfig, ConfigError> {
    let default = UpkeepConfig::default();
    let percent =
        |key, default| -> Result<u32, ConfigError> { Ok(reader.number(key, 1..=100)?.unwrap_or(default)) };
    Ok(UpkeepConfig {
        enabled: reader.switch("upkeep.enabled")?.unwrap_or(default.enabled),
        postgres: reader.text("upkeep.postgres")?,
        window: reader.parsed("upkeep.window")?,
        budget: reader.duration("upkeep.budget", SECOND..=DAY)?.unwrap_or(default.budget),
        lock_timeout: reader
            .duration("upkeep.lock_timeout", 10 * MILLISECOND..=10 * MINUTE)?
            .unwrap_or(default.lock_timeout),
        dead_rows: percent("upkeep.dead_rows", default.dead_rows)?,
        changed_rows: percent("upkeep.changed_rows", default.changed_rows)?,
        tables: reader.percents("upkeep.tables")?,
        reindex: reader.switch("upkeep.reindex")?.unwrap_or(default.reindex),
        bloat: reader.number("upkeep.bloat", 1..=99)?.unwrap_or(default.bloat),
        smallest_index: reader.parsed("upkeep.smallest_index")?.unwrap_or(default.smallest_index),
        during_backup: reader.switch("upkeep.during_backup")?.unwrap_or(default.during_backup),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_across_midnight() {
        let left = |text: &str, minute| text.parse::<DayWindow>().unwrap().left(minute);
        assert_eq!(left("01:00-05:00", 59), None);
        assert_eq!(left("01:00-05:00", 60), Some(240));
        assert_eq!(left("01:00-05:00", 299), Some(1));
        assert_eq!(left("01:00-05:00", 300), None);
        assert_eq!(left("23:00-01:30", 1430), Some(100));
        assert_eq!(left("23:00-01:30", 0), Some(90));
        assert_eq!(left("23:00-01:30", 90), None);
        for text in ["", "1:00-2:00", "01:00", "01:00-25:00", "01:60-02:00", "01:00-01:00", "0é:00-02:00"] {
            assert!(text.parse::<DayWindow>().is_err(), "{text}");
        }
    }
}
