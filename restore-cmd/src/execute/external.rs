//! Configuration that lay outside the data directory, as Debian has it. Pure text.

use repository::manifest::Controls;

use crate::conf::setting_name;

/// What would lead a restored server away from its data directory.
const ELSEWHERE: &[&str] = &[
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "external_pid_file",
    "include",
    "include_if_exists",
    "include_dir",
];

/// A `postgresql.conf` for the data directory from the lost server's and the files that it included, in order.
pub(super) fn gather(config: &[u8], included: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut text = neutralise(config);
    for (from, content) in included {
        text.extend_from_slice(format!("\n# From {from}:\n").replace('\r', " ").as_bytes());
        text.extend_from_slice(&neutralise(content));
    }
    text
}

/// The text with every line commented that points elsewhere.
fn neutralise(config: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(config.len() + 256);
    for line in config.split_inclusive(|&byte| byte == b'\n') {
        if setting_name(line).is_some_and(|name| ELSEWHERE.contains(&name.as_str())) {
            text.extend_from_slice(b"# not in the restored cluster: ");
        }
        text.extend_from_slice(line);
    }
    if text.last().is_some_and(|&byte| byte != b'\n') {
        text.push(b'\n');
    }
    text
}

/// The least that a server needs which recovers from this backup.
pub(super) fn minimal(controls: &Controls) -> String {
    format!(
        "# Written by restore-cmd: the backup has no postgresql.conf. The numbers are the lost server's;\n\
         # recovery refuses smaller ones.\n\
         max_connections = {}\n\
         max_worker_processes = {}\n\
         max_wal_senders = {}\n\
         max_prepared_transactions = {}\n\
         max_locks_per_transaction = {}\n",
        controls.max_connections,
        controls.max_worker_processes,
        controls.max_wal_senders,
        controls.max_prepared_transactions,
        controls.max_locks_per_transaction
    )
}

/// Lets the operating system's users in over the local socket, under their own names only.
pub(super) const MINIMAL_HBA: &str =
    "# Written by restore-cmd: the backup has no pg_hba.conf.\nlocal all all peer\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_points_elsewhere_is_commented() {
        let config = b"data_directory = '/var/lib/postgresql/15/main'\n  HBA_FILE='/etc/x'\nport = 5433\n#hba_file\ninclude_dir = 'conf.d'";
        let included = [("/etc/postgresql/15/main/conf.d/a.conf".to_owned(), b"work_mem = '1MB'".to_vec())];
        assert_eq!(
            String::from_utf8(gather(config, &included)).unwrap(),
            "# not in the restored cluster: data_directory = '/var/lib/postgresql/15/main'\n\
             # not in the restored cluster:   HBA_FILE='/etc/x'\n\
             port = 5433\n#hba_file\n\
             # not in the restored cluster: include_dir = 'conf.d'\n\
             \n# From /etc/postgresql/15/main/conf.d/a.conf:\nwork_mem = '1MB'\n"
        );
    }
}
