//! Whether the server cleans up after itself.

use super::super::observed::{Observed, Server};
use super::set;
use crate::finding::Finding;

/// What must not be switched off.
const SWITCHES: [&str; 2] = ["autovacuum", "track_counts"];

/// A setting, the most that makes sense of it in its own unit, and what comes of more.
const BOUNDS: [(&str, f64, &str); 5] = [
    ("autovacuum_naptime", 600.0, "seconds between looks at a database"),
    ("autovacuum_vacuum_scale_factor", 0.4, "of a table's rows must be dead before it is vacuumed"),
    ("autovacuum_analyze_scale_factor", 0.4, "of a table's rows must be changed before it is analyzed"),
    ("autovacuum_vacuum_cost_delay", 20.0, "ms of rest after each small piece of work"),
    (
        "autovacuum_freeze_max_age",
        1_000_000_000.0,
        "transactions before a table is frozen, of 2 billion in all",
    ),
];

pub(super) fn autovacuum(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "autovacuum";
    let off: Vec<&str> = SWITCHES.into_iter().filter(|name| server.setting(name) == "off").collect();
    if !off.is_empty() {
        let verb = if off.len() == 1 { "is" } else { "are" };
        return Some(Finding::warning(
            CODE,
            format!(
                "{} {verb} off: tables and indexes grow with what nobody sees any more, the planner guesses, and in the end \
                 the server takes no more writes",
                off.join(" and ")
            ),
            off.iter().map(|name| set(name, "on")).collect::<Vec<_>>().join("\n"),
        ));
    }
    let beyond: Vec<(&str, &str, &str)> = BOUNDS
        .into_iter()
        .filter_map(|(name, most, what)| {
            let value = server.setting(name);
            (value.parse::<f64>().ok()? > most).then_some((name, value, what))
        })
        .collect();
    if beyond.is_empty() {
        return Some(Finding::ok(CODE, "autovacuum runs"));
    }
    let told: Vec<String> =
        beyond.iter().map(|(name, value, what)| format!("{name} is {value}: {what}")).collect();
    // What waits for a restart is said to; the others are in force after the reload.
    let reset = |(name, ..): &(&str, &str, &str)| {
        let restart = if *name == "autovacuum_freeze_max_age" { "  -- then restart PostgreSQL" } else { "" };
        format!("ALTER SYSTEM RESET {name};{restart}")
    };
    let mut lines: Vec<String> = beyond.iter().map(reset).collect();
    lines.push("SELECT pg_reload_conf();".to_owned());
    Some(Finding::warning(CODE, format!("autovacuum does little: {}", told.join("; ")), lines.join("\n")))
}
