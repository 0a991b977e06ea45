//! `[schedule]`: what the agent does by itself, and when.

use std::time::Duration;

use super::ConfigError;
use super::values::{DAY, Reader};

/// `[schedule]`: times as in a crontab: minute, hour, day of the month, month, day of the week; or six fields, with the
/// second first. A key that is not there: never.
///
/// Only the form is checked here; whoever runs the schedule computes with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScheduleConfig {
    /// `full`: full backups.
    pub full: Option<String>,
    /// `incremental`: incremental backups.
    pub incremental: Option<String>,
    /// `dump`: logical backups, as `[dump]` says.
    pub dump: Option<String>,
    /// `expire`: retention is applied.
    pub expire: Option<String>,
    /// `verify`: is everything there that is needed, by names, sizes and manifests.
    pub verify: Option<String>,
    /// `verify_deep`: the same, with every byte read and compared with its digest.
    pub verify_deep: Option<String>,
    /// `drill`: restores for proof.
    pub drill: Option<String>,
    /// `upkeep`: VACUUM, ANALYZE and REINDEX, as `[upkeep]` says.
    pub upkeep: Option<String>,
    /// `checklist_daily`: the daily checklist.
    pub checklist_daily: Option<String>,
    /// `checklist_weekly`: the weekly one.
    pub checklist_weekly: Option<String>,
    /// `checklist_monthly`: the monthly one.
    pub checklist_monthly: Option<String>,
    /// `timezone`: in which the times are meant: a name such as `"Europe/Berlin"`, or POSIX's own form, such as
    /// `"CET-1CEST,M3.5.0,M10.5.0/3"`. Default: the system's.
    pub timezone: Option<String>,
    /// `jitter`: each job begins later by a part of this that depends on the cluster's name and the job, and is always the
    /// same: so that many clusters do not begin at once. Default 0; at most a day.
    pub jitter: Duration,
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<ScheduleConfig, ConfigError> {
    Ok(ScheduleConfig {
        full: reader.cron("schedule.full")?,
        incremental: reader.cron("schedule.incremental")?,
        dump: reader.cron("schedule.dump")?,
        expire: reader.cron("schedule.expire")?,
        verify: reader.cron("schedule.verify")?,
        verify_deep: reader.cron("schedule.verify_deep")?,
        drill: reader.cron("schedule.drill")?,
        upkeep: reader.cron("schedule.upkeep")?,
        checklist_daily: reader.cron("schedule.checklist_daily")?,
        checklist_weekly: reader.cron("schedule.checklist_weekly")?,
        checklist_monthly: reader.cron("schedule.checklist_monthly")?,
        timezone: reader.text("schedule.timezone")?,
        jitter: reader.duration("schedule.jitter", Duration::ZERO..=DAY)?.unwrap_or_default(),
    })
}
