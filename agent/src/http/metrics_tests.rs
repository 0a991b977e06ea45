use std::collections::BTreeSet;
use std::path::Path;

use super::super::facts::tests::{everything, nothing};
use super::*;

fn samples(text: &str) -> Vec<(String, f64)> {
    let of = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(of).collect()
}

/// Those of all modules.
fn all() -> impl Iterator<Item = &'static &'static Metric> {
    ALL.iter().chain(super::health::ALL)
}

#[test]
fn names_and_units_are_as_prometheus_asks() {
    let mut names = BTreeSet::new();
    for metric in all() {
        let name = metric.name;
        assert!(names.insert(name), "{name} is there twice");
        assert!(name.starts_with("walkeep_"), "{name}");
        assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert!(metric.help.ends_with('.') && !metric.help.contains(". "), "{name}: one sentence");
        for wrong in ["_ms", "_millis", "_kb", "_mib", "_minutes", "_percent"] {
            assert!(!name.ends_with(wrong), "{name}");
        }
    }
}

#[test]
fn all_are_told_and_in_the_manual() {
    let text = text(&everything());
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring/README.md");
    let manual =
        std::fs::read_to_string(&manual).unwrap_or_else(|error| panic!("{}: {error}", manual.display()));
    let rows: BTreeSet<&str> = manual.lines().filter(|line| line.starts_with("| `walkeep_")).collect();
    let mut expected = BTreeSet::new();
    for metric in all() {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!(
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind.name(),
            labels.join(", "),
            metric.help
        );
        assert!(rows.contains(row.as_str()), "docs/monitoring/README.md must have the line\n{row}");
        expected.insert(row);
        assert_eq!(text.matches(&format!("\n# TYPE {} {}\n", metric.name, metric.kind.name())).count(), 1);
        let sample = |(name, _): &(String, f64)| {
            name.split('{').next().is_some_and(|name| {
                name == metric.name || (metric.kind == Kind::Histogram && name.starts_with(metric.name))
            })
        };
        assert!(samples(&text).iter().any(sample), "{} has no sample though all is known", metric.name);
    }
    assert_eq!(rows.len(), expected.len(), "the manual has metrics that there are not");
}

#[test]
fn what_is_not_known_has_no_sample() {
    let text = text(&nothing());
    let names: Vec<String> = samples(&text).into_iter().map(|(name, _)| name).collect();
    for absent in [
        "at_risk",
        "lsn",
        "lag",
        "look_age",
        "last_",
        "backups",
        "gaps",
        "slot",
        "reachable",
        "window",
        "job",
    ] {
        assert!(!names.iter().any(|name| name.contains(absent)), "{absent} in {names:?}");
    }
    assert!(names.contains(&"walkeep_stream_state{state=\"connecting\"}".to_owned()), "{names:?}");
}

#[test]
fn the_facts_are_in_the_samples() {
    let all = samples(&text(&everything()));
    let value = |name: &str| {
        let found = all.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name} is not among {all:?}")).1
    };
    for (name, expected) in [
        ("walkeep_at_risk_bytes", 1024.0),
        ("walkeep_at_risk_seconds", 0.5),
        ("walkeep_stream_state{state=\"streaming\"}", 1.0),
        ("walkeep_stream_state{state=\"waiting\"}", 0.0),
        ("walkeep_stream_durable_lsn_bytes", f64::from(0x900_0000)),
        ("walkeep_stream_put_duration_seconds_count{object=\"record\"}", 2.0),
        ("walkeep_stream_put_wal_bytes_total{object=\"record\"}", 4096.0),
        ("walkeep_backups{kind=\"full\"}", 2.0),
        ("walkeep_backups_unusable", 2.0),
        ("walkeep_last_backup_age_seconds{kind=\"incremental\"}", 3600.0),
        ("walkeep_last_backup_duration_seconds{kind=\"incremental\"}", 60.0),
        ("walkeep_dumps", 3.0),
        ("walkeep_last_dump_age_seconds", 1800.0),
        ("walkeep_window_to_lsn_bytes{timeline=\"2\"}", f64::from(0x900_0000)),
        ("walkeep_gaps", 1.0),
        ("walkeep_gap_bytes", f64::from(0x100_0000)),
        ("walkeep_tail_objects{timeline=\"2\"}", 3.0),
        ("walkeep_slot_wal_status{status=\"extended\"}", 1.0),
        ("walkeep_slot_retained_bytes", 5.0),
        ("walkeep_archiver_backlog_files", 4.0),
        ("walkeep_last_drill_passed", 0.0),
        ("walkeep_last_drill_age_seconds", 7200.0),
        ("walkeep_repository_look_age_seconds", 30.0),
        ("walkeep_job_running{job=\"verify\"}", 1.0),
        ("walkeep_job_last_succeeded{job=\"drill\"}", 0.0),
        ("walkeep_job_last_duration_seconds{job=\"full\"}", 60.0),
        ("walkeep_health_reachable", 1.0),
        ("walkeep_health_finding{code=\"dead_rows\"}", 0.0),
        ("walkeep_health_finding{code=\"disk\"}", 2.0),
        ("walkeep_connections{state=\"idle\"}", 8.0),
        ("walkeep_database_size_bytes{database=\"shop\"}", 1_073_741_824.0),
        ("walkeep_checkpoints_total{kind=\"requested\"}", 5.0),
    ] {
        assert!((value(name) - expected).abs() < 1e-6, "{name} is {}", value(name));
    }
}
