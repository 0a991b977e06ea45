//! The records of a journal, as bytes: `docs/format.md`, section 3.
//!
//! ```text
//! offset 0    4  0x184D2A59: a zstd skippable frame
//!        4    4  56: its length
//!        8    4  offset in the segment of the first byte
//!       12    4  offset after the last byte
//!       16    8  the server's clock when it sent the last of them, microseconds since 1970 UTC
//!       24    4  length of the zstd frame behind this one
//!       28    4  zero
//!       32   32  digest: of the journal's key, a newline, bytes 8 to 31 of this record, and the WAL
//!       64    …  the WAL, as one zstd frame
//! ```
//!
//! A record speaks for itself: what was left half-written by a crash, and what lies there from another journal or an
//! older file on the same blocks, has another digest.

use std::io;

use proto::{Digest, ServerTime};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, compress_bound, get_frame_content_size};

use crate::Key;

/// Magic number of the skippable frame at the front of a record.
const MAGIC: u32 = 0x184D_2A59;

/// Its magic number and length.
const PREFIX: usize = 8;

/// Where the digest begins, and with it what it cannot cover.
const DIGEST: usize = 32;

/// Where the frame begins.
const HEADER: usize = 64;

/// The most WAL in a record: more than the largest window of a stream. A reader refuses more before it is in memory.
pub(super) const LONGEST: u32 = 64 << 20;

/// What makes a journal's records its own: no other journal's are accepted in their place.
#[derive(Clone)]
pub(super) struct Identity(blake3::Hasher);

impl Identity {
    /// `key` is the journal's whole key, from the repository's root on.
    pub(super) fn of(key: &Key) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(key.as_str().as_bytes()).update(b"\n");
        Self(hasher)
    }

    fn digest(&self, fields: &[u8], wal: &[u8]) -> Digest {
        let mut hasher = self.0.clone();
        hasher.update(fields).update(wal);
        hasher.finalize().into()
    }
}

/// A compressor for records at this level. Frames carry zstd's own checksum, for whoever has `zstd` alone.
pub(super) fn compressor(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}

/// The record with the bytes of a segment from `from` on, of which there are at most [`LONGEST`].
pub(super) fn encode(
    identity: &Identity,
    compressor: &mut Compressor<'_>,
    from: u32,
    time: ServerTime,
    wal: &[u8],
) -> io::Result<Vec<u8>> {
    // The store has a few bytes to add.
    let most = HEADER + compress_bound(wal.len());
    let mut record = Vec::with_capacity(most + 16);
    record.resize(most, 0);
    let length = compressor.compress_to_buffer(wal, &mut record[HEADER..])?;
    record.truncate(HEADER + length);
    let numbers = [MAGIC, (HEADER - PREFIX) as u32, from, from + wal.len() as u32];
    for (place, number) in record.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    record[16..24].copy_from_slice(&time.unix_micros().to_le_bytes());
    record[24..28].copy_from_slice(&(length as u32).to_le_bytes());
    let digest = identity.digest(&record[PREFIX..DIGEST], wal);
    record[DIGEST..HEADER].copy_from_slice(digest.as_bytes());
    Ok(record)
}

/// What is in a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// Offset in the segment up to which one good record follows the other.
    pub(super) end: u32,
    /// The server's clock in the last of them.
    pub(super) time: Option<ServerTime>,
    /// What lies behind them is damaged: there are good records behind that.
    pub(super) damage: Option<Damage>,
}

/// A record that must be good, and is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Damage {
    /// Where in the object.
    pub(super) at: usize,
    /// How far the records behind it reach in the segment.
    pub(super) reaches: u32,
}

/// Reads the records in `object` from `at` on, the first of which has the segment's bytes from `from` on; `each` gets them
/// one after the other, with the server's clock.
///
/// The first record that is not good is the end: a crash has cut it off, or it is being written. Unless there is a good
/// one anywhere behind it, which cannot be: a record is written when the one before it is durable.
pub(super) fn read(
    object: &[u8],
    at: usize,
    from: u32,
    identity: &Identity,
    mut each: impl FnMut(&[u8], ServerTime),
) -> Extent {
    let mut reader = Reader { object, identity, decompressor: Decompressor::new().unwrap_or_default() };
    let (mut at, mut extent) = (at, Extent { end: from, time: None, damage: None });
    while let Some(record) = reader.record(at).filter(|record| record.from == extent.end) {
        each(&record.wal, record.time);
        extent.end = record.to;
        extent.time = Some(record.time);
        at = record.next;
    }
    let mut behind = at;
    while let Some(found) = reader.search(behind) {
        let reaches = extent.damage.map_or(extent.end, |damage| damage.reaches).max(found.to);
        extent.damage = Some(Damage { at, reaches });
        behind = found.next;
    }
    extent
}

struct Record {
    from: u32,
    to: u32,
    time: ServerTime,
    wal: Vec<u8>,
    /// Where the next one begins.
    next: usize,
}

struct Reader<'a> {
    object: &'a [u8],
    identity: &'a Identity,
    decompressor: Decompressor<'static>,
}

impl Reader<'_> {
    /// The record that begins at `at`, if there is a good one.
    fn record(&mut self, at: usize) -> Option<Record> {
        let (header, rest) = self.object.get(at..)?.split_at_checked(HEADER)?;
        let number = |place: usize| -> Option<u32> {
            Some(u32::from_le_bytes(header.get(place..place + 4)?.try_into().ok()?))
        };
        if number(0)? != MAGIC || number(4)? != (HEADER - PREFIX) as u32 {
            return None;
        }
        let (from, to, length) = (number(8)?, number(12)?, number(24)? as usize);
        let count = to.checked_sub(from).filter(|count| (1..=LONGEST).contains(count))?;
        let frame = rest.get(..length)?;
        // Asked before there is memory for it.
        if get_frame_content_size(frame).ok()?? != u64::from(count) {
            return None;
        }
        let wal = self.decompressor.decompress(frame, count as usize).ok()?;
        let is_good = self.identity.digest(&header[PREFIX..DIGEST], &wal).as_bytes()[..] == header[DIGEST..];
        let time = i64::from_le_bytes(header[16..24].try_into().ok()?);
        is_good.then(|| Record {
            from,
            to,
            time: ServerTime::from_unix_micros(time),
            wal,
            next: at + HEADER + length,
        })
    }

    /// The first good record at `at` or behind it.
    fn search(&mut self, mut at: usize) -> Option<Record> {
        loop {
            // Filler is zeros, and there may be much of it.
            at += self.object.get(at..)?.windows(4).position(|word| word == MAGIC.to_le_bytes())?;
            match self.record(at) {
                Some(record) => return Some(record),
                None => at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(name: &str) -> Identity {
        Identity::of(&Key::new(name).unwrap())
    }

    /// A journal of records of these lengths from offset 100 on, with filler behind them; where each record begins.
    fn journal(name: &str, lengths: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let mut compressor = compressor(1).unwrap();
        let (mut object, mut places, mut from) = (Vec::new(), Vec::new(), 100);
        for length in lengths {
            places.push(object.len());
            let wal = wal(from, *length);
            let record =
                encode(&identity(name), &mut compressor, from, ServerTime(from.into()), &wal).unwrap();
            object.extend(record);
            from += *length as u32;
        }
        places.push(object.len());
        object.extend([0; 300]);
        (object, places)
    }

    /// The segment's bytes: different at each place.
    fn wal(from: u32, length: usize) -> Vec<u8> {
        (from..).take(length).map(|at| (at ^ (at >> 8).wrapping_mul(31)) as u8).collect()
    }

    fn read_all(object: &[u8], name: &str) -> (Extent, Vec<u8>) {
        let mut content = Vec::new();
        let extent = read(object, 0, 100, &identity(name), |wal, _| content.extend_from_slice(wal));
        (extent, content)
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let (object, _) = journal("a/b", &[5]);
        assert_eq!(object[..8], *b"\x59\x2a\x4d\x18\x38\x00\x00\x00");
        assert_eq!(object[8..16], *b"\x64\x00\x00\x00\x69\x00\x00\x00");
        assert_eq!(object[16..24], ServerTime(100).unix_micros().to_le_bytes());
        let mut covered = b"a/b\n".to_vec();
        covered.extend_from_slice(&object[8..32]);
        covered.extend_from_slice(&wal(100, 5));
        assert_eq!(object[32..64], *Digest::of(&covered).as_bytes());
        let length = u32::from_le_bytes(object[24..28].try_into().unwrap()) as usize;
        assert_eq!(zstd::decode_all(&object[64..64 + length]).unwrap(), wal(100, 5));
    }

    #[test]
    fn records_of_another_journal_are_none() {
        let (object, _) = journal("a/b", &[5, 7]);
        assert_eq!(read_all(&object, "a/c").0, Extent { end: 100, time: None, damage: None });
        let (extent, content) = read_all(&object, "a/b");
        assert_eq!((extent.end, extent.time), (112, Some(ServerTime(105))));
        assert_eq!(content, wal(100, 12));
    }

    /// A file that was written anew over the blocks of an older one of the same name and epoch: it cannot be.
    #[test]
    fn a_record_out_of_its_place_ends_nothing_silently() {
        let (object, places) = journal("a/b", &[5, 7, 9]);
        let moved = [&object[..places[1]], &object[places[2]..]].concat();
        let (extent, _) = read_all(&moved, "a/b");
        assert_eq!(extent.end, 105);
        assert_eq!(extent.damage, Some(Damage { at: places[1], reaches: 121 }));
    }

    proptest! {
        #[test]
        fn a_torn_last_record_is_the_end(
            lengths in prop::collection::vec(1..2000usize, 1..6), cut in any::<prop::sample::Index>(), garbage: bool,
        ) {
            let (mut object, places) = journal("a/b", &lengths);
            let (last, end) = (places[lengths.len() - 1], places[lengths.len()]);
            let cut = last + cut.index(end - last);
            object[cut..].fill(if garbage { 0xA5 } else { 0 });
            let (extent, content) = read_all(&object, "a/b");
            let whole: usize = lengths[..lengths.len() - 1].iter().sum();
            // A record that ends in the very byte that is there anyway is whole.
            let spared = content.len() == whole + lengths[lengths.len() - 1];
            prop_assert!(spared || content.len() == whole);
            prop_assert_eq!(extent.damage, None);
            prop_assert_eq!(&content, &wal(100, content.len()));
        }

        #[test]
        fn a_bad_record_before_good_ones_is_damage(
            lengths in prop::collection::vec(1..2000usize, 2..6), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let (mut object, places) = journal("a/b", &lengths);
            let at = at.index(places[lengths.len() - 1]);
            object[at] ^= 1 << bit;
            let hit = places.iter().rposition(|place| *place <= at).unwrap();
            let (extent, content) = read_all(&object, "a/b");
            // zstd has bits that mean nothing.
            if content.len() == lengths.iter().sum::<usize>() {
                prop_assert_eq!(&content, &wal(100, content.len()));
                return Ok(());
            }
            prop_assert_eq!(content.len(), lengths[..hit].iter().sum::<usize>());
            let reaches = 100 + lengths.iter().sum::<usize>() as u32;
            prop_assert_eq!(extent.damage, Some(Damage { at: places[hit], reaches }));
        }

        #[test]
        fn never_panics(bytes: Vec<u8>, lengths in prop::collection::vec(1..50usize, 0..3)) {
            let _ = read_all(&bytes, "a/b");
            let (object, _) = journal("a/b", &lengths);
            let _ = read_all(&[&object[..], &bytes[..]].concat(), "a/b");
        }
    }
}
