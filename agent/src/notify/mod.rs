//! Telling people: `[notify]` hands events to a command, or to a webhook.
//!
//! Whoever has something to tell puts an [`Event`] into a queue of bounded length, and never waits. What must be noticed first, such
//! as a stream that stays away, the `watcher` sees in the agent's state.

mod command;
mod event;
mod repeats;
mod sender;
mod watcher;
mod webhook;

pub use event::{Event, EventKind, Severity};
pub(crate) use repeats::{Repeats, Told, essence};
pub use sender::{Events, Notifier};
pub use watcher::watch_agent;
