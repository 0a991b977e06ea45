//! What of a data directory belongs into a backup: the rules by which the server itself goes through it. Pure.

use std::collections::HashSet;

use proto::page::{Fork, relation_file};

/// Their content is of no use to another start of the server; the directories themselves must be there.
const EMPTIED: [&[u8]; 8] = [
    b"pg_dynshmem",
    b"pg_notify",
    b"pg_replslot",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_stat_tmp",
    b"pg_subtrans",
    b"pg_wal",
];

/// Left out wherever they lie.
const LEFT: [&[u8]; 7] = [
    b"backup_label",
    b"backup_manifest",
    b"current_logfiles.tmp",
    b"postgresql.auto.conf.tmp",
    b"postmaster.opts",
    b"postmaster.pid",
    b"tablespace_map",
];

/// What of it is left out wherever it lies, whatever follows: temporary files, and a cache.
const LEFT_PREFIXES: [&[u8]; 2] = [b"pgsql_tmp", b"pg_internal.init"];

/// Whether only the directory itself is taken, which lies at `path` of the data directory.
pub(super) fn is_emptied(path: &[u8]) -> bool {
    EMPTIED.contains(&path)
}

/// What a directory of the data directory holds, as far as that decides about its files.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Whether it has a database's relations.
    is_database: bool,
    /// The numbers of relations that are not logged: only their first state is of use.
    unlogged: HashSet<u32>,
}

impl Neighbours {
    /// Of the directory at `path`, which holds these names.
    pub(super) fn of<'a>(path: &[u8], names: impl IntoIterator<Item = &'a [u8]>) -> Self {
        if !is_database(path) {
            return Self::default();
        }
        let init = |name| relation(name).filter(|file| file.fork == Fork::Init).map(|file| file.number);
        Self { is_database: true, unlogged: names.into_iter().filter_map(init).collect() }
    }

    /// Whether the backup does without the file or directory of that name.
    pub(super) fn leave_out(&self, name: &[u8]) -> bool {
        if LEFT.contains(&name) || LEFT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return true;
        }
        if !self.is_database {
            return false;
        }
        let unlogged =
            |file: proto::page::RelationFile| file.fork != Fork::Init && self.unlogged.contains(&file.number);
        is_temporary(name) || relation(name).is_some_and(unlogged)
    }
}

fn relation(name: &[u8]) -> Option<proto::page::RelationFile> {
    relation_file(std::str::from_utf8(name).ok()?)
}

/// `base/<oid>`, and the same within a tablespace.
fn is_database(path: &[u8]) -> bool {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    match parts.as_slice() {
        [b"base", database] => is_number(database),
        [b"pg_tblspc", _, version, database] => version.starts_with(b"PG_") && is_number(database),
        _ => false,
    }
}

/// A session's own relation: `t<backend>_<number>`, with fork and segment behind it.
fn is_temporary(name: &[u8]) -> bool {
    let Some((backend, rest)) = name.strip_prefix(b"t").and_then(|name| {
        let at = name.iter().position(|byte| *byte == b'_')?;
        Some((&name[..at], &name[at + 1..]))
    }) else {
        return false;
    };
    is_number(backend) && relation(rest).is_some()
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left<'a>(directory: &str, names: &[&'a str]) -> Vec<&'a str> {
        let neighbours = Neighbours::of(directory.as_bytes(), names.iter().map(|name| name.as_bytes()));
        names.iter().copied().filter(|name| neighbours.leave_out(name.as_bytes())).collect()
    }

    #[test]
    fn of_what_is_not_logged_only_the_first_state_is_taken() {
        let names = ["1", "1_fsm", "1.1", "1_vm", "1_init", "11", "11_fsm", "12"];
        let expected = ["1", "1_fsm", "1.1", "1_vm"];
        assert_eq!(left("base/5", &names), expected);
        assert_eq!(left("pg_tblspc/16400/PG_15_202209061/5", &names), expected);
        assert!(left("global", &names).is_empty(), "there are no unlogged relations");
        assert!(left("pg_xact", &names).is_empty());
    }

    #[test]
    fn what_sessions_have_for_themselves_stays_out() {
        let names =
            ["t3_16384", "t3_16384.1", "t3_16384_fsm", "t_1", "t3_", "table", "3_16384", "pgsql_tmp1.0"];
        assert_eq!(left("base/5", &names), ["t3_16384", "t3_16384.1", "t3_16384_fsm", "pgsql_tmp1.0"]);
        assert_eq!(left("base", &["pgsql_tmp", "5"]), ["pgsql_tmp"]);
    }

    #[test]
    fn what_belongs_to_one_run_of_the_server_stays_out() {
        let names = [
            "PG_VERSION",
            "backup_label",
            "backup_label.old",
            "postmaster.pid",
            "postgresql.auto.conf",
            "postgresql.auto.conf.tmp",
            "pg_internal.init.123",
            "standby.signal",
        ];
        let expected = ["backup_label", "postmaster.pid", "postgresql.auto.conf.tmp", "pg_internal.init.123"];
        assert_eq!(left("", &names), expected);
        assert!(is_emptied(b"pg_wal") && is_emptied(b"pg_replslot"));
        assert!(
            !is_emptied(b"pg_wal/archive_status") && !is_emptied(b"base/pg_wal") && !is_emptied(b"pg_xact")
        );
    }
}
