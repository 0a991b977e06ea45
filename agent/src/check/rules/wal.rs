//! What the server writes into its WAL, and whether it is worth archiving.

use super::super::observed::{Observed, Server};
use super::{set, set_and_restart};
use crate::backup::native::SOUND;
use crate::finding::Finding;

/// Minor versions from which crash recovery no longer rewrites WAL that had been streamed before.
const STABLE_RECOVERY: [(u32, u32); 2] = [(13, 5), (14, 1)];

/// Less room than this part of the disk is close to none.
const SCARCE: u64 = 10;

fn older(server: &Server, than: &[(u32, u32)]) -> Option<String> {
    let version = server.version();
    let (major, minor) = than.iter().find(|(major, _)| *major == version.major())?;
    (version.minor() < *minor).then(|| format!("{major}.{minor}"))
}

pub(super) fn version(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "version";
    let version = server.version();
    if let Some(fixed) = older(server, &STABLE_RECOVERY) {
        return Some(Finding::warning(
            CODE,
            format!(
                "PostgreSQL {version}: recovery from a crash may write other WAL where some had been streamed already, \
                 and the stream is then stopped as divergent; {fixed} has this mended"
            ),
            format!("upgrade to {fixed} or later"),
        ));
    }
    if let Some(fixed) = older(server, &SOUND) {
        return Some(Finding::warning(
            CODE,
            format!(
                "PostgreSQL {version}: WAL summaries may miss changes before {fixed}, so they are not used: incremental \
                 backups read the whole cluster and compare"
            ),
            format!("upgrade to {fixed} or later"),
        ));
    }
    Some(Finding::ok(CODE, format!("PostgreSQL {version}")))
}

pub(super) fn primary(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "primary";
    Some(match server.in_recovery {
        false => Finding::ok(CODE, "the server is a primary"),
        true => Finding::warning(
            CODE,
            "the server is a standby: backups can be taken from it, but whether the WAL that its primary writes is safe \
             (slot, archiving, synchronous commits) cannot be seen here",
            "name the primary, or all hosts, in `postgres`: with several of them the primary is found",
        ),
    })
}

pub(super) fn wal_level(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "wal_level";
    Some(match server.setting("wal_level") {
        level @ ("replica" | "logical") => Finding::ok(CODE, format!("wal_level is {level}")),
        level => Finding::error(
            CODE,
            format!("wal_level is {level}: the WAL does not tell enough to restore from it"),
            set_and_restart("wal_level", "replica"),
        ),
    })
}

pub(super) fn fsync(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "fsync";
    Some(match server.is_on("fsync") {
        true => Finding::ok(CODE, "fsync is on"),
        false => Finding::error(
            CODE,
            "fsync is off: after a loss of power the server may come back with other data and other WAL than it had sent",
            set("fsync", "on"),
        ),
    })
}

pub(super) fn full_page_writes(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "full_page_writes";
    Some(match server.is_on("full_page_writes") {
        true => Finding::ok(CODE, "full_page_writes is on"),
        false => Finding::error(
            CODE,
            "full_page_writes is off: a page that was torn by a crash or read torn by a backup cannot be mended by replay",
            set("full_page_writes", "on"),
        ),
    })
}

pub(super) fn data_checksums(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "data_checksums";
    Some(match server.is_on("data_checksums") {
        true => Finding::ok(CODE, "data pages have checksums"),
        false => Finding::warning(
            CODE,
            "data pages have no checksums: pages that the disk has damaged go into backups unseen",
            format!(
                "pg_checksums --enable -D {}  # while PostgreSQL is stopped",
                server.setting("data_directory")
            ),
        ),
    })
}

pub(super) fn summarize_wal(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "summarize_wal";
    if server.major() < 17 {
        return None;
    }
    Some(match server.is_on("summarize_wal") {
        true => Finding::ok(CODE, "summarize_wal is on"),
        false => Finding::warning(
            CODE,
            "summarize_wal is off: the server cannot tell which blocks an incremental backup needs",
            set("summarize_wal", "on"),
        ),
    })
}

pub(super) fn pending_restart(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "pending_restart";
    Some(match &server.pending_restart[..] {
        [] => Finding::ok(CODE, "every setting is in force"),
        names => Finding::warning(
            CODE,
            format!("changed, but not in force before a restart: {}", names.join(", ")),
            "restart PostgreSQL",
        ),
    })
}

pub(super) fn space(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "wal_space";
    let space = server.space.as_ref()?;
    let (free, place) = (indicatif::HumanBytes(space.free), &space.place);
    // In megabytes.
    let usual = server.number("max_wal_size").unwrap_or_default().unsigned_abs() << 20;
    Some(if space.free < space.total / SCARCE || space.free < usual {
        Finding::warning(
            CODE,
            format!(
                "{free} are free where the server's WAL is ({place}): it stops when that is full, and WAL that waits \
                 for the repository piles up there"
            ),
            "make room, or give pg_wal a larger disk",
        )
    } else {
        Finding::ok(CODE, format!("{free} are free where the server's WAL is ({place})"))
    })
}
