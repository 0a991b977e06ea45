//! Writing sealed objects.

use std::io::{self, Write};

use age::stream::StreamWriter;
use bytes::Bytes;
use proto::Digest;

use super::header::{Closing, INDEX_MAGIC, SIGNATURE_MAGIC, encode};
use super::{Encryption, Header, Purpose, Sealing, Signer, from_io};
use crate::{Error, Result};

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// Bytes of the content before compression.
    pub raw_length: u64,
    /// The content's digest.
    pub digest: Digest,
    /// Bytes of the object's clear content: after compression, before encryption, with all that follows the
    /// frames, without the header at the front.
    pub clear_length: u64,
}

/// Seals a small content in memory.
pub fn seal(header: &Header, content: &[u8], sealing: &Sealing) -> Result<Bytes> {
    Ok(seal_with_digest(header, content, sealing)?.0)
}

pub(crate) fn seal_with_digest(
    header: &Header,
    content: &[u8],
    sealing: &Sealing,
) -> Result<(Bytes, Sealed)> {
    let mut writer = SealWriter::new(Vec::with_capacity(content.len() / 3 + 4096), header, sealing)?;
    writer.write_raw(content)?;
    let (object, sealed) = writer.finish()?;
    Ok((object.into(), sealed))
}

/// Seals a content in pieces, each of which is given up as soon as it is compressed.
pub(crate) fn seal_pieces(header: &Header, pieces: Vec<Bytes>, sealing: &Sealing) -> Result<(Bytes, Sealed)> {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut writer = SealWriter::new(Vec::with_capacity(length / 3 + 4096), header, sealing)?;
    for piece in pieces {
        writer.write_raw(&piece)?;
    }
    let (object, sealed) = writer.finish()?;
    Ok((object.into(), sealed))
}

/// Seals a content of any length while it passes through. Synchronous: use it in a blocking thread.
///
/// Raw content goes in by [`SealWriter::write_raw`], or as ready-made frames by [`SealWriter::append_frame`];
/// indexes follow by [`SealWriter::append_index`].
pub struct SealWriter<W: Write> {
    output: Output<W>,
    header: Header,
    signer: Option<Signer>,
    level: i32,
    /// Open while raw content is being compressed into one frame.
    encoder: Option<zstd::stream::write::Encoder<'static, Vec<u8>>>,
    hasher: blake3::Hasher,
    raw_length: u64,
    clear_length: u64,
}

enum Output<W: Write> {
    Plain(W),
    Age(Box<StreamWriter<W>>),
}

impl<W: Write> Output<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.write_all(bytes),
            Self::Age(output) => output.write_all(bytes),
        }
    }
}

/// What is signed of a head: whose it is, and its bytes.
pub(super) fn about_head(header: &Header, content: &[u8]) -> Vec<u8> {
    let whose = format!("{}/{}/{}\n", header.cluster, header.system_id, header.name);
    [whose.as_bytes(), content].concat()
}

/// Compressed bytes are passed on in pieces of this size.
const PIECE: usize = 128 << 10;

impl<W: Write> SealWriter<W> {
    /// Writes the header. Whether and to whom the content is encrypted follows from its kind.
    pub fn new(mut output: W, header: &Header, sealing: &Sealing) -> Result<Self> {
        let audience = header.kind.audience();
        let (encryption, recipients) = (sealing.encryption(audience), sealing.fingerprint(audience));
        let header = Header { encryption, recipients, ..header.clone() };
        let failed = |error| from_io(&header.name, error);
        output.write_all(&encode(&header, None, None)?).map_err(failed)?;
        let output = match header.encryption {
            Encryption::None => Output::Plain(output),
            Encryption::Age => {
                Output::Age(Box::new(sealing.encryptor(audience)?.wrap_output(output).map_err(failed)?))
            }
        };
        let hasher = blake3::Hasher::new();
        let (level, signer) = (sealing.level(), sealing.signer().cloned());
        Ok(Self { output, header, signer, level, encoder: None, hasher, raw_length: 0, clear_length: 0 })
    }

    /// Compresses and writes the next bytes of the content.
    pub fn write_raw(&mut self, raw: &[u8]) -> Result<()> {
        self.count(raw);
        let failed = |error| from_io(&self.header.name, error);
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(encoder(self.level).map_err(failed)?),
        };
        for piece in raw.chunks(PIECE) {
            encoder.write_all(piece).map_err(failed)?;
            let ready = encoder.get_mut();
            if ready.len() >= PIECE {
                self.clear_length += ready.len() as u64;
                self.output.write_all(ready).map_err(failed)?;
                ready.clear();
            }
        }
        Ok(())
    }

    /// Appends a zstd frame that decompresses to `raw`.
    pub fn append_frame(&mut self, frame: &[u8], raw: &[u8]) -> Result<()> {
        self.end_frame()?;
        self.count(raw);
        self.emit(frame)
    }

    /// Appends a zstd frame that decompresses to `raw_length` bytes, which somebody else has digested: the
    /// object has to be ended by [`SealWriter::finish_as`].
    pub(crate) fn append_digested_frame(&mut self, frame: &[u8], raw_length: u64) -> Result<()> {
        self.end_frame()?;
        self.raw_length += raw_length;
        self.emit(frame)
    }

    /// Appends a skippable frame with the magic number of an index around `payload`.
    pub fn append_index(&mut self, payload: &[u8]) -> Result<()> {
        self.append_skippable(INDEX_MAGIC, payload)
    }

    /// Signs what was written so far, which is `content` and is read without the rest: a skippable frame behind it. Nothing
    /// where nothing is signed.
    pub(crate) fn sign_head(&mut self, content: &[u8]) -> Result<()> {
        self.end_frame()?;
        let Some(signer) = &self.signer else { return Ok(()) };
        let signature = signer.sign(Purpose::Head, &about_head(&self.header, content));
        self.append_skippable(SIGNATURE_MAGIC, &signature)
    }

    fn append_skippable(&mut self, magic: u32, payload: &[u8]) -> Result<()> {
        self.end_frame()?;
        let length = u32::try_from(payload.len())
            .map_err(|_| Error::invalid(&self.header.name, "an index of 4 GiB or more cannot be written"))?;
        self.emit(&[magic.to_le_bytes(), length.to_le_bytes()].concat())?;
        self.emit(payload)
    }

    /// Where in the clear content the next appended frame or index will begin: what an index counts in, and
    /// [`super::ContentReader`] reads by. Offset 0 is the first byte after the header.
    ///
    /// # Errors
    /// Raw content that is still being compressed is ended as a frame first.
    pub fn position(&mut self) -> Result<u64> {
        self.end_frame()?;
        Ok(self.clear_length)
    }

    /// Bytes of raw content so far.
    pub fn raw_length(&self) -> u64 {
        self.raw_length
    }

    /// Writes the closing header and returns the output, which may have to be flushed still.
    pub fn finish(mut self) -> Result<(W, Sealed)> {
        if self.clear_length == 0 && self.encoder.is_none() {
            // An empty content is an empty frame, so that `zstd` finds one.
            self.write_raw(&[])?;
        }
        let digest = self.hasher.finalize().into();
        self.finish_as(digest)
    }

    /// The same with a digest that vouches for the content in another way: for a pack that of its index.
    pub(crate) fn finish_as(mut self, digest: Digest) -> Result<(W, Sealed)> {
        self.end_frame()?;
        let raw_length = self.raw_length;
        let closing = encode(&self.header, Some(Closing { raw_length, digest }), self.signer.as_ref())?;
        self.emit(&closing)?;
        let sealed = Sealed { raw_length, digest, clear_length: self.clear_length };
        let output = match self.output {
            Output::Plain(output) => output,
            Output::Age(output) => output.finish().map_err(|error| from_io(&self.header.name, error))?,
        };
        Ok((output, sealed))
    }

    fn count(&mut self, raw: &[u8]) {
        self.hasher.update(raw);
        self.raw_length += raw.len() as u64;
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<()> {
        self.clear_length += bytes.len() as u64;
        self.output.write_all(bytes).map_err(|error| from_io(&self.header.name, error))
    }

    fn end_frame(&mut self) -> Result<()> {
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        let rest = encoder.finish().map_err(|error| from_io(&self.header.name, error))?;
        self.emit(&rest)
    }
}

fn encoder(level: i32) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::with_capacity(2 * PIECE), level)?;
    // Our digest is what counts; this one serves whoever opens an object with `zstd` alone.
    encoder.include_checksum(true)?;
    Ok(encoder)
}
