//! What a commit waits for, with an archiver as synchronous standby.
//!
//! The agent reports as written and as flushed what the repository holds, and reports nothing as applied: it replays
//! nothing. So `remote_write` and `on` mean the same here, and `remote_apply` waits for ever.

use super::super::observed::{Observed, Server};
use super::{literal, set, toml};
use crate::finding::Finding;

const CODE: &str = "synchronous";

/// Takes the agent out of the way of commits.
fn fall_back() -> String {
    set("synchronous_standby_names", "")
}

/// Whether commits wait for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Not,
    /// Others may answer in our place: a commit may return without us, or wait for us.
    OneOf,
    /// No commit returns without us.
    Required,
}

/// Looks for our name in `synchronous_standby_names`: `a, b`, `2 (a, b)`, `FIRST 1 (a)`, `ANY 1 ("a", *)`. Case does not
/// matter, and `*` matches everybody. Pure.
///
/// We are required only where as many have to answer as are named. By priority, too: if the first is away, the second
/// takes its place.
pub(super) fn named(names: &str, own: &str) -> Named {
    let (method, list) = names.split_once('(').unwrap_or(("1", names));
    let count = method.split_whitespace().last().and_then(|count| count.parse().ok()).unwrap_or(1);
    let list = list.trim().trim_end_matches(')');
    let names: Vec<String> = list
        .split(',')
        .map(|name| name.trim().trim_matches('"').to_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    let is_us = |name: &String| name == "*" || *name == own.to_lowercase();
    let everybody = names.iter().any(|name| name == "*");
    match names.iter().any(is_us) {
        false => Named::Not,
        true if everybody || names.len() > count => Named::OneOf,
        true => Named::Required,
    }
}

pub(super) fn synchronous(observed: &Observed, server: &Server) -> Option<Finding> {
    let stream = &observed.config.stream;
    let names = server.setting("synchronous_standby_names");
    let named = named(names, &observed.application_name);
    let level = server.setting("synchronous_commit");
    if named == Named::Not {
        return Some(not_named(observed, names));
    }
    if !stream.enabled {
        return Some(Finding::error(
            CODE,
            "synchronous_standby_names wants the agent, but streaming is off in its configuration: commits hang",
            fall_back(),
        ));
    }
    let running = observed.agent.as_ref().is_ok_and(|agent| agent.state == "streaming");
    if !running && level != "off" && level != "local" && named == Named::Required {
        return Some(Finding::error(
            CODE,
            "commits wait for the agent, and it does not stream: they hang until it does. Start it; to let them go \
             without it, take its name out, and put it back when the agent streams again",
            fall_back(),
        ));
    }
    Some(match level {
        "remote_apply" => {
            let message = "synchronous_commit is remote_apply: a commit waits until a standby has replayed it, and an \
                           archiver replays nothing";
            let fix = set("synchronous_commit", "on");
            match named {
                Named::Required => Finding::error(CODE, format!("{message}: every commit hangs"), fix),
                _ => Finding::warning(
                    CODE,
                    format!("{message}: commits hang unless another standby is there"),
                    fix,
                ),
            }
        }
        "off" | "local" => Finding::warning(
            CODE,
            format!(
                "synchronous_standby_names wants the agent, but synchronous_commit is {level}: a commit waits {}, not for \
                 the repository",
                if level == "off" { "for nothing" } else { "for the local disk" }
            ),
            set("synchronous_commit", "on"),
        ),
        _ if named == Named::OneOf => Finding::warning(
            CODE,
            format!(
                "synchronous_standby_names is {names}: a commit may return when others than the agent have answered, \
                 before its WAL is in the repository; where nobody else is there, it waits for the agent"
            ),
            set("synchronous_standby_names", &observed.application_name),
        ),
        _ if !stream.synchronous => Finding::warning(
            CODE,
            format!(
                "commits wait for the agent, which flushes every {:?} only: each takes that long",
                stream.flush_interval
            ),
            toml("stream", "synchronous = true"),
        ),
        level => Finding::ok(
            CODE,
            format!(
                "synchronous_commit is {level}: a commit returns when its WAL is durable in the repository (remote_write \
                 means the same with an archiver; local and off do not wait for it, remote_apply would wait for ever). If \
                 the agent is down, commits hang; ALTER SYSTEM SET synchronous_standby_names = '' and a reload let them go"
            ),
        ),
    })
}

/// Commits do not wait for us.
fn not_named(observed: &Observed, names: &str) -> Finding {
    let stream = &observed.config.stream;
    if stream.enabled && stream.synchronous {
        let own = &observed.application_name;
        let fix = match names.trim() {
            "" => set("synchronous_standby_names", own),
            others => {
                format!("add {} to synchronous_standby_names, which is {}", literal(own), literal(others))
            }
        };
        return Finding::warning(
            CODE,
            "[stream] has `synchronous = true`, but synchronous_standby_names does not want the agent: commits do not \
             wait for the repository, and every one of them is flushed at once for nothing",
            fix,
        );
    }
    let most = match stream.enabled {
        true => format!(
            "the last {:?} of them, and one flush, can be lost with the server",
            stream.flush_interval
        ),
        false => "those in the segment that is not full yet can be lost with the server".to_owned(),
    };
    Finding::ok(CODE, format!("commits do not wait for the repository: {most}"))
}

/// A role or a database may have a level of its own, which `SHOW` does not tell others.
pub(super) fn overrides(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "synchronous_overrides";
    if named(server.setting("synchronous_standby_names"), &observed.application_name) == Named::Not {
        return None;
    }
    let of = |wanted: &[&str]| -> Vec<&str> {
        let all = server.synchronous_overrides.iter();
        all.filter(|(_, level)| wanted.contains(&level.as_str())).map(|(reset, _)| reset.as_str()).collect()
    };
    let (hang, loose) = (of(&["remote_apply"]), of(&["off", "local"]));
    Some(if !hang.is_empty() {
        Finding::error(
            CODE,
            "for some roles or databases synchronous_commit is remote_apply: their commits wait for a replay that an \
             archiver never does",
            hang.join("\n"),
        )
    } else if !loose.is_empty() {
        Finding::warning(
            CODE,
            "for some roles or databases synchronous_commit is local or off: their commits do not wait for the repository",
            loose.join("\n"),
        )
    } else {
        Finding::ok(CODE, "no role or database has a synchronous_commit that means less, or hangs")
    })
}
