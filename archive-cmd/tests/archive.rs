//! The program as PostgreSQL runs it, against an agent that a test plays.

// The helpers of a test may fail as the test itself may.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Agent, Ends, Setting, segment};
use proto::socket::{MAX_MESSAGE, Request, Response};
use proto::{Digest, SystemId};

#[test]
fn a_whole_segment_is_handed_over_and_stored() {
    let setting = Setting::new();
    let content = segment(Ends::Full);
    let path = setting.wal("000000010000000000000003", &content);
    let agent = Agent::answering(&setting, Response::Stored.encode());
    let run = setting.run(&[&path]);
    assert_eq!(run.code, 0, "{run:?}");
    let (request, descriptor) = agent.join();
    let Request::Archive { file, size, digest, system_id, path } = request else { panic!("{request:?}") };
    assert_eq!((file.to_string().as_str(), size), ("000000010000000000000003", 1 << 20));
    assert_eq!(digest, Digest::of(&content), "b3sum's digest of the whole file");
    assert_eq!(system_id, SystemId(42), "the segment's own");
    assert_eq!(
        path,
        setting.pgdata().join("pg_wal/000000010000000000000003").into_os_string().into_encoded_bytes()
    );
    assert_eq!(descriptor, content, "read through the descriptor that came along");
}

/// The server's directory, and pg_wal in it, may be links: `%p` is relative to where they lead.
#[test]
fn a_relative_path_below_a_linked_directory_is_found() {
    let setting = Setting::new();
    let elsewhere = setting.pgdata().with_file_name("elsewhere");
    fs::rename(setting.pgdata(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, setting.pgdata()).unwrap();
    fs::rename(elsewhere.join("pg_wal"), elsewhere.with_file_name("wal")).unwrap();
    std::os::unix::fs::symlink("../wal", elsewhere.join("pg_wal")).unwrap();
    let content = segment(Ends::Full);
    let path = setting.wal("000000010000000000000003", &content);
    let agent = Agent::answering(&setting, Response::Stored.encode());
    let run = setting.run(&[&path]);
    assert_eq!(run.code, 0, "{run:?}");
    let (request, descriptor) = agent.join();
    let Request::Archive { path, .. } = request else { panic!("{request:?}") };
    assert_eq!(descriptor, content);
    let path =
        std::path::PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(path));
    assert!(path.is_absolute() && fs::read(&path).unwrap() == content, "{}", path.display());
}

#[test]
fn a_segment_that_ends_with_a_switch_is_whole() {
    let setting = Setting::new();
    let path = setting.wal("000000010000000000000003", &segment(Ends::Switch));
    let agent = Agent::answering(&setting, Response::Stored.encode());
    assert_eq!(setting.run(&[&path]).code, 0);
    agent.join();
}

#[test]
fn history_backup_and_partial_files_are_taken() {
    let setting = Setting::new();
    let mut cut = segment(Ends::Full);
    cut[500_000..].fill(0x55);
    let label = "START WAL LOCATION: 0/300028 (file 000000010000000000000003)\n\
        STOP WAL LOCATION: 0/300100 (file 000000010000000000000003)\nCHECKPOINT LOCATION: 0/300060\n\
        BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-24 02:00:00 UTC\nLABEL: x\n\
        START TIMELINE: 1\nSTOP TIME: 2026-11-24 02:00:01 UTC\nSTOP TIMELINE: 1\n";
    for (name, content) in [
        ("00000002.history", &b"1\t0/300028\tno recovery target specified\n"[..]),
        ("000000010000000000000003.00000028.backup", label.as_bytes()),
        ("000000010000000000000003.partial", &cut),
    ] {
        let path = setting.wal(name, content);
        let agent = Agent::answering(&setting, Response::Stored.encode());
        assert_eq!(setting.run(&[&path]).code, 0, "{name}");
        let (request, _) = agent.join();
        assert!(
            matches!(request, Request::Archive { digest, .. } if digest == Digest::of(content)),
            "{name}"
        );
        let path = setting.wal(name, b"something else\n");
        let run = setting.run(&[&path]);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains("was not archived"), "{run:?}");
    }
}

/// Nothing of these reaches the agent: there is none, and `walkeep push` is not called either.
#[test]
fn files_that_are_not_what_their_name_says_are_refused_before_anyone_is_asked() {
    let setting = Setting::new();
    setting.walkeep("echo pushed >&2; exit 0");
    let whole = segment(Ends::Full);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut content = whole.clone();
        change(&mut content);
        content
    };
    let name = "000000010000000000000003";
    for (name, content, expected) in [
        (name, b"no WAL at all".to_vec(), "its first two bytes are"),
        (name, vec![], "too short"),
        (name, whole[..30].to_vec(), "too short"),
        (
            name,
            whole[..whole.len() / 2].to_vec(),
            "has 524288 bytes, but a segment of this cluster has 1048576",
        ),
        (name, changed(&|c| c.extend([0; 8192])), "has 1056768 bytes"),
        (name, changed(&|c| c[500_000..].fill(0)), "incomplete"),
        (name, changed(&|c| proto::wal::padding::stamp_padding(c, 500_000)), "padded by restore-cmd"),
        (name, vec![0; 1 << 20], "its first two bytes are 0000"),
        ("000000010000000000000004", whole.clone(), "its file's name puts it at"),
        ("00000001000000000000FFFF", whole.clone(), "cannot be a segment of"),
        ("postgresql.conf", whole.clone(), "is not the name of a WAL file"),
    ] {
        let path = setting.wal(name, &content);
        let run = setting.run(&[&path]);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains(expected), "{expected}: {run:?}");
        assert!(run.stderr.starts_with("error: ") && !run.stderr.contains("pushed"), "{run:?}");
        assert!(run.stderr.contains(name), "the file is named: {run:?}");
    }
    let run = setting.run(&["pg_wal/000000010000000000000009"]);
    assert!(run.code == 1 && run.stderr.contains("No such file"), "{run:?}");
    assert!(run.stderr.contains("hint: "), "{run:?}");
    fs::create_dir(setting.pgdata().join("pg_wal/00000009.history")).unwrap();
    assert!(setting.run(&["pg_wal/00000009.history"]).stderr.contains("not a regular file"));
}

#[test]
fn what_the_agent_refuses_is_a_failure_with_its_words() {
    let setting = Setting::new();
    let path = setting.wal("000000010000000000000003", &segment(Ends::Switch));
    let message =
        "the WAL belongs to the cluster with system identifier 1, not to 2\nhint: is this a clone?\x1b[31m";
    let agent = Agent::answering(&setting, Response::Failed { message: message.into() }.encode());
    let run = setting.run(&[&path]);
    agent.join();
    assert_eq!(run.code, 1);
    assert!(run.stderr.starts_with("error: the WAL belongs to the cluster"), "{run:?}");
    assert!(run.stderr.contains("\nhint: is this a clone?") && !run.stderr.contains('\x1b'), "{run:?}");

    let agent = Agent::answering(&setting, Response::Failed { message: "x".repeat(1 << 20) }.encode());
    let run = setting.run(&[&path]);
    agent.join();
    assert!(run.code == 1 && run.stderr.len() < MAX_MESSAGE + 100);
}

#[test]
fn an_answer_that_is_none_is_a_failure() {
    let setting = Setting::new();
    let path = setting.wal("000000010000000000000003", &segment(Ends::Switch));
    let stored = Response::Stored.encode();
    let huge = [&b"WKS2"[..], &u32::MAX.to_be_bytes()].concat();
    for (answer, expected) in [
        (vec![], "hung up"),
        (stored[..5].to_vec(), "hung up"),
        (stored[..8].to_vec(), "hung up"),
        (b"HTTP/1.1 400".to_vec(), "does not speak walkeep's protocol"),
        (huge, "longer than allowed"),
        (b"WKS2\0\0\0\x01X".to_vec(), "malformed"),
        (b"WKS2\0\0\0\x02SS".to_vec(), "malformed"),
        (Response::Status { json: "{}".into() }.encode(), "another question"),
    ] {
        let agent = Agent::answering(&setting, answer.clone());
        let run = setting.run(&[&path]);
        agent.join();
        assert_eq!(run.code, 1, "{answer:?}: {run:?}");
        assert!(run.stderr.contains(expected), "{answer:?}: {run:?}");
    }
}

#[test]
fn an_agent_that_says_nothing_is_not_waited_for_for_ever() {
    let setting = Setting::new();
    let path = setting.wal("000000010000000000000003", &segment(Ends::Switch));
    let agent = Agent::silent(&setting);
    let begun = Instant::now();
    let run = setting.run(&[&path, "--timeout=200ms"]);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("did not answer within 200ms"), "{run:?}");
    agent.join();
}

#[test]
fn without_an_agent_walkeep_pushes() {
    let setting = Setting::new();
    let path = setting.wal("000000010000000000000003", &segment(Ends::Switch));
    let more = ["--repository=file:///r", "--cluster", "eu", "--postgres", "host=a b"];
    setting.walkeep("printf '%s|' \"$@\" > pushed; exit 0");
    let run = setting.run(&[&[path.as_str()], &more[..]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        fs::read_to_string(setting.pgdata().join("pushed")).unwrap(),
        format!("push|{path}|--repository|file:///r|--cluster|eu|--postgres|host=a b|")
    );
    // A socket that nobody listens on is the same as none.
    drop(std::os::unix::net::UnixListener::bind(setting.socket()).unwrap());
    assert_eq!(setting.run(&[&path, "--repository=file:///r"]).code, 0);
    // The configuration in the usual place may be another cluster's.
    fs::remove_file(setting.pgdata().join("pushed")).unwrap();
    let run = setting.run(&[&path]);
    assert!(run.code == 1 && run.stderr.contains("which repository"), "{run:?}");
    assert!(!setting.pgdata().join("pushed").exists());
}

/// A history file tells of timelines, and every cluster has a second one.
#[test]
fn a_file_that_does_not_tell_whose_it_is_comes_with_its_cluster() {
    let setting = Setting::new();
    let (name, content) = ("00000002.history", b"1\t0/300028\tno recovery target specified\n");
    let path = setting.wal(name, content);
    let control = setting.pgdata().join("global/pg_control");
    let expected = SystemId::of_control_file(&fs::read(&control).unwrap()).unwrap();
    let absolute = setting.pgdata().join(&path);
    for path in [path.as_str(), absolute.to_str().unwrap()] {
        let agent = Agent::answering(&setting, Response::Stored.encode());
        assert_eq!(setting.run(&[path]).code, 0, "{path}");
        let (request, _) = agent.join();
        assert!(
            matches!(request, Request::Archive { system_id, .. } if system_id == expected),
            "{request:?}"
        );
    }
    setting.walkeep("exit 0");
    fs::write(&control, "no control file").unwrap();
    let run = setting.run(&[&path, "--repository=file:///r"]);
    assert!(run.code == 1 && run.stderr.contains("does not tell whose it is"), "{run:?}");
    fs::remove_file(&control).unwrap();
    let run = setting.run(&[&path, "--repository=file:///r"]);
    assert!(run.code == 1 && run.stderr.contains("does not tell whose it is"), "{run:?}");
}

/// However `walkeep push` ends: PostgreSQL's archiver must live.
#[test]
fn no_end_of_walkeep_push_becomes_a_code_above_125() {
    let setting = Setting::new();
    let path = setting.wal("000000010000000000000003", &segment(Ends::Switch));
    for (script, expected) in
        [("exit 1", "exit status: 1"), ("exit 255", "exit status: 255"), ("kill -9 $$", "signal: 9")]
    {
        setting.walkeep(script);
        let run = setting.run(&[&path, "--repository=file:///r"]);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains(expected), "{run:?}");
    }
    setting.no_walkeep();
    let run = setting.run(&[&path, "--repository=file:///r"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("cannot be started") && run.stderr.contains("hint: "), "{run:?}");
}

#[test]
fn the_socket_comes_from_the_configuration() {
    let setting = Setting::new();
    let path = setting.wal("000000010000000000000003", &segment(Ends::Switch));
    let config = setting.pgdata().join("walkeep.toml");
    let config = config.to_str().unwrap();
    fs::write(config, format!("socket = {:?}\n", setting.socket())).unwrap();
    let agent = Agent::answering(&setting, Response::Stored.encode());
    assert_eq!(setting.run_plain(&[&path, "--config", config], &[]).code, 0);
    agent.join();
    let agent = Agent::answering(&setting, Response::Stored.encode());
    assert_eq!(setting.run_plain(&[&path], &[("WALKEEP_CONFIG", config)]).code, 0);
    agent.join();

    fs::write(config, "sockett = \"/x\"\n").unwrap();
    let run = setting.run_plain(&[&path, "--config", config], &[]);
    assert!(run.code == 1 && run.stderr.contains("line 1: unknown key \"sockett\""), "{run:?}");
    let run = setting.run_plain(&[&path, "--config", "/nowhere.toml"], &[]);
    assert!(run.code == 1 && run.stderr.contains("/nowhere.toml cannot be read"), "{run:?}");
}

#[test]
fn wrong_usage_is_told_with_code_2() {
    let setting = Setting::new();
    for words in [&[][..], &["a", "b"], &["--wat"]] {
        let run = setting.run_plain(words, &[]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains("archive_command = 'archive-cmd %p'"), "{run:?}");
    }
    let run = setting.run_plain(&["--help"], &[]);
    assert!(run.code == 0 && run.stdout.contains("archive_command = 'archive-cmd %p'"));
    assert!(setting.run_plain(&["--version"], &[]).stdout.starts_with("archive-cmd "));
}
