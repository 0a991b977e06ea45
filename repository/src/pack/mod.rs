//! Packs: a backup's bytes as one raw stream, cut into frames.
//!
//! Frame *i* of a pack holds the raw bytes from `i · 1 MiB` on, 1 MiB of them or, in the last frame, what is
//! left; each is a zstd frame of its own. After the frames comes the pack's index, with the digest of each
//! frame, then the closing header. The manifest holds the index's digest, so no byte is used that was not
//! checked. Beside each pack lie the digests of its blocks ([`PackBlocks`]), for a later backup to compare with.

mod blocks;
mod cutter;
mod extent;
mod index;
mod name;
mod pace;
mod reader;
mod writer;

pub use blocks::{BlockDigest, PackBlocks};
pub use extent::{Extent, push_extent};
pub use index::FRAME_SIZE;
pub use name::{PackEntry, PackName, PackNameError};
pub(crate) use pace::Pace;
pub use reader::PackReader;
pub use writer::PackWriter;

use tokio::task::JoinError;

use crate::task::joined;
use crate::{Key, Result};

/// Where all packs of a branch lie.
pub(crate) const FOLDER: &str = "pack";

/// The pack's key below its branch.
pub(crate) fn pack_key(name: &PackName) -> Key {
    Key::root().child(FOLDER).child(name.label()).child(name.id())
}

/// Where all packs of a branch lie, below it.
pub(crate) fn folder() -> Key {
    Key::root().child(FOLDER)
}

/// The pack that an object is, or whose blocks' digests it holds, by its key below the branch.
pub(crate) fn parse_key(key: &Key) -> Option<PackName> {
    let below = |folder| key.below(&Key::root().child(folder));
    below(FOLDER).or_else(|| below(blocks::FOLDER))?.parse().ok()
}

/// The result of a task, whose own end should never be the trouble.
pub(crate) fn outcome<T>(ended: Result<Result<T>, JoinError>) -> Result<T> {
    joined("the repository", ended)
}
