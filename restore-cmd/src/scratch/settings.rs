//! The settings of a copy. Pure text.
//!
//! The lost server's configuration is not read: it may name libraries, certificates, files and amounts of memory that are
//! not here, or places and peers that are the original's. What the copy needs of it is in `pg_control` and comes with the
//! backup. What its data needs besides, the operator names.

use std::path::Path;

use proto::wal::SegmentSize;
use repository::manifest::Controls;

use crate::conf::quote;

/// All that may be said in the configuration file: what it needs, then what the operator wants.
pub(super) fn configuration(controls: &Controls, size: SegmentSize, wanted: &[(String, String)]) -> String {
    // Restored at once, never crash-safe: if the machine fails, the copy is made anew.
    let mut text = "# The settings of a copy, written by walkeep.\n\
                    fsync = off\nfull_page_writes = off\nsynchronous_commit = off\n\
                    autovacuum = off\njit = off\nmax_parallel_workers_per_gather = 0\nhuge_pages = off\n\
                    lc_messages = 'C'\nlog_line_prefix = '%m [%p] '\n"
        .to_owned();
    let least = [
        ("max_connections", controls.max_connections),
        ("max_worker_processes", controls.max_worker_processes),
        ("max_wal_senders", controls.max_wal_senders),
        ("max_prepared_transactions", controls.max_prepared_transactions),
        ("max_locks_per_transaction", controls.max_locks_per_transaction),
    ];
    // No backup of ours says nothing about them, but no server takes none either.
    for (name, number) in least.into_iter().filter(|(name, number)| *number > 0 || is_zero_fine(name)) {
        text += &format!("{name} = {number}\n");
    }
    // The server's own defaults are for segments of 16 MiB.
    let mib = size.bytes() >> 20;
    text += &format!("min_wal_size = {}MB\nmax_wal_size = {}MB\n", (5 * mib).max(80), (16 * mib).max(1024));
    for (name, value) in wanted {
        text += &format!("{name} = {}\n", quote(value));
    }
    text
}

fn is_zero_fine(name: &str) -> bool {
    matches!(name, "max_worker_processes" | "max_wal_senders" | "max_prepared_transactions")
}

/// Everyone who gets to the socket gets in, and only its owner gets to the folder that it lies in.
pub(super) const HBA: &str = "local all all trust\n";

/// What no configuration may change, as arguments: they count more than any file.
pub(super) fn arguments(folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let paths = [
        ("config_file", path("postgresql.conf")),
        ("data_directory", path("data")),
        ("hba_file", path("hba.conf")),
        ("ident_file", path("ident.conf")),
        // The path may have a comma, which parts two directories where it is not quoted.
        ("unix_socket_directories", format!("\"{}\"", path("socket").replace('"', "\"\""))),
    ];
    let fixed = [
        ("listen_addresses", ""),
        ("port", "5432"),
        ("unix_socket_permissions", "0700"),
        ("unix_socket_group", ""),
        ("external_pid_file", ""),
        ("ssl", "off"),
        // It must not write into the repository that it came from, nor wait for anybody's standby.
        ("archive_mode", "off"),
        ("synchronous_standby_names", ""),
        ("primary_conninfo", ""),
        // A subscription would take over the original's slot at its publisher.
        ("max_logical_replication_workers", "0"),
        // Sessions are let in when recovery has ended, no earlier; then no setting can be too small for recovery either.
        ("hot_standby", "off"),
        // A damaged page must be an error, and a crash must be seen.
        ("zero_damaged_pages", "off"),
        ("ignore_checksum_failure", "off"),
        ("restart_after_crash", "off"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("log_min_messages", "warning"),
    ];
    let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
    let all = paths.into_iter().chain(fixed);
    all.flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

/// What our sessions ask for: these count more than what a database or a role has set for its own.
pub(super) fn session(major: u32) -> String {
    let mut text =
        "-c role=none -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
                    -c session_preload_libraries= -c local_preload_libraries= -c zero_damaged_pages=off \
                    -c ignore_checksum_failure=off -c default_transaction_read_only=off -c row_security=off"
            .to_owned();
    if major >= 17 {
        // Triggers that fire at a login.
        text += " -c event_triggers=off";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_comes_last_and_is_quoted() {
        let controls = Controls { max_connections: 77, ..Controls::default() };
        let size = SegmentSize::new(64 << 20).unwrap();
        let wanted = [("shared_preload_libraries".to_owned(), "it's".to_owned())];
        let text = configuration(&controls, size, &wanted);
        assert!(text.contains("\nmax_connections = 77\n") && !text.contains("max_locks_per_transaction"));
        assert!(text.contains("\nmin_wal_size = 320MB\nmax_wal_size = 1024MB\n"), "{text}");
        assert!(text.ends_with("shared_preload_libraries = 'it''s'\n"));
    }

    #[test]
    fn the_arguments_bind_it_to_its_folder() {
        let arguments = arguments(Path::new("/s"));
        for wanted in ["data_directory=/s/data", "archive_mode=off", "listen_addresses=", "hot_standby=off"] {
            assert!(arguments.iter().any(|argument| argument == wanted), "{wanted}");
        }
        assert_eq!(arguments.len() % 2, 0);
    }
}
