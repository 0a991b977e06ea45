//! The WAL of a lineage, segment by segment.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use proto::wal::{SegmentName, SegmentNo};

use super::{Inventory, Lineage};
use crate::{Branch, Error, Result};

/// Longer segments are not held in memory.
const LONGEST_HELD: u64 = 16 << 20;

/// A file is read in pieces of this size: whole pages.
const PIECE: u64 = 1 << 20;

/// What there is of a segment, from its beginning on, verified: in memory, or if segments are long in a temporary file
/// without a name, in `TMPDIR` (or `/tmp`).
#[derive(Debug)]
pub struct WalContent {
    source: Source,
    length: u64,
}

#[derive(Debug)]
enum Source {
    Held(Bytes),
    File(File),
}

impl WalContent {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// No more than so many of them.
    pub fn up_to(self, length: u64) -> Self {
        Self { length: self.length.min(length), ..self }
    }

    /// The bytes, piece by piece, each with its offset: whole pages, but perhaps for the last.
    pub fn pieces(&self) -> impl Iterator<Item = Result<(u64, Bytes)>> {
        let step = match &self.source {
            Source::Held(_) => LONGEST_HELD,
            Source::File(_) => PIECE,
        };
        (0..self.length.div_ceil(step)).map(move |number| {
            let (from, to) = (number * step, ((number + 1) * step).min(self.length));
            let bytes = match &self.source {
                Source::Held(bytes) => bytes.slice(from as usize..to as usize),
                Source::File(file) => {
                    let mut piece = vec![0; (to - from) as usize];
                    file.read_exact_at(&mut piece, from).map_err(|error| no_file(&error))?;
                    piece.into()
                }
            };
            Ok((from, bytes))
        })
    }
}

impl Inventory {
    /// What there is of a segment of `lineage`; `None` if there is nothing.
    ///
    /// # Errors
    /// It is damaged, stored with two contents, or cannot be reached; or the temporary file cannot be written.
    pub async fn read_wal(
        &self,
        branch: &Branch,
        lineage: &Lineage,
        number: SegmentNo,
    ) -> Result<Option<WalContent>> {
        let size = self.segment_size();
        for part in lineage.timelines_of(number, size) {
            let name = SegmentName::new(part.timeline, number, size);
            let Some(wal) = self.wal.timelines.get(&part.timeline) else { continue };
            let content = if wal.segments.contains_key(&name) {
                Some(read_segment(branch, name).await?)
            } else if wal.tail_length(name) > 0 {
                read_tail(branch, name).await?
            } else {
                continue;
            };
            // What a parent has beyond the fork is of another lineage.
            let own = part.to.bytes_since(number.start(size));
            return Ok(content.map(|content| content.up_to(own)));
        }
        Ok(None)
    }
}

async fn read_segment(branch: &Branch, name: SegmentName) -> Result<WalContent> {
    if branch.segment_size().bytes() <= LONGEST_HELD {
        let bytes = branch.read_segment(name).await?;
        return Ok(WalContent { length: bytes.len() as u64, source: Source::Held(bytes) });
    }
    let file = temporary()?;
    let to = file.try_clone().map_err(|error| no_file(&error))?;
    let length = branch.read_segment_to(name, to).await?;
    Ok(WalContent { source: Source::File(file), length })
}

async fn read_tail(branch: &Branch, name: SegmentName) -> Result<Option<WalContent>> {
    if branch.segment_size().bytes() <= LONGEST_HELD {
        let tail = branch.read_tail(name).await?;
        return Ok(
            tail.map(|tail| WalContent { length: tail.bytes.len() as u64, source: Source::Held(tail.bytes) })
        );
    }
    let file = temporary()?;
    let to = file.try_clone().map_err(|error| no_file(&error))?;
    let end = branch.read_tail_to(name, to).await?;
    Ok(end.map(|end| WalContent { source: Source::File(file), length: end.valid.into() }))
}

fn temporary() -> Result<File> {
    tempfile::tempfile().map_err(|error| no_file(&error))
}

fn no_file(error: &std::io::Error) -> Error {
    let what = format!("a temporary file in {} (TMPDIR)", std::env::temp_dir().display());
    Error::Refused { what, why: error.to_string() }
}
