//! What `archive-cmd` and `walkeep status` say to the agent over its Unix socket, and what it answers.
//!
//! One request, one response, then both sides close. Each is a frame: `b"WKS2"`, the length of the body as
//! a big-endian `u32`, the body. The body is a tag byte and the fields; integers are big-endian, byte strings carry
//! a `u32` length. With [`Request::Archive`] the file's descriptor travels as ancillary data (`SCM_RIGHTS`) of the
//! frame's first byte, so that the agent needs no right to read the data directory.

use crate::wal::WalFile;
use crate::{Digest, SystemId};

/// Bytes before the body.
pub const HEADER: usize = 8;
/// The longest body of a request.
pub const MAX_REQUEST: usize = 16 << 10;
/// The longest body of a response.
pub const MAX_RESPONSE: usize = 1 << 20;
/// A [`Response::Failed`] message is cut to so many bytes.
pub const MAX_MESSAGE: usize = 8 << 10;

/// What is asked of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make this file durable in the repository.
    Archive {
        /// What the file is.
        file: WalFile,
        /// Its length in bytes.
        size: u64,
        /// Of its content. The agent stores only bytes that have this digest.
        digest: Digest,
        /// Whose it is. A history file does not tell by itself.
        system_id: SystemId,
        /// The file's absolute path on the server's host; at most 4,096 bytes. For messages, and so that the agent
        /// finds the backlog in `archive_status` beside it.
        path: Vec<u8>,
    },
    /// What do you do now?
    Status,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// The file is durable in the repository.
    Stored,
    /// It is not.
    Failed {
        /// For the operator: one sentence; a `hint:` may follow on a line of its own.
        message: String,
    },
    /// See `walkeep status --json`.
    Status {
        /// A JSON document.
        json: String,
    },
}

/// The bytes are no message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// Another protocol, or another version of it.
    #[error("the other side of the socket does not speak walkeep's protocol, version 2")]
    Protocol,
    /// Longer than any message may be.
    #[error("a message of {0} bytes is longer than allowed")]
    TooLong(usize),
    /// The body is not what its tag promises.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
}

const MAGIC: &[u8; 4] = b"WKS2";
/// PATH_MAX of Linux.
const MAX_PATH: usize = 4096;
/// The longest name of a WAL file is that of a `.backup` file: 40 characters.
const MAX_NAME: usize = 40;

const ARCHIVE: u8 = b'A';
const STATUS: u8 = b'?';
const STORED: u8 = b'S';
const FAILED: u8 = b'F';
const STATUS_IS: u8 = b'=';

impl Request {
    /// The whole frame. A path that is too long is cut: it serves messages only.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Body::default();
        match self {
            Request::Archive { file, size, digest, system_id, path } => {
                body.tag(ARCHIVE);
                body.bytes(file.to_string().as_bytes());
                body.0.extend(size.to_be_bytes());
                body.0.extend(digest.as_bytes());
                body.0.extend(system_id.0.to_be_bytes());
                body.bytes(path.get(..MAX_PATH).unwrap_or(path));
            }
            Request::Status => body.tag(STATUS),
        }
        body.frame()
    }

    /// The length of the body that follows this header: at most [`MAX_REQUEST`].
    pub fn body_length(header: &[u8; HEADER]) -> Result<usize, SocketError> {
        body_length(header, MAX_REQUEST)
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Request, SocketError> {
        let mut fields = Fields(body);
        let request = match fields.tag()? {
            ARCHIVE => Request::Archive {
                file: fields
                    .text(MAX_NAME)?
                    .parse()
                    .map_err(|_| SocketError::Malformed("not the name of a WAL file"))?,
                size: u64::from_be_bytes(fields.array()?),
                digest: Digest::from_bytes(fields.array()?),
                system_id: SystemId(u64::from_be_bytes(fields.array()?)),
                path: fields.bytes(MAX_PATH)?.to_vec(),
            },
            STATUS => Request::Status,
            _ => return Err(SocketError::Malformed("a request of an unknown kind")),
        };
        fields.finish()?;
        Ok(request)
    }
}

impl Response {
    /// The whole frame. A message that is too long is cut.
    ///
    /// A status that is too long for a frame becomes a [`Response::Failed`]: cut JSON would be no JSON.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Body::default();
        match self {
            Response::Stored => body.tag(STORED),
            Response::Failed { message } => {
                body.tag(FAILED);
                body.bytes(cut(message, MAX_MESSAGE).as_bytes());
            }
            Response::Status { json } if json.len() > MAX_RESPONSE - 5 => {
                let message = format!("the status has {} bytes, more than a message may", json.len());
                return Response::Failed { message }.encode();
            }
            Response::Status { json } => {
                body.tag(STATUS_IS);
                body.bytes(json.as_bytes());
            }
        }
        body.frame()
    }

    /// The length of the body that follows this header: at most [`MAX_RESPONSE`].
    pub fn body_length(header: &[u8; HEADER]) -> Result<usize, SocketError> {
        body_length(header, MAX_RESPONSE)
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Response, SocketError> {
        let mut fields = Fields(body);
        let response = match fields.tag()? {
            STORED => Response::Stored,
            FAILED => Response::Failed { message: fields.text(MAX_MESSAGE)?.to_owned() },
            STATUS_IS => Response::Status { json: fields.text(MAX_RESPONSE)?.to_owned() },
            _ => return Err(SocketError::Malformed("a response of an unknown kind")),
        };
        fields.finish()?;
        Ok(response)
    }
}

/// The longest beginning of `text` that has at most `most` bytes.
fn cut(text: &str, most: usize) -> &str {
    (0..=most).rev().find_map(|end| text.get(..end.min(text.len()))).unwrap_or_default()
}

fn body_length(header: &[u8; HEADER], most: usize) -> Result<usize, SocketError> {
    let [m0, m1, m2, m3, length @ ..] = *header;
    if [m0, m1, m2, m3] != *MAGIC {
        return Err(SocketError::Protocol);
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > most { Err(SocketError::TooLong(length)) } else { Ok(length) }
}

/// A body under construction.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    /// Callers keep `bytes` below the limits of this file, so the length always fits.
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend((bytes.len() as u32).to_be_bytes());
        self.0.extend(bytes);
    }

    fn frame(self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER + self.0.len());
        frame.extend(MAGIC);
        frame.extend((self.0.len() as u32).to_be_bytes());
        frame.extend(self.0);
        frame
    }
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], SocketError> {
        let (field, rest) =
            self.0.split_at_checked(length).ok_or(SocketError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SocketError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(SocketError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*field)
    }

    fn tag(&mut self) -> Result<u8, SocketError> {
        self.array().map(|[tag]| tag)
    }

    fn bytes(&mut self, most: usize) -> Result<&'a [u8], SocketError> {
        let length = u32::from_be_bytes(self.array()?) as usize;
        if length > most {
            return Err(SocketError::Malformed("a field is longer than allowed"));
        }
        self.take(length)
    }

    fn text(&mut self, most: usize) -> Result<&'a str, SocketError> {
        std::str::from_utf8(self.bytes(most)?).map_err(|_| SocketError::Malformed("a text is not UTF-8"))
    }

    fn finish(self) -> Result<(), SocketError> {
        if self.0.is_empty() { Ok(()) } else { Err(SocketError::Malformed("something follows its end")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(frame: &[u8]) -> (&[u8; HEADER], &[u8]) {
        frame.split_first_chunk().unwrap()
    }

    #[test]
    fn the_bytes_of_each_message() {
        let archive = Request::Archive {
            file: "00000002.history".parse().unwrap(),
            size: 41,
            digest: Digest::from_bytes([0xAA; 32]),
            system_id: SystemId(0x0102_0304_0506_0708),
            path: b"pg_wal/00000002.history".to_vec(),
        };
        let mut expected = b"WKS2\0\0\0\x60A\0\0\0\x1000000002.history\0\0\0\0\0\0\0\x29".to_vec();
        expected.extend([0xAA; 32]);
        expected.extend(b"\x01\x02\x03\x04\x05\x06\x07\x08");
        expected.extend(b"\0\0\0\x17pg_wal/00000002.history");
        assert_eq!(archive.encode(), expected);
        assert_eq!(Request::Status.encode(), b"WKS2\0\0\0\x01?");
        assert_eq!(Response::Stored.encode(), b"WKS2\0\0\0\x01S");
        let failed = Response::Failed { message: "no".into() };
        assert_eq!(failed.encode(), b"WKS2\0\0\0\x07F\0\0\0\x02no");
        let status = Response::Status { json: "{}".into() };
        assert_eq!(status.encode(), b"WKS2\0\0\0\x07=\0\0\0\x02{}");
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(Request::body_length(b"WKS2\xff\xff\xff\xff"), Err(SocketError::TooLong(0xFFFF_FFFF)));
        assert!(Response::body_length(b"WKS2\0\x10\0\x01").is_err());
        assert_eq!(Request::body_length(b"WKS1\0\0\0\x01"), Err(SocketError::Protocol));
        let long = Response::Failed { message: "é".repeat(MAX_MESSAGE) }.encode();
        let (header, rest) = body(&long);
        assert_eq!(Response::body_length(header), Ok(rest.len()));
        assert!(
            matches!(Response::decode(rest), Ok(Response::Failed { message }) if message.len() <= MAX_MESSAGE)
        );
        let status = Response::Status { json: " ".repeat(MAX_RESPONSE) }.encode();
        assert!(matches!(Response::decode(body(&status).1), Ok(Response::Failed { .. })));
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(
            timeline in 1..u32::MAX, size: u64, digest: [u8; 32], system_id: u64,
            path in proptest::collection::vec(any::<u8>(), 0..200), message: String,
        ) {
            let file = WalFile::History(crate::TimelineId::new(timeline).unwrap());
            let (digest, system_id) = (Digest::from_bytes(digest), SystemId(system_id));
            let request = Request::Archive { file, size, digest, system_id, path };
            let frame = request.encode();
            let (header, rest) = body(&frame);
            prop_assert_eq!(Request::body_length(header), Ok(rest.len()));
            prop_assert_eq!(Request::decode(rest), Ok(request));
            for response in [Response::Failed { message: message.clone() }, Response::Status { json: message }] {
                let frame = response.encode();
                prop_assert_eq!(Response::decode(body(&frame).1), Ok(response));
            }
        }

        #[test]
        fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            let _ = Response::decode(&bytes);
        }
    }
}
