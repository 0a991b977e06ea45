//! Bringing a PostgreSQL cluster back from a walkeep repository.
//!
//! [`plan`] decides what to restore and proves beforehand that it can be done; [`execute`] does it; [`fetch`] hands WAL to the recovering server. [`program`] is
//! the edge that both programs share.

pub mod execute;
pub mod fetch;
pub mod plan;
pub mod program;
