//! What the server's log will tell when somebody has to know what happened.

use super::super::observed::{Observed, Server};
use super::{set, set_and_restart};
use crate::finding::Finding;

pub(super) fn collector(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "log_collector";
    let destination = server.setting("log_destination");
    let is_elsewhere = destination.split(',').any(|place| matches!(place.trim(), "syslog" | "eventlog"));
    Some(match (server.is_on("logging_collector"), is_elsewhere) {
        (true, _) => Finding::ok(CODE, format!("the server's log is collected ({destination})")),
        (false, true) => Finding::ok(CODE, format!("the server's log goes to {destination}")),
        (false, false) => Finding::warning(
            CODE,
            "logging_collector is off: the server's log goes to its standard error, and where that goes, and for how long it \
             is kept, only those know who start the server",
            set_and_restart("logging_collector", "on"),
        ),
    })
}

pub(super) fn durations(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "log_durations";
    Some(match server.number("log_min_duration_statement")? {
        -1 => Finding::warning(
            CODE,
            "log_min_duration_statement is -1: no slow statement is in the server's log",
            set("log_min_duration_statement", "1s"),
        ),
        0 => Finding::warning(
            CODE,
            "log_min_duration_statement is 0: each statement is in the server's log, with all that stands in it",
            set("log_min_duration_statement", "1s"),
        ),
        milliseconds => Finding::ok(CODE, format!("statements of {milliseconds} ms and more are in the log")),
    })
}

pub(super) fn connections(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "log_connections";
    // From 18 on a list of what is told of a connection; empty is off.
    let is_off = |name: &str| matches!(server.setting(name), "off" | "");
    let silent: Vec<&str> =
        ["log_connections", "log_disconnections"].into_iter().filter(|name| is_off(name)).collect();
    Some(match silent.is_empty() {
        true => Finding::ok(CODE, "who connects, and when he leaves, is in the log"),
        false => Finding::warning(
            CODE,
            format!("{}: who was connected when something happened, nobody can tell", off(&silent)),
            all_on(&silent),
        ),
    })
}

pub(super) fn events(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "log_events";
    let silent: Vec<&str> =
        ["log_lock_waits", "log_checkpoints"].into_iter().filter(|name| !server.is_on(name)).collect();
    Some(match silent.is_empty() {
        true => Finding::ok(CODE, "long waits for locks, and checkpoints, are in the log"),
        false => Finding::warning(
            CODE,
            format!("{}: what held the server up is not in its log", off(&silent)),
            all_on(&silent),
        ),
    })
}

fn off(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb} off", names.join(" and "))
}

fn all_on(names: &[&str]) -> String {
    names.iter().map(|name| set(name, "on")).collect::<Vec<_>>().join("\n")
}
