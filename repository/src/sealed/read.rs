//! Reading sealed objects, with every check.

use std::io::{self, BufReader, Read};

use age::stream::StreamReader;
use age::{DecryptError, Decryptor};
use proto::config::ClusterName;
use proto::{Digest, SystemId};

use super::header::{Parsed, SIGNATURE_MAGIC, SKIPPABLE_PREFIX, decode};
use super::signing::SIGNATURE;
use super::write::about_head;
use super::{Encryption, HEADER_LENGTH, Header, Kind, Purpose, Unsealing};
use crate::{Error, Key, Result};

/// What the reader asked for; an object that says anything else of itself is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Where it was read, for messages.
    pub key: Key,
    /// What it must be.
    pub kind: Kind,
    /// Its key below its branch.
    pub name: String,
    /// The cluster.
    pub cluster: ClusterName,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The most bytes that its content may have. Longer ones are refused before they are in memory.
    pub max_length: u64,
}

impl Expected {
    fn check(&self, header: &Header) -> Result<()> {
        let wrong = |what: &str, is: &dyn std::fmt::Display, should: &dyn std::fmt::Display| {
            Err(Error::corrupt(&self.key, format_args!("its {what} is {is}, where {should} was stored")))
        };
        if header.kind != self.kind {
            return wrong("kind", &header.kind, &self.kind);
        }
        if header.name != self.name {
            return wrong("name", &header.name, &self.name);
        }
        if header.cluster != self.cluster {
            return wrong("cluster", &header.cluster, &self.cluster);
        }
        if header.system_id != self.system_id {
            return wrong("system identifier", &header.system_id, &self.system_id);
        }
        Ok(())
    }
}

/// Reads and checks the clear header at the front of an object. Quick to have; [`unseal`] proves it.
pub fn parse_header(front: &[u8], expected: &Expected) -> Result<Header> {
    Ok(parse_front(front, expected)?.header)
}

fn parse_front(front: &[u8], expected: &Expected) -> Result<Parsed> {
    let front = front.get(..HEADER_LENGTH).unwrap_or(front);
    let parsed = decode(front).map_err(|why| Error::corrupt(&expected.key, why))?;
    expected.check(&parsed.header)?;
    Ok(parsed)
}

/// Opens a whole object in memory.
pub fn unseal(object: &[u8], expected: &Expected, unsealing: &Unsealing) -> Result<(Header, Vec<u8>)> {
    let (header, content, _) = unseal_with_digest(object, expected, unsealing)?;
    Ok((header, content))
}

/// The same, with the digest of what was read.
pub(crate) fn unseal_with_digest(
    object: &[u8],
    expected: &Expected,
    unsealing: &Unsealing,
) -> Result<(Header, Vec<u8>, Digest)> {
    let mut reader = UnsealReader::in_pieces(object.len().min(PIECE), object, expected, unsealing)?;
    // A guess that costs little where it is wrong: the content grows as it is read, never past the bound.
    let guess = (object.len() as u64).saturating_mul(4).min(expected.max_length);
    let mut content = Vec::with_capacity(usize::try_from(guess).unwrap_or_default());
    reader.read_to_end(&mut content).map_err(|error| from_io(&expected.key, error))?;
    let digest = reader.digest();
    Ok((reader.into_header(), content, digest))
}

/// Opens an object while it is read. Synchronous: use it in a blocking thread.
///
/// The content may only be used after [`Read::read`] has returned 0: the length, the digest and the closing
/// header are checked just before that, and a mismatch is an error instead. [`from_io`] turns it into ours.
pub struct UnsealReader<R: Read> {
    decoder: zstd::stream::read::Decoder<'static, BufReader<HoldBack<Content<R>>>>,
    clear: Parsed,
    expected: Expected,
    unsealing: Unsealing,
    hasher: blake3::Hasher,
    raw_length: u64,
    checked: bool,
}

/// Why an object is refused although its digest is right.
pub(crate) const UNSIGNED: &str =
    "it is not signed, and `trusted_keys` in [signing] demand that: it was not put there by walkeep";
const UNTRUSTED: &str =
    "it is signed, but by none of the `trusted_keys` in [signing]: it was put there by somebody else";

/// Holds a manifest's first line, which was read without the rest, against the signature in the clear content behind its
/// frame. `None`: that is not all there.
pub(crate) fn signed_head(
    key: &Key,
    header: &Header,
    line: &[u8],
    behind: &[u8],
    unsealing: &Unsealing,
) -> Option<Result<()>> {
    if unsealing.trusted().is_empty() {
        return Some(Ok(()));
    }
    let (prefix, rest) = behind.split_at_checked(SKIPPABLE_PREFIX)?;
    if prefix != [SIGNATURE_MAGIC.to_le_bytes(), (SIGNATURE as u32).to_le_bytes()].concat() {
        return Some(Err(Error::corrupt(key, UNSIGNED)));
    }
    let signature = rest.get(..SIGNATURE)?;
    let about = about_head(header, line);
    let trusted = unsealing.trusted().iter().any(|key| key.verifies(Purpose::Head, &about, signature));
    Some(if trusted { Ok(()) } else { Err(Error::corrupt(key, UNTRUSTED)) })
}

/// The largest window that our compression levels use is 8 MiB; a frame that asks for more memory is not
/// ours.
const WINDOW_LOG: u32 = 23;

impl<R: Read> UnsealReader<R> {
    /// Reads and checks the header.
    pub fn new(input: R, expected: &Expected, unsealing: &Unsealing) -> Result<Self> {
        Self::in_pieces(PIECE, input, expected, unsealing)
    }

    /// The same with buffers of this length.
    fn in_pieces(piece: usize, mut input: R, expected: &Expected, unsealing: &Unsealing) -> Result<Self> {
        let key = &expected.key;
        let mut front = Vec::with_capacity(HEADER_LENGTH);
        (&mut input)
            .take(HEADER_LENGTH as u64)
            .read_to_end(&mut front)
            .map_err(|error| from_io(key, error))?;
        let clear = parse_front(&front, expected)?;
        let content = match clear.header.encryption {
            Encryption::None => Content::Plain(input),
            Encryption::Age => Content::Age(Box::new(decrypt(input, key, unsealing)?)),
        };
        let input = BufReader::with_capacity(piece, HoldBack::new(content, piece));
        let mut decoder =
            zstd::stream::read::Decoder::with_buffer(input).map_err(|error| from_io(key, error))?;
        decoder.window_log_max(WINDOW_LOG).map_err(|error| from_io(key, error))?;
        let (expected, unsealing, hasher) = (expected.clone(), unsealing.clone(), blake3::Hasher::new());
        Ok(Self { decoder, clear, expected, unsealing, hasher, raw_length: 0, checked: false })
    }

    /// What the object says about itself. Proven once the content was read to its end.
    pub fn header(&self) -> &Header {
        &self.clear.header
    }

    /// The digest of what was read so far, by ourselves.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }

    fn into_header(self) -> Header {
        self.clear.header
    }

    /// Holds what was read against what the closing header says.
    fn check(&self) -> Result<()> {
        let corrupt = |why: String| Err(Error::corrupt(&self.expected.key, why));
        let closed = match decode(self.decoder.get_ref().get_ref().held()) {
            Ok(closed) => closed,
            Err(_) => return corrupt("its closing header is missing: it was cut off, or changed".into()),
        };
        if !closed.repeats(&self.clear) {
            return corrupt("its closing header contradicts the one at its front".into());
        }
        let Some(closing) = closed.closing else {
            return corrupt("its closing header has neither length nor digest".into());
        };
        if closing.raw_length != self.raw_length {
            return corrupt(format!("it holds {} bytes instead of {}", self.raw_length, closing.raw_length));
        }
        let digest = self.digest();
        if closing.digest != digest {
            return corrupt(format!("its content's digest is {digest} instead of {}", closing.digest));
        }
        let trusted = self.unsealing.trusted();
        match closed.is_signed_by(trusted) {
            _ if trusted.is_empty() => Ok(()),
            Some(true) => Ok(()),
            Some(false) => corrupt(UNTRUSTED.into()),
            None => corrupt(UNSIGNED.into()),
        }
    }
}

impl<R: Read> Read for UnsealReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.checked {
            return Ok(0);
        }
        let count = self.decoder.read(buffer)?;
        if count == 0 {
            self.check().map_err(io::Error::other)?;
            self.checked = true;
            return Ok(0);
        }
        self.raw_length += count as u64;
        if self.raw_length > self.expected.max_length {
            let why = format!("its content is longer than {} bytes", self.expected.max_length);
            return Err(io::Error::other(Error::corrupt(&self.expected.key, why)));
        }
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Opens the age file that `input` is.
pub(super) fn decrypt<R: Read>(input: R, key: &Key, unsealing: &Unsealing) -> Result<StreamReader<R>> {
    let locked = |why: &str| Error::Locked { what: format!("object {key}"), why: why.into() };
    if unsealing.is_empty() {
        return Err(locked("no identity is configured"));
    }
    let opened = Decryptor::new(input).and_then(|decryptor| decryptor.decrypt(unsealing.identities()));
    opened.map_err(|error| match error {
        DecryptError::NoMatchingKeys => locked("none of the configured identities opens it"),
        DecryptError::Io(error) => from_io(key, error),
        error => Error::corrupt(key, format_args!("its encryption cannot be opened: {error}")),
    })
}

/// What an error met while reading or writing the object `what` means: one of ours that was carried through,
/// or damage.
pub fn from_io(what: impl ToString, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::corrupt(what, error),
    }
}

const PIECE: usize = 64 << 10;

enum Content<R: Read> {
    Plain(R),
    Age(Box<StreamReader<R>>),
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Age(input) => input.read(buffer),
        }
    }
}

/// Passes everything on but the last [`HEADER_LENGTH`] bytes.
struct HoldBack<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl<R: Read> HoldBack<R> {
    fn new(input: R, piece: usize) -> Self {
        Self { input, buffer: vec![0; piece + HEADER_LENGTH], start: 0, end: 0, ended: false }
    }

    /// What was held back; complete once the input has ended.
    fn held(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

impl<R: Read> Read for HoldBack<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && self.end - self.start <= HEADER_LENGTH {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let count = (self.end - self.start).saturating_sub(HEADER_LENGTH).min(buffer.len());
        buffer[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}
