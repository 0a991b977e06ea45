//! Sealed objects: a clear header, compressed and perhaps encrypted content, and the header once more.
//!
//! ```text
//! offset 0     1,024 bytes  a zstd skippable frame: the header as JSON, padded with spaces, a newline at
//!                           its end
//!        1024  …            the content: zstd frames, then perhaps skippable frames (a pack's index), then
//!                           the closing header: once more 1,024 bytes, now with the content's length and
//!                           digest. If encrypted, all of the content is one age file.
//! ```
//!
//! So `zstd -d` opens a plain object, and `tail -c +1025 | age -d -i IDENTITY | zstd -d` an encrypted one.
//!
//! The clear header is a convenience: one ranged read tells what an object is. What counts is the closing
//! one, which lies inside the encryption and must repeat it.

mod command;
mod header;
mod range;
mod read;
mod secrets;
mod signing;
mod write;

pub(crate) use header::front;
pub use header::{Audience, Encryption, Header, Kind, WriterId};
pub use range::ContentReader;
pub use read::{Expected, UnsealReader, from_io, parse_header, unseal};
pub(crate) use read::{UNSIGNED, signed_head, unseal_with_digest};
pub(crate) use secrets::with_signing;
pub use secrets::{Sealing, Unsealing};
pub(crate) use signing::Purpose;
pub use signing::{PublicKey, Signer};
pub use write::{SealWriter, Sealed, seal};
pub(crate) use write::{seal_pieces, seal_with_digest};

/// Length of the header, and of the closing header, each as a whole skippable frame.
pub const HEADER_LENGTH: usize = 1024;
