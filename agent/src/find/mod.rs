//! Where in the WAL did it happen?
//!
//! [`range`] decides what is read, [`scan`] reads it, the pure [`track`] follows the transactions and says what they did,
//! [`names`] calls it by its name, [`report`] tells it, with the [`lines`] that bring it back.

pub mod hit;
pub mod lines;
pub mod names;
pub mod range;
pub mod report;
pub mod scan;
pub mod track;
mod transaction;
