use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proto::config::{Config, Retention, RetentionConfig};

use super::super::hba::HbaLine;
use super::super::observed::{
    Agent, Archiver, Backup, Cluster, Failed, Observed, Program, Server, Space, Stored,
};
use super::synchronous::{Named, named};
use super::*;
use crate::backup::facts::Slot;
use crate::finding::Severity;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// A server without fault.
fn healthy() -> Observed {
    let settings = [
        ("archive_command", "/usr/bin/archive-cmd %p"),
        ("archive_mode", "on"),
        ("archive_timeout", "0"),
        ("archive_library", ""),
        ("autovacuum", "on"),
        ("autovacuum_naptime", "60"),
        ("data_checksums", "on"),
        ("data_directory", "/srv/data"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("idle_replication_slot_timeout", "0"),
        ("listen_addresses", "localhost"),
        ("log_checkpoints", "on"),
        ("log_connections", "on"),
        ("log_destination", "stderr"),
        ("log_disconnections", "on"),
        ("log_lock_waits", "on"),
        ("log_min_duration_statement", "1000"),
        ("logging_collector", "on"),
        ("max_replication_slots", "10"),
        ("max_slot_wal_keep_size", "1024"),
        ("max_wal_senders", "10"),
        ("max_wal_size", "1024"),
        ("password_encryption", "scram-sha-256"),
        ("ssl", "off"),
        ("summarize_wal", "on"),
        ("synchronous_commit", "on"),
        ("synchronous_standby_names", ""),
        ("wal_level", "replica"),
    ];
    let settings: BTreeMap<String, String> =
        settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let space = || Some(Space { place: "/srv".to_owned(), free: 50 << 30, total: 100 << 30 });
    let server = Server {
        version: 180_006,
        settings,
        role: "walkeep".to_owned(),
        may_replicate: true,
        may_monitor: true,
        may_switch_wal: true,
        slot: Some(Slot {
            physical: true,
            active: true,
            lost: false,
            restart_lsn: Some(proto::Lsn(0x300_0000)),
        }),
        hba: Some(vec![
            hba_line("local", None, "peer"),
            hba_line("host", Some("10.1.0.0/16"), "scram-sha-256"),
        ]),
        slots_used: 1,
        senders_used: 1,
        space: space(),
        archive_program: Some(Program {
            path: "/usr/bin/archive-cmd".into(),
            trouble: None,
            other_configuration: None,
        }),
        ..Server::default()
    };
    let backup = Backup { label: "b".to_owned(), finished_at: NOW, restorable: true };
    let stored = Stored {
        description: "file:///srv".to_owned(),
        clock_ahead: Some(SignedDuration::ZERO),
        space: space(),
        cluster: Some(Ok(Cluster { backup: Some(backup), gaps: Vec::new() })),
        ..Stored::default()
    };
    Observed {
        config: Config {
            retention: RetentionConfig { keep: Some(Retention::Full(2)), ..RetentionConfig::default() },
            ..Config::default()
        },
        archive_command: "/usr/bin/archive-cmd --config /etc/walkeep/it's.toml %p".to_owned(),
        hba_line: "local replication walkeep peer".to_owned(),
        database: "postgres".to_owned(),
        application_name: "walkeep".to_owned(),
        now: NOW,
        server: Ok(server),
        replication: Ok(()),
        agent: Ok(Agent { state: "streaming".to_owned(), last_error: None, lag_seconds: Some(0.1) }),
        repository: Ok(stored),
    }
}

fn hba_line(kind: &str, address: Option<&str>, method: &str) -> HbaLine {
    HbaLine {
        number: 7,
        kind: kind.to_owned(),
        databases: vec!["all".to_owned()],
        roles: vec!["all".to_owned()],
        address: address.map(str::to_owned),
        netmask: None,
        method: method.to_owned(),
        options: Vec::new(),
        error: None,
    }
}

fn with(change: impl FnOnce(&mut Observed)) -> Vec<Finding> {
    let mut observed = healthy();
    change(&mut observed);
    apply(&observed)
}

fn with_server(change: impl FnOnce(&mut Server)) -> Vec<Finding> {
    with(|observed| change(observed.server.as_mut().unwrap()))
}

fn with_setting(name: &str, value: &str) -> Vec<Finding> {
    with_server(|server| drop(server.settings.insert(name.to_owned(), value.to_owned())))
}

fn with_stored(change: impl FnOnce(&mut Stored)) -> Vec<Finding> {
    with(|observed| change(observed.repository.as_mut().unwrap()))
}

/// The one finding that is not in order.
#[track_caller]
fn only(findings: Vec<Finding>, code: &str, severity: Severity) -> Finding {
    let bad: Vec<Finding> = findings.into_iter().filter(|finding| finding.severity != Severity::Ok).collect();
    assert_eq!(bad.len(), 1, "{bad:#?}");
    assert_eq!((bad[0].code, bad[0].severity), (code, severity), "{bad:#?}");
    assert!(bad[0].fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{bad:#?}");
    bad.into_iter().next().unwrap()
}

#[test]
fn a_healthy_server_has_nothing_to_complain_of() {
    let findings = apply(&healthy());
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:#?}");
    let codes: std::collections::BTreeSet<_> = findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes.len(), findings.len(), "each code comes once");
}

#[test]
fn each_setting_is_judged_by_itself() {
    use Severity::{Error, Warning};
    for (name, value, severity) in [
        ("archive_command", "", Error),
        ("archive_command", "cp %p /somewhere/%f", Warning),
        ("archive_mode", "off", Warning),
        ("data_checksums", "off", Warning),
        ("fsync", "off", Error),
        ("full_page_writes", "off", Error),
        ("idle_replication_slot_timeout", "3600", Warning),
        ("max_slot_wal_keep_size", "-1", Warning),
        ("max_wal_senders", "2", Warning),
        ("max_wal_senders", "0", Error),
        ("password_encryption", "md5", Warning),
        ("summarize_wal", "off", Warning),
        ("wal_level", "minimal", Error),
    ] {
        let finding = only(with_setting(name, value), name, severity);
        assert!(
            finding.message.contains(name) || name.starts_with("max_wal") || name.starts_with("data"),
            "{finding:?}"
        );
    }
}

#[test]
fn the_fix_of_archive_command_survives_a_quote() {
    let finding = only(with_setting("archive_command", ""), "archive_command", Severity::Error);
    let fix = finding.fix.unwrap();
    assert_eq!(
        fix,
        "ALTER SYSTEM SET archive_command = '/usr/bin/archive-cmd --config /etc/walkeep/it''s.toml %p';\n\
         SELECT pg_reload_conf();"
    );
}

#[test]
fn without_streaming_the_archiver_is_all_there_is() {
    let archiving = |name: &str, value: &str| {
        with(|observed| {
            observed.config.stream.enabled = false;
            let settings = &mut observed.server.as_mut().unwrap().settings;
            settings.insert("archive_timeout".to_owned(), "60".to_owned());
            settings.insert(name.to_owned(), value.to_owned());
        })
    };
    assert!(archiving("wal_level", "replica").iter().all(|finding| finding.severity == Severity::Ok));
    only(archiving("archive_mode", "off"), "archive_mode", Severity::Error);
    only(archiving("archive_command", "true"), "archive_command", Severity::Error);
    only(archiving("archive_library", "basic_archive"), "archive_command", Severity::Error);
    only(archiving("archive_timeout", "0"), "archive_timeout", Severity::Warning);
}

#[test]
fn the_server_s_state_is_judged() {
    use Severity::{Error, Warning};
    only(with_server(|s| s.version = 130_004), "version", Warning);
    only(with_server(|s| s.version = 180_005), "version", Warning);
    only(with_server(|s| s.in_recovery = true), "primary", Warning);
    // The slot is the primary's.
    let standby = |s: &mut Server| (s.in_recovery, s.slot) = (true, None);
    only(with_server(standby), "primary", Warning);
    only(with_server(|s| s.may_replicate = false), "role", Error);
    only(with_server(|s| s.may_monitor = false), "pg_monitor", Warning);
    only(with_server(|s| s.remote = true), "tls", Warning);
    only(with_server(|s| s.clock_ahead = SignedDuration::from_secs(-60)), "server_clock", Warning);
    only(with_server(|s| s.pending_restart = vec!["wal_level".to_owned()]), "pending_restart", Warning);
    only(with_server(|s| s.slot = None), "slot", Error);
    only(with_server(|s| s.slot.as_mut().unwrap().lost = true), "slot", Error);
    only(with_server(|s| s.slot.as_mut().unwrap().physical = false), "slot", Error);
    only(with_server(|s| s.space.as_mut().unwrap().free = 1 << 30), "wal_space", Warning);
    let failing = || Archiver { failing: Some("000000010000000000000001".to_owned()), ..Archiver::default() };
    only(with_server(|s| s.archiver.waiting = 1000), "archiver", Warning);
    only(with_server(|s| s.archiver = failing()), "archiver", Error);
    let trouble =
        |s: &mut Server| s.archive_program.as_mut().unwrap().trouble = Some("it is gone".to_owned());
    only(with_server(trouble), "archive_command", Error);
    let other = |s: &mut Server| {
        s.archive_program.as_mut().unwrap().other_configuration = Some("x has another socket".to_owned())
    };
    only(with_server(other), "archive_command", Error);
    let all_taken = with_server(|s| {
        s.slot = None;
        s.slots_used = 10;
    });
    assert!(all_taken.iter().any(|f| f.code == "max_replication_slots" && f.severity == Error));
}

#[test]
fn what_is_stored_is_judged() {
    use Severity::{Error, Warning};
    let failed = || Failed { message: "denied".to_owned(), hint: String::new() };
    only(with_stored(|s| s.write_trouble = Some(failed())), "repository", Error);
    only(with_stored(|s| s.clock_ahead = Some(SignedDuration::from_secs(60))), "store_clock", Warning);
    only(with_stored(|s| s.space.as_mut().unwrap().free = 1 << 30), "repository_space", Warning);
    only(with_stored(|s| s.cluster = Some(Err(failed()))), "cluster", Error);
    only(with_stored(|s| s.cluster = Some(Ok(Cluster::default()))), "backup", Error);
    let backup = |change: fn(&mut Backup)| {
        with_stored(|s| {
            let Some(Ok(cluster)) = &mut s.cluster else { unreachable!("it is there") };
            change(cluster.backup.as_mut().unwrap());
        })
    };
    only(backup(|b| b.restorable = false), "backup", Error);
    only(backup(|b| b.finished_at = NOW - SignedDuration::from_hours(9 * 24)), "backup", Warning);
    let gap = with_stored(|s| {
        let Some(Ok(cluster)) = &mut s.cluster else { unreachable!("it is there") };
        cluster.gaps = vec![(proto::TimelineId::FIRST, proto::Lsn(1), proto::Lsn(2))];
    });
    only(gap, "gap", Error);
    only(with(|o| o.config.retention.keep = None), "retention", Warning);
    only(with(|o| o.repository = Err(failed())), "repository", Error);
    // Deleting is no right that an agent needs.
    let (what, why) = (|| "key".to_owned(), || "denied".to_owned());
    let kept = with_stored(|s| {
        s.delete_trouble = Some(::repository::Error::Refused { what: what(), why: why() });
    });
    assert!(kept.iter().all(|finding| finding.severity == Severity::Ok));
    let away = with_stored(|s| {
        s.delete_trouble = Some(::repository::Error::Unreachable { what: what(), why: why() });
    });
    assert!(only(away, "repository_deletion", Warning).message.contains("denied"));
}

#[test]
fn an_agent_that_is_away_is_told() {
    only(with(|o| o.agent = Err("nobody".to_owned())), "agent", Severity::Error);
    let waiting =
        Agent { state: "waiting".to_owned(), last_error: Some("why".to_owned()), lag_seconds: None };
    let finding = only(with(|o| o.agent = Ok(waiting)), "agent", Severity::Error);
    assert!(finding.message.contains("why"));
    let refused = Failed { message: "no pg_hba.conf entry".to_owned(), hint: String::new() };
    let finding = only(with(|o| o.replication = Err(refused)), "replication", Severity::Error);
    assert!(finding.fix.unwrap().contains("local replication walkeep peer"));
}

#[test]
fn each_level_of_synchronous_commit_is_explained() {
    use Severity::{Error, Ok, Warning};
    let level = |level: &str| {
        with(|o| {
            o.config.stream.synchronous = true;
            let settings = &mut o.server.as_mut().unwrap().settings;
            settings.insert("synchronous_standby_names".to_owned(), "walkeep".to_owned());
            settings.insert("synchronous_commit".to_owned(), level.to_owned());
        })
    };
    for (name, severity) in
        [("remote_apply", Error), ("on", Ok), ("remote_write", Ok), ("local", Warning), ("off", Warning)]
    {
        let findings = level(name);
        let found = findings.iter().find(|finding| finding.code == "synchronous").unwrap();
        assert_eq!(found.severity, severity, "{found:?}");
        assert!(found.message.contains(name), "{found:?}");
    }
    let idle = only(with(|o| o.config.stream.synchronous = true), "synchronous", Warning);
    assert!(idle.fix.unwrap().contains("SET synchronous_standby_names = 'walkeep'"));
    let away = with(|o| {
        o.agent = Err("nobody".to_owned());
        let settings = &mut o.server.as_mut().unwrap().settings;
        settings.insert("synchronous_standby_names".to_owned(), "2 (walkeep, b)".to_owned());
    });
    let away = away.into_iter().find(|finding| finding.code == "synchronous").unwrap();
    assert!(away.severity == Error && away.fix.unwrap().contains("SET synchronous_standby_names = ''"));
    let one_of = with(|o| {
        o.config.stream.synchronous = true;
        let settings = &mut o.server.as_mut().unwrap().settings;
        settings.insert("synchronous_standby_names".to_owned(), "FIRST 1 (b, walkeep)".to_owned());
    });
    assert!(only(one_of, "synchronous", Warning).message.contains("may return"));
    let of_a_role = with(|o| {
        o.config.stream.synchronous = true;
        let server = o.server.as_mut().unwrap();
        server.settings.insert("synchronous_standby_names".to_owned(), "walkeep".to_owned());
        server.synchronous_overrides = vec![("ALTER ROLE a RESET x;".to_owned(), "remote_apply".to_owned())];
    });
    only(of_a_role, "synchronous_overrides", Error);
}

#[test]
fn our_name_is_found_as_the_server_finds_it() {
    for (names, found) in [
        ("", Named::Not),
        ("other", Named::Not),
        ("walkeeper", Named::Not),
        ("walkeep", Named::Required),
        ("*", Named::OneOf),
        ("WalKeep", Named::Required),
        ("walkeep, other", Named::OneOf),
        ("FIRST 1 (\"walkeep\")", Named::Required),
        ("FIRST 1 (walkeep, other)", Named::OneOf),
        ("ANY 1 (other, walkeep)", Named::OneOf),
        ("any 2 (other, walkeep)", Named::Required),
        ("2(other,walkeep)", Named::Required),
        ("2 (other, *)", Named::OneOf),
    ] {
        assert_eq!(named(names, "walkeep"), found, "{names}");
    }
}

#[test]
fn who_gets_in_is_judged() {
    use Severity::Warning;
    let line = |line: HbaLine| with_server(|s| s.hba.as_mut().unwrap().push(line));
    let found = only(line(hba_line("local", None, "trust")), "pg_hba_trust", Warning);
    assert!(found.message.contains("line 7 (local all all trust)"), "{found:?}");
    assert!(found.fix.unwrap().ends_with("local all all peer"));
    let found = only(line(hba_line("host", Some("10.0.0.1/32"), "trust")), "pg_hba_trust", Warning);
    assert!(found.fix.unwrap().ends_with("host all all 10.0.0.1/32 scram-sha-256"));
    only(line(hba_line("host", Some("10.0.0.1/32"), "md5")), "pg_hba_md5", Warning);
    only(line(hba_line("host", Some("10.0.0.1/32"), "password")), "pg_hba_md5", Warning);
    let found = only(line(hba_line("host", Some("0.0.0.0/0"), "scram-sha-256")), "pg_hba_address", Warning);
    assert!(found.fix.unwrap().ends_with("\nhost all all 10.0.0.0/8 scram-sha-256"));
    assert!(line(hba_line("host", Some("all"), "reject")).iter().all(|f| f.severity == Severity::Ok));
    let wrong = HbaLine { error: Some("no such method".to_owned()), ..hba_line("", None, "") };
    only(line(wrong), "pg_hba", Warning);
    let unseen = only(with_server(|s| s.hba = None), "pg_hba", Warning);
    assert!(unseen.fix.unwrap().contains("GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO \"walkeep\";"));
    only(with_setting("listen_addresses", "localhost,10.0.0.7"), "server_tls", Warning);
    only(with_setting("listen_addresses", "*"), "server_tls", Warning);
}

#[test]
fn logging_and_autovacuum_are_judged() {
    use Severity::Warning;
    only(with_setting("logging_collector", "off"), "log_collector", Warning);
    only(with_setting("log_min_duration_statement", "-1"), "log_durations", Warning);
    only(with_setting("log_min_duration_statement", "0"), "log_durations", Warning);
    let found = only(with_setting("log_disconnections", "off"), "log_connections", Warning);
    assert!(
        found.message.starts_with("log_disconnections is off")
            && !found.fix.unwrap().contains("log_connections")
    );
    // As 18 writes it.
    only(with_setting("log_connections", ""), "log_connections", Warning);
    assert!(with_setting("log_connections", "receipt").iter().all(|f| f.severity == Severity::Ok));
    only(with_setting("log_lock_waits", "off"), "log_events", Warning);
    only(with_setting("autovacuum", "off"), "autovacuum", Warning);
    let found = only(with_setting("autovacuum_naptime", "86400"), "autovacuum", Warning);
    assert!(found.fix.unwrap().starts_with("ALTER SYSTEM RESET autovacuum_naptime;"));
}
