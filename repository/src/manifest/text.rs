//! The text form of a manifest: one record a line, fields separated by tabs.
//!
//! ```text
//! {"format":1,"label":…}                                              the head: one line of JSON
//! P <label>/<id> <stored length> <raw length> <index offset> <index digest>   a pack; they are numbered from 0
//! D <path> <mode>                                                     a folder
//! F <path> <size> <mode> <mtime> <crc32c or ->                        a file
//! E <file offset> <length> <pack> <pack offset>                       an extent of the file above
//! ```
//!
//! Paths are percent-encoded, modes octal, CRCs eight hexadecimal digits, all other numbers decimal. Packs
//! come first, then folders and files in strictly ascending order of their paths' bytes: so no path comes
//! twice, and two manifests can be merged in one pass. There is one way only to write a manifest; what
//! deviates is refused.

use std::io::{self, BufRead, Read, Write};
use std::str::FromStr;

use super::{Entry, MANIFEST_FORMAT, ManifestHead, SafePath};
use crate::pack::{Extent, PackEntry};

/// Longest head in bytes.
const MAX_HEAD: u64 = 16 << 20;

/// Longest other line in bytes: a path of 4,095 bytes, all of them escaped, and some numbers.
const MAX_LINE: u64 = 16 << 10;

/// Packs in a manifest: 64 TiB in packs of 64 MiB.
const MAX_PACKS: usize = 1 << 20;

/// Extents of one file: eight times as many as a relation's segment of 1 GiB has blocks.
const MAX_EXTENTS: usize = 1 << 20;

/// A manifest cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The text is not a manifest's.
    #[error("line {line} of the manifest: {why}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// It was written by a newer walkeep.
    #[error(
        "the manifest has format {found}, this program reads format {MANIFEST_FORMAT} at most: use a newer one"
    )]
    Format {
        /// The version in its head.
        found: u32,
    },
    /// What should be written would not be readable again.
    #[error("a manifest cannot hold {what}: {why}")]
    Unwritable {
        /// Which entry.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What both directions check of an entry, given its predecessor and the packs.
fn fault(entry: &Entry, previous: Option<&SafePath>, packs: &[PackEntry]) -> Option<String> {
    let path = entry.path();
    if previous.is_some_and(|previous| previous >= path) {
        return Some("its path does not follow the one before in the order of bytes".into());
    }
    let (Entry::Directory { mode, .. } | Entry::File { mode, .. }) = entry;
    if *mode > 0o7777 {
        return Some(format!("{mode:o} is no set of permission bits"));
    }
    let Entry::File { size, extents, .. } = entry else { return None };
    if extents.len() > MAX_EXTENTS {
        return Some(format!("it has more than {MAX_EXTENTS} extents"));
    }
    let mut end = 0;
    for extent in extents {
        end = match extent_fault(extent, end, *size, packs) {
            Ok(end) => end,
            Err(why) => return Some(why.into()),
        };
    }
    None
}

/// Checks one extent that must not begin before `earliest`; returns where it ends in the file.
fn extent_fault(extent: &Extent, earliest: u64, size: u64, packs: &[PackEntry]) -> Result<u64, &'static str> {
    let pack = usize::try_from(extent.pack).ok().and_then(|pack| packs.get(pack));
    let pack = pack.ok_or("an extent refers to a pack that the manifest does not name")?;
    if extent.length == 0 {
        return Err("an extent is empty");
    }
    if extent.file_offset < earliest {
        return Err("an extent begins before the end of the one before");
    }
    if extent.pack_end().is_none_or(|end| end > pack.raw_length) {
        return Err("an extent reaches beyond the end of its pack");
    }
    match extent.file_end() {
        Some(end) if end <= size => Ok(end),
        _ => Err("an extent reaches beyond the end of the file"),
    }
}

/// Writes a manifest line by line.
pub struct ManifestWriter<W: Write> {
    to: W,
    packs: Vec<PackEntry>,
    previous: Option<SafePath>,
}

impl ManifestHead {
    /// Writes the first line.
    pub(crate) fn write(&self, to: impl Write) -> Result<(), ManifestError> {
        write_head(to, self)
    }
}

/// Writes the first line.
pub(super) fn write_head(mut to: impl Write, head: &ManifestHead) -> Result<(), ManifestError> {
    let unwritable = |why: String| ManifestError::Unwritable { what: "this head".into(), why };
    let text = serde_json::to_string(head).map_err(|e| unwritable(e.to_string()))?;
    if text.len() as u64 >= MAX_HEAD {
        return Err(unwritable(format!("it is longer than {MAX_HEAD} bytes")));
    }
    Ok(writeln!(to, "{text}")?)
}

impl<W: Write> ManifestWriter<W> {
    /// Writes the head and the packs. Many small writes go to `to`: it should be buffered.
    pub fn new(mut to: W, head: &ManifestHead, packs: &[PackEntry]) -> Result<Self, ManifestError> {
        write_head(&mut to, head)?;
        Self::below_head(to, packs)
    }

    /// Goes on behind a head that was written already.
    pub(super) fn below_head(mut to: W, packs: &[PackEntry]) -> Result<Self, ManifestError> {
        if packs.len() > MAX_PACKS {
            let why = format!("{MAX_PACKS} are the limit");
            return Err(ManifestError::Unwritable { what: format!("{} packs", packs.len()), why });
        }
        for pack in packs {
            let PackEntry { name, stored_length, raw_length, index_offset, index_digest } = pack;
            writeln!(to, "P\t{name}\t{stored_length}\t{raw_length}\t{index_offset}\t{index_digest}")?;
        }
        Ok(Self { to, packs: packs.to_vec(), previous: None })
    }

    /// Writes a file with its extents, or a folder. Its path must be greater than that of the one before.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        if let Some(why) = fault(entry, self.previous.as_ref(), &self.packs) {
            return Err(ManifestError::Unwritable { what: entry.path().to_string(), why });
        }
        match entry {
            Entry::Directory { path, mode } => writeln!(self.to, "D\t{path}\t{mode:04o}")?,
            Entry::File { path, size, mode, mtime, crc32c, extents } => {
                write!(self.to, "F\t{path}\t{size}\t{mode:04o}\t{mtime}\t")?;
                match crc32c {
                    Some(crc) => writeln!(self.to, "{crc:08x}")?,
                    None => writeln!(self.to, "-")?,
                }
                for Extent { file_offset, length, pack, pack_offset } in extents {
                    writeln!(self.to, "E\t{file_offset}\t{length}\t{pack}\t{pack_offset}")?;
                }
            }
        }
        self.previous = Some(entry.path().clone());
        Ok(())
    }

    /// Gives back what was written to; flushing or closing that is the caller's.
    pub fn finish(self) -> W {
        self.to
    }
}

/// Reads a manifest line by line: one entry with its extents is in memory at a time, and the list of packs.
pub struct ManifestReader<R: BufRead> {
    lines: Lines<R>,
    head: ManifestHead,
    packs: Vec<PackEntry>,
    previous: Option<SafePath>,
    /// A line that was read and belongs to the next entry.
    pending: Option<String>,
}

impl<R: BufRead> ManifestReader<R> {
    /// Reads the head and the packs.
    pub fn new(from: R) -> Result<Self, ManifestError> {
        let mut lines = Lines { from, number: 0 };
        let head = read_head(&mut lines)?;
        let mut packs = Vec::new();
        let pending = loop {
            match lines.next(MAX_LINE)? {
                Some(line) if line.starts_with("P\t") => {
                    let pack = parse_pack(&line).and_then(|pack| match packs.len() < MAX_PACKS {
                        true => Ok(pack),
                        false => Err(format!("more than {MAX_PACKS} packs")),
                    });
                    packs.push(pack.map_err(|why| lines.error(why))?);
                }
                other => break other,
            }
        };
        Ok(Self { lines, head, packs, previous: None, pending })
    }

    /// Reads the first line alone.
    pub fn head_only(from: R) -> Result<ManifestHead, ManifestError> {
        read_head(&mut Lines { from, number: 0 })
    }

    /// What the backup is.
    pub fn head(&self) -> &ManifestHead {
        &self.head
    }

    /// The packs that extents refer to by their index here.
    pub fn packs(&self) -> &[PackEntry] {
        &self.packs
    }

    /// The head and the packs.
    pub fn into_parts(self) -> (ManifestHead, Vec<PackEntry>) {
        (self.head, self.packs)
    }

    /// The next file or folder; `None` after the last one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ManifestError> {
        let line = match self.pending.take() {
            Some(line) => line,
            None => match self.lines.next(MAX_LINE)? {
                Some(line) => line,
                None => return Ok(None),
            },
        };
        let mut entry = parse_entry(&line).map_err(|why| self.lines.error(why))?;
        if let Some(why) = fault(&entry, self.previous.as_ref(), &self.packs) {
            return Err(self.lines.error(format!("{}: {why}", entry.path())));
        }
        if let Entry::File { size, extents, .. } = &mut entry {
            self.read_extents(*size, extents)?;
        }
        self.previous = Some(entry.path().clone());
        Ok(Some(entry))
    }

    fn read_extents(&mut self, size: u64, extents: &mut Vec<Extent>) -> Result<(), ManifestError> {
        let mut end = 0;
        while let Some(line) = self.lines.next(MAX_LINE)? {
            if !line.starts_with("E\t") {
                self.pending = Some(line);
                break;
            }
            let extent = parse_extent(&line).map_err(|why| self.lines.error(why))?;
            end =
                extent_fault(&extent, end, size, &self.packs).map_err(|why| self.lines.error(why.into()))?;
            if extents.len() == MAX_EXTENTS {
                return Err(self.lines.error(format!("more than {MAX_EXTENTS} extents of one file")));
            }
            extents.push(extent);
        }
        Ok(())
    }
}

fn read_head<R: BufRead>(lines: &mut Lines<R>) -> Result<ManifestHead, ManifestError> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
    }
    let Some(line) = lines.next(MAX_HEAD)? else { return Err(lines.error("it is empty".into())) };
    // The version first: a newer head may lack what this code expects.
    let json_error = |e: serde_json::Error| format!("the head is not as expected: {e}");
    let Version { format } = serde_json::from_str(&line).map_err(|e| lines.error(json_error(e)))?;
    if format != MANIFEST_FORMAT {
        return Err(ManifestError::Format { found: format });
    }
    serde_json::from_str(&line).map_err(|e| lines.error(json_error(e)))
}

fn parse_pack(line: &str) -> Result<PackEntry, String> {
    let mut fields = Fields::of(line);
    let pack = PackEntry {
        name: fields.text("pack")?.parse().map_err(|e: crate::pack::PackNameError| e.to_string())?,
        stored_length: fields.number("stored length")?,
        raw_length: fields.number("raw length")?,
        index_offset: fields.number("index offset")?,
        index_digest: fields
            .text("digest")?
            .parse()
            .map_err(|e: proto::digest::DigestError| e.to_string())?,
    };
    fields.end()?;
    Ok(pack)
}

fn parse_entry(line: &str) -> Result<Entry, String> {
    let mut fields = Fields::of(line);
    let entry = match fields.letter {
        "D" => Entry::Directory { path: fields.path()?, mode: fields.mode()? },
        "F" => Entry::File {
            path: fields.path()?,
            size: fields.number("size")?,
            mode: fields.mode()?,
            mtime: fields.number("time")?,
            crc32c: fields.crc()?,
            extents: Vec::new(),
        },
        "P" => return Err("a pack after the first file or folder".into()),
        "E" => return Err("an extent that does not follow a file".into()),
        other => {
            let letter: String = other.chars().take(10).collect();
            return Err(format!(
                "records of kind \"{letter}\" are not known: a newer walkeep wrote this manifest"
            ));
        }
    };
    fields.end()?;
    Ok(entry)
}

fn parse_extent(line: &str) -> Result<Extent, String> {
    let mut fields = Fields::of(line);
    let extent = Extent {
        file_offset: fields.number("file offset")?,
        length: fields.number("length")?,
        pack: fields.number("pack")?,
        pack_offset: fields.number("pack offset")?,
    };
    fields.end()?;
    Ok(extent)
}

/// The fields of a line, first to last.
struct Fields<'a> {
    letter: &'a str,
    rest: std::str::Split<'a, char>,
}

impl<'a> Fields<'a> {
    fn of(line: &'a str) -> Self {
        let mut rest = line.split('\t');
        Self { letter: rest.next().unwrap_or_default(), rest }
    }

    fn text(&mut self, what: &str) -> Result<&'a str, String> {
        self.rest.next().ok_or_else(|| format!("the {what} is missing"))
    }

    /// A decimal number, written as this code would write it: without a plus sign or leading zeros.
    fn number<N: FromStr>(&mut self, what: &str) -> Result<N, String> {
        let text = self.text(what)?;
        let plain = match text.strip_prefix('-').unwrap_or(text).as_bytes() {
            [b'0'] => text == "0",
            [first, ..] => matches!(first, b'1'..=b'9'),
            [] => false,
        };
        let number = text.parse().ok().filter(|_| plain);
        number.ok_or_else(|| format!("the {what} is not a number that fits"))
    }

    fn path(&mut self) -> Result<SafePath, String> {
        self.text("path")?.parse().map_err(|e: super::PathError| e.to_string())
    }

    fn mode(&mut self) -> Result<u32, String> {
        let text = self.text("mode")?;
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| format!("{mode:04o}") == text);
        mode.ok_or_else(|| "the mode is not four octal digits".into())
    }

    fn crc(&mut self) -> Result<Option<u32>, String> {
        let text = self.text("checksum")?;
        if text == "-" {
            return Ok(None);
        }
        let crc = u32::from_str_radix(text, 16).ok().filter(|crc| format!("{crc:08x}") == text);
        crc.map(Some).ok_or_else(|| "the checksum is neither eight hexadecimal digits nor -".into())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.rest.next() {
            None => Ok(()),
            Some(_) => Err("there are more fields than expected".into()),
        }
    }
}

/// Reads lines of bounded length and counts them.
struct Lines<R> {
    from: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end; `None` at the end of the text.
    fn next(&mut self, limit: u64) -> Result<Option<String>, ManifestError> {
        let mut bytes = Vec::new();
        (&mut self.from).take(limit).read_until(b'\n', &mut bytes)?;
        self.number += 1;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.pop() != Some(b'\n') {
            return Err(self.error("it is too long, or the manifest is cut off within it".into()));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| self.error("it is not UTF-8".into()))
    }

    fn error(&self, why: String) -> ManifestError {
        ManifestError::Line { line: self.number, why }
    }
}
