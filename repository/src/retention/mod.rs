//! What may go, and how it goes: mark, condemn, wait, look again, delete.
//!
//! A survey reads what is there; a policy says which backups stay, and for each of them why; from those follow the WAL and
//! the packs that are needed. Everything else that this program knows by name is a removal. In its first run a removal
//! is only *condemned*: written down in an object below `condemned/`, from when on nobody begins to use it. It is
//! deleted by the first run that finds it still not needed when the grace period has passed.
//!
//! What is not known by its name is never touched. Whatever cannot be read keeps all that it might need.

pub mod compaction;
mod condemned;
mod dumps;
mod keep;
mod needed;
mod plan;
mod policy;
mod survey;
mod sweep;

pub use compaction::{Compacted, Compaction};
pub use condemned::Condemned;
pub use dumps::{DumpReason, DumpVerdict};
pub use keep::{Keep, KeepError};
pub use plan::{Plan, Removal, Why};
pub use policy::{Reason, Verdict};
pub use survey::Survey;
pub use sweep::Swept;
