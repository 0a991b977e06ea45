//! Conversations with a server that follows a script, over a pipe.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::auth::{Channel, Credentials, authenticate};
use super::connection::Connection;
use super::*;
use crate::conninfo::{ChannelBinding, Password, RequireAuth};
use crate::{Lsn, ServerTime, SystemId, TimelineId};

/// What a server says.
#[derive(Default)]
struct Script(BytesMut);

impl Script {
    fn message(mut self, tag: u8, body: &[u8]) -> Self {
        self.0.put_u8(tag);
        self.0.put_u32(body.len() as u32 + 4);
        self.0.put_slice(body);
        self
    }

    /// A result set of one row.
    fn row(self, values: &[Option<&str>]) -> Self {
        let mut row = BytesMut::new();
        row.put_u16(values.len() as u16);
        for value in values {
            row.put_i32(value.map_or(-1, |value| value.len() as i32));
            row.put_slice(value.unwrap_or_default().as_bytes());
        }
        self.message(b'D', &row)
    }

    fn columns(self) -> Self {
        self.message(b'T', &0u16.to_be_bytes())
    }

    fn complete(self, tag: &str) -> Self {
        self.message(b'C', &[tag.as_bytes(), b"\0"].concat())
    }

    fn ready(self) -> Self {
        self.message(b'Z', b"I")
    }

    fn copy(self, payload: &[u8]) -> Self {
        self.message(b'd', payload)
    }

    fn copy_done(self) -> Self {
        self.message(b'c', b"")
    }

    fn copy_both(self) -> Self {
        self.message(b'W', &[0, 0, 0])
    }

    fn copy_out(self) -> Self {
        self.message(b'H', &[0, 0, 0])
    }

    fn problem(self, tag: u8, severity: &str, code: &str, text: &str) -> Self {
        let fields = format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0");
        self.message(tag, fields.as_bytes())
    }

    fn identity(self) -> Self {
        self.columns()
            .row(&[Some("7"), Some("1"), Some("0/3000060"), None])
            .complete("IDENTIFY_SYSTEM")
            .ready()
    }

    fn wal(self, start: u64, bytes: &[u8]) -> Self {
        let mut payload = BytesMut::new();
        payload.put_u8(b'w');
        payload.put_u64(start);
        payload.put_u64(0x9000);
        payload.put_i64(5);
        payload.put_slice(bytes);
        self.copy(&payload)
    }

    fn ping(self) -> Self {
        let mut payload = BytesMut::new();
        payload.put_u8(b'k');
        payload.put_u64(0x9000);
        payload.put_i64(5);
        payload.put_u8(1);
        self.copy(&payload)
    }

    /// A connection on which the server says all this and hangs up, byte by byte.
    fn connection(self) -> Connection {
        let (ours, theirs) = duplex(1);
        tokio::spawn(play(self.0, theirs));
        Connection::over(Box::new(ours), "script".to_owned())
    }

    fn session(self, version: u32) -> Replication {
        let mut connection = self.connection();
        connection.trust();
        Replication::over(connection, ServerVersion(version))
    }
}

/// Speaks and listens at once, so that neither side waits for the other.
async fn play(script: BytesMut, pipe: DuplexStream) {
    let (mut input, mut output) = tokio::io::split(pipe);
    let listen = tokio::spawn(async move {
        let mut heard = Vec::new();
        let _ = input.read_to_end(&mut heard).await;
    });
    let _ = output.write_all(&script).await;
    let _ = output.shutdown().await;
    let _ = listen.await;
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).expect("not zero")
}

fn data(start: u64, bytes: &'static [u8]) -> WalMessage {
    let bytes = Bytes::from_static(bytes);
    WalMessage::Data { start: Lsn(start), server_end: Lsn(0x9000), sent_at: ServerTime(5), bytes }
}

async fn start(script: Script) -> WalStream {
    match script.session(150_018).start_replication(None, Lsn(0x1000), TimelineId::FIRST).await {
        Ok(Start::Streaming(stream)) => stream,
        Ok(Start::TimelineEnded { .. }) => panic!("the timeline goes on"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_identity_is_read() {
    let mut session = Script::default().identity().session(150_018);
    let identity = session.identify_system().await.expect("an identity");
    let expected =
        SystemIdentity { system_id: SystemId(7), timeline: TimelineId::FIRST, flush_lsn: Lsn(0x300_0060) };
    assert_eq!(identity, expected);
}

#[tokio::test]
async fn we_end_the_stream() {
    let script =
        Script::default().identity().copy_both().wal(0x1000, b"one").ping().wal(0x1003, b"two").copy_done();
    let mut stream = start(script.complete("START_STREAMING").complete("START_REPLICATION").ready()).await;
    assert_eq!(stream.next().await.expect("WAL"), data(0x1000, b"one"));
    assert!(matches!(stream.next().await, Ok(WalMessage::Keepalive { reply_requested: true, .. })));
    stream.report(StandbyStatus::default()).await.expect("a report");
    let (_, next) = stream.finish().await.expect("a session");
    assert_eq!(next, None);
}

#[tokio::test]
async fn the_timeline_ends_in_the_middle() {
    let script = Script::default().identity().copy_both().wal(0x1000, b"one").copy_done();
    let script = script.columns().row(&[Some("2"), Some("0/1002")]).complete("SELECT");
    let mut stream =
        start(script.complete("START_STREAMING").complete("START_REPLICATION").ready().identity()).await;
    assert_eq!(stream.next().await.expect("WAL"), data(0x1000, b"one"));
    for _ in 0..2 {
        assert_eq!(stream.next().await.expect("the end"), WalMessage::TimelineEnded);
    }
    let (mut session, next) = stream.finish().await.expect("a session");
    assert_eq!(next, Some(NextTimeline { timeline: timeline(2), start: Lsn(0x1002) }));
    session.identify_system().await.expect("the session goes on");
}

#[tokio::test]
async fn the_timeline_has_ended_before() {
    let script = Script::default().identity().columns().row(&[Some("3"), Some("0/1000")]).complete("SELECT");
    let session = script.complete("START_STREAMING").complete("START_REPLICATION").ready().session(130_000);
    match session.start_replication(None, Lsn(0x1000), TimelineId::FIRST).await {
        Ok(Start::TimelineEnded { next, .. }) => {
            assert_eq!(next, NextTimeline { timeline: timeline(3), start: Lsn(0x1000) });
        }
        Ok(Start::Streaming(_)) => panic!("nothing to stream"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_server_shuts_down() {
    let script = Script::default().identity().copy_both().wal(0x1000, b"last").complete("COPY 0");
    let mut stream = start(script).await;
    assert_eq!(stream.next().await.expect("WAL"), data(0x1000, b"last"));
    for _ in 0..2 {
        assert_eq!(stream.next().await.expect("the end"), WalMessage::ServerShutdown);
    }
    stream.report(StandbyStatus::default()).await.expect("nothing is sent");
    assert!(stream.finish().await.is_err());
}

#[tokio::test]
async fn a_report_to_a_server_that_has_gone_hides_nothing() {
    let script = Script::default().wal(0x1000, b"last").complete("COPY 0");
    let (ours, mut theirs) = duplex(1 << 16);
    theirs.write_all(&script.0).await.expect("room");
    drop(theirs);
    let mut connection = Connection::over(Box::new(ours), "script".to_owned());
    connection.trust();
    let mut stream = WalStream::over(Replication::over(connection, ServerVersion(150_018)));
    stream.report(StandbyStatus::default()).await.expect("the failure is kept for later");
    let mut heard = Vec::new();
    while let Ok(message) = stream.next().await {
        let is_last = message == WalMessage::ServerShutdown;
        heard.push(message);
        if is_last {
            break;
        }
    }
    assert_eq!(heard, [data(0x1000, b"last"), WalMessage::ServerShutdown]);
}

#[tokio::test]
async fn the_server_fails_or_vanishes() {
    let script = Script::default().identity().copy_both().problem(b'E', "ERROR", "58P01", "gone");
    let error = start(script).await.next().await.expect_err("an error");
    assert_eq!(error.sqlstate(), Some("58P01"));

    let error = start(Script::default().identity().copy_both()).await.next().await.expect_err("an error");
    assert!(matches!(error, Error::Lost { .. }), "{error}");

    let script = Script::default().identity().problem(b'E', "ERROR", "55006", "active");
    let session = script.ready().session(150_018);
    let error = session.start_replication(None, Lsn(0x1000), TimelineId::FIRST).await.map(drop);
    assert_eq!(error.expect_err("an error").sqlstate(), Some("55006"));
}

#[tokio::test]
async fn the_last_words_before_a_hang_up_count() {
    let mut session = Script::default().problem(b'E', "FATAL", "57P01", "terminating").session(150_018);
    let error = session.identify_system().await.expect_err("an error");
    assert_eq!(error.sqlstate(), Some("57P01"));
    assert!(error.is_transient());
}

#[tokio::test]
async fn nonsense_is_refused() {
    for script in [
        Script::default().message(b'?', b"x"),
        Script(BytesMut::from(&[b'D', 0, 0, 0, 1][..])),
        Script(BytesMut::from(&[b'D', 0x7F, 0xFF, 0xFF, 0xFF][..])),
        Script(BytesMut::from(&[b'D', 0xFF, 0xFF, 0xFF, 0xFF][..])),
        Script::default().copy_both(),
        Script::default().columns().row(&[Some("x"), Some("1"), Some("0/0")]).complete("").ready(),
        Script::default().columns().row(&[Some("1"), Some("0"), Some("0/0")]).complete("").ready(),
        Script::default().columns().row(&[]).complete("").ready(),
        Script::default().complete("").ready(),
    ] {
        let error = script.session(150_018).identify_system().await.expect_err("nonsense");
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

/// The two result sets that come first.
fn backup_start() -> Script {
    let script = Script::default().problem(b'N', "NOTICE", "00000", "waiting");
    let script = script.columns().row(&[Some("0/2000028"), Some("1")]).complete("SELECT");
    script
        .columns()
        .row(&[Some("16384"), Some("/ts"), Some("8")])
        .row(&[None, None, Some("9")])
        .complete("SELECT")
}

fn backup_end(script: Script) -> Script {
    script.columns().row(&[Some("0/2000138"), Some("1")]).complete("SELECT")
}

async fn messages(script: Script, version: u32) -> Result<Vec<BackupMessage>> {
    let mut backup = script.session(version).base_backup(&BaseBackupOptions::default()).await?;
    assert_eq!(backup.start().lsn, Lsn(0x200_0028));
    let mut messages = Vec::new();
    loop {
        let message = backup.next().await?;
        let is_last = matches!(message, BackupMessage::End { .. });
        messages.push(message);
        if is_last {
            assert_eq!(Some(&backup.next().await?), messages.last(), "the end is said again");
            backup.into_session()?;
            return Ok(messages);
        }
    }
}

fn expected(zeros: bool, progress: bool, checksum_failures: Option<&str>) -> Vec<BackupMessage> {
    let tablespace = Tablespace { oid: Some(16384), location: Some(b"/ts".to_vec()), size_kib: Some(8) };
    let main = Tablespace { oid: None, location: None, size_kib: Some(9) };
    let mut expected = vec![BackupMessage::Notice("NOTICE: waiting".to_owned())];
    let archives = [(tablespace, "16384.tar", &b"tar"[..]), (main, "base.tar", &b"main"[..])];
    for (tablespace, name, content) in archives {
        expected.push(BackupMessage::Archive { tablespace: Some(tablespace), name: name.to_owned() });
        expected.push(BackupMessage::ArchiveData(Bytes::from_static(content)));
        if zeros {
            expected.push(BackupMessage::ArchiveData(Bytes::from_static(&[0; 1024])));
        }
        if progress {
            expected.push(BackupMessage::Progress(7));
        }
        expected.push(BackupMessage::ArchiveEnd);
    }
    expected.push(BackupMessage::Manifest);
    expected.push(BackupMessage::ManifestData(Bytes::from_static(b"{}")));
    let (lsn, timeline) = (Lsn(0x200_0138), TimelineId::FIRST);
    let checksum_failures = checksum_failures.map(str::to_owned);
    expected.push(BackupMessage::End { lsn, timeline, checksum_failures });
    expected
}

fn new_backup() -> Script {
    let progress = [&b"p"[..], &7u64.to_be_bytes()].concat();
    let script = backup_start().copy_out().copy(b"n16384.tar\0/ts\0").copy(b"dtar").copy(&progress);
    let script = script.copy(b"nbase.tar\0\0").copy(b"dmain").copy(&progress);
    backup_end(script.copy(b"m").copy(b"d{}").copy_done())
}

fn old_backup() -> Script {
    let script = backup_start().copy_out().copy(b"tar").copy_done().copy_out().copy(b"main").copy_done();
    backup_end(script.copy_out().copy(b"{}").copy_done())
}

#[tokio::test]
async fn a_backup_in_the_new_dialect() {
    let script = new_backup().complete("BASE_BACKUP").ready();
    assert_eq!(messages(script, 150_018).await.expect("a backup"), expected(false, true, None));
}

#[tokio::test]
async fn a_backup_in_the_old_dialect() {
    let script = old_backup().complete("BASE_BACKUP").ready();
    assert_eq!(messages(script, 140_024).await.expect("a backup"), expected(true, false, None));
}

#[tokio::test]
async fn checksum_failures_come_after_the_end() {
    let failed = |script: Script| script.problem(b'E', "ERROR", "XX001", "3 failures").ready();
    let found = messages(failed(new_backup()), 180_006).await.expect("a backup");
    assert_eq!(found, expected(false, true, Some("3 failures")));
    let found = messages(failed(old_backup()), 130_004).await.expect("a backup");
    assert_eq!(found, expected(true, false, Some("3 failures")));
}

#[tokio::test]
async fn other_errors_spoil_the_backup_wherever_they_come() {
    let script = new_backup().problem(b'E', "ERROR", "58000", "no archive").ready();
    assert_eq!(messages(script, 150_018).await.expect_err("spoilt").sqlstate(), Some("58000"));
    let script = backup_start().copy_out().problem(b'E', "ERROR", "XX001", "early").ready();
    assert_eq!(messages(script, 150_018).await.expect_err("spoilt").sqlstate(), Some("XX001"));
    let script = backup_start().copy_out().copy(b"nbase.tar\0\0").copy_done().complete("BASE_BACKUP").ready();
    assert!(matches!(messages(script, 150_018).await, Err(Error::Protocol { .. })), "no end");
    let script = backup_start().copy_out().copy(b"dlost");
    assert!(matches!(messages(script, 150_018).await, Err(Error::Protocol { .. })), "no archive");
    let error = messages(new_backup(), 150_018).await.expect_err("cut off");
    assert!(matches!(error, Error::Lost { .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_is_uploaded_where_the_server_can_take_it() {
    let pieces = || futures::stream::iter([Ok(Bytes::from_static(b"{")), Ok(Bytes::from_static(b"}"))]);
    let mut session =
        Script::default().message(b'G', &[0, 0, 0]).complete("UPLOAD_MANIFEST").ready().session(170_011);
    session.upload_manifest(pieces()).await.expect("taken");
    let mut session = Script::default().session(160_000);
    assert!(matches!(session.upload_manifest(pieces()).await, Err(Error::Config(_))));
    let broken = futures::stream::iter([Err(std::io::Error::other("disk"))]);
    let script =
        Script::default().message(b'G', &[0, 0, 0]).problem(b'E', "ERROR", "57014", "cancelled").ready();
    let mut session = script.identity().session(170_011);
    assert!(matches!(session.upload_manifest(broken).await, Err(Error::Manifest(_))));
    session.identify_system().await.expect("the session goes on");
}

async fn log_in(script: Script) -> Result<()> {
    let password = Password::new(b"secret".to_vec());
    let credentials = Credentials {
        user: "w",
        password: Some(&password),
        channel_binding: ChannelBinding::Prefer,
        require_auth: &RequireAuth::Any,
        channel: Channel::Plain,
    };
    authenticate(&mut script.connection(), &credentials).await
}

fn question(kind: u32, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], body].concat()
}

#[tokio::test]
async fn a_server_that_does_not_know_the_password_is_not_believed() {
    let sasl = question(10, b"SCRAM-SHA-256\0\0");
    // It skips the proof.
    let script = Script::default().message(b'R', &sasl).message(b'R', &question(0, b""));
    assert!(matches!(log_in(script).await, Err(Error::Protocol { .. })));
    // It answers with a nonce of its own.
    let first = question(11, b"r=forged,s=c2FsdA==,i=4096");
    let script = Script::default().message(b'R', &sasl).message(b'R', &first);
    assert!(matches!(log_in(script).await, Err(Error::Authentication { .. })));
    // It asks for Kerberos, or for what nobody knows.
    assert!(matches!(
        log_in(Script::default().message(b'R', &question(7, b""))).await,
        Err(Error::Authentication { .. })
    ));
    assert!(matches!(
        log_in(Script::default().message(b'R', &question(99, b""))).await,
        Err(Error::Protocol { .. })
    ));
    // A stranger has no reason to send much.
    let script = Script::default().message(b'R', &question(10, &[b'x'; 100_000]));
    assert!(matches!(log_in(script).await, Err(Error::Protocol { .. })));
}
