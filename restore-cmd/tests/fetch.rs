//! What a recovering server is told: written, proven absent, or an error that must not end the recovery.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};

use proto::Digest;
use proto::wal::padding::padded_tail;
use rustix::net::{self, AddressFamily, SocketType};
use support::*;

struct Recovery {
    fixture: Fixture,
    directory: tempfile::TempDir,
}

impl Recovery {
    async fn new() -> Self {
        Self { fixture: Fixture::new().await, directory: tempfile::tempdir().unwrap() }
    }

    fn fetch(&self, arguments: &[&str]) -> Output {
        self.fetch_from(&self.fixture.url(), arguments)
    }

    fn fetch_from(&self, url: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_restore-cmd"))
            .current_dir(self.directory.path())
            .args(["fetch", "--repository", url, "--cluster", "main"])
            .args(arguments)
            .env_remove("WALKEEP_CONFIG")
            .output()
            .unwrap()
    }

    /// The exit code of a fetch to `RECOVERYXLOG`, and what was written.
    fn get(&self, number: u32, segment: u64, pinned: Option<u32>) -> (i32, Option<Vec<u8>>) {
        let path = self.directory.path().join("RECOVERYXLOG");
        let _ = std::fs::remove_file(&path);
        let (name, pinned) = (name(number, segment).to_string(), pinned.map(|number| number.to_string()));
        let mut arguments = vec![name.as_str(), "RECOVERYXLOG"];
        if let Some(pinned) = &pinned {
            arguments.extend(["--timeline", pinned]);
        }
        let output = self.fetch(&arguments);
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        // Nothing else is left behind.
        assert!(std::fs::read_dir(self.directory.path()).unwrap().all(|entry| {
            matches!(entry.unwrap().file_name().to_str(), Some("RECOVERYXLOG" | "standby.signal"))
        }));
        (output.status.code().unwrap(), std::fs::read(path).ok())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gives_segments_then_the_tail_then_nothing() {
    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..4).await;
    recovery.fixture.tail(1, 4, 12_345).await;
    assert_eq!(recovery.get(1, 3, None), (0, Some(recovery.fixture.content(1, 3))));
    let (code, tail) = recovery.get(1, 4, Some(1));
    let tail = tail.unwrap();
    assert_eq!((code, tail.len(), padded_tail(&tail)), (0, 1 << 20, Some(12_345)));
    assert_eq!(tail[..12_345], recovery.fixture.content(1, 4)[..12_345]);
    assert!(tail[12_345..tail.len() - 16].iter().all(|byte| *byte == 0));
    assert_eq!(recovery.get(1, 5, Some(1)), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_no_end() {
    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..4).await;
    recovery.fixture.tail(1, 4, 100).await;
    recovery.fixture.segments(1, 6..7).await;
    // Segment 4 is cut short, segment 5 is missing, and there is more behind them.
    assert_eq!(recovery.get(1, 4, None), (126, None));
    assert_eq!(recovery.get(1, 5, None), (126, None));
    assert_eq!(recovery.get(1, 7, None), (1, None));
    // 4,096 segments of 1 MiB share a folder: the later one may lie in another.
    recovery.fixture.segments(1, 5000..5001).await;
    assert_eq!(recovery.get(1, 7, None), (126, None));
}

/// What was stored side by side and never acknowledged does not make its beginning a hole.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_were_stored_ahead_prove_nothing() {
    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..5).await;
    recovery.fixture.ahead(1, 6, 1).await;
    recovery.fixture.ahead(1, 8, 2).await;
    // 5 is missing. It was when 6 was stored, but not any more when 8 was.
    assert_eq!(recovery.get(1, 5, Some(1)), (126, None));
    assert_eq!(recovery.get(1, 7, Some(1)), (1, None));
    assert_eq!(recovery.get(1, 6, Some(1)), (0, Some(recovery.fixture.content(1, 6))));

    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..5).await;
    recovery.fixture.ahead(1, 6, 1).await;
    recovery.fixture.ahead(1, 8, 3).await;
    assert_eq!(recovery.get(1, 5, Some(1)), (1, None));
    // A tail behind it: somebody was told that all of this is stored.
    recovery.fixture.tail(1, 9, 100).await;
    assert_eq!(recovery.get(1, 5, Some(1)), (126, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_may_not_see_is_there_all_the_same() {
    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..4).await;
    let folder = recovery.fixture.home.path().join(format!("repository/main/{}/wal", system_id()));
    let later = format!("{}-{}", name(1, 5), Digest::of(b"x"));
    let later = folder.join("00000001/00000000").join(later);
    std::os::unix::fs::symlink("/nowhere/at/all", &later).unwrap();
    assert_eq!(recovery.get(1, 4, None), (126, None));
    std::fs::remove_file(later).unwrap();
    assert_eq!(recovery.get(1, 4, None), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_ends_at_the_fork() {
    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..9).await;
    recovery.fixture.history(2, "1\t0/400100\tno recovery target specified\n").await;
    // The child's own copy is missing: the parent's is cut at the fork.
    let (code, cut) = recovery.get(1, 4, Some(2));
    assert_eq!((code, padded_tail(&cut.unwrap())), (0, Some(0x100)));
    assert_eq!(recovery.get(1, 5, Some(2)), (1, None));
    assert_eq!(recovery.get(1, 3, Some(2)), (0, Some(recovery.fixture.content(1, 3))));
    recovery.fixture.segments(2, 4..6).await;
    assert_eq!(recovery.get(1, 4, Some(2)), (1, None));
    assert_eq!(recovery.get(2, 4, Some(2)), (0, Some(recovery.fixture.content(2, 4))));
    assert_eq!(recovery.get(2, 6, Some(2)), (1, None));
    // Whoever follows the parent gets all of it, and nothing of the child.
    assert_eq!(recovery.get(1, 5, Some(1)), (0, Some(recovery.fixture.content(1, 5))));
    assert_eq!(recovery.get(2, 4, Some(1)), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_files_of_all_timelines() {
    let recovery = Recovery::new().await;
    recovery.fixture.history(2, "1\t0/400100\tx\n").await;
    let output = recovery.fetch(&["00000002.history", "RECOVERYHISTORY", "--timeline", "1"]);
    assert_eq!(output.status.code(), Some(0));
    let written = std::fs::read(recovery.directory.path().join("RECOVERYHISTORY")).unwrap();
    assert_eq!(written, b"1\t0/400100\tx\n");
    assert_eq!(recovery.fetch(&["00000003.history", "RECOVERYHISTORY"]).status.code(), Some(1));
}

/// At its end recovery looks for a number that is still free: that two servers disagree on who has it does not matter then.
#[tokio::test(flavor = "multi_thread")]
async fn a_disputed_number_is_taken() {
    let recovery = Recovery::new().await;
    recovery.fixture.history(2, "1\t0/400100\tx\n").await;
    recovery.fixture.history(2, "1\t0/500100\ty\n").await;
    let fetch = |pinned: &[&str]| {
        let arguments = [&["00000002.history", "RECOVERYHISTORY"], pinned].concat();
        recovery.fetch(&arguments).status.code()
    };
    assert_eq!(fetch(&["--timeline", "1"]), Some(0));
    assert!(recovery.directory.path().join("RECOVERYHISTORY").exists());
    for pinned in [&["--timeline", "2"][..], &["--timeline", "3"], &[]] {
        assert_eq!(fetch(pinned), Some(126), "{pinned:?}");
    }
}

/// Whose restore_command names no timeline: what others have forked from proves what there was.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_s_history_proves_that_its_parent_went_on() {
    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..4).await;
    recovery.fixture.tail(1, 4, 100).await;
    assert_eq!(recovery.get(1, 4, None).0, 0);
    assert_eq!(recovery.get(1, 5, None), (1, None));
    recovery.fixture.history(2, "1\t0/600000\tx\n").await;
    assert_eq!(recovery.get(1, 4, None), (126, None));
    assert_eq!(recovery.get(1, 5, None), (126, None));
    // The fork itself lies in segment 6, or at its beginning.
    assert_eq!(recovery.get(1, 6, None), (1, None));
    // By a plan it was known, and the timeline was chosen all the same.
    assert_eq!(recovery.get(1, 5, Some(1)), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_contents_are_an_error() {
    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..3).await;
    let other = noise(1 << 20, 99);
    let _ = recovery.fixture.branch.put_segment(name(1, 2), Digest::of(&other), None, other.into()).await;
    assert_eq!(recovery.get(1, 2, None), (126, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_an_error() {
    let recovery = Recovery::new().await;
    recovery.fixture.segments(1, 2..3).await;
    let folder = recovery.fixture.home.path().join(format!("repository/main/{}/wal", system_id()));
    let folder = folder.join("00000001/00000000");
    let object = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    assert_eq!(recovery.get(1, 2, None), (126, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unreachable_is_not_absent() {
    let recovery = Recovery::new().await;
    let gone = format!("file://{}", recovery.directory.path().join("gone").display());
    let segment = name(1, 2).to_string();
    let fetch = |url: &str| recovery.fetch_from(url, &[&segment, "RECOVERYXLOG"]).status.code();
    assert_eq!(fetch(&gone), Some(126));
    // Bound, so that nobody else can, and never listened on. Short, so that the test is.
    let deaf = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    net::bind(&deaf, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = SocketAddr::try_from(net::getsockname(&deaf).unwrap()).unwrap();
    let config = recovery.directory.path().join("walkeep.toml");
    let storage = format!(
        "[storage]\nendpoint = \"http://{address}\"\nallow_http = true\nregion = \"x\"\nretry_timeout = \"1s\"\n"
    );
    std::fs::write(&config, storage).unwrap();
    let started = std::time::Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_restore-cmd"))
        .current_dir(recovery.directory.path())
        .args(["fetch", "--repository", "s3://bucket", "--config"])
        .arg(&config)
        .args([segment.as_str(), "RECOVERYXLOG"])
        .env("AWS_ACCESS_KEY_ID", "x")
        .env("AWS_SECRET_ACCESS_KEY", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(started.elapsed().as_secs() < 65);
    // A standby must not die with the store.
    std::fs::write(recovery.directory.path().join("standby.signal"), "").unwrap();
    assert_eq!(fetch(&gone), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_line_is_not_the_end_of_wal() {
    let recovery = Recovery::new().await;
    assert_eq!(recovery.fetch(&["--nonsense"]).status.code(), Some(126));
    assert_eq!(recovery.fetch(&["no-wal-file", "x"]).status.code(), Some(126));
    let output = Command::new(env!("CARGO_BIN_EXE_restore-cmd")).args(["restore", "--nonsense"]).output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}
