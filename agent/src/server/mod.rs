//! The agent's Unix socket: `archive-cmd` hands files over, `walkeep status` asks.

mod client;
mod connection;
mod guests;
mod listener;
mod status;

pub use client::{AskError, ask};
pub use guests::Guests;
pub use listener::{Listener, serve};
pub(crate) use status::Shown;
pub use status::{AgentState, BackupSource, StatusReport};
