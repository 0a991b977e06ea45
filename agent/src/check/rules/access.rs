//! What the role may do, and how it gets in.

use jiff::SignedDuration;

use super::super::observed::{Observed, Server};
use super::{identifier, or, set};
use crate::commands::init::keeps_out;
use crate::finding::Finding;

/// Clocks that differ by more make times in `list` and targets by time misleading.
pub(super) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn role(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "role";
    let role = &server.role;
    Some(match server.may_replicate {
        true => Finding::ok(CODE, format!("the role \"{role}\" may replicate")),
        false => Finding::error(
            CODE,
            format!("the role \"{role}\" may not replicate: neither streaming nor backups are possible"),
            format!("ALTER ROLE {} REPLICATION;", identifier(role)),
        ),
    })
}

/// Tried, since pg_hba.conf cannot be judged from outside: the keyword `all` does not include replication.
pub(super) fn replication(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "replication";
    Some(match &observed.replication {
        Ok(()) => Finding::ok(CODE, "the server lets the agent replicate"),
        // Told by another rule.
        Err(_) if !server.may_replicate => return None,
        Err(failed) if keeps_out(&failed.message) => Finding::error(
            CODE,
            format!("the server does not let the agent replicate: {}", failed.message),
            format!(
                "put these lines into pg_hba.conf, above all others, then SELECT pg_reload_conf():\n{}",
                observed.hba_line
            ),
        ),
        Err(failed) => Finding::error(
            CODE,
            format!("no replication session can be opened: {}", failed.message),
            or(&failed.hint, "see the server's log"),
        ),
    })
}

pub(super) fn monitor(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "pg_monitor";
    let role = &server.role;
    Some(match server.may_monitor {
        true => Finding::ok(CODE, format!("the role \"{role}\" sees all settings")),
        false => Finding::warning(
            CODE,
            format!(
                "the role \"{role}\" is no member of pg_monitor: it does not see where the server's files are, so \
                 configuration files outside of the data directory are not in backups"
            ),
            format!("GRANT pg_monitor TO {};", identifier(role)),
        ),
    })
}

pub(super) fn tls(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "tls";
    Some(match (server.remote, server.tls) {
        (_, true) => Finding::ok(CODE, "the connection to the server is encrypted"),
        (false, false) => Finding::ok(CODE, "the connection does not leave this machine"),
        (true, false) => Finding::warning(
            CODE,
            "the connection to the server is not encrypted: all that is written goes through the network in clear",
            "add `sslmode=verify-full` to `postgres` (and `ssl = on` to postgresql.conf)",
        ),
    })
}

pub(super) fn password_encryption(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "password_encryption";
    Some(match server.setting("password_encryption") {
        "scram-sha-256" => Finding::ok(CODE, "passwords are kept as SCRAM verifiers"),
        other => Finding::warning(
            CODE,
            format!(
                "password_encryption is {other}: whoever reads a backup can log in with what is in pg_authid"
            ),
            format!("{}\n-- then set the passwords anew", set("password_encryption", "scram-sha-256")),
        ),
    })
}

pub(super) fn clock(_: &Observed, server: &Server) -> Option<Finding> {
    Some(judge_clock("server_clock", "the server's clock", server.clock_ahead))
}

/// A clock beside ours.
pub(super) fn judge_clock(code: &'static str, whose: &str, ahead: SignedDuration) -> Finding {
    if ahead.abs() <= CLOCK_TOLERANCE {
        return Finding::ok(code, format!("{whose} agrees with this machine's"));
    }
    let side = if ahead.is_negative() { "behind" } else { "ahead of" };
    Finding::warning(
        code,
        format!(
            "{whose} is {} s {side} this machine's: times in `walkeep list`, and targets by time, are the server's; ages \
             are judged by the store's",
            ahead.abs().as_secs()
        ),
        "timedatectl set-ntp true  # on both machines",
    )
}
