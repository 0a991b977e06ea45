//! Bringing a PostgreSQL cluster back from a walkeep repository.
//!
//! [`plan`] decides what to restore and proves beforehand that it can be done; [`execute`] does it; [`reach`] looks whether
//! recovery comes to a time, [`fetch`] hands WAL to the recovering server. [`conf`] quotes for PostgreSQL and its shell;
//! [`program`] is the edge that both programs share.

pub mod conf;
pub mod execute;
pub mod fetch;
pub mod plan;
pub mod program;
pub mod reach;
