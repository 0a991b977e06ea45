//! What the agent tells whoever watches it, over HTTP: metrics, its status, and a page for people. Nothing can be changed
//! through it.
//!
//! ```text
//! settings  what is served to whom: address, token, certificate; what would be careless is refused
//! server    connections: how many, how long, how large
//! routes    from a path to an answer, and who may have it
//! watched   whom the facts come from; sampled once a second, and now and then
//! look      the repository and the server, looked at in the background, never for a request
//! facts     all that is known at one moment: plain data
//! metrics   the facts as Prometheus reads them (`exposition`: its text format)
//! ready     whether the agent does its work
//! page      the facts as people read them
//! ```
//!
//! It must never cost any WAL: an address that is taken is tried again while the agent works, and what is asked of it is
//! answered from memory.

mod exposition;
mod exposure;
mod facts;
mod history;
mod look;
mod metrics;
mod page;
mod ready;
mod routes;
mod server;
mod settings;
mod watched;

pub use server::serve;
pub use settings::Settings;
pub use watched::{Watched, Watching};
