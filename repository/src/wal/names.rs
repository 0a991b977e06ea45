//! The names of WAL objects. What is read here is written back the same, or is no name of ours.

use std::fmt;
use std::str::FromStr;

use proto::wal::{SegmentName, WalFile};
use proto::{Digest, TimelineId};

use crate::{Error, Key, Result, WriterId};

/// One writer's uninterrupted work: a number that grows, and who it is. Written `0000002A-00c0ffee00c0ffee`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch {
    /// Counts up. Two writers may take the same number; they are still two epochs.
    pub number: u32,
    /// Who it is.
    pub writer: WriterId,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}-{}", self.number, self.writer)
    }
}

impl FromStr for Epoch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (number, writer) = text.split_once('-')?;
            Some(Self { number: hex32(number)?, writer: writer.parse().ok()? })
        };
        parse().ok_or_else(|| Error::invalid(format_args!("{text:?}"), "this is not the name of an epoch"))
    }
}

impl Epoch {
    /// Its key below the branch.
    pub fn key(&self) -> Key {
        Self::folder().child(self)
    }

    pub(super) fn folder() -> Key {
        Key::root().child("epoch")
    }
}

/// A fragment: bytes `from..to` of a segment, as one epoch received them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FragmentName {
    /// The segment.
    pub segment: SegmentName,
    /// The epoch that it belongs to.
    pub epoch: Epoch,
    /// Offset in the segment of the first byte.
    pub from: u32,
    /// Offset after the last byte.
    pub to: u32,
    /// The content's digest.
    pub digest: Digest,
    /// What holds it.
    pub place: Place,
}

/// What holds a fragment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Place {
    /// An object of its own, which never changes.
    #[default]
    Object,
    /// The first records of the journal with this nonce, as they were when somebody looked.
    Journal(u64),
}

impl FragmentName {
    /// The key of what holds it, below the branch.
    pub fn key(&self) -> Key {
        let Self { segment, epoch, from, to, digest, .. } = self;
        match self.journal() {
            Some(journal) => journal.key(),
            None => tail_folder(*segment).child(format_args!("{epoch}-{from:08X}-{to:08X}-{digest}")),
        }
    }

    /// The journal that holds it, if one does.
    pub fn journal(&self) -> Option<JournalName> {
        let Self { segment, epoch, from, .. } = *self;
        match self.place {
            Place::Object => None,
            Place::Journal(nonce) => Some(JournalName { segment, epoch, from, nonce }),
        }
    }
}

/// A journal: an object that grows, with the bytes of a segment from `from` on, as one epoch received them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JournalName {
    /// The segment.
    pub segment: SegmentName,
    /// The epoch that it belongs to.
    pub epoch: Epoch,
    /// Offset in the segment of the first byte.
    pub from: u32,
    /// Random: an epoch may need several from the same place, and never writes to one again that has failed.
    pub nonce: u64,
}

/// How the names of journals end.
const JOURNAL: &str = ".journal";

impl JournalName {
    /// Its key below the branch.
    pub fn key(&self) -> Key {
        let Self { segment, epoch, from, nonce } = self;
        tail_folder(*segment).child(format_args!("{epoch}-{from:08X}-{nonce:016x}{JOURNAL}"))
    }

    /// By the last two parts of its key.
    fn parse(segment: &str, name: &str) -> Option<Self> {
        let (rest, nonce) = name.strip_suffix(JOURNAL)?.rsplit_once('-')?;
        let (epoch, from) = rest.rsplit_once('-')?;
        let nonce = u64::from_str_radix(nonce, 16).ok()?;
        Some(Self { segment: segment.parse().ok()?, epoch: epoch.parse().ok()?, from: hex32(from)?, nonce })
    }
}

/// An object under `wal/`, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WalObject {
    Segment(SegmentName, Digest),
    Fragment(FragmentName),
    Journal(JournalName),
    /// A history, partial or backup file.
    File(WalFile, Digest),
}

impl WalObject {
    /// `None` for what is not exactly a name of ours.
    pub(crate) fn parse(key: &Key) -> Option<Self> {
        let parts: Vec<&str> = key.parts().collect();
        let parsed = match parts[..] {
            ["wal", name] => {
                let (file, digest) = with_digest(name)?;
                match file.parse().ok()? {
                    WalFile::Segment(_) => return None,
                    file => Self::File(file, digest),
                }
            }
            ["wal", _, _, name] => {
                let (segment, digest) = with_digest(name)?;
                Self::Segment(segment.parse().ok()?, digest)
            }
            ["wal", _, _, "tail", segment, name] if name.ends_with(JOURNAL) => {
                Self::Journal(JournalName::parse(segment, name)?)
            }
            ["wal", _, _, "tail", segment, name] => {
                let segment = segment.parse().ok()?;
                let (rest, digest) = with_digest(name)?;
                let (rest, to) = rest.rsplit_once('-')?;
                let (epoch, from) = rest.rsplit_once('-')?;
                let epoch = epoch.parse().ok()?;
                let (from, to) = (hex32(from)?, hex32(to)?);
                let place = Place::Object;
                (from < to).then_some(Self::Fragment(FragmentName {
                    segment,
                    epoch,
                    from,
                    to,
                    digest,
                    place,
                }))?
            }
            _ => return None,
        };
        // The folders repeat parts of the name: they must agree.
        (parsed.key() == *key).then_some(parsed)
    }

    /// Its key below the branch.
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Segment(name, digest) => {
                log_folder(name.timeline, name.log).child(format_args!("{name}-{digest}"))
            }
            Self::Fragment(fragment) => fragment.key(),
            Self::Journal(journal) => journal.key(),
            Self::File(file, digest) => wal_folder().child(format_args!("{file}-{digest}")),
        }
    }
}

/// The epoch that an object begins, by its key below the branch.
pub(crate) fn parse_epoch(key: &Key) -> Option<Epoch> {
    key.below(&Epoch::folder())?.parse().ok()
}

/// `wal`
pub(super) fn wal_folder() -> Key {
    Key::root().child("wal")
}

/// `wal/<timeline>`
pub(super) fn timeline_folder(timeline: TimelineId) -> Key {
    wal_folder().child(timeline.hex())
}

/// `wal/<timeline>/<log>`
pub(super) fn log_folder(timeline: TimelineId, log: u32) -> Key {
    timeline_folder(timeline).child(format_args!("{log:08X}"))
}

/// `wal/<timeline>/<log>/tail/<segment>`
pub(super) fn tail_folder(segment: SegmentName) -> Key {
    log_folder(segment.timeline, segment.log).child("tail").child(segment)
}

/// The log number of a folder that [`log_folder`] names.
pub(super) fn log_of(folder: &Key) -> Option<u32> {
    hex32(folder.name())
}

fn with_digest(name: &str) -> Option<(&str, Digest)> {
    let (rest, digest) = name.rsplit_once('-')?;
    Some((rest, digest.parse().ok()?))
}

fn hex32(text: &str) -> Option<u32> {
    let valid = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    valid.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object() -> impl Strategy<Value = WalObject> {
        let numbers = (1..=u32::MAX, any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>());
        (0..6, numbers, any::<[u8; 32]>(), 0..u32::MAX, any::<u32>()).prop_map(
            |(which, (timeline, log, seg, number, writer), digest, from, length)| {
                let timeline = TimelineId::new(timeline).unwrap();
                let segment = SegmentName { timeline, log, seg };
                let digest = Digest::from_bytes(digest);
                let epoch = Epoch { number, writer: WriterId::from_number(writer) };
                let to = from.saturating_add(length.max(1));
                match which {
                    0 => WalObject::Segment(segment, digest),
                    1 => {
                        let place = Place::Object;
                        WalObject::Fragment(FragmentName { segment, epoch, from, to, digest, place })
                    }
                    4 => WalObject::Journal(JournalName { segment, epoch, from, nonce: number.into() }),
                    2 => WalObject::File(WalFile::History(timeline), digest),
                    3 => WalObject::File(WalFile::Partial(segment), digest),
                    _ => WalObject::File(WalFile::Backup(segment, from), digest),
                }
            },
        )
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let segment: SegmentName = "00000001000000AB000000CD".parse().unwrap();
        let digest = Digest::of(b"");
        let hex = digest.to_string();
        let epoch = "0000002A-00c0ffee00c0ffee".parse().unwrap();
        assert_eq!(
            WalObject::Segment(segment, digest).key().as_str(),
            format!("wal/00000001/000000AB/00000001000000AB000000CD-{hex}")
        );
        assert_eq!(
            FragmentName { segment, epoch, from: 0x2000, to: 0x4000, digest, place: Place::Object }
                .key()
                .as_str(),
            format!(
                "wal/00000001/000000AB/tail/00000001000000AB000000CD/{}-{hex}",
                "0000002A-00c0ffee00c0ffee-00002000-00004000"
            )
        );
        assert_eq!(
            JournalName { segment, epoch, from: 0x2000, nonce: 0xfeed }.key().as_str(),
            "wal/00000001/000000AB/tail/00000001000000AB000000CD/0000002A-00c0ffee00c0ffee-00002000-\
             000000000000feed.journal"
        );
        assert_eq!(
            WalObject::File(WalFile::History(TimelineId::FIRST), digest).key().as_str(),
            format!("wal/00000001.history-{hex}")
        );
    }

    #[test]
    fn what_contradicts_its_folder_is_not_ours() {
        let hex = Digest::of(b"");
        for name in [
            format!("wal/00000002/000000AB/00000001000000AB000000CD-{hex}"),
            format!("wal/00000001/000000AC/00000001000000AB000000CD-{hex}"),
            format!("wal/00000001000000AB000000CD-{hex}"),
            "wal/00000001/000000AB/00000001000000AB000000CD".to_owned(),
            format!("wal/00000001/000000AB/tail/x-{hex}"),
        ] {
            assert_eq!(WalObject::parse(&Key::new(&name).unwrap()), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn survives_a_round_trip(object in object()) {
            prop_assert_eq!(WalObject::parse(&object.key()), Some(object));
        }

        #[test]
        fn whatever_is_read_is_written_the_same(
            text in "wal(/[0-9A-F]{8}){0,2}(/tail)?(/[0-9A-F]{24})?(/[0-9A-Fa-f-]{1,30})?(-[0-9a-f]{64}|-[0-9A-F]{8}-[0-9a-f]{16}.journal)?"
        ) {
            if let Ok(key) = Key::new(&text)
                && let Some(object) = WalObject::parse(&key)
            {
                prop_assert_eq!(object.key(), key);
            }
        }
    }
}
