//! The verbs of `restore-cmd`.

pub(crate) mod dump;
pub(crate) mod export;
pub(crate) mod fetch;
pub(crate) mod restore;
