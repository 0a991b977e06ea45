//! A copy of the cluster beside the original: restored into a scratch directory, started on a private Unix socket, used,
//! and removed. For drills and exports.
//!
//! What keeps the original safe from its copy: the copy has settings of its own, does not archive, replicate,
//! subscribe or listen on the network, and all its tablespaces lie in the scratch directory.

mod account;
mod args;
mod binaries;
mod copy;
mod place;
mod server;
mod settings;

pub use account::become_user;
pub use args::{CopyArgs, copy_options};
pub use binaries::Binaries;
pub use copy::{Copy, Phase, Wanted};
pub use place::Scratch;
pub use server::{Server, rows, sql_message};
