//! Where PostgreSQL servers are found: those that the machine has, and those that `cargo xtask servers` fetched.
//!
//! The cache lies outside the checkout, since a server runs as an unprivileged user, who may not be able to reach
//! the checkout at all (a home directory is often 0700). It is `$WALKEEP_SERVERS`, else
//! `/var/tmp/walkeep-servers-<uid>`, with one folder for each major version:
//!
//! ```text
//! <cache>/13/bin            a link to the folder that holds initdb, postgres and pg_ctl
//! <cache>/13/origin         one line: where it came from
//! ```

use std::path::{Path, PathBuf};

use crate::skip;

/// The major versions that walkeep supports, oldest first.
pub const MAJORS: [u32; 6] = [13, 14, 15, 16, 17, 18];

/// A PostgreSQL of one major version on this machine.
#[derive(Clone, Debug)]
pub struct Installation {
    /// 13 to 18.
    pub major: u32,
    /// The folder with `initdb` and `postgres`; other tools may be missing there.
    pub bin: PathBuf,
}

impl Installation {
    /// The installed PostgreSQL of that version, else the fetched one.
    pub fn find(major: u32) -> Option<Installation> {
        let places =
            [PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")), cache().join(format!("{major}/bin"))];
        places.into_iter().find(|bin| is_server(bin)).map(|bin| Installation { major, bin })
    }

    /// Every supported version that is here, oldest first.
    pub fn all() -> Vec<Installation> {
        MAJORS.iter().filter_map(|major| Installation::find(*major)).collect()
    }

    /// The installation, or none and a loud skip.
    pub fn or_skip(major: u32) -> Option<Installation> {
        let found = Installation::find(major);
        if found.is_none() {
            skip(format!("PostgreSQL {major} is not on this machine; `cargo xtask servers` fetches it"));
        }
        found
    }

    /// For scenarios that any version can tell: 15, which most machines have, else the newest.
    pub fn any_or_skip() -> Option<Installation> {
        let found = Installation::find(15).or_else(|| Installation::all().pop());
        if found.is_none() {
            skip("no PostgreSQL is on this machine; `cargo xtask servers` fetches it");
        }
        found
    }

    /// A tool of exactly this version, such as `pg_verifybackup`, where it was shipped.
    pub fn tool(&self, name: &str) -> Option<PathBuf> {
        let path = self.bin.join(name);
        path.is_file().then_some(path)
    }
}

/// A client tool (`psql`, `pgbench`, `pg_verifybackup`) of the newest version at or above `at_least` that has it.
pub fn client_tool(name: &str, at_least: u32) -> Option<(u32, PathBuf)> {
    let newest_first = Installation::all().into_iter().rev().filter(|found| found.major >= at_least);
    newest_first.filter_map(|found| Some((found.major, found.tool(name)?))).next()
}

/// The cache of fetched servers; it may not exist yet.
pub fn cache() -> PathBuf {
    match std::env::var_os("WALKEEP_SERVERS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(format!("/var/tmp/walkeep-servers-{}", rustix::process::getuid().as_raw())),
    }
}

/// True if the folder has what it takes to make and run a cluster.
pub fn is_server(bin: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|name| bin.join(name).is_file())
}
