//! What can be restored: lineages, coverage, windows and gaps.
//!
//! All of it is computed from names and heads, without clock, network or file, but for [`Inventory::load`],
//! which fetches them.

mod ahead;
mod coverage;
mod inventory;
mod lineage;
mod load;
mod read;

pub use coverage::Coverage;
pub use inventory::{BackupSummary, BrokenHistory, Gap, Inventory, Listing, UnreadableBackup, Window};
pub use lineage::{Lineage, MissingFork, Part};
pub use read::WalContent;
