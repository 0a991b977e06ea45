//! Bringing logical backups back: as files, or into a server.
//!
//! `choose` picks what is meant out of a dump, `fetch` brings it to disk, verified, and `load` into a server, the way that
//! `way` decides. [`DumpLine`] is how dumps are told.

mod choose;
mod fetch;
mod line;
mod load;
mod way;
mod words;

pub use choose::{Chosen, Fit, choose};
pub use fetch::fetch_parts;
pub use line::{DumpLine, UnreadableDump, narrowed, told};
pub use load::{Load, load, prepare_database};
pub use way::{Picks, Way, way};
