//! What a record consists of: the blocks that it touches, and its main data.
//!
//! The headers of all parts come first, then the parts themselves: for each block its image, if there is one, and its
//! data; the main data comes last.

use super::{Fork, RECORD_HEADER, Record, RelFile};
use crate::bytes::{u16_at, u32_at};
use crate::page::BLOCK_SIZE;
use crate::wal::WalError;

const MOST_BLOCKS: u8 = 32;
const TOPLEVEL_XID: u8 = 252;
const ORIGIN: u8 = 253;
const LONG_DATA: u8 = 254;
const SHORT_DATA: u8 = 255;

const FORK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;

const IMAGE_HAS_HOLE: u8 = 1;

/// The parts of a record.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    content: &'a [u8],
    headers: usize,
    version: u16,
    /// Bytes of the images of blocks.
    pub image_bytes: u32,
    /// The replication origin that the change came from.
    pub origin: Option<u16>,
    /// The transaction that the record's one is a part of, where that is told.
    pub toplevel_xid: Option<u32>,
    /// The main data; cut off if the record is.
    pub main: &'a [u8],
}

/// A block that a record touches.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Its number within the record.
    pub id: u8,
    /// Whose.
    pub file: RelFile,
    /// Of which fork.
    pub fork: Fork,
    /// Its number within the fork.
    pub number: u32,
    /// Whether the page is written anew, whatever it held.
    pub will_init: bool,
    /// The page as it was afterwards.
    pub image: Option<Image<'a>>,
    /// What belongs to this block of the change.
    pub data: &'a [u8],
}

/// A page within a record.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The bytes that are stored; cut off if the record is.
    pub bytes: &'a [u8],
    /// Where bytes are left out, which were zero.
    pub hole_offset: u16,
    /// How many.
    pub hole_length: u16,
    /// Whether [`Image::bytes`] are compressed, by whatever method.
    pub compressed: bool,
    /// Whether replay uses it; else it is there to be compared.
    pub apply: bool,
}

/// A block's header, before it is known where its parts lie.
struct BlockHeader {
    id: u8,
    file: RelFile,
    fork: Fork,
    number: u32,
    will_init: bool,
    image: Option<ImageHeader>,
    data: u16,
}

#[derive(Clone, Copy)]
struct ImageHeader {
    length: u16,
    hole_offset: u16,
    hole_length: u16,
    compressed: bool,
    apply: bool,
}

/// Reads headers one after the other.
struct Headers<'a> {
    content: &'a [u8],
    at: usize,
    version: u16,
    last: Option<RelFile>,
}

enum Header {
    Block(BlockHeader),
    Origin(u16),
    TopLevel(u32),
    Main(u32),
}

impl<'a> Parts<'a> {
    pub(super) fn of(record: &Record<'a>) -> Result<Self, WalError> {
        let damaged = |why| WalError::Damaged { at: record.start, why };
        let declared = u64::from(record.length) - RECORD_HEADER as u64;
        let mut headers = Headers { content: record.content, at: 0, version: record.version, last: None };
        let mut parts = Parts {
            content: record.content,
            headers: 0,
            version: record.version,
            image_bytes: 0,
            origin: None,
            toplevel_xid: None,
            main: &[],
        };
        let (mut behind, mut main, mut next_block) = (0_u64, 0_u64, 0_u8);
        // Headers end where what they announce is all that is left.
        while (headers.at as u64) + behind < declared {
            let header =
                headers.next().ok_or_else(|| damaged("the parts of a record are not what they should be"))?;
            match header {
                Header::Block(block) => {
                    if block.id < next_block {
                        return Err(damaged("the blocks of a record are out of order"));
                    }
                    next_block = block.id + 1;
                    let image = block.image.map_or(0, |image| image.length);
                    parts.image_bytes += u32::from(image);
                    behind += u64::from(image) + u64::from(block.data);
                }
                Header::Origin(origin) => parts.origin = Some(origin),
                Header::TopLevel(xid) => parts.toplevel_xid = Some(xid),
                Header::Main(length) => {
                    main = u64::from(length);
                    behind += main;
                    break;
                }
            }
        }
        if (headers.at as u64) + behind != declared {
            return Err(damaged("the parts of a record do not fill it"));
        }
        parts.headers = headers.at;
        let from = usize::try_from(declared - main).unwrap_or(usize::MAX);
        parts.main = record.content.get(from..).unwrap_or_default();
        Ok(parts)
    }

    /// The blocks, in the order of their numbers.
    pub fn blocks(&self) -> Blocks<'a> {
        let headers =
            Headers { content: &self.content[..self.headers], at: 0, version: self.version, last: None };
        Blocks { headers, content: self.content, at: self.headers }
    }
}

/// The blocks of a record.
pub struct Blocks<'a> {
    headers: Headers<'a>,
    content: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        let header = loop {
            match self.headers.next()? {
                Header::Block(header) => break header,
                Header::Main(_) => return None,
                Header::Origin(_) | Header::TopLevel(_) => {}
            }
        };
        let mut take = |length: u16| {
            let from = self.at.min(self.content.len());
            self.at += usize::from(length);
            &self.content[from..self.at.min(self.content.len())]
        };
        let image = header.image.map(|image| Image {
            bytes: take(image.length),
            hole_offset: image.hole_offset,
            hole_length: image.hole_length,
            compressed: image.compressed,
            apply: image.apply,
        });
        Some(Block {
            id: header.id,
            file: header.file,
            fork: header.fork,
            number: header.number,
            will_init: header.will_init,
            image,
            data: take(header.data),
        })
    }
}

impl Headers<'_> {
    /// `None` at the end, and where there is none.
    fn next(&mut self) -> Option<Header> {
        Some(match self.u8()? {
            id @ 0..=MOST_BLOCKS => Header::Block(self.block(id)?),
            TOPLEVEL_XID => Header::TopLevel(self.u32()?),
            ORIGIN => Header::Origin(self.u16()?),
            LONG_DATA => Header::Main(self.u32()?),
            SHORT_DATA => Header::Main(self.u8()?.into()),
            _ => return None,
        })
    }

    fn block(&mut self, id: u8) -> Option<BlockHeader> {
        let flags = self.u8()?;
        let data = self.u16()?;
        if (flags & HAS_DATA != 0) != (data != 0) {
            return None;
        }
        let image = if flags & HAS_IMAGE == 0 { None } else { Some(self.image()?) };
        let file = match (flags & SAME_RELATION != 0, self.last) {
            (true, last) => last?,
            (false, _) => {
                let file = RelFile::at(self.content, self.at)?;
                self.at += RelFile::LENGTH;
                file
            }
        };
        self.last = Some(file);
        let fork = Fork::of(u32::from(flags & FORK))?;
        let number = self.u32()?;
        Some(BlockHeader { id, file, fork, number, will_init: flags & WILL_INIT != 0, image, data })
    }

    fn image(&mut self) -> Option<ImageHeader> {
        let length = self.u16()?;
        let hole_offset = self.u16()?;
        let info = self.u8()?;
        // 15 gave each method of compression a bit of its own, and moved "apply" for it.
        let (apply, methods) = if self.version >= 15 { (0x02, 0x1C) } else { (0x04, 0x02) };
        let compressed = info & methods != 0;
        let has_hole = info & IMAGE_HAS_HOLE != 0;
        let hole_length = match (compressed, has_hole) {
            (true, true) => self.u16()?,
            (true, false) => 0,
            (false, _) => (BLOCK_SIZE as u16).checked_sub(length)?,
        };
        let whole = length == BLOCK_SIZE as u16 || compressed;
        let sound = usize::from(hole_offset) + usize::from(hole_length) <= BLOCK_SIZE
            && usize::from(length) <= BLOCK_SIZE
            && (has_hole == (hole_length != 0))
            && (has_hole || whole);
        sound.then_some(ImageHeader {
            length,
            hole_offset,
            hole_length,
            compressed,
            apply: info & apply != 0,
        })
    }

    fn u8(&mut self) -> Option<u8> {
        let byte = *self.content.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let number = u16_at(self.content, self.at)?;
        self.at += 2;
        Some(number)
    }

    fn u32(&mut self) -> Option<u32> {
        let number = u32_at(self.content, self.at)?;
        self.at += 4;
        Some(number)
    }
}

impl<'a> Image<'a> {
    /// `length` bytes of the page from `offset` on; `None` if they are compressed, or not all there.
    pub fn slice(&self, offset: usize, length: usize) -> Option<&'a [u8]> {
        if self.compressed {
            return None;
        }
        let end = offset.checked_add(length)?;
        let (hole, size) = (usize::from(self.hole_offset), usize::from(self.hole_length));
        match () {
            () if end <= hole => self.bytes.get(offset..end),
            () if offset >= hole + size => self.bytes.get(offset - size..end - size),
            () => None,
        }
    }
}
