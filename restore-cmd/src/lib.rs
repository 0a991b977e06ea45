//! Bringing a PostgreSQL cluster back from a walkeep repository.
//!
//! [`plan`] decides what to restore and proves beforehand that it can be done, [`prepare`] with a look into the repository;
//! [`execute`] does it; [`scratch`] makes a copy beside the original, for a drill or an [`export`]; [`dump`] brings logical backups back; [`reach`] looks whether
//! recovery comes to a time, [`late`] which tablespaces it will make; [`fetch`] hands WAL to the recovering server. [`conf`] quotes for PostgreSQL and its shell;
//! [`program`] is the edge that both programs share.

pub mod conf;
pub mod dump;
pub mod execute;
pub mod export;
pub mod fetch;
pub mod late;
pub mod plan;
pub mod prepare;
pub mod program;
pub mod reach;
pub mod scratch;
