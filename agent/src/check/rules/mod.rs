//! The rules, by subject. Each looks at what was observed and says one thing, or nothing where it does not apply.

mod access;
mod archiving;
mod authentication;
mod autovacuum;
mod backups;
mod logging;
mod repository;
mod streaming;
mod synchronous;
mod wal;

use restore::conf::{identifier, literal};

use super::observed::{Observed, Server};
use crate::finding::Finding;

/// A rule about a server that answers.
type ServerRule = fn(&Observed, &Server) -> Option<Finding>;

/// In the order in which the findings are told: what nothing works without comes first.
const SERVER_RULES: [ServerRule; 27] = [
    wal::version,
    wal::primary,
    access::role,
    access::replication,
    access::monitor,
    access::tls,
    access::password_encryption,
    access::clock,
    wal::wal_level,
    wal::fsync,
    wal::full_page_writes,
    wal::data_checksums,
    wal::summarize_wal,
    wal::pending_restart,
    wal::space,
    streaming::max_wal_senders,
    streaming::max_replication_slots,
    authentication::readable,
    authentication::trust,
    authentication::weak,
    authentication::wide,
    authentication::server_tls,
    autovacuum::autovacuum,
    logging::collector,
    logging::durations,
    logging::connections,
    logging::events,
];

/// What protects the WAL, which only a primary writes: a standby cannot tell.
const PRIMARY_RULES: [ServerRule; 9] = [
    archiving::archive_mode,
    archiving::archive_command,
    archiving::archiver,
    archiving::archive_timeout,
    streaming::slot,
    streaming::max_slot_wal_keep_size,
    streaming::idle_replication_slot_timeout,
    synchronous::synchronous,
    synchronous::overrides,
];

/// All findings of all rules.
pub(super) fn apply(observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &observed.server {
        Ok(server) => {
            findings.extend(SERVER_RULES.iter().filter_map(|rule| rule(observed, server)));
            if !server.in_recovery {
                findings.extend(PRIMARY_RULES.iter().filter_map(|rule| rule(observed, server)));
            }
        }
        Err(failed) => {
            findings.push(Finding::error("server", &failed.message, or(&failed.hint, "start PostgreSQL")))
        }
    }
    findings.push(streaming::agent(observed));
    findings.extend(repository::findings(observed));
    findings.extend(backups::findings(observed));
    findings
}

/// A hint, or what to say where there is none.
fn or<'a>(hint: &'a str, otherwise: &'a str) -> &'a str {
    if hint.is_empty() { otherwise } else { hint }
}

/// The statements that change a setting, which takes effect at once.
fn set(name: &str, value: &str) -> String {
    format!("ALTER SYSTEM SET {name} = {};\nSELECT pg_reload_conf();", literal(value))
}

/// The same for a setting that waits for a restart.
fn set_and_restart(name: &str, value: &str) -> String {
    format!("ALTER SYSTEM SET {name} = {};  -- then restart PostgreSQL", literal(value))
}

/// Lines for the configuration file.
fn toml(section: &str, line: &str) -> String {
    format!("[{section}]\n{line}")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
