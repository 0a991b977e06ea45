//! The server as a whole: memory, temporary files, checkpoints, replication, its log.

use proto::config::HealthConfig;
use restore::conf::{identifier, literal};

use super::super::observed::{Database, Observed};
use super::{bytes, count, lines, span, told};
use crate::finding::Finding;

/// So many checkpoints must have been made before they are judged.
const FEWEST_CHECKPOINTS: u64 = 10;

pub(super) fn cache_hit(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "cache_hit";
    let known: Vec<(&Database, f64)> =
        observed.databases.iter().filter_map(|database| Some((database, database.cache_hit()?))).collect();
    let share = |(database, share): &(&Database, f64)| format!("{} {share:.1} %", database.name);
    let poor: Vec<&(&Database, f64)> =
        known.iter().filter(|(_, share)| *share < f64::from(config.cache_hit)).collect();
    Some(match () {
        () if known.is_empty() => return None,
        () if poor.is_empty() => Finding::ok(
            CODE,
            format!("blocks were found in shared buffers: {}", told(known.iter().map(share).collect(), ", ")),
        ),
        () => Finding::warning(
            CODE,
            format!(
                "blocks were found in shared buffers too seldom: {}",
                told(poor.into_iter().map(share).collect(), ", ")
            ),
            "see which statements read so much (health's sequential_scans, pg_stat_statements), or raise shared_buffers to \
             a quarter of the memory and restart PostgreSQL",
        ),
    })
}

pub(super) fn temp_files(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "temp_files";
    let most = config.temp_files.0;
    let a_day = |database: &Database| database.temp_bytes as f64 / database.days_counted(observed.at);
    let much: Vec<String> = observed
        .databases
        .iter()
        .filter(|database| a_day(database) > most as f64)
        .map(|database| {
            format!(
                "{}: {} a day, {} files of {} in all",
                database.name,
                bytes(a_day(database) as u64),
                count(database.temp_files),
                bytes(database.temp_bytes)
            )
        })
        .collect();
    Some(match much.is_empty() {
        true => Finding::ok(
            CODE,
            format!("no database writes more than {} of temporary files a day", bytes(most)),
        ),
        false => Finding::warning(
            CODE,
            format!("sorts and hashes do not fit into work_mem: {}", told(much, "; ")),
            "ALTER SYSTEM SET log_temp_files = '10MB';  -- then SELECT pg_reload_conf(), see which statements they are, and \
             raise work_mem for these",
        ),
    })
}

pub(super) fn checkpoints(observed: &Observed, _: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "checkpoints";
    let made = &observed.checkpoints;
    let all = made.timed + made.requested;
    let message =
        format!("{} of {} checkpoints did not wait for their time", count(made.requested), count(all));
    Some(match all >= FEWEST_CHECKPOINTS && made.requested > made.timed {
        false => Finding::ok(CODE, message),
        true => Finding::warning(
            CODE,
            format!(
                "{message}: after each of them pages are written whole, which makes WAL (and backups begin with one)"
            ),
            format!(
                "ALTER SYSTEM SET max_wal_size = '…';  -- more than {}, if the server's log says that checkpoints come too \
                 often; then SELECT pg_reload_conf()",
                observed.server.max_wal_size
            ),
        ),
    })
}

pub(super) fn replication_lag(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "replication_lag";
    let most = config.replication_lag.0;
    let lag = |bytes: Option<i64>| u64::try_from(bytes.unwrap_or_default()).unwrap_or_default();
    let behind: Vec<String> = observed
        .standbys
        .iter()
        .filter(|standby| lag(standby.lag_bytes) > most)
        .map(|standby| format!("{} by {}", standby.name, bytes(lag(standby.lag_bytes))))
        .collect();
    Some(match behind.is_empty() {
        true => {
            let worst = observed.standbys.iter().map(|standby| lag(standby.lag_bytes)).max();
            let worst = worst.map(|worst| format!(", the last of them {} behind", bytes(worst)));
            let standbys = observed.standbys.len();
            Finding::ok(CODE, format!("{standbys} sessions receive WAL{}", worst.unwrap_or_default()))
        }
        false => Finding::warning(
            CODE,
            format!("behind the server: {}", told(behind, ", ")),
            "see whether the network or its disk is slow, or a query on it holds replay up",
        ),
    })
}

pub(super) fn replication_slots(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "replication_slots";
    let most = i64::try_from(config.replication_lag.0).unwrap_or(i64::MAX);
    let forgotten: Vec<_> = observed
        .slots
        .iter()
        .filter(|slot| slot.wal_status == "lost" || !slot.active && slot.retained_bytes > Some(most))
        .collect();
    if forgotten.is_empty() {
        return Some(Finding::ok(CODE, "no slot that nobody uses keeps much WAL"));
    }
    let sentence = |slot: &&super::super::observed::SlotState| match slot.wal_status.as_str() {
        "lost" => format!("{} has lost what it should have kept", slot.name),
        _ => {
            let kept = u64::try_from(slot.retained_bytes.unwrap_or_default()).unwrap_or_default();
            format!("{} keeps {} of WAL for nobody", slot.name, bytes(kept))
        }
    };
    Some(Finding::warning(
        CODE,
        told(forgotten.iter().map(sentence).collect(), "; "),
        lines(forgotten.iter().map(|slot| match slot.own {
            // Without it WAL is removed that nobody has stored.
            true => "walkeep run".to_owned(),
            false => format!(
                "SELECT pg_drop_replication_slot({});  -- unless somebody comes back for it",
                literal(&slot.name)
            ),
        })),
    ))
}

pub(super) fn replay_lag(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "replay_lag";
    if !observed.server.in_recovery {
        return None;
    }
    let behind = u64::try_from(observed.server.replay_lag_bytes.unwrap_or_default()).unwrap_or_default();
    let old = observed.server.replay_lag_seconds.map(|seconds| format!(", up to {} old", span(seconds)));
    let message = format!("this standby has {} to replay{}", bytes(behind), old.unwrap_or_default());
    Some(match behind > config.replication_lag.0 {
        true => Finding::warning(
            CODE,
            message,
            "see whether a query holds replay up (pg_stat_database_conflicts)",
        ),
        false => Finding::ok(CODE, message),
    })
}

pub(super) fn server_log(observed: &Observed, _: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "server_log";
    let log = observed.log.as_ref()?;
    let since = if log.since_offset.is_some() { "since the last look" } else { "at its end" };
    let (errors, fatal, panics) = (log.errors, log.fatal, log.panics);
    let unread = log.unread.as_ref().map(|what| format!("; {what} was not read")).unwrap_or_default();
    if errors + fatal + panics == 0 && !unread.is_empty() {
        let message = format!("no errors in what was read of the server's log {}{unread}", log.file);
        return Some(Finding::warning(CODE, message, "read the rest by hand"));
    }
    if errors + fatal + panics == 0 {
        return Some(Finding::ok(CODE, format!("no errors in the server's log {} {since}", log.file)));
    }
    let message = format!(
        "the server's log {} has {errors} times ERROR, {fatal} times FATAL, {panics} times PANIC {since}{unread}; the last: {}",
        log.file,
        log.last.last().map_or("", String::as_str)
    );
    // With a PANIC all sessions have ended.
    Some(match panics {
        0 => Finding::warning(CODE, message, "read it"),
        _ => Finding::error(CODE, message, "read it: the server has ended, or was started anew"),
    })
}

/// What could not be looked into.
pub(super) fn databases(observed: &Observed) -> Option<Finding> {
    const CODE: &str = "databases";
    let closed: Vec<&Database> =
        observed.databases.iter().filter(|database| database.trouble.is_some()).collect();
    if closed.is_empty() {
        return None;
    }
    let sentence = |database: &&Database| {
        format!("{}: {}", database.name, database.trouble.as_deref().unwrap_or_default())
    };
    Some(Finding::warning(
        CODE,
        format!("could not be looked into: {}", told(closed.iter().map(sentence).collect(), "; ")),
        lines(closed.iter().map(|database| match database.admits {
            false => format!(
                "GRANT CONNECT ON DATABASE {} TO …;  -- the role of `postgres`",
                identifier(&database.name)
            ),
            true => format!("-- look into {} by hand", identifier(&database.name)),
        })),
    ))
}
