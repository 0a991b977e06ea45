//! Parts of an object's clear content, without the rest.
//!
//! Offsets count in the *clear content*: what follows the header, decrypted but still compressed. For a plain
//! object that is a ranged read. An age file is encrypted in chunks of 64 KiB, each authenticated with its
//! number, so only the chunks that the range touches are read.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;

use super::read::{decrypt, parse_header};
use super::{Encryption, Expected, HEADER_LENGTH, Header, Unsealing};
use crate::task::joined;
use crate::{Error, Key, Result, Store};

/// Clear bytes of an age chunk.
const CHUNK: u64 = 64 << 10;

/// An encrypted chunk: the bytes and their tag.
const SEALED_CHUNK: u64 = CHUNK + 16;

/// The nonce between an age file's header and its first chunk.
const NONCE: usize = 16;

/// As much of the front is read at once: enough for the age header of thirty recipients.
const FRONT: u64 = 4 << 10;

/// No age header of ours comes near this.
const LONGEST_AGE_HEADER: u64 = 1 << 20;

/// Reads ranges of one object's clear content. Cheap to clone; what it reads is authenticated if the object
/// is encrypted, but not checked against a digest: that is up to whoever knows one.
#[derive(Clone)]
pub struct ContentReader {
    store: Store,
    key: Key,
    header: Header,
    lock: Option<Lock>,
}

/// What it takes to open chunks of an age file.
#[derive(Clone)]
struct Lock {
    /// The age header and the nonce.
    front: Bytes,
    unsealing: Unsealing,
}

impl ContentReader {
    /// Reads and checks the object's header. `expected.max_length` has no meaning here.
    pub async fn open(store: &Store, expected: &Expected, unsealing: &Unsealing) -> Result<Self> {
        let (store, key) = (store.clone(), expected.key.clone());
        let mut front = store.get_range(&key, 0..FRONT).await?;
        let header = parse_header(&front, expected)?;
        if header.encryption == Encryption::None {
            return Ok(Self { store, key, header, lock: None });
        }
        let mut wanted = FRONT;
        let end = loop {
            match age_front(&front[HEADER_LENGTH..]) {
                Some(end) => break end,
                None if front.len() as u64 == wanted && wanted < LONGEST_AGE_HEADER => {
                    wanted *= 4;
                    front = store.get_range(&key, 0..wanted).await?;
                }
                None => return Err(Error::corrupt(&key, "its encryption has no header that can be read")),
            }
        };
        let front = front.slice(HEADER_LENGTH..HEADER_LENGTH + end);
        let lock = Lock { front, unsealing: unsealing.clone() };
        // Now rather than with the first range: an identity that does not fit is found out before any work.
        decrypt(&lock.front[..], &key, &lock.unsealing)?;
        Ok(Self { store, key, header, lock: Some(lock) })
    }

    /// What the object says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Exactly the bytes of `range`; an object that ends earlier is damaged.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let length = range.end - range.start;
        let bytes = match &self.lock {
            None => {
                let shifted = shift(&self.key, &range, HEADER_LENGTH as u64)?;
                self.store.get_range(&self.key, shifted).await?
            }
            Some(lock) => self.open_chunks(lock, range).await?,
        };
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(Error::corrupt(&self.key, "it ends earlier than what refers to it says")),
        }
    }

    async fn open_chunks(&self, lock: &Lock, range: Range<u64>) -> Result<Bytes> {
        let first = range.start / CHUNK;
        let sealed =
            first.saturating_mul(SEALED_CHUNK)..range.end.div_ceil(CHUNK).saturating_mul(SEALED_CHUNK);
        let before = HEADER_LENGTH as u64 + lock.front.len() as u64;
        let chunks = self.store.get_range(&self.key, shift(&self.key, &sealed, before)?).await?;
        let (lock, key) = (lock.clone(), self.key.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let gap = sealed.start;
            let input = Sparse { front: lock.front, chunks, gap, position: 0 };
            let mut reader = decrypt(input, &key, &lock.unsealing)?;
            let mut clear = Vec::new();
            let read = (|| {
                if first > 0 {
                    // A seek to a chunk's very beginning would look for the end of the file, which is not
                    // here. So go one byte further first, and back within the chunk.
                    reader.seek(SeekFrom::Start(first * CHUNK + 1))?;
                }
                reader.seek(SeekFrom::Start(first * CHUNK))?;
                io::copy(&mut (&mut reader).take(range.start % CHUNK), &mut io::sink())?;
                reader.take(range.end - range.start).read_to_end(&mut clear)
            })();
            match read {
                Ok(_) => Ok(Bytes::from(clear)),
                Err(error) => Err(super::from_io(&key, error)),
            }
        });
        joined(&self.key, opened.await)
    }
}

fn shift(key: &Key, range: &Range<u64>, by: u64) -> Result<Range<u64>> {
    let shifted = range.start.checked_add(by).zip(range.end.checked_add(by));
    shifted
        .map(|(start, end)| start..end)
        .ok_or_else(|| Error::corrupt(key, "what refers to it names an impossible range"))
}

/// Length of the age header and the nonce, if `bytes` has all of them.
fn age_front(bytes: &[u8]) -> Option<usize> {
    let mac = bytes.windows(5).position(|window| window == b"\n--- ")? + 1;
    let line = bytes[mac..].iter().position(|&byte| byte == b'\n')?;
    let end = mac + line + 1 + NONCE;
    (end <= bytes.len()).then_some(end)
}

/// An age file of which only the front and some chunks are here.
struct Sparse {
    front: Bytes,
    chunks: Bytes,
    /// Bytes between the front and the chunks that are not here.
    gap: u64,
    position: u64,
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunks_start = self.front.len() as u64 + self.gap;
        let here = if self.position < self.front.len() as u64 {
            &self.front[self.position as usize..]
        } else {
            let offset = self.position.checked_sub(chunks_start).map(usize::try_from);
            let Some(Ok(offset)) = offset else {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "a chunk was asked for that is not here",
                ));
            };
            self.chunks.get(offset..).unwrap_or_default()
        };
        let count = here.len().min(buffer.len());
        buffer[..count].copy_from_slice(&here[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(target) => Some(target),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            // How long the whole file is, is not known here.
            SeekFrom::End(_) => None,
        };
        self.position = target.ok_or(io::ErrorKind::Unsupported)?;
        Ok(self.position)
    }
}
