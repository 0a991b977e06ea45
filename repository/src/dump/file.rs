//! The files of a dump: each a sealed object, written and read as a stream.

use std::io::{self, Read, Write};

use super::{DumpFile, DumpLabel, FileName};
use crate::sealed::from_io;
use crate::store::{SyncRead, SyncUpload};
use crate::{Branch, Error, Key, Kind, Result, SealWriter, UnsealReader};

/// Writes one file of a dump: compressed, encrypted and digested while it passes through. Synchronous: for blocking threads.
pub struct DumpWriter {
    writer: SealWriter<SyncUpload>,
    object: FileName,
    key: Key,
}

/// Reads one file of a dump. Synchronous: for blocking threads.
///
/// What is read may only be used after [`Read::read`] has returned 0: the digest is checked just before that, against what
/// the dump's contents say, and a mismatch is an error instead.
pub struct DumpReader {
    reader: UnsealReader<SyncRead>,
    file: DumpFile,
    key: Key,
    read: u64,
}

impl Branch {
    /// Begins the file of that number, counted from 0 within the dump. Nothing is visible before [`DumpWriter::finish`].
    pub async fn write_dump_file(&self, label: &DumpLabel, number: u32) -> Result<DumpWriter> {
        let object: FileName = format!("file-{number:08}-{}", self.writer())
            .parse()
            .map_err(|error| Error::invalid(format_args!("dump {label}"), error))?;
        let name = self.dump_object(label, &object);
        let key = self.key(&name);
        let upload = SyncUpload::new(self.store().upload(&key).await?);
        let writer = SealWriter::new(upload, &self.header(Kind::DumpFile, &name), self.sealing()?)?;
        Ok(DumpWriter { writer, object, key })
    }

    /// Opens a file of a dump.
    pub async fn read_dump_file(&self, label: &DumpLabel, file: &DumpFile) -> Result<DumpReader> {
        let expected = self.expected(Kind::DumpFile, &self.dump_object(label, &file.object), u64::MAX);
        let key = expected.key.clone();
        let input = SyncRead::new(self.store().get_stream(&key, 0).await?);
        let unsealing = self.unsealing().clone();
        let opened = move || UnsealReader::new(input, &expected, &unsealing);
        let reader = crate::branch::off_thread(&key, opened).await?;
        Ok(DumpReader { reader, file: file.clone(), key, read: 0 })
    }
}

impl DumpWriter {
    /// The file is complete; `name` is what the tool called it. It is durable when this returns.
    pub fn finish(self, name: Option<FileName>) -> Result<DumpFile> {
        let (upload, sealed) = self.writer.finish()?;
        let stored_bytes = upload.finish()?;
        Ok(DumpFile {
            name,
            object: self.object,
            size_bytes: sealed.raw_length,
            stored_bytes,
            digest: sealed.digest,
        })
    }
}

impl Write for DumpWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write_raw(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    /// Nothing to do: only [`DumpWriter::finish`] makes anything visible.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DumpWriter {
    /// What an error of [`Write::write`] means.
    pub fn failure(&self, error: io::Error) -> Error {
        from_io(&self.key, error)
    }
}

impl DumpReader {
    /// What an error of [`Read::read`] means: damage names the object.
    pub fn failure(&self, error: io::Error) -> Error {
        from_io(&self.key, error)
    }
}

impl Read for DumpReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.read += count as u64;
        // The object is whole in itself; it must also be the one that the dump's contents name.
        if count == 0 && !buffer.is_empty() {
            let digest = self.reader.digest();
            if (self.read, digest) != (self.file.size_bytes, self.file.digest) {
                let why = format!(
                    "it holds {} bytes with the digest {digest} instead of {} with {}",
                    self.read, self.file.size_bytes, self.file.digest
                );
                return Err(io::Error::other(Error::corrupt(&self.key, why)));
            }
        }
        Ok(count)
    }
}
