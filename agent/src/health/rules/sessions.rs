//! Who is connected, and who waits for whom.

use proto::config::HealthConfig;

use super::super::observed::{Observed, Session};
use super::{limit, lines, span, told};
use crate::finding::Finding;

/// From here on the next who wants to connect may be refused.
const NEARLY_ALL: u32 = 95;

pub(super) fn connections(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "connections";
    let connections = &observed.connections;
    let states: Vec<String> =
        connections.by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let message = format!(
        "{} of {} connections are in use ({})",
        connections.used,
        connections.limit,
        states.join(", ")
    );
    let per_cent = |share: u32| u64::from(connections.limit) * u64::from(share) / 100;
    let used = u64::from(connections.used);
    let fix = "close what is idle, use a pooler, or raise max_connections and restart PostgreSQL";
    Some(match () {
        () if used >= per_cent(NEARLY_ALL) => Finding::error(CODE, message, fix),
        () if used >= per_cent(config.connections) => Finding::warning(CODE, message, fix),
        () => Finding::ok(CODE, message),
    })
}

pub(super) fn blocked(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "blocked";
    let waits = |session: &&Session| {
        !session.blocked_by.is_empty() && session.statement_seconds > Some(limit(config.blocked))
    };
    let waiting: Vec<&Session> = observed.sessions.iter().filter(waits).collect();
    if waiting.is_empty() {
        let longer = span(limit(config.blocked));
        return Some(Finding::ok(CODE, format!("nobody has waited for a lock for longer than {longer}")));
    }
    let of = |pid: i32| observed.sessions.iter().find(|session| session.pid == pid);
    let sentence = |session: &&Session| {
        let blockers: Vec<String> = session
            .blocked_by
            .iter()
            .map(|pid| of(*pid).map_or_else(|| format!("process {pid}"), described))
            .collect();
        let seconds = session.statement_seconds.unwrap_or_default();
        format!("{} has waited for {} for {}", described(session), span(seconds), blockers.join(" and "))
    };
    // Who is blocked himself goes on by himself when the first in the row is gone.
    let mut first: Vec<i32> = waiting.iter().flat_map(|session| session.blocked_by.iter().copied()).collect();
    first.retain(|pid| of(*pid).is_none_or(|session| session.blocked_by.is_empty()));
    first.sort_unstable();
    first.dedup();
    Some(Finding::warning(
        CODE,
        told(waiting.iter().map(sentence).collect(), "; "),
        lines(first.into_iter().map(terminate)),
    ))
}

pub(super) fn idle_in_transaction(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "idle_in_transaction";
    let longest = limit(config.idle_in_transaction);
    let idle = |session: &&Session| is_idle(session) && session.state_seconds > Some(longest);
    let idle: Vec<&Session> = observed.sessions.iter().filter(idle).collect();
    if idle.is_empty() {
        return Some(Finding::ok(
            CODE,
            format!("no transaction has been open for {} with nothing done in it", span(longest)),
        ));
    }
    let sentence = |session: &&Session| {
        format!(
            "{} has done nothing for {}",
            described(session),
            span(session.state_seconds.unwrap_or_default())
        )
    };
    Some(Finding::warning(
        CODE,
        format!(
            "open transactions keep their locks, and what VACUUM could remove: {}",
            told(idle.iter().map(sentence).collect(), "; ")
        ),
        format!(
            "{}\nALTER SYSTEM SET idle_in_transaction_session_timeout = '{}min';  -- then SELECT pg_reload_conf()",
            lines(idle.iter().map(|session| terminate(session.pid))),
            (longest / 60.0).ceil()
        ),
    ))
}

pub(super) fn long_transactions(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "long_transactions";
    let longest = limit(config.long_transaction);
    // The others are told of by the rule above, and by the one on standbys.
    let is_long = |session: &&Session| {
        !is_idle(session) && session.state.is_some() && session.transaction_seconds > Some(longest)
    };
    let long: Vec<&Session> = observed.sessions.iter().filter(is_long).collect();
    if long.is_empty() {
        let longer = span(longest);
        return Some(Finding::ok(CODE, format!("no transaction has been at work for longer than {longer}")));
    }
    let sentence = |session: &&Session| {
        let seconds = session.transaction_seconds.unwrap_or_default();
        format!("{} has been at work for {}", described(session), span(seconds))
    };
    Some(Finding::warning(
        CODE,
        told(long.iter().map(sentence).collect(), "; "),
        lines(long.iter().map(|session| {
            format!("SELECT pg_cancel_backend({});  -- ends the statement, not the session", session.pid)
        })),
    ))
}

fn is_idle(session: &Session) -> bool {
    session.state.as_deref().is_some_and(|state| state.starts_with("idle in transaction"))
}

/// Who, where, with what.
fn described(session: &Session) -> String {
    let (role, database) = (session.role.as_deref(), session.database.as_deref());
    let mut text = format!("process {}", session.pid);
    if let (Some(role), Some(database)) = (role, database) {
        text += &format!(" ({role} in {database}");
        if let Some(state) = session.state.as_deref().filter(|state| *state != "active") {
            text += &format!(", {state}");
        }
        text.push(')');
    }
    if let Some(query) = session.query.as_deref().filter(|query| !query.is_empty()) {
        let words: Vec<&str> = query.split_whitespace().collect();
        text += &format!(" with «{}»", words.join(" "));
    }
    text
}

fn terminate(pid: i32) -> String {
    format!("SELECT pg_terminate_backend({pid});  -- ends the session, and takes its transaction back")
}
