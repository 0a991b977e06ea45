//! The repository and the server, looked at in the background at intervals: what they say costs requests, and may take
//! minutes.

mod repository;
mod server;

#[cfg(test)]
pub(super) use repository::Tail;
pub(super) use repository::{RepositoryFacts, look as look_at_repository};
#[cfg(test)]
pub(super) use server::SlotFacts;
pub(super) use server::{ServerFacts, look as look_at_server};
