//! One connection: frames in, frames out.
//!
//! All state lives in [`Connection`], none in its futures, so that every call may be dropped at any await point
//! and made again.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend::{self, CopyData};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{Error, Result, tls};

/// What a connection runs over.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

/// Room made for each read from the socket. Slices of it go to the caller without a copy.
const READ_SIZE: usize = 256 << 10;
/// With less room than this, more is made: small reads would cost more than a new buffer.
const MIN_ROOM: usize = 32 << 10;
/// The same while a base backup comes: with most of it free, one read takes all that the socket holds.
const MIN_BULK_ROOM: usize = 128 << 10;
/// A base backup's read that brings less than this was too early to be worth what a read costs.
const EARLY: usize = 64 << 10;
/// How long more is waited for then. At a gigabyte a second a Unix socket is full after two times this.
const PAUSE: Duration = Duration::from_micros(100);
/// Until the server has accepted us it has no reason to send more than a few hundred bytes at once.
const STRANGER_LIMIT: usize = 64 << 10;
/// The longest message that a server sends to us: the content of a history file, at the very worst.
const MESSAGE_LIMIT: usize = 16 << 20;
/// All rows of one answer together.
const ANSWER_LIMIT: usize = 64 << 20;
/// How long the server's last words are waited for when the connection breaks while we write.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// CopyBothResponse, which postgres-protocol does not know.
const COPY_BOTH_RESPONSE: u8 = b'W';

/// A message from the server.
pub(super) enum Incoming {
    /// Streaming in both directions begins.
    CopyBoth,
    /// Anything else but settings, which the connection keeps for itself.
    Message(Message),
}

/// A row of text values; `None` is NULL.
pub(super) type Row = Vec<Option<Bytes>>;

/// An open connection.
pub(super) struct Connection {
    io: Box<dyn Io>,
    host: String,
    inbound: BytesMut,
    outbound: BytesMut,
    /// Why nothing can be written any more.
    broken: Option<io::Error>,
    /// Bytes were written since the last flush: TLS may still hold them.
    unflushed: bool,
    limit: usize,
    /// A base backup comes.
    bulk: bool,
    /// And its last read was early: see [`EARLY`].
    early: bool,
    parameters: BTreeMap<String, String>,
    key: Option<(i32, i32)>,
}

impl Connection {
    /// Takes over a stream on which nothing has been said yet.
    pub(super) fn over(io: Box<dyn Io>, host: String) -> Self {
        Self {
            io,
            host,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            broken: None,
            unflushed: false,
            limit: STRANGER_LIMIT,
            bulk: false,
            early: false,
            parameters: BTreeMap::new(),
            key: None,
        }
    }

    /// The server, for messages.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The server has accepted us: longer messages are welcome.
    pub(super) fn trust(&mut self) {
        self.limit = MESSAGE_LIMIT;
    }

    /// From now on, until told otherwise, the server sends as much as it can.
    pub(super) fn expect_bulk(&mut self, bulk: bool) {
        (self.bulk, self.early) = (bulk, false);
    }

    /// Settings that the server has reported.
    pub(super) fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// What a cancel request would need: process and secret.
    pub(super) fn key(&self) -> Option<(i32, i32)> {
        self.key
    }

    /// The stream, and bytes read but not yet looked at.
    pub(super) fn into_parts(self) -> (Box<dyn Io>, BytesMut) {
        (self.io, self.inbound)
    }

    /// An error for what the protocol does not foresee.
    pub(super) fn unexpected(&self, what: impl Into<String>) -> Error {
        Error::Protocol { host: self.host.clone(), what: what.into() }
    }

    /// Puts a message into the outgoing buffer.
    pub(super) fn queue(&mut self, encode: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        let before = self.outbound.len();
        encode(&mut self.outbound).map_err(|error| {
            self.outbound.truncate(before);
            Error::Config(format!("cannot be sent to a server: {error}"))
        })
    }

    /// Puts a piece of COPY data into the outgoing buffer.
    pub(super) fn queue_copy(&mut self, payload: &[u8]) -> Result<()> {
        self.queue(|buffer| {
            CopyData::new(payload)?.write(buffer);
            Ok(())
        })
    }

    /// Puts the end of our COPY data into the outgoing buffer.
    pub(super) fn queue_copy_done(&mut self) {
        frontend::copy_done(&mut self.outbound);
    }

    /// Bytes that wait to be written.
    pub(super) fn queued(&self) -> usize {
        self.outbound.len()
    }

    /// Writes all that is queued. Cancel-safe.
    pub(super) async fn flush(&mut self) -> Result<()> {
        match self.try_flush().await {
            Ok(()) => Ok(()),
            Err(source) => Err(self.last_words(source).await),
        }
    }

    /// Writes all that is queued; if that fails, leaves it to the next read to say why. Cancel-safe.
    ///
    /// A server that has hung up may have said something before, and that counts more than our failure.
    pub(super) async fn flush_unless_broken(&mut self) {
        if self.broken.is_none() {
            self.broken = self.try_flush().await.err();
        }
        if self.broken.is_some() {
            self.outbound.clear();
        }
    }

    /// Sends a password at once, so that no copy of it stays in a buffer.
    pub(super) async fn send_password(&mut self, password: &[u8]) -> Result<()> {
        if password.contains(&0) {
            return Err(Error::Config("a password with a zero byte cannot be sent to a server".to_owned()));
        }
        let length = u32::try_from(password.len() + 5).unwrap_or(u32::MAX).to_be_bytes();
        let message = Zeroizing::new([&b"p"[..], &length, password, b"\0"].concat());
        let sent = async {
            self.io.write_all(&message).await?;
            self.io.flush().await
        };
        match sent.await {
            Ok(()) => Ok(()),
            Err(source) => Err(self.last_words(source).await),
        }
    }

    async fn try_flush(&mut self) -> io::Result<()> {
        while !self.outbound.is_empty() {
            self.unflushed = true;
            if self.io.write_buf(&mut self.outbound).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        if self.unflushed {
            self.io.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// A server that closes the connection has often said why just before.
    async fn last_words(&mut self, source: io::Error) -> Error {
        let listen = async {
            loop {
                match self.receive().await {
                    Ok(Incoming::Message(Message::ErrorResponse(body))) => return Some(server_error(&body)),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        let words = tokio::time::timeout(LAST_WORDS, listen).await.ok().flatten();
        words.unwrap_or_else(|| self.lost(source))
    }

    /// The connection broke; inside TLS perhaps because the server does not like our certificate.
    fn lost(&mut self, source: io::Error) -> Error {
        let host = self.host.clone();
        let source = self.broken.take().unwrap_or(source);
        if source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Error::Tls { host, why: tls::explain(&source, false) };
        }
        Error::Lost { host, source }
    }

    /// The next message. Cancel-safe. Waits as long as it takes.
    pub(super) async fn receive(&mut self) -> Result<Incoming> {
        loop {
            match self.take_message()? {
                Some(Incoming::Message(Message::ParameterStatus(body))) => {
                    let text = |value: io::Result<&str>| value.unwrap_or_default().to_owned();
                    self.parameters.insert(text(body.name()), text(body.value()));
                }
                Some(Incoming::Message(Message::BackendKeyData(body))) => {
                    self.key = Some((body.process_id(), body.secret_key()));
                }
                Some(Incoming::Message(Message::NotificationResponse(_))) => {}
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<Incoming>> {
        let malformed = |error: io::Error| self.unexpected(format!("a malformed message ({error})"));
        let Some(header) = Header::parse(&self.inbound).map_err(malformed)? else { return Ok(None) };
        // The header counts itself but not its tag; it is positive, or parsing had failed.
        let length = header.len().unsigned_abs() as usize + 1;
        if length > self.limit {
            return Err(self.unexpected(format!("a message of {length} bytes")));
        }
        if self.inbound.len() < length {
            return Ok(None);
        }
        if header.tag() == COPY_BOTH_RESPONSE {
            self.inbound.advance(length);
            return Ok(Some(Incoming::CopyBoth));
        }
        match Message::parse(&mut self.inbound) {
            Ok(message) => Ok(message.map(Incoming::Message)),
            Err(error) => Err(self.unexpected(format!("a malformed message ({error})"))),
        }
    }

    async fn fill(&mut self) -> Result<()> {
        let room = if self.bulk { MIN_BULK_ROOM } else { MIN_ROOM };
        if self.inbound.capacity() - self.inbound.len() < room {
            self.inbound.reserve(READ_SIZE);
        }
        if self.early {
            // Servers send 8 KiB at a time. To be woken for each costs both sides more than all the rest of receiving.
            // The runtime's own timer knows nothing below a millisecond.
            std::thread::sleep(PAUSE);
        }
        match self.io.read_buf(&mut self.inbound).await {
            Ok(0) => {
                let why = "the server closed the connection";
                Err(self.lost(io::Error::new(io::ErrorKind::UnexpectedEof, why)))
            }
            Ok(read) => {
                self.early = self.bulk && read < EARLY;
                Ok(())
            }
            Err(source) => Err(self.lost(source)),
        }
    }

    /// Sends one simple query.
    pub(super) async fn send_query(&mut self, query: &str) -> Result<()> {
        self.queue(|buffer| frontend::query(query, buffer))?;
        self.flush().await
    }

    /// Runs one command to its end: the rows of all its result sets.
    pub(super) async fn command(&mut self, query: &str) -> Result<Vec<Row>> {
        self.send_query(query).await?;
        self.rows().await
    }

    /// Reads rows up to ReadyForQuery. A server's error counts once the session is ready again.
    pub(super) async fn rows(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut size = 0;
        let mut failure = None;
        loop {
            let message = match self.receive().await {
                Ok(Incoming::Message(message)) => message,
                Ok(Incoming::CopyBoth) => return Err(self.unexpected("CopyBothResponse")),
                // After a fatal error the server hangs up: its words say more than that.
                Err(lost) => return Err(failure.unwrap_or(lost)),
            };
            match message {
                Message::DataRow(body) => {
                    size += body.buffer().len();
                    if size > ANSWER_LIMIT {
                        return Err(self.unexpected("an endless answer"));
                    }
                    rows.push(self.row(&body)?);
                }
                Message::ErrorResponse(body) => failure = Some(server_error(&body)),
                Message::ReadyForQuery(_) => return failure.map_or(Ok(rows), Err),
                Message::NoticeResponse(body) => {
                    tracing::debug!(host = self.host, "{}", notice(body.fields()))
                }
                Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                _ => return Err(self.unexpected("a message that answers no command")),
            }
        }
    }

    /// A row's values.
    pub(super) fn row(&self, body: &DataRowBody) -> Result<Row> {
        let bytes = body.buffer_bytes();
        let values = body.ranges().map(|range| Ok(range.map(|range| bytes.slice(range)))).collect();
        values.map_err(|error| self.unexpected(format!("a malformed row ({error})")))
    }

    /// The only row of an answer.
    pub(super) fn only_row(&self, rows: Vec<Row>) -> Result<Row> {
        let [row] = <[Row; 1]>::try_from(rows)
            .map_err(|rows| self.unexpected(format!("{} rows where one was expected", rows.len())))?;
        Ok(row)
    }

    /// Value number `at` of a row, read as `T`.
    pub(super) fn value<T: std::str::FromStr>(&self, row: &Row, at: usize, name: &str) -> Result<T> {
        let text = row.get(at).and_then(Option::as_ref).and_then(|value| std::str::from_utf8(value).ok());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            let found = text.map_or("nothing".to_owned(), |text| format!("\"{text}\""));
            self.unexpected(format!("{found} as {name}"))
        })
    }

    /// Tells the server that we leave, and closes.
    pub(super) async fn close(mut self) {
        self.outbound.clear();
        frontend::terminate(&mut self.outbound);
        // It is gone either way.
        let _ = tokio::time::timeout(LAST_WORDS, async {
            self.try_flush().await?;
            self.io.shutdown().await
        })
        .await;
    }
}

/// What an ErrorResponse says.
pub(super) fn server_error(body: &ErrorResponseBody) -> Error {
    let Fields { severity, code, message, detail, hint } = fields(body.fields());
    Error::Server { severity, code, message, detail, hint }
}

/// A NoticeResponse in one line.
pub(super) fn notice(body: ErrorFields<'_>) -> String {
    let Fields { severity, message, detail, .. } = fields(body);
    match detail {
        Some(detail) => format!("{severity}: {message} ({detail})"),
        None => format!("{severity}: {message}"),
    }
}

#[derive(Default)]
struct Fields {
    severity: String,
    code: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

/// What can be read of them: a malformed rest must not hide the beginning.
fn fields(mut body: ErrorFields<'_>) -> Fields {
    let mut found = Fields::default();
    while let Ok(Some(field)) = body.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            // The severity that is never translated (V) follows the one that is (S).
            b'S' | b'V' => found.severity = value,
            b'C' => found.code = value,
            b'M' => found.message = value,
            b'D' => found.detail = Some(value),
            b'H' => found.hint = Some(value),
            _ => {}
        }
    }
    found
}
