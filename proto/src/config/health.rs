//! `[health]`: what of the server is looked at, and from when on it is worth telling.

use std::str::FromStr;
use std::time::Duration;

use super::ConfigError;
use super::backup::{FORM, bytes};
use super::values::{CENTURY, DAY, HOUR, MINUTE, Reader, SECOND};

/// `[health]`: whether `walkeep run` looks at the server's health, and the thresholds of that, of `walkeep health` and of
/// `walkeep checklist`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// `enabled`: whether `walkeep run` looks, for its metrics and for growth. Default `false`.
    pub enabled: bool,
    /// `interval`: between its looks. Default `"5m"`; 1 second to 1 day.
    pub interval: Duration,
    /// `connections`: per cent of those that are to be had. Default 80; 1 to 100.
    pub connections: u32,
    /// `long_transaction`: how long a transaction may be open. Default `"1h"`; 1 second to 1 day.
    pub long_transaction: Duration,
    /// `idle_in_transaction`: how long one may be open in which nothing is done. Default `"10m"`; 1 second to 1 day.
    pub idle_in_transaction: Duration,
    /// `blocked`: how long a session may wait for another's lock. Default `"1m"`; 1 second to 1 day.
    pub blocked: Duration,
    /// `cache_hit`: per cent of a database's blocks that are to be found in shared buffers. Default 90; 1 to 100.
    pub cache_hit: u32,
    /// `dead_rows`: per cent of a table's rows that may be dead. Default 20; 1 to 100.
    pub dead_rows: u32,
    /// `unused_after`: how long the server must have counted before an index that was never used is told. Default `"7d"`.
    pub unused_after: Duration,
    /// `xid_age`: the oldest transaction, or multixact, that a database may hold. Default 500,000,000; 1,000 to
    /// 2,000,000,000.
    pub xid_age: u64,
    /// `replication_lag`: WAL by which a standby may be behind, or which a slot that nobody uses may keep. Default `"1GiB"`.
    pub replication_lag: Size,
    /// `temp_files`: temporary files of one database in a day. Default `"10GiB"`.
    pub temp_files: Size,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            interval: 5 * MINUTE,
            connections: 80,
            long_transaction: HOUR,
            idle_in_transaction: 10 * MINUTE,
            blocked: MINUTE,
            cache_hit: 90,
            dead_rows: 20,
            unused_after: 7 * DAY,
            xid_age: 500_000_000,
            replication_lag: Size(1 << 30),
            temp_files: Size(10 << 30),
        }
    }
}

/// A size in bytes, written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        bytes(text).map(Self).ok_or_else(|| format!("{FORM}, is expected"))
    }
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<HealthConfig, ConfigError> {
    let default = HealthConfig::default();
    let duration = |key, default| -> Result<Duration, ConfigError> {
        Ok(reader.duration(key, SECOND..=DAY)?.unwrap_or(default))
    };
    let percent =
        |key, default| -> Result<u32, ConfigError> { Ok(reader.number(key, 1..=100)?.unwrap_or(default)) };
    Ok(HealthConfig {
        enabled: reader.switch("health.enabled")?.unwrap_or(default.enabled),
        interval: duration("health.interval", default.interval)?,
        connections: percent("health.connections", default.connections)?,
        long_transaction: duration("health.long_transaction", default.long_transaction)?,
        idle_in_transaction: duration("health.idle_in_transaction", default.idle_in_transaction)?,
        blocked: duration("health.blocked", default.blocked)?,
        cache_hit: percent("health.cache_hit", default.cache_hit)?,
        dead_rows: percent("health.dead_rows", default.dead_rows)?,
        unused_after: reader
            .duration("health.unused_after", Duration::ZERO..=CENTURY)?
            .unwrap_or(default.unused_after),
        xid_age: reader.number("health.xid_age", 1_000..=2_000_000_000)?.unwrap_or(default.xid_age),
        replication_lag: reader.parsed("health.replication_lag")?.unwrap_or(default.replication_lag),
        temp_files: reader.parsed("health.temp_files")?.unwrap_or(default.temp_files),
    })
}
