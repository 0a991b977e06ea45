//! No core dumps: what is in memory are keys, passwords, and the database's content.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// From now on this process leaves no core dump, and only root may look into it. A program that it starts decides for
/// itself, but for the size of its dumps, which is zero too.
pub fn forbid_core_dumps() {
    // Where the kernel pipes dumps to a program it asks this, and not the limit.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::debug!("core dumps cannot be forbidden: {error}");
    }
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, nothing) {
        tracing::debug!("core dumps cannot be limited: {error}");
    }
}
