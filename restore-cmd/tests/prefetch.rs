//! Segments are fetched before the server asks for them, and are what it would have got anyway.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proto::wal::padding::padded_tail;
use support::*;

/// A server's directory beside a repository.
struct Server {
    fixture: Fixture,
    pgdata: PathBuf,
}

impl Server {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let pgdata = fixture.pgdata();
        std::fs::create_dir_all(pgdata.join("pg_wal")).unwrap();
        Self { fixture, pgdata }
    }

    /// The exit code of a fetch, and what was written.
    fn get(&self, number: u32, segment: u64, more: &[&str]) -> (i32, Option<Vec<u8>>) {
        let wanted = self.pgdata.join("pg_wal/RECOVERYXLOG");
        let _ = std::fs::remove_file(&wanted);
        let output = Command::new(env!("CARGO_BIN_EXE_restore-cmd"))
            .current_dir(&self.pgdata)
            .args(["fetch", "--repository", &self.fixture.url(), "--cluster", "main"])
            .args(more)
            .args([&name(number, segment).to_string(), "pg_wal/RECOVERYXLOG"])
            .env_remove("WALKEEP_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), std::fs::read(wanted).ok())
    }

    fn spool(&self) -> Option<PathBuf> {
        self.spools().pop()
    }

    /// One for each source: another one once the server is a standby.
    fn spools(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.pgdata.join("pg_wal")).unwrap();
        let is_spool =
            |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("walkeep-spool");
        entries.map(|entry| entry.unwrap().path()).filter(is_spool).collect()
    }

    /// The whole segments in the spool.
    fn spooled(&self) -> BTreeSet<String> {
        let entries = self.spools().into_iter().flat_map(std::fs::read_dir).flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter_map(|name| Some(name.split_once('-')?.0.to_owned())).collect()
    }

    fn until_spooled(&self, number: u32, segments: impl IntoIterator<Item = u64>) {
        let expected: BTreeSet<String> =
            segments.into_iter().map(|segment| name(number, segment).to_string()).collect();
        self.until(&format!("{expected:?}"), || self.spooled() == expected);
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what} never came: {:?}", self.spooled());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes a spool, which somebody may still be writing into.
    fn remove(&self, spool: &Path) {
        self.until("the end of the spool", || std::fs::remove_dir_all(spool).is_ok() || !spool.exists());
    }

    /// Takes the repository away, or brings it back.
    fn move_repository(&self, from: &str, to: &str) {
        let home = self.fixture.home.path();
        std::fs::rename(home.join(from), home.join(to)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_following_segments_are_there_before_they_are_asked_for() {
    let server = Server::new().await;
    server.fixture.segments(1, 2..8).await;
    server.fixture.tail(1, 8, 777).await;
    assert_eq!(server.get(1, 2, &[]), (0, Some(server.fixture.content(1, 2))));
    // Whole segments alone: a tail grows, and is never spooled.
    server.until_spooled(1, 3..8);
    server.move_repository("repository", "away");
    assert_eq!(server.get(1, 3, &[]), (0, Some(server.fixture.content(1, 3))));
    // One that has suffered is not given out: it is fetched again, and cannot be.
    let spoilt = std::fs::read_dir(server.spool().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let is_fourth = |path: &PathBuf| path.to_str().unwrap().contains(&format!("/{}-", name(1, 4)));
    std::fs::write(spoilt.into_iter().find(is_fourth).unwrap(), noise(1 << 20, 5)).unwrap();
    assert_eq!(server.get(1, 4, &[]), (126, None));
    server.move_repository("away", "repository");
    for segment in 4..8 {
        assert_eq!(server.get(1, segment, &[]), (0, Some(server.fixture.content(1, segment))));
    }
    let (code, tail) = server.get(1, 8, &[]);
    assert_eq!((code, padded_tail(&tail.unwrap())), (0, Some(777)));
    // That was the end of WAL: nothing is left behind.
    server.until("the spool's end", || server.spool().is_none());
    assert_eq!(server.get(1, 9, &[]), (1, None));
    assert_eq!(server.spool(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_is_bounded_and_follows_the_server() {
    let server = Server::new().await;
    server.fixture.segments(1, 2..60).await;
    assert_eq!(server.get(1, 2, &[]).0, 0);
    server.until_spooled(1, 3..35);
    // Somewhere else: what lies behind is swept, what lies ahead comes.
    assert_eq!(server.get(1, 40, &[]), (0, Some(server.fixture.content(1, 40))));
    server.until_spooled(1, 41..60);
    server.remove(&server.spool().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_is_left_at_the_fork() {
    let server = Server::new().await;
    server.fixture.segments(1, 2..9).await;
    server.fixture.history(2, "1\t0/400100\tno recovery target specified\n").await;
    server.fixture.segments(2, 4..6).await;
    assert_eq!(server.get(1, 2, &["--timeline", "2"]).0, 0);
    let expected: BTreeSet<String> = [name(1, 3), name(2, 4), name(2, 5)].map(|name| name.to_string()).into();
    server.until("the child's segments", || server.spooled() == expected);
    assert_eq!(server.get(2, 4, &["--timeline", "2"]), (0, Some(server.fixture.content(2, 4))));
    assert_eq!(server.get(1, 5, &["--timeline", "2"]), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_follows_the_newest_timeline_is_not_led_past_the_fork() {
    let server = Server::new().await;
    server.fixture.segments(1, 2..9).await;
    // Nobody has said which timeline: the parent's segments are what is asked for.
    assert_eq!(server.get(1, 5, &[]), (0, Some(server.fixture.content(1, 5))));
    server.spools().iter().for_each(|spool| server.remove(spool));
    std::fs::write(server.pgdata.join("standby.signal"), "").unwrap();
    assert_eq!(server.get(1, 5, &[]), (0, Some(server.fixture.content(1, 5))));
    server.until("the parent's segments", || server.spooled().contains(&name(1, 6).to_string()));
    // The child's history is enough: the server will be given it, and could not follow it from beyond the fork.
    server.fixture.history(2, "1\t0/400100\tno recovery target specified\n").await;
    assert_eq!(server.get(1, 5, &[]), (1, None));
    let (code, cut) = server.get(1, 4, &[]);
    assert_eq!((code, padded_tail(&cut.unwrap())), (0, Some(0x100)));
    server.fixture.tail(2, 4, 0x200).await;
    // What was spooled before anybody knew of the fork is not given out.
    assert_eq!(server.get(1, 6, &[]), (1, None));
    assert_eq!(server.get(1, 5, &[]), (1, None));
    assert_eq!(server.get(1, 4, &[]), (1, None));
    assert_eq!(server.get(1, 3, &[]), (0, Some(server.fixture.content(1, 3))));
    let (code, tail) = server.get(2, 4, &[]);
    assert_eq!((code, padded_tail(&tail.unwrap())), (0, Some(0x200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_by_somebody_who_is_gone_is_swept() {
    let server = Server::new().await;
    server.fixture.segments(1, 2..5).await;
    assert_eq!(server.get(1, 2, &[]).0, 0);
    server.until_spooled(1, 3..5);
    let spool = server.spool().unwrap();
    server.remove(&spool);
    std::fs::create_dir(&spool).unwrap();
    // As after SIGKILL: half a segment, and one that nobody wants any more.
    std::fs::write(spool.join(format!("{}.part", name(1, 3))), "half").unwrap();
    std::fs::write(spool.join(format!("{}-{}", name(1, 1), proto::Digest::of(b"x"))), "x").unwrap();
    assert_eq!(server.get(1, 2, &[]).0, 0);
    server.until_spooled(1, 3..5);
    server.until("the swept half", || !spool.join(format!("{}.part", name(1, 3))).exists());
}
