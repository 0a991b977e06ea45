//! Logical backups: `pg_dump` and `pg_dumpall`, streamed into the repository.
//!
//! [`plan`] decides what is run, [`server`] looks at the server, [`execute`] sees to the whole: an intent, the files, then the
//! contents, which make the dump exist. What a tool writes to its standard output goes through [`stream`]; a directory, which
//! only exists as files, through [`directory`].

pub mod directory;
pub mod execute;
pub mod plan;
pub mod server;
pub mod stream;
