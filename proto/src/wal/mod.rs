//! The write-ahead log as files: their names, sizes, pages and records.

pub mod check;
#[cfg(feature = "formats")]
pub mod checkpoint;
#[cfg(feature = "formats")]
pub mod ends;
mod error;
pub mod history;
mod name;
pub mod padding;
pub mod page;
#[cfg(feature = "formats")]
pub mod record;
mod segment;

pub use error::WalError;
pub use history::{HistoryEntry, TimelineHistory};
pub use name::{NameError, WalFile};
pub use segment::{SegmentName, SegmentNo, SegmentSize, SegmentSizeError};

/// Exactly eight upper-case hexadecimal digits, as PostgreSQL writes them.
pub(crate) fn hex32(text: &str) -> Option<u32> {
    let valid = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    valid.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}
