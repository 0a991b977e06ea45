//! Plain SQL sessions.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;

use super::connection::{Connection, Io};
use super::startup::{self, Request, Role};
use super::{Error, Result};
use crate::conninfo::ConnInfo;

/// Opens an SQL session under the same rules of hosts, TLS and authentication as a replication session.
///
/// A task drives the connection until the client is dropped or the connection is lost.
///
/// `tokio_postgres` gets a session that is open already, so that there is one implementation of these rules: its
/// own start is answered from what the server has told us.
pub async fn sql(info: &ConnInfo, application_name: &str) -> Result<tokio_postgres::Client> {
    let request = Request { role: Role::Sql, application_name, settings: Vec::new() };
    let connection = startup::open(info, &request).await?;
    let host = connection.host().to_owned();
    let mut config = tokio_postgres::Config::new();
    config.user(&info.user).ssl_mode(SslMode::Disable);
    let opened = Box::pin(config.connect_raw(Opened::new(connection), NoTls)).await;
    let (client, driver) =
        opened.map_err(|error| Error::Protocol { host: host.clone(), what: error.to_string() })?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(host, "the SQL session has ended: {error}");
        }
    });
    Ok(client)
}

/// An open session's stream, that answers one start-up packet by itself.
struct Opened {
    io: Box<dyn Io>,
    /// What the reader gets before the server's own bytes.
    answer: BytesMut,
    start: Start,
}

/// What of the start-up packet is still to be swallowed.
enum Start {
    /// Its length: the first four bytes, some of them here.
    Length(Vec<u8>),
    /// That many bytes.
    Rest(usize),
}

impl Opened {
    fn new(connection: Connection) -> Self {
        let answer = start_answer(&connection);
        let (io, unread) = connection.into_parts();
        Self {
            io,
            answer: BytesMut::from_iter(answer.into_iter().chain(unread)),
            start: Start::Length(Vec::new()),
        }
    }
}

/// What a server says after authentication: it is settled, here are the settings, go ahead.
fn start_answer(connection: &Connection) -> BytesMut {
    let mut answer = BytesMut::new();
    let mut message = |tag: u8, body: &[u8]| {
        answer.put_u8(tag);
        // A setting's length is far below 4 GiB: it came in one message.
        answer.put_u32(body.len() as u32 + 4);
        answer.put_slice(body);
    };
    message(b'R', &0u32.to_be_bytes());
    for (name, value) in connection.parameters() {
        message(b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    let (process, secret) = connection.key().unwrap_or_default();
    message(b'K', &[process.to_be_bytes(), secret.to_be_bytes()].concat());
    message(b'Z', b"I");
    answer
}

impl Start {
    /// How many of `bytes` belong to the packet.
    fn swallow(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Length(seen) => {
                let taken = bytes.len().min(4 - seen.len());
                seen.extend_from_slice(&bytes[..taken]);
                if let Ok(length) = <[u8; 4]>::try_from(seen.as_slice()) {
                    let rest = (u32::from_be_bytes(length) as usize).checked_sub(4);
                    *self = Self::Rest(rest.ok_or(io::ErrorKind::InvalidData)?);
                }
                Ok(taken)
            }
            Self::Rest(rest) => {
                let taken = bytes.len().min(*rest);
                *rest -= taken;
                Ok(taken)
            }
        }
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.answer.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, into);
        }
        let length = self.answer.len().min(into.remaining());
        into.put_slice(&self.answer[..length]);
        self.answer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Opened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.start.swallow(bytes)? {
            0 => Pin::new(&mut self.io).poll_write(cx, bytes),
            swallowed => Poll::Ready(Ok(swallowed)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_first_packet_is_swallowed() {
        let packet = [&8u32.to_be_bytes()[..], b"abcd", b"Query"].concat();
        for chunk in 1..packet.len() {
            let mut start = Start::Length(Vec::new());
            let mut passed = Vec::new();
            for mut bytes in packet.chunks(chunk) {
                loop {
                    let swallowed = start.swallow(bytes).expect("well-formed");
                    if swallowed == 0 {
                        break;
                    }
                    bytes = &bytes[swallowed..];
                }
                passed.extend_from_slice(bytes);
            }
            assert_eq!(passed, b"Query", "in pieces of {chunk}");
        }
    }
}
