//! What BASE_BACKUP sends, in the old (13, 14) and the new (15 and later) dialect.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::Message;

use super::backup_options::command;
use super::connection::{Connection, Incoming, Row, notice, server_error};
use super::session::NEW_DIALECT;
use super::stream::MalformedMessage;
use super::{BaseBackupOptions, Error, Replication, Result};
use crate::{Lsn, TimelineId};

/// A tablespace of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// `None` is the main data directory.
    pub oid: Option<u32>,
    /// The directory on the server, in no set encoding. `None` for the main data directory.
    pub location: Option<Vec<u8>>,
    /// Its size, if progress was asked for. An estimate.
    pub size_kib: Option<u64>,
}

/// What the server says when the backup has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStart {
    /// Where replay will start.
    pub lsn: Lsn,
    /// On which timeline.
    pub timeline: TimelineId,
    /// In the order in which they come; the main data directory is the last.
    pub tablespaces: Vec<Tablespace>,
}

/// A running base backup. Dropping it aborts the backup.
pub struct BackupStream {
    session: Replication,
    start: BackupStart,
    /// Read but not yet handed out: one message of the server's can be several of ours.
    ready: VecDeque<BackupMessage>,
    current: Current,
    /// Archives begun so far: the old dialect does not name them.
    archives: usize,
    end: Option<(Lsn, TimelineId)>,
    checksum_failures: Option<String>,
    complete: bool,
}

/// What CopyData belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Current {
    Nothing,
    Archive,
    Manifest,
}

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupMessage {
    /// A tar archive begins.
    Archive {
        /// Whose files are in it; the server's word for it where it matches the start's list.
        tablespace: Option<Tablespace>,
        /// Such as `base.tar` or `16384.tar`.
        name: String,
    },
    /// Bytes of the current archive. Each archive ends with two zero blocks, whatever the server's version.
    ///
    /// The bytes are a slice of the receive buffer, without a copy; held for long, they keep all of it alive.
    ArchiveData(Bytes),
    /// The current archive is complete.
    ArchiveEnd,
    /// The server's manifest begins.
    Manifest,
    /// Bytes of the manifest.
    ManifestData(Bytes),
    /// Bytes of files that the server has read (15 and later, if progress was asked for).
    Progress(u64),
    /// A notice or warning.
    Notice(String),
    /// The backup is complete. Said again on every further call.
    End {
        /// WAL up to here is needed.
        lsn: Lsn,
        /// On which timeline.
        timeline: TimelineId,
        /// Set if the server found damaged pages: what it said. The backup holds them as they are.
        checksum_failures: Option<String>,
    },
}

/// The end of a tar archive, which servers before 15 leave out.
static ARCHIVE_END: [u8; 1024] = [0; 1024];
/// ERRCODE_DATA_CORRUPTED.
const DATA_CORRUPTED: &str = "XX001";

impl BackupStream {
    pub(super) async fn begin(mut session: Replication, options: &BaseBackupOptions) -> Result<Self> {
        let command = command(options, session.version)?;
        let connection = &mut session.connection;
        connection.send_query(&command).await?;
        let mut ready = VecDeque::new();
        let start = result_set(connection, &mut ready).await?;
        let start = connection.only_row(start)?;
        let (lsn, timeline) = position(connection, &start)?;
        let mut tablespaces = Vec::new();
        for row in result_set(connection, &mut ready).await? {
            tablespaces.push(tablespace(connection, &row)?);
        }
        connection.expect_bulk(true);
        Ok(Self {
            session,
            start: BackupStart { lsn, timeline, tablespaces },
            ready,
            current: Current::Nothing,
            archives: 0,
            end: None,
            checksum_failures: None,
            complete: false,
        })
    }

    /// Where the backup starts, and what it will hold.
    pub fn start(&self) -> &BackupStart {
        &self.start
    }

    /// The next message. Cancel-safe. Has no time limit: before the manifest the server may wait for its archiver.
    pub async fn next(&mut self) -> Result<BackupMessage> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(message);
            }
            if let (true, Some((lsn, timeline))) = (self.complete, self.end) {
                let checksum_failures = self.checksum_failures.clone();
                return Ok(BackupMessage::End { lsn, timeline, checksum_failures });
            }
            match self.session.connection.receive().await? {
                Incoming::Message(message) => self.take(message)?,
                Incoming::CopyBoth => return Err(self.unexpected("CopyBothResponse")),
            }
        }
    }

    /// The session, for another command. An error before [`BackupMessage::End`].
    pub fn into_session(self) -> Result<Replication> {
        if self.complete {
            Ok(self.session)
        } else {
            Err(Error::Config("the base backup still runs: its session takes no other command".to_owned()))
        }
    }

    fn unexpected(&self, what: impl Into<String>) -> Error {
        self.session.connection.unexpected(what)
    }

    /// One message of the server's; what it means for the caller goes to `ready`.
    fn take(&mut self, message: Message) -> Result<()> {
        match message {
            Message::CopyData(body) if self.is_old() => self.take_content(body.into_bytes()),
            Message::CopyData(body) => self.take_chunk(body.into_bytes()),
            Message::CopyOutResponse(_) if self.is_old() => {
                self.begin_unnamed();
                Ok(())
            }
            Message::CopyDone => {
                if self.is_old() && self.current == Current::Archive {
                    self.ready.push_back(BackupMessage::ArchiveData(Bytes::from_static(&ARCHIVE_END)));
                }
                self.end_current();
                Ok(())
            }
            Message::DataRow(body) => {
                let row = self.session.connection.row(&body)?;
                self.end = Some(position(&self.session.connection, &row)?);
                Ok(())
            }
            Message::ErrorResponse(body) => match server_error(&body) {
                // The end has been told: all is here, and this is the verdict on the pages in it.
                Error::Server { code, message, .. } if self.end.is_some() && code == DATA_CORRUPTED => {
                    self.checksum_failures = Some(message);
                    Ok(())
                }
                error => Err(error),
            },
            Message::NoticeResponse(body) => {
                self.ready.push_back(BackupMessage::Notice(notice(body.fields())));
                Ok(())
            }
            Message::ReadyForQuery(_) if self.end.is_some() => {
                self.complete = true;
                self.session.connection.expect_bulk(false);
                Ok(())
            }
            Message::CopyOutResponse(_) | Message::RowDescription(_) | Message::CommandComplete(_) => Ok(()),
            _ => Err(self.unexpected("a message that is not part of a base backup")),
        }
    }

    fn is_old(&self) -> bool {
        self.session.version.major() < NEW_DIALECT
    }

    fn end_current(&mut self) {
        if self.current == Current::Archive {
            self.ready.push_back(BackupMessage::ArchiveEnd);
        }
        self.current = Current::Nothing;
    }

    /// The old dialect: one COPY for each tablespace in the list's order, then one for the manifest.
    fn begin_unnamed(&mut self) {
        match self.start.tablespaces.get(self.archives).cloned() {
            Some(tablespace) => {
                let name = match tablespace.oid {
                    Some(oid) => format!("{oid}.tar"),
                    None => "base.tar".to_owned(),
                };
                self.begin_archive(Some(tablespace), name);
            }
            None => self.begin_manifest(),
        }
    }

    fn begin_archive(&mut self, tablespace: Option<Tablespace>, name: String) {
        self.end_current();
        self.archives += 1;
        self.current = Current::Archive;
        self.ready.push_back(BackupMessage::Archive { tablespace, name });
    }

    fn begin_manifest(&mut self) {
        self.end_current();
        self.current = Current::Manifest;
        self.ready.push_back(BackupMessage::Manifest);
    }

    fn take_content(&mut self, bytes: Bytes) -> Result<()> {
        let message = match self.current {
            Current::Archive => BackupMessage::ArchiveData(bytes),
            Current::Manifest => BackupMessage::ManifestData(bytes),
            Current::Nothing => return Err(self.unexpected("data that belongs to no archive")),
        };
        self.ready.push_back(message);
        Ok(())
    }

    /// The new dialect: one COPY for everything, each message with its kind.
    fn take_chunk(&mut self, payload: Bytes) -> Result<()> {
        match parse_chunk(payload).map_err(|malformed| self.unexpected(malformed.to_string()))? {
            Chunk::Archive { name, .. } => {
                let oid = name.split('.').next().and_then(|stem| stem.parse::<u32>().ok());
                let tablespace =
                    self.start.tablespaces.iter().find(|tablespace| tablespace.oid == oid).cloned();
                self.begin_archive(tablespace, name);
                Ok(())
            }
            Chunk::Content(bytes) => self.take_content(bytes),
            Chunk::Progress(done) => {
                self.ready.push_back(BackupMessage::Progress(done));
                Ok(())
            }
            Chunk::Manifest => {
                self.begin_manifest();
                Ok(())
            }
        }
    }
}

/// Reads one result set, up to its CommandComplete. Notices go to `ready`.
async fn result_set(connection: &mut Connection, ready: &mut VecDeque<BackupMessage>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    loop {
        match connection.receive().await? {
            Incoming::Message(Message::DataRow(body)) => rows.push(connection.row(&body)?),
            Incoming::Message(Message::CommandComplete(_)) => return Ok(rows),
            Incoming::Message(Message::RowDescription(_)) => {}
            Incoming::Message(Message::NoticeResponse(body)) => {
                ready.push_back(BackupMessage::Notice(notice(body.fields())));
            }
            Incoming::Message(Message::ErrorResponse(body)) => return Err(server_error(&body)),
            _ => return Err(connection.unexpected("a base backup that does not tell where it starts")),
        }
    }
}

fn position(connection: &Connection, row: &Row) -> Result<(Lsn, TimelineId)> {
    Ok((connection.value(row, 0, "the WAL position")?, connection.value(row, 1, "the timeline")?))
}

fn tablespace(connection: &Connection, row: &Row) -> Result<Tablespace> {
    let is_null = |at: usize| row.get(at).is_none_or(Option::is_none);
    let number =
        |at, name| if is_null(at) { Ok(None) } else { connection.value::<u64>(row, at, name).map(Some) };
    let oid = number(0, "a tablespace's oid")?.map(u32::try_from).transpose();
    Ok(Tablespace {
        oid: oid.map_err(|_| connection.unexpected("a tablespace's oid above 32 bits"))?,
        location: row.get(1).cloned().flatten().map(|location| location.to_vec()),
        size_kib: number(2, "a tablespace's size")?,
    })
}

/// A message of the new dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// An archive begins.
    Archive {
        /// Its file name.
        name: String,
        /// The tablespace's directory; empty for the main data directory.
        location: Bytes,
    },
    /// Content of the current archive, or of the manifest.
    Content(Bytes),
    /// Bytes done.
    Progress(u64),
    /// The manifest begins.
    Manifest,
}

/// Reads what a server from 15 on sends inside CopyData during a base backup.
pub fn parse_chunk(mut payload: Bytes) -> Result<Chunk, MalformedMessage> {
    let length = payload.len();
    let short = |_| MalformedMessage::Short(length);
    let kind = payload.try_get_u8().map_err(short)?;
    let (chunk, rest) = match kind {
        b'd' => (Chunk::Content(payload), Bytes::new()),
        b'n' => {
            let name = text(&mut payload)?;
            let name = String::from_utf8(name.to_vec()).map_err(|_| MalformedMessage::Text)?;
            let location = text(&mut payload)?;
            (Chunk::Archive { name, location }, payload)
        }
        b'p' => (Chunk::Progress(payload.try_get_u64().map_err(short)?), payload),
        b'm' => (Chunk::Manifest, payload),
        kind => return Err(MalformedMessage::Kind(kind)),
    };
    if rest.is_empty() { Ok(chunk) } else { Err(MalformedMessage::Long(rest.len())) }
}

/// Takes a text up to its zero byte.
fn text(payload: &mut Bytes) -> Result<Bytes, MalformedMessage> {
    let end = payload.iter().position(|byte| *byte == 0).ok_or(MalformedMessage::Text)?;
    let text = payload.split_to(end);
    payload.advance(1);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_each_kind_of_chunk() {
        let chunk = |bytes: &'static [u8]| parse_chunk(Bytes::from_static(bytes));
        assert_eq!(
            chunk(b"n16384.tar\0/tb\xE9\0"),
            Ok(Chunk::Archive { name: "16384.tar".to_owned(), location: Bytes::from_static(b"/tb\xE9") })
        );
        assert_eq!(chunk(b"dabc"), Ok(Chunk::Content(Bytes::from_static(b"abc"))));
        assert_eq!(chunk(b"p\0\0\0\0\0\0\x01\0"), Ok(Chunk::Progress(256)));
        assert_eq!(chunk(b"m"), Ok(Chunk::Manifest));
        assert_eq!(chunk(b""), Err(MalformedMessage::Short(0)));
        assert_eq!(chunk(b"p1"), Err(MalformedMessage::Short(2)));
        assert_eq!(chunk(b"m1"), Err(MalformedMessage::Long(1)));
        assert_eq!(chunk(b"nbase.tar\0"), Err(MalformedMessage::Text));
        assert_eq!(chunk(b"x"), Err(MalformedMessage::Kind(b'x')));
    }

    proptest! {
        #[test]
        fn never_panics(payload: Vec<u8>) {
            let _ = parse_chunk(payload.into());
        }
    }
}
