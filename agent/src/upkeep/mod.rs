//! Cleaning up in the server's databases: VACUUM, ANALYZE, REINDEX CONCURRENTLY, where and when the configuration allows it.
//!
//! `plan` computes what is worth doing, from what the server counts (`queries` has the questions). `execute` does it, one step after
//! another, each only while there is time, and no backup is being taken. What was done and gained is a `report`.

mod execute;
mod plan;
mod queries;
mod report;

pub use execute::{Until, run};
pub use plan::{Action, Step};
pub use report::{Done, Outcome, Report};
