//! Streaming: WAL from the server's replication protocol into the repository.
//!
//! ```text
//! follow    the loop: connect, plan (start), stream one timeline after the other, wait, come back
//! servers   the way to them; a simulation brings its own
//! connect   which of several servers
//! slot      where it stands; made anew where it keeps nothing
//! session   one START_REPLICATION: messages in, reports out, stores in the background
//! silence   whether the server is still there
//! tail      the rules, without I/O: when to flush, merge, store whole, and what is durable
//!           (its parts: action, gathered, window, pace, jobs, proof, prefix, objects, lag)
//! mend      makes whole what an earlier agent left in fragments
//! appender  adds to the journal, where the store has such objects, one record after the other
//! sink      stores into the repository, again and again until it is done
//! ```
//!
//! A position is acknowledged for one reason only: every byte before it has been put into the repository by
//! `sink`, as an object or a record, which returns when it is durable there; `prefix` lets no position pass a hole.

mod action;
mod appender;
mod connect;
mod counts;
mod error;
mod follow;
mod gathered;
mod jobs;
mod known;
mod lag;
mod mend;
mod objects;
mod pace;
mod prefix;
mod proof;
mod receive;
mod report;
mod servers;
mod session;
mod silence;
mod sink;
mod slot;
mod start;
mod state;
mod tail;
mod window;

pub use counts::{PutKind, StreamCounts};
pub use error::StreamError;
pub use follow::{StreamOptions, follow};
pub use receive::receive_until;
pub use servers::{PostgreSql, Servers};
pub use state::{Alarm, LastError, StreamPhase, StreamState, StreamStatus};
