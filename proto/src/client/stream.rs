//! Streaming WAL.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;

use super::connection::{Incoming, notice, server_error};
use super::{NextTimeline, Replication, Result};
use crate::{Lsn, ServerTime};

/// What START_REPLICATION led to.
pub enum Start {
    /// WAL is coming.
    Streaming(WalStream),
    /// There is no WAL to send: the timeline ends where we wanted to start.
    TimelineEnded {
        /// The session, ready for the next command.
        session: Replication,
        /// Where to go on.
        next: NextTimeline,
    },
}

/// A running stream of WAL.
///
/// Dropping it closes the connection; [`WalStream::finish`] keeps the session.
pub struct WalStream {
    session: Replication,
    state: State,
}

/// Who has ended the stream.
#[derive(Debug, Clone, Copy)]
enum State {
    Streaming,
    TimelineEnded,
    ServerShutdown,
}

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalMessage {
    /// A piece of WAL, at most 128 KiB, never across the end of the timeline.
    ///
    /// The bytes are a slice of the receive buffer, without a copy; held for long, they keep all of it alive.
    Data {
        /// The position of the first byte.
        start: Lsn,
        /// How far the server's WAL reaches.
        server_end: Lsn,
        /// When it was sent.
        sent_at: ServerTime,
        /// The WAL.
        bytes: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// How far the server has sent.
        server_end: Lsn,
        /// When it was sent.
        sent_at: ServerTime,
        /// The server wants a report at once, or it will take us for dead. It also asks so while it shuts down,
        /// and then waits until everything sent is reported as flushed.
        reply_requested: bool,
    },
    /// The timeline has ended: call [`WalStream::finish`]. Said again on every further call.
    TimelineEnded,
    /// The server shuts down in good order, and has sent everything. Said again on every further call.
    ServerShutdown,
}

/// How far we are: always the position after the last byte. 0/0 is "unknown".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StandbyStatus {
    /// Received. Synchronous commits with `remote_write` wait for it.
    pub write: Lsn,
    /// Durable: the slot lets go of WAL before it.
    pub flush: Lsn,
    /// Replayed. An archiver replays nothing.
    pub apply: Lsn,
    /// Whether the server shall answer with a keepalive at once.
    pub reply_requested: bool,
}

impl WalStream {
    pub(super) fn over(session: Replication) -> Self {
        Self { session, state: State::Streaming }
    }

    /// The next message. Cancel-safe: a dropped call loses nothing.
    ///
    /// A server that has nothing to send, and that hears from us, may be silent for ever: whether it lives is told by
    /// its answer to [`StandbyStatus::reply_requested`].
    pub async fn next(&mut self) -> Result<WalMessage> {
        loop {
            match self.state {
                State::Streaming => {}
                State::TimelineEnded => return Ok(WalMessage::TimelineEnded),
                State::ServerShutdown => return Ok(WalMessage::ServerShutdown),
            }
            // A report whose call was dropped halfway must not hold up what follows.
            self.session.connection.flush_unless_broken().await;
            match self.session.connection.receive().await? {
                Incoming::Message(Message::CopyData(body)) => {
                    return parse_copy_data(body.into_bytes())
                        .map_err(|malformed| self.session.connection.unexpected(malformed.to_string()));
                }
                Incoming::Message(Message::CopyDone) => self.state = State::TimelineEnded,
                // The stream's command is complete though nobody ended the stream: a shutdown.
                Incoming::Message(Message::CommandComplete(_)) => self.state = State::ServerShutdown,
                Incoming::Message(Message::ErrorResponse(body)) => return Err(server_error(&body)),
                Incoming::Message(Message::NoticeResponse(body)) => {
                    tracing::warn!(host = self.session.connection.host(), "{}", notice(body.fields()));
                }
                _ => {
                    return Err(self
                        .session
                        .connection
                        .unexpected("a message that is not part of a stream of WAL"));
                }
            }
        }
    }

    /// Reports our positions. Cancel-safe: a report begun is completed by the next call of anything.
    ///
    /// If it cannot be sent, [`WalStream::next`] says why: the server may have left a message before it hung up.
    ///
    /// With a slot, `flush` lets the server remove WAL. The server believes it: it must be durable.
    pub async fn report(&mut self, status: StandbyStatus) -> Result<()> {
        // It has said its last word and listens no more.
        if matches!(self.state, State::ServerShutdown) {
            return Ok(());
        }
        let payload = encode_status(&status, now());
        self.session.connection.queue_copy(&payload)?;
        self.session.connection.flush_unless_broken().await;
        Ok(())
    }

    /// Ends the stream in good order, from our side or after [`WalMessage::TimelineEnded`]. WAL that is still
    /// under way is dropped. `None`: the timeline goes on.
    pub async fn finish(mut self) -> Result<(Replication, Option<NextTimeline>)> {
        self.session.connection.queue_copy_done();
        self.session.connection.flush().await?;
        while matches!(self.state, State::Streaming) {
            self.next().await?;
        }
        // After a shutdown this is the error that there is no session any more.
        let rows = self.session.connection.rows().await?;
        let next = self.session.next_timeline(&rows)?;
        Ok((self.session, next))
    }
}

/// A payload that is no message of a stream of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMessage {
    /// Shorter than its kind demands.
    #[error("a message that is cut off after {0} bytes")]
    Short(usize),
    /// Longer than its kind allows.
    #[error("a message with {0} bytes behind its end")]
    Long(usize),
    /// Of no known kind.
    #[error("a message of the unknown kind {0:#04x}")]
    Kind(u8),
    /// A text that does not end.
    #[error("a text without its end")]
    Text,
}

/// Reads what the server sends inside CopyData while it streams WAL.
pub fn parse_copy_data(mut payload: Bytes) -> Result<WalMessage, MalformedMessage> {
    let length = payload.len();
    let short = |_| MalformedMessage::Short(length);
    match payload.try_get_u8().map_err(short)? {
        b'w' => Ok(WalMessage::Data {
            start: Lsn(payload.try_get_u64().map_err(short)?),
            server_end: Lsn(payload.try_get_u64().map_err(short)?),
            sent_at: ServerTime(payload.try_get_i64().map_err(short)?),
            bytes: payload,
        }),
        b'k' => {
            let message = WalMessage::Keepalive {
                server_end: Lsn(payload.try_get_u64().map_err(short)?),
                sent_at: ServerTime(payload.try_get_i64().map_err(short)?),
                reply_requested: payload.try_get_u8().map_err(short)? != 0,
            };
            if payload.is_empty() { Ok(message) } else { Err(MalformedMessage::Long(payload.len())) }
        }
        kind => Err(MalformedMessage::Kind(kind)),
    }
}

fn encode_status(status: &StandbyStatus, now: ServerTime) -> BytesMut {
    let mut payload = BytesMut::with_capacity(34);
    payload.put_u8(b'r');
    for position in [status.write, status.flush, status.apply] {
        payload.put_u64(position.0);
    }
    payload.put_i64(now.0);
    payload.put_u8(status.reply_requested.into());
    payload
}

/// Our clock; the server uses it for statistics only.
fn now() -> ServerTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ServerTime::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_wal_and_keepalives() {
        let mut data = vec![b'w'];
        data.extend(1u64.to_be_bytes());
        data.extend(2u64.to_be_bytes());
        data.extend(3i64.to_be_bytes());
        data.extend(b"wal");
        let expected = WalMessage::Data {
            start: Lsn(1),
            server_end: Lsn(2),
            sent_at: ServerTime(3),
            bytes: Bytes::from_static(b"wal"),
        };
        assert_eq!(parse_copy_data(data.into()), Ok(expected));

        let mut keepalive = vec![b'k'];
        keepalive.extend(2u64.to_be_bytes());
        keepalive.extend(3i64.to_be_bytes());
        keepalive.push(1);
        let expected =
            WalMessage::Keepalive { server_end: Lsn(2), sent_at: ServerTime(3), reply_requested: true };
        assert_eq!(parse_copy_data(keepalive.clone().into()), Ok(expected));
        keepalive.push(0);
        assert_eq!(parse_copy_data(keepalive.into()), Err(MalformedMessage::Long(1)));
    }

    #[test]
    fn refuses_what_is_neither() {
        assert_eq!(parse_copy_data(Bytes::new()), Err(MalformedMessage::Short(0)));
        assert_eq!(parse_copy_data(Bytes::from_static(b"w123")), Err(MalformedMessage::Short(4)));
        assert_eq!(parse_copy_data(Bytes::from_static(b"x")), Err(MalformedMessage::Kind(b'x')));
    }

    #[test]
    fn a_status_is_34_bytes() {
        let status = StandbyStatus { write: Lsn(1), flush: Lsn(2), apply: Lsn(3), reply_requested: true };
        let bytes = encode_status(&status, ServerTime(4));
        let mut expected = vec![b'r'];
        [1u64, 2, 3, 4].iter().for_each(|value| expected.extend(value.to_be_bytes()));
        expected.push(1);
        assert_eq!(bytes, expected);
    }

    proptest! {
        #[test]
        fn never_panics(payload: Vec<u8>) {
            let _ = parse_copy_data(payload.into());
        }
    }
}
