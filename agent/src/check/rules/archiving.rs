//! archive_command: whether, how, and with what success.

use super::super::observed::{Observed, Server};
use super::{set, set_and_restart};
use crate::finding::Finding;

/// A healthy archiver is not so many files behind for long.
const BACKLOG: u64 = 32;

pub(super) fn archive_mode(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "archive_mode";
    let fix = || set_and_restart("archive_mode", "on");
    Some(match (server.archives(), observed.config.stream.enabled) {
        (true, _) => Finding::ok(CODE, format!("archive_mode is {}", server.setting("archive_mode"))),
        (false, true) => Finding::warning(
            CODE,
            "archive_mode is off: WAL comes by streaming only, and a lost slot is a gap that nothing fills",
            fix(),
        ),
        (false, false) => Finding::error(
            CODE,
            "archive_mode is off and streaming is, too: no WAL leaves this server",
            fix(),
        ),
    })
}

pub(super) fn archive_command(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "archive_command";
    if !server.archives() {
        return None;
    }
    let fix = set("archive_command", &observed.archive_command);
    let library = server.setting("archive_library");
    if !library.is_empty() {
        let fix = format!("{}\n{fix}", set("archive_library", ""));
        return Some(Finding::error(
            CODE,
            format!(
                "archive_library is {library}: archive_command is not used, and walkeep gets nothing by archiving"
            ),
            fix,
        ));
    }
    let command = server.setting("archive_command");
    if command.is_empty() || command == "(disabled)" {
        return Some(Finding::error(
            CODE,
            "archive_mode is on and archive_command is empty: WAL piles up in pg_wal until the disk is full",
            fix,
        ));
    }
    if !server.archives_to_us() {
        let message = format!("archive_command is {command:?}: it does not hand WAL to walkeep");
        return Some(match observed.config.stream.enabled {
            true => Finding::warning(CODE, message + "; WAL comes by streaming only", fix),
            false => Finding::error(CODE, message + ", and streaming is off", fix),
        });
    }
    let program = server.archive_program.as_ref();
    if let Some((path, trouble)) = program.and_then(|p| Some((p.path.display(), p.trouble.as_ref()?))) {
        return Some(Finding::error(CODE, format!("archive_command runs {path}, and {trouble}"), fix));
    }
    if let Some(other) = program.and_then(|program| program.other_configuration.as_ref()) {
        return Some(Finding::error(
            CODE,
            format!("archive_command does not reach this agent: {other}"),
            fix,
        ));
    }
    Some(Finding::ok(CODE, format!("archive_command is {command}")))
}

pub(super) fn archiver(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "archiver";
    if !server.archives() {
        return None;
    }
    let archiver = &server.archiver;
    Some(match &archiver.failing {
        Some(file) => Finding::error(
            CODE,
            format!(
                "the archiver fails at {file} ({} failures so far): WAL waits in pg_wal",
                archiver.failed
            ),
            "the server's log has the reason, from archive-cmd; the archiver goes on by itself when it is gone",
        ),
        // An archiver that is killed by what it runs fails without being counted.
        None if archiver.waiting > BACKLOG => Finding::warning(
            CODE,
            format!(
                "{} files wait for the archiver: it is behind, or does not get on at all",
                archiver.waiting
            ),
            "SELECT * FROM pg_stat_archiver;  -- and the server's log; what it runs may end with a code above 125",
        ),
        None => Finding::ok(
            CODE,
            format!(
                "the archiver has handed over {} files, and {} wait",
                archiver.archived, archiver.waiting
            ),
        ),
    })
}

pub(super) fn archive_timeout(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "archive_timeout";
    if !server.archives() {
        return None;
    }
    Some(match (server.number("archive_timeout").unwrap_or_default(), observed.config.stream.enabled) {
        (0, true) => {
            Finding::ok(CODE, "archive_timeout is off, and not needed: streaming does not wait for it")
        }
        (0, false) => Finding::warning(
            CODE,
            "archive_timeout is off: without streaming, a quiet server's last WAL may wait for days to be archived",
            set("archive_timeout", "1min"),
        ),
        (seconds, _) => Finding::ok(CODE, format!("archive_timeout is {seconds} s")),
    })
}
