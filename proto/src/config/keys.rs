//! The keys that there are, and the one that a misspelt one was meant to be.

/// Every key, with its section. What is not here is refused before anything is read.
pub(super) const KEYS: &[&str] = &[
    "repository",
    "cluster",
    "postgres",
    "socket",
    "socket_users",
    "stream.enabled",
    "stream.slot",
    "stream.flush_interval",
    "stream.synchronous",
    "stream.shutdown_grace",
    "stream.backup_after_gap",
    "backup.from",
    "backup.source",
    "backup.read_rate",
    "backup.upload_rate",
    "storage.endpoint",
    "storage.region",
    "storage.path_style",
    "storage.allow_http",
    "storage.storage_class",
    "storage.kms_key",
    "storage.tags",
    "storage.ca_file",
    "storage.connect_timeout",
    "storage.read_timeout",
    "storage.retry_timeout",
    "storage.concurrency",
    "compression.level",
    "encryption.recipients",
    "encryption.identity_file",
    "encryption.identity_command",
    "encryption.metadata_identity_file",
    "signing.key_file",
    "signing.trusted_keys",
    "signing.statement_interval",
    "retention.window",
    "retention.full",
    "retention.grace",
    "schedule.full",
    "schedule.incremental",
    "schedule.dump",
    "schedule.expire",
    "schedule.verify",
    "schedule.verify_deep",
    "schedule.drill",
    "schedule.upkeep",
    "schedule.checklist_daily",
    "schedule.checklist_weekly",
    "schedule.checklist_monthly",
    "schedule.timezone",
    "schedule.jitter",
    "notify.command",
    "notify.webhook",
    "notify.timeout",
    "notify.after",
    "log.level",
    "drill.scratch",
    "drill.bindir",
    "drill.patience",
    "drill.amcheck",
    "drill.sql",
    "drill.database",
    "drill.settings",
    "dump.postgres",
    "dump.databases",
    "dump.globals",
    "dump.role_passwords",
    "dump.format",
    "dump.jobs",
    "dump.exclude_tables",
    "dump.scratch",
    "dump.bindir",
    "dump.keep",
    "dump.window",
    "health.enabled",
    "health.interval",
    "health.connections",
    "health.long_transaction",
    "health.idle_in_transaction",
    "health.blocked",
    "health.cache_hit",
    "health.dead_rows",
    "health.unused_after",
    "health.xid_age",
    "health.replication_lag",
    "health.temp_files",
    "checklist.folder",
    "upkeep.enabled",
    "upkeep.postgres",
    "upkeep.window",
    "upkeep.budget",
    "upkeep.lock_timeout",
    "upkeep.dead_rows",
    "upkeep.changed_rows",
    "upkeep.tables",
    "upkeep.reindex",
    "upkeep.bloat",
    "upkeep.smallest_index",
    "upkeep.during_backup",
    "http.listen",
    "http.token_file",
    "http.certificate_file",
    "http.key_file",
    "http.refresh",
];

/// Keys whose values are never repeated in a message: they may hold a secret, or one was put there by mistake.
pub(super) const SECRET: &[&str] = &[
    "repository",
    "postgres",
    "dump.postgres",
    "storage.endpoint",
    "storage.kms_key",
    "encryption.recipients",
    "encryption.identity_command",
    "signing.trusted_keys",
    "notify.webhook",
    "upkeep.postgres",
];

/// The known keys and sections within `section` ("" for the top level), without their section's name.
pub(super) fn known_in(section: &str) -> impl Iterator<Item = &'static str> {
    let all = KEYS.iter().filter_map(move |key| match section {
        "" => Some(key.split_once('.').map_or(*key, |(section, _)| section)),
        _ => key.strip_prefix(section)?.strip_prefix('.'),
    });
    // The sections' names come several times, but one after another.
    let mut last = "";
    all.filter(move |key| std::mem::replace(&mut last, *key) != *key)
}

/// The known key that looks most like an unknown one: of the same section rather than of another.
pub(super) fn nearest(section: &str, key: &str) -> Option<String> {
    let qualified = |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    let here = known_in(section).map(|known| (2 * strsim::damerau_levenshtein(key, known), qualified(known)));
    let elsewhere = KEYS.iter().map(|known| {
        let last = known.rsplit('.').next().unwrap_or(known);
        (2 * strsim::damerau_levenshtein(key, last) + 1, (*known).to_owned())
    });
    // With more than half of it changed it is another word.
    let alike = |(distance, _): &(usize, String)| *distance <= key.chars().count().max(4);
    here.chain(elsewhere).min_by_key(|(distance, _)| *distance).filter(alike).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of_the_project(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn every_key_is_in_the_manual() {
        let manual = of_the_project("docs/configuration.md");
        for key in KEYS {
            let (section, name) =
                key.rsplit_once('.').map_or(("## Top level".to_owned(), *key), |(section, name)| {
                    (format!("## `[{section}]`"), name)
                });
            let (_, rest) = manual.split_once(&section).unwrap_or_else(|| panic!("there is no {section}"));
            let text = rest.split("\n## ").next().unwrap_or_default();
            assert!(
                text.contains(&format!("\n| `{name}` |")),
                "docs/configuration.md does not tell of {key}"
            );
        }
    }

    #[test]
    fn the_fuzzer_begins_with_every_key() {
        let text = of_the_project("fuzz/corpus/config/every-key");
        crate::config::Config::parse(&text).expect("it is a configuration");
        // `full` excludes `window`, and a command a file.
        let excluded = ["retention.full", "encryption.identity_command"];
        for key in KEYS.iter().filter(|key| !excluded.contains(key)) {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", *key));
            let there = match section {
                "" => text.contains(&format!("\n{name} ")),
                _ => text.split_once(&format!("[{section}]")).is_some_and(|(_, rest)| {
                    rest.split("\n[").next().unwrap_or_default().contains(&format!("\n{name} = "))
                }),
            };
            assert!(there, "{key} is missing");
        }
    }
}
