//! Stores for blocking threads: where compression and encryption run, synchronously.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::runtime::Handle;

use super::Upload;
use crate::{Error, Result};

/// An [`Upload`] as a synchronous writer. Only for blocking threads of the runtime that it was made in.
pub struct SyncUpload {
    upload: Upload,
    runtime: Handle,
    buffer: BytesMut,
}

/// What is written in small pieces goes on in pieces of this size.
const PIECE: usize = 256 << 10;

impl SyncUpload {
    /// Takes over `upload`. To be called within the runtime.
    pub fn new(upload: Upload) -> Self {
        Self { upload, runtime: Handle::current(), buffer: BytesMut::with_capacity(PIECE) }
    }

    /// Makes the object visible, whole and durable, and returns its length.
    pub fn finish(mut self) -> Result<u64> {
        let rest = self.buffer.split().freeze();
        self.runtime.block_on(async {
            self.upload.write(rest).await?;
            self.upload.finish().await
        })
    }

    /// Gives the object up.
    pub fn abort(self) {
        self.runtime.block_on(self.upload.abort());
    }
}

impl Write for SyncUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            let piece = self.buffer.split().freeze();
            self.runtime.block_on(self.upload.write(piece)).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    /// Nothing to do: only [`SyncUpload::finish`] makes anything visible.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of bytes as a synchronous reader. Only for blocking threads of the runtime that it was made in.
/// Errors of ours come out of it by [`crate::sealed::from_io`].
pub struct SyncRead {
    stream: BoxStream<'static, Result<Bytes>>,
    runtime: Handle,
    current: Bytes,
}

impl SyncRead {
    /// Takes over `stream`. To be called within the runtime.
    pub fn new(stream: BoxStream<'static, Result<Bytes>>) -> Self {
        Self { stream, runtime: Handle::current(), current: Bytes::new() }
    }
}

impl Read for SyncRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                Some(piece) => self.current = piece.map_err(|error: Error| io::Error::other(error))?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
