//! Entries as bytes, for this process alone: a tenth of what they take as values, and no pieces of the heap. Never stored
//! in a repository, so it has no version.
//!
//! ```text
//! entry  := length of what follows | length of the path | path | kind | mode | file?
//! file   := size | time | checksum? | extent*
//! extent := bytes since the end of the one before | length | pack, less that of the one before | offset in the pack
//! ```
//!
//! Numbers have seven bits a byte, the last one without the eighth; those that may be negative alternate around zero.

use std::io;

use super::{Entry, SafePath};
use crate::pack::Extent;

const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const FILE_WITH_CHECKSUM: u8 = 2;

/// Appends an entry.
pub(super) fn encode(entry: &Entry, into: &mut Vec<u8>, body: &mut Vec<u8>) {
    body.clear();
    let path = entry.path().as_bytes();
    put(body, path.len() as u64);
    body.extend_from_slice(path);
    match entry {
        Entry::Directory { mode, .. } => {
            body.push(DIRECTORY);
            put(body, u64::from(*mode));
        }
        Entry::File { size, mode, mtime, crc32c, extents, .. } => {
            body.push(if crc32c.is_some() { FILE_WITH_CHECKSUM } else { FILE });
            put(body, u64::from(*mode));
            put(body, *size);
            put_signed(body, *mtime);
            body.extend(crc32c.iter().flat_map(|crc| crc.to_le_bytes()));
            let (mut end, mut pack) = (0, 0);
            for extent in extents {
                put_signed(body, extent.file_offset.wrapping_sub(end) as i64);
                put(body, extent.length);
                put_signed(body, i64::from(extent.pack) - pack);
                put(body, extent.pack_offset);
                (end, pack) = (extent.file_offset.wrapping_add(extent.length), i64::from(extent.pack));
            }
        }
    }
    put(into, body.len() as u64);
    into.extend_from_slice(body);
}

/// Takes an entry's bytes, without their length, from the front.
pub(super) fn split<'a>(bytes: &mut &'a [u8]) -> io::Result<&'a [u8]> {
    let length = take(bytes)? as usize;
    let (body, rest) = bytes.split_at_checked(length).ok_or_else(broken)?;
    *bytes = rest;
    Ok(body)
}

/// The path of an entry.
pub(super) fn path(mut body: &[u8]) -> io::Result<&[u8]> {
    let length = take(&mut body)? as usize;
    body.get(..length).ok_or_else(broken)
}

/// Reads an entry's bytes.
pub(super) fn decode(mut body: &[u8]) -> io::Result<Entry> {
    let name = path(body)?;
    take(&mut body)?;
    let mut bytes = body.get(name.len()..).ok_or_else(broken)?;
    let path = SafePath::new(name).map_err(|_| broken())?;
    let (kind, rest) = bytes.split_first().ok_or_else(broken)?;
    bytes = rest;
    let mode = u32::try_from(take(&mut bytes)?).map_err(|_| broken())?;
    if *kind == DIRECTORY {
        return Ok(Entry::Directory { path, mode });
    }
    let size = take(&mut bytes)?;
    let mtime = take_signed(&mut bytes)?;
    let mut crc32c = None;
    if *kind == FILE_WITH_CHECKSUM {
        let (crc, rest) = bytes.split_first_chunk().ok_or_else(broken)?;
        (crc32c, bytes) = (Some(u32::from_le_bytes(*crc)), rest);
    }
    let (mut extents, mut end, mut pack) = (Vec::new(), 0u64, 0i64);
    while !bytes.is_empty() {
        let file_offset = end.wrapping_add(take_signed(&mut bytes)? as u64);
        let length = take(&mut bytes)?;
        pack = pack.checked_add(take_signed(&mut bytes)?).ok_or_else(broken)?;
        let pack_offset = take(&mut bytes)?;
        let number = u32::try_from(pack).map_err(|_| broken())?;
        extents.push(Extent { file_offset, length, pack: number, pack_offset });
        end = file_offset.wrapping_add(length);
    }
    Ok(Entry::File { path, size, mode, mtime, crc32c, extents })
}

/// The bytes are this process' own: only a temporary file that was changed by somebody can be wrong.
pub(super) fn broken() -> io::Error {
    io::Error::other("a temporary file of this program does not hold what was written to it")
}

fn put(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

fn put_signed(into: &mut Vec<u8>, number: i64) {
    put(into, (number << 1 ^ number >> 63) as u64);
}

fn take(bytes: &mut &[u8]) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(broken)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(broken())
}

fn take_signed(bytes: &mut &[u8]) -> io::Result<i64> {
    let number = take(bytes)?;
    Ok((number >> 1) as i64 ^ -((number & 1) as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text_tests::entries;
    use super::*;

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(list in entries()) {
            let (mut bytes, mut body) = (Vec::new(), Vec::new());
            list.iter().for_each(|entry| encode(entry, &mut bytes, &mut body));
            let mut rest = bytes.as_slice();
            for entry in &list {
                let body = split(&mut rest).unwrap();
                prop_assert_eq!(path(body).unwrap(), entry.path().as_bytes());
                prop_assert_eq!(&decode(body).unwrap(), entry);
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn extreme_numbers_survive(a: u64, b: u64, c: u32, d: u64, time: i64) {
            let extents = [(a, b, c, d), (d, 1, u32::MAX, a), (b, u64::MAX, 0, u64::MAX)];
            let extents = extents.map(|(file_offset, length, pack, pack_offset)| Extent { file_offset, length, pack, pack_offset });
            let path = SafePath::new("f").unwrap();
            let entry = Entry::File { path, size: a, mode: c, mtime: time, crc32c: Some(c), extents: extents.to_vec() };
            let mut bytes = Vec::new();
            encode(&entry, &mut bytes, &mut Vec::new());
            prop_assert_eq!(decode(split(&mut bytes.as_slice()).unwrap()).unwrap(), entry);
        }

        #[test]
        fn what_was_changed_is_an_error_or_another_entry(bytes: Vec<u8>) {
            let _ = split(&mut bytes.as_slice()).and_then(decode);
        }
    }
}
