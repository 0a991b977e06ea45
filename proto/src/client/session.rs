//! A physical walsender session and its short commands.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::connection::{Connection, Incoming, Io, Row, server_error};
use super::startup::{self, Request, Role};
use super::{
    BackupStream, BaseBackupOptions, Error, NextTimeline, Result, ServerVersion, SessionOptions,
    SlotLifetime, SlotState, Start, SystemIdentity, WalStream,
};
use crate::config::SlotName;
use crate::conninfo::ConnInfo;
use crate::wal::SegmentSize;
use crate::{Lsn, SystemId, TimelineId};

/// The first version that takes options in parentheses, and knows READ_REPLICATION_SLOT.
pub(super) const NEW_DIALECT: u32 = 15;
/// The oldest version that is spoken to.
const OLDEST: u32 = 13;
/// The first version with UPLOAD_MANIFEST.
const INCREMENTAL: u32 = 17;
/// A manifest is sent in pieces; this much waits in our memory at most.
const UPLOAD_BUFFER: usize = 256 << 10;

/// One physical walsender session.
///
/// Dropping it closes the connection; [`Replication::close`] does so politely.
pub struct Replication {
    pub(super) connection: Connection,
    pub(super) version: ServerVersion,
    /// Servers before 15 want IDENTIFY_SYSTEM to come before START_REPLICATION.
    identified: bool,
}

impl Replication {
    /// Opens a session with the first of the hosts that will do.
    pub async fn connect(info: &ConnInfo, options: &SessionOptions) -> Result<Self> {
        let settings = options
            .wal_sender_timeout
            .map(|timeout| format!("-c wal_sender_timeout={}", timeout.as_millis()));
        let request = Request {
            role: Role::Replication,
            application_name: &options.application_name,
            settings: settings.into_iter().collect(),
        };
        let mut connection = startup::open(info, &request).await?;
        let version = show(&mut connection, "server_version_num").await?;
        let version = version
            .parse()
            .map(ServerVersion)
            .map_err(|_| connection.unexpected(format!("\"{version}\" as server_version_num")))?;
        if version.major() < OLDEST {
            let why = format!("PostgreSQL {version} is too old: walkeep needs {OLDEST} or later");
            return Err(Error::Config(why));
        }
        Ok(Self::over(connection, version))
    }

    /// A session on a stream at whose other end a server of `version` waits for commands already: a simulated one.
    pub fn on(stream: impl Io + 'static, host: &str, version: ServerVersion) -> Self {
        let mut connection = Connection::over(Box::new(stream), host.to_owned());
        connection.trust();
        Self::over(connection, version)
    }

    /// A session on a connection that is ready for commands.
    pub(super) fn over(connection: Connection, version: ServerVersion) -> Self {
        Self { connection, version, identified: false }
    }

    /// The server's version.
    pub fn server_version(&self) -> ServerVersion {
        self.version
    }

    /// Host and port, or the socket's path, of the server that we are connected to.
    pub fn host(&self) -> &str {
        self.connection.host()
    }

    /// Which cluster this is, and where its WAL stands.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.connection.command("IDENTIFY_SYSTEM").await?;
        let row = self.connection.only_row(rows)?;
        self.identified = true;
        Ok(SystemIdentity {
            system_id: self.connection.value::<SystemId>(&row, 0, "the system identifier")?,
            timeline: self.connection.value(&row, 1, "the timeline")?,
            flush_lsn: self.connection.value(&row, 2, "the WAL position")?,
        })
    }

    /// A setting's value, with its unit, as SHOW prints it.
    pub async fn show(&mut self, name: &str) -> Result<String> {
        show(&mut self.connection, name).await
    }

    /// The size of WAL segments.
    pub async fn segment_size(&mut self) -> Result<SegmentSize> {
        let text = self.show("wal_segment_size").await?;
        let size = bytes_of(&text).and_then(|bytes| SegmentSize::new(bytes).ok());
        size.ok_or_else(|| self.connection.unexpected(format!("\"{text}\" as wal_segment_size")))
    }

    /// Looks at a physical slot. Servers before 15 cannot: [`SlotState::Unsupported`].
    pub async fn read_slot(&mut self, slot: &SlotName) -> Result<SlotState> {
        if self.version.major() < NEW_DIALECT {
            return Ok(SlotState::Unsupported);
        }
        let rows = self.connection.command(&format!("READ_REPLICATION_SLOT \"{slot}\"")).await?;
        let row = self.connection.only_row(rows)?;
        let is_null = |at: usize| row.get(at).is_none_or(Option::is_none);
        match (is_null(0), is_null(1)) {
            (true, _) => Ok(SlotState::Absent),
            (false, true) => Ok(SlotState::Lost),
            (false, false) => Ok(SlotState::Reserved {
                restart_lsn: self.connection.value(&row, 1, "the slot's restart_lsn")?,
                timeline: self.connection.value(&row, 2, "the slot's restart_tli")?,
            }),
        }
    }

    /// Creates a physical slot that keeps WAL from now on (from the last checkpoint's redo position).
    pub async fn create_slot(&mut self, slot: &SlotName, lifetime: SlotLifetime) -> Result<()> {
        self.connection.command(&create_slot_command(slot, lifetime, self.version)).await.map(drop)
    }

    /// Drops a slot that nobody uses.
    pub async fn drop_slot(&mut self, slot: &SlotName) -> Result<()> {
        self.connection.command(&format!("DROP_REPLICATION_SLOT \"{slot}\"")).await.map(drop)
    }

    /// The raw content of a timeline's history file. Timeline 1 has none: an error.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<Vec<u8>> {
        let rows = self.connection.command(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let row = self.connection.only_row(rows)?;
        match row.get(1) {
            Some(Some(content)) => Ok(content.to_vec()),
            _ => Err(self.connection.unexpected("a history file without content")),
        }
    }

    /// Starts streaming WAL at `start`, which should be a segment's beginning. With a slot, the server keeps what
    /// is not reported as flushed.
    ///
    /// The server begins before it looks whether it has that WAL: that it is gone (58P01), or not written yet, is
    /// an error of the first [`WalStream::next`].
    pub async fn start_replication(
        mut self,
        slot: Option<&SlotName>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<Start> {
        if !self.identified {
            self.identify_system().await?;
        }
        let slot = slot.map(|slot| format!("SLOT \"{slot}\" ")).unwrap_or_default();
        let command = format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}");
        self.connection.send_query(&command).await?;
        loop {
            match self.connection.receive().await? {
                Incoming::CopyBoth => return Ok(Start::Streaming(WalStream::over(self))),
                Incoming::Message(Message::NoticeResponse(_)) => {}
                Incoming::Message(Message::ErrorResponse(body)) => return Err(server_error(&body)),
                // No stream, only its end: the timeline has nothing from `start` on.
                Incoming::Message(Message::RowDescription(_)) => {
                    let rows = self.connection.rows().await?;
                    let Some(next) = self.next_timeline(&rows)? else {
                        return Err(self.connection.unexpected("a stream that ends before it begins"));
                    };
                    return Ok(Start::TimelineEnded { session: self, next });
                }
                Incoming::Message(_) => return Err(self.connection.unexpected("no stream of WAL")),
            }
        }
    }

    /// What the server says after a timeline's end; `None` if the stream ended otherwise.
    pub(super) fn next_timeline(&self, rows: &[Row]) -> Result<Option<NextTimeline>> {
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(NextTimeline {
            timeline: self.connection.value(row, 0, "the next timeline")?,
            start: self.connection.value(row, 1, "the next timeline's start")?,
        }))
    }

    /// Starts a base backup. Waits as long as the server needs for its checkpoint.
    pub async fn base_backup(self, options: &BaseBackupOptions) -> Result<BackupStream> {
        BackupStream::begin(self, options).await
    }

    /// Gives the server a prior backup's manifest, for an incremental backup in this session (17 and later).
    pub async fn upload_manifest(
        &mut self,
        manifest: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<()> {
        if self.version.major() < INCREMENTAL {
            let why = format!("PostgreSQL {} makes no incremental backups: {INCREMENTAL} does", self.version);
            return Err(Error::Config(why));
        }
        self.connection.send_query("UPLOAD_MANIFEST").await?;
        loop {
            match self.connection.receive().await? {
                Incoming::Message(Message::CopyInResponse(_)) => break,
                Incoming::Message(Message::NoticeResponse(_)) => {}
                Incoming::Message(Message::ErrorResponse(body)) => {
                    let refused = server_error(&body);
                    self.connection.rows().await?;
                    return Err(refused);
                }
                _ => return Err(self.connection.unexpected("no invitation to send the manifest")),
            }
        }
        let mut manifest = pin!(manifest);
        while let Some(piece) = manifest.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(source) => {
                    self.connection
                        .queue(|buffer| frontend::copy_fail("the manifest cannot be read", buffer))?;
                    self.connection.flush().await?;
                    // The server answers with an error of its own, which would only repeat ours.
                    let _ = self.connection.rows().await;
                    return Err(Error::Manifest(source));
                }
            };
            for piece in piece.chunks(UPLOAD_BUFFER) {
                self.connection.queue_copy(piece)?;
                if self.connection.queued() >= UPLOAD_BUFFER {
                    self.connection.flush().await?;
                }
            }
        }
        self.connection.queue_copy_done();
        self.connection.flush().await?;
        self.connection.rows().await.map(drop)
    }

    /// Ends the session politely, so that the server logs no lost connection.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

/// Runs SHOW, which works in replication and in SQL sessions alike.
pub(super) async fn show(connection: &mut Connection, name: &str) -> Result<String> {
    // The name goes into a command: nothing but a name may be in it.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
        return Err(Error::Config(format!("\"{name}\" is not the name of a setting")));
    }
    let rows = connection.command(&format!("SHOW {name}")).await?;
    let row = connection.only_row(rows)?;
    connection.value(&row, 0, name)
}

fn create_slot_command(slot: &SlotName, lifetime: SlotLifetime, version: ServerVersion) -> String {
    let temporary = match lifetime {
        SlotLifetime::Permanent => "",
        SlotLifetime::Temporary => "TEMPORARY ",
    };
    let reserve = if version.major() < NEW_DIALECT { "RESERVE_WAL" } else { "(RESERVE_WAL)" };
    format!("CREATE_REPLICATION_SLOT \"{slot}\" {temporary}PHYSICAL {reserve}")
}

/// Reads a size as SHOW prints it: `16MB`, `1GB`.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_carry_units() {
        assert_eq!(bytes_of("16MB"), Some(16 << 20));
        assert_eq!(bytes_of("1GB"), Some(1 << 30));
        assert_eq!(bytes_of("16777216"), Some(16 << 20));
        for text in ["", "MB", "16TB", "99999999999999999999GB", "-1MB", "16 MB"] {
            assert_eq!(bytes_of(text), None, "{text:?}");
        }
    }

    #[test]
    fn slots_are_created_in_both_dialects() {
        let slot: SlotName = "physical".parse().expect("valid");
        let command = |lifetime, version| create_slot_command(&slot, lifetime, ServerVersion(version));
        assert_eq!(
            command(SlotLifetime::Permanent, 140_024),
            "CREATE_REPLICATION_SLOT \"physical\" PHYSICAL RESERVE_WAL"
        );
        assert_eq!(
            command(SlotLifetime::Temporary, 150_018),
            "CREATE_REPLICATION_SLOT \"physical\" TEMPORARY PHYSICAL (RESERVE_WAL)"
        );
    }
}
