//! WAL segments: their size, their numbers, their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::hex32;
use super::name::NameError;
use crate::{Lsn, TimelineId};

/// Bytes in a WAL segment: a power of two from 1 MiB to 1 GiB, fixed by initdb (16 MiB unless told otherwise).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SegmentSize(u32);

/// The number is no possible size of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a WAL segment size: a power of two from 1 MiB to 1 GiB is expected")]
pub struct SegmentSizeError(u64);

impl SegmentSize {
    /// 16 MiB.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// Checks that `bytes` is a size that initdb could have chosen.
    pub fn new(bytes: u64) -> Result<Self, SegmentSizeError> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => Ok(Self(size)),
            _ => Err(SegmentSizeError(bytes)),
        }
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Segments in the 4 GiB that share the middle part of a name.
    const fn per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }

    /// The segment that holds the byte at `lsn`.
    pub fn segment_at(self, lsn: Lsn) -> SegmentNo {
        SegmentNo(lsn.0 / self.bytes())
    }

    /// The segment that holds the last byte before `lsn`: where WAL that ends at `lsn` lies.
    pub fn segment_before(self, lsn: Lsn) -> SegmentNo {
        SegmentNo(lsn.0.saturating_sub(1) / self.bytes())
    }

    /// `lsn` rounded down to the start of its segment.
    pub fn floor(self, lsn: Lsn) -> Lsn {
        self.segment_at(lsn).start(self)
    }
}

impl TryFrom<u32> for SegmentSize {
    type Error = SegmentSizeError;

    fn try_from(bytes: u32) -> Result<Self, SegmentSizeError> {
        Self::new(bytes.into())
    }
}

impl From<SegmentSize> for u32 {
    fn from(size: SegmentSize) -> u32 {
        size.0
    }
}

/// A segment's number, counted from LSN 0 in units of the segment size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentNo(pub u64);

impl SegmentNo {
    /// Where the segment begins.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.0.saturating_mul(size.bytes()))
    }

    /// The first byte after the segment.
    pub fn end(self, size: SegmentSize) -> Lsn {
        self.start(size) + size.bytes()
    }

    /// The following segment.
    pub fn next(self) -> SegmentNo {
        SegmentNo(self.0 + 1)
    }
}

/// A segment's name: timeline, upper and lower part of its number, 24 hexadecimal digits in all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline under whose name the file goes. The file's first page may carry an earlier one.
    pub timeline: TimelineId,
    /// The upper part: which 4 GiB of WAL.
    pub log: u32,
    /// The lower part: which segment within these 4 GiB.
    pub seg: u32,
}

impl SegmentName {
    /// The name of segment `number` on `timeline`.
    pub fn new(timeline: TimelineId, number: SegmentNo, size: SegmentSize) -> Self {
        let per_log = size.per_log();
        // A WAL position has 64 bits, so the upper part always fits in 32.
        Self { timeline, log: (number.0 / per_log) as u32, seg: (number.0 % per_log) as u32 }
    }

    /// The segment that holds the byte at `lsn`.
    pub fn at(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self::new(timeline, size.segment_at(lsn), size)
    }

    /// The segment's number; an error where the lower part cannot occur with this segment size.
    pub fn number(self, size: SegmentSize) -> Result<SegmentNo, NameError> {
        if u64::from(self.seg) < size.per_log() {
            Ok(SegmentNo(u64::from(self.log) * size.per_log() + u64::from(self.seg)))
        } else {
            Err(NameError::WrongSegmentSize { name: self.to_string(), size: size.bytes() })
        }
    }
}

impl FromStr for SegmentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parse = || {
            let part = |range| text.get(range).and_then(hex32);
            let timeline = part(0..8).and_then(TimelineId::new)?;
            (text.len() == 24).then_some(Self { timeline, log: part(8..16)?, seg: part(16..24)? })
        };
        parse().ok_or_else(|| NameError::NotASegment(text.to_owned()))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.get(), self.log, self.seg)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SegmentName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SegmentName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(mib: u64) -> SegmentSize {
        SegmentSize::new(mib << 20).unwrap()
    }

    #[test]
    fn names_cross_the_log_boundary() {
        let name = |lsn: u64| SegmentName::at(TimelineId::FIRST, Lsn(lsn), size(16)).to_string();
        assert_eq!(name(0xFFFF_FFFF), "0000000100000000000000FF");
        assert_eq!(name(0x1_0000_0000), "000000010000000100000000");
        let large = SegmentName::at(TimelineId::FIRST, Lsn(0xFFFF_FFFF), size(1024));
        assert_eq!(large.to_string(), "000000010000000000000003");
    }

    #[test]
    fn a_lower_part_beyond_the_segment_size_is_refused() {
        let name: SegmentName = "0000000100000000000000FF".parse().unwrap();
        assert_eq!(name.number(size(16)), Ok(SegmentNo(255)));
        assert!(name.number(size(64)).is_err());
    }

    #[test]
    fn refuses_impossible_sizes() {
        for bytes in [0, 1, 1 << 19, (16 << 20) + 1, 1 << 31, u64::MAX] {
            assert!(SegmentSize::new(bytes).is_err(), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn name_and_number_agree(lsn: u64, mib_log2 in 0..11u32, timeline in 1..u32::MAX) {
            let size = size(1 << mib_log2);
            let timeline = TimelineId::new(timeline).unwrap();
            let name = SegmentName::at(timeline, Lsn(lsn), size);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            let number = name.number(size).unwrap();
            prop_assert!(number.start(size) <= Lsn(lsn) && lsn - number.start(size).0 < size.bytes());
        }

        #[test]
        fn never_panics_on_any_text(text: String) {
            let _ = text.parse::<SegmentName>();
        }
    }
}
