//! Packs of which little is still needed are written anew, without the rest.
//!
//! A pack whose backup is gone holds what the backups that stay have not changed since, and beside it what nobody needs any
//! more. Where that is the greater part the needed bytes are copied into new packs, and the backups concerned get a
//! manifest that names these: a new generation, beside the one before. Nothing is changed in place. What no manifest names
//! then is condemned by the next run of `expire`, and deleted a grace period later, like everything else that goes.
//!
//! Three steps: which packs may be worth a look ([`candidates`](Compaction::candidates)), what of them is needed
//! ([`Usage`]), and whether it pays ([`Compaction::plan`]). Only the second reads.

mod copy;
mod moves;
mod plan;
mod usage;

pub use copy::Compacted;
pub use plan::{Compaction, Rewrite};
pub use usage::{PackUse, Usage};
