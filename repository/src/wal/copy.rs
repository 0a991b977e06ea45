//! What objects hold, straight to a writer: in bounded memory, whatever their length.

use std::io::{self, Read, Write};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use proto::Digest;
use tokio::sync::mpsc;

use super::FragmentName;
use crate::branch::off_thread;
use crate::sealed::{UnsealReader, from_io};
use crate::store::SyncRead;
use crate::{Branch, Error, Key, Kind, Result, chance};

/// Bytes that are written at once.
const PIECE: usize = 256 << 10;

impl Branch {
    /// Writes the content of an object to `writer` and returns its length. Only if this succeeds is what was written right: of
    /// this digest and this length.
    pub(super) async fn copy_content(
        &self,
        kind: Kind,
        object: &Key,
        digest: Digest,
        length: u64,
        mut writer: impl Write + Send + 'static,
    ) -> Result<u64> {
        let expected = self.expected(kind, object, length);
        let input = SyncRead::new(self.store().get_stream(&expected.key, 0).await?);
        let (branch, key, object) = (self.clone(), expected.key.clone(), object.clone());
        off_thread(&key, move || {
            let mut reader = UnsealReader::new(input, &expected, branch.unsealing())?;
            let mut written = 0;
            let mut buffer = vec![0; PIECE];
            loop {
                let count = reader.read(&mut buffer).map_err(|error| from_io(&expected.key, error))?;
                if count == 0 {
                    break;
                }
                written += count as u64;
                let refused =
                    |error: io::Error| Error::Refused { what: object.to_string(), why: error.to_string() };
                writer.write_all(&buffer[..count]).map_err(refused)?;
            }
            if written != length {
                let why = format_args!("it holds {written} bytes instead of {length}");
                return Err(Error::corrupt(&expected.key, why));
            }
            branch.check_digest(&object, digest, reader.digest())?;
            Ok(length)
        })
        .await
    }

    /// Reads a fragment as [`Branch::read_fragment`] does, and keeps nothing of it: that it succeeds is the answer.
    pub async fn verify_fragment(&self, fragment: &FragmentName) -> Result<()> {
        match is_small(fragment) {
            true => self.read_fragment(fragment).await.map(|_| ()),
            false => self.copy_fragment(fragment, io::sink()).await,
        }
    }

    /// A fragment's bytes in pieces. An error at the end takes back all that came before it.
    pub fn fragment_pieces(&self, fragment: FragmentName) -> BoxStream<'static, io::Result<Bytes>> {
        let branch = self.clone();
        if is_small(&fragment) {
            let read = async move { branch.read_fragment(&fragment).await.map_err(io::Error::other) };
            return stream::once(read).boxed();
        }
        let (pieces, incoming) = mpsc::channel(2);
        let reading = async move { branch.copy_fragment(&fragment, Pieces(pieces)).await }.boxed();
        let pieces = stream::unfold((Some(reading), incoming), |(mut reading, mut incoming)| async move {
            loop {
                let ended = async {
                    match &mut reading {
                        Some(reading) => reading.await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    piece = incoming.recv() => match (piece, reading.take()) {
                        (Some(piece), reading) => return Some((Ok(piece), (reading, incoming))),
                        // All of it was written: was it right?
                        (None, Some(reading)) => match reading.await {
                            Ok(()) => return None,
                            Err(error) => return Some((Err(io::Error::other(error)), (None, incoming))),
                        },
                        (None, None) => return None,
                    },
                    ended = ended => {
                        reading = None;
                        if let Err(error) = ended {
                            return Some((Err(io::Error::other(error)), (None, incoming)));
                        }
                    }
                }
            }
        });
        pieces.boxed()
    }

    async fn copy_fragment(
        &self,
        fragment: &FragmentName,
        writer: impl Write + Send + 'static,
    ) -> Result<()> {
        let length = u64::from(fragment.to - fragment.from);
        let name = fragment.key();
        self.copy_content(Kind::Fragment, &name, fragment.digest, length, writer).await.map(|_| ())
    }
}

/// Whether it is read into memory as a whole: it is not much; or it lies in a journal, which is; or threads must not take
/// turns.
fn is_small(fragment: &FragmentName) -> bool {
    fragment.to - fragment.from <= 4 * PIECE as u32 || fragment.journal().is_some() || chance::is_seeded()
}

/// A writer into a channel, for blocking threads.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
