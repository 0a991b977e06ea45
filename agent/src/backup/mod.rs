//! Base backups: from the server's stream to packs and a manifest.
//!
//! [`plan`] asks the server and the repository everything that decides; [`execute`] carries it out, and `receive` has the
//! files come. In between the pure parts: [`tar`] parses, [`blocks`] cuts, [`collect`] makes entries, [`pages`] looks at checksums, [`compare`]
//! checks against the server's own manifest. [`choose`] finds the [`parent`] that an incremental backup is compared with.

pub mod blocks;
pub mod choose;
pub mod collect;
pub mod compare;
pub mod damage;
pub mod execute;
pub mod external;
pub mod facts;
pub mod file;
pub mod increment;
pub mod local;
pub mod names;
pub mod native;
pub mod pages;
pub mod parent;
pub mod plan;
mod receive;
pub mod rivals;
pub mod tar;
pub mod wal;
