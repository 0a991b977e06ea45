//! The WAL in a branch: whole segments, their tails in fragments or journals, and the small files beside them.

mod ahead;
mod copy;
mod epoch;
mod file;
mod journal;
mod listing;
mod names;
mod parcel;
mod record;
mod segment;
mod tail;
mod tail_file;

pub use ahead::MOST_AHEAD;
pub use epoch::EpochFacts;
pub use file::HistoryFile;
pub use journal::Journal;
pub use listing::{TimelineWal, WalListing};
pub use names::{Epoch, FragmentName, JournalName, Place};
pub(crate) use names::{WalObject, parse_epoch};
pub use parcel::{FragmentParcel, Parcel, SegmentParcel};
pub(crate) use segment::segment_key;
pub use tail::Tail;
pub use tail_file::TailEnd;

/// Whether something had to be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// It was not there.
    New,
    /// The same content was there already.
    Already,
}
