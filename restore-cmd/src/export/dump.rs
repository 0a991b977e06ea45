//! `pg_dump` out of the copy, `pg_restore` into a running server.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use proto::config::DumpFormat;

use super::Selection;
use crate::program::finish;
use crate::program::output::{partial, publish, remove, size};
use crate::scratch::{Binaries, Server};

/// How it is dumped.
#[derive(Clone, Copy, Debug)]
pub struct Dump {
    /// The form.
    pub format: DumpFormat,
    /// Rows only, no definitions.
    pub data_only: bool,
    /// Without the owners of tables.
    pub no_owner: bool,
    /// Without privileges.
    pub no_privileges: bool,
    /// Processes at once, for a directory.
    pub jobs: usize,
}

impl Dump {
    /// Dumps into `to`, which appears when it is whole and durable. Its bytes.
    ///
    /// # Errors
    /// `pg_dump` fails, in whose words the message is; or something of that name is there already. Nothing is left.
    pub async fn write(
        self,
        server: &Server,
        binaries: &Binaries,
        selection: &Selection,
        to: &Path,
    ) -> Result<u64> {
        let partial = partial(to);
        let dumped = self.run(server, binaries, selection, &partial).await;
        let moved = match dumped {
            Ok(()) => publish(&partial, to),
            Err(error) => Err(error),
        };
        if moved.is_err() {
            remove(&partial);
        }
        moved?;
        size(to).with_context(|| format!("cannot look at {}", to.display()))
    }

    async fn run(self, server: &Server, binaries: &Binaries, selection: &Selection, to: &Path) -> Result<()> {
        let mut command = server.client(&binaries.needed("pg_dump")?);
        command.env("PGDATABASE", &selection.database).arg("--no-password");
        command.arg(format!("--format={}", self.format)).arg("--file").arg(to);
        if self.format == DumpFormat::Directory {
            command.arg(format!("--jobs={}", self.jobs));
        }
        let flags = [
            ("--data-only", self.data_only),
            ("--no-owner", self.no_owner && self.format == DumpFormat::Plain),
            ("--no-privileges", self.no_privileges),
        ];
        command.args(flags.iter().filter(|(_, given)| *given).map(|(flag, _)| flag));
        command.args(&selection.arguments);
        // Its files are synced by pg_dump itself.
        finish(command, "pg_dump", "nothing was written").await
    }
}

/// Loads an archive into a running server: all of it, or, if anything fails, nothing.
///
/// # Errors
/// `pg_restore` fails; the message is in its words.
pub async fn load_into(conninfo: &str, binaries: &Binaries, archive: &Path, dump: Dump) -> Result<()> {
    // The environment is the user's own: it may hold a password, and conninfo does not.
    let mut command = Command::new(binaries.needed("pg_restore")?);
    command.args(["--single-transaction", "--exit-on-error", "--no-password", "--dbname", conninfo]);
    let flags = [
        ("--data-only", dump.data_only),
        ("--no-owner", dump.no_owner),
        ("--no-privileges", dump.no_privileges),
    ];
    command.args(flags.iter().filter(|(_, given)| *given).map(|(flag, _)| flag));
    command.arg(archive).current_dir("/").stdin(std::process::Stdio::null());
    finish(command, "pg_restore", NOT_LOADED).await
}

const NOT_LOADED: &str = "nothing was loaded. --as loads beside what is there, --data-only into tables that are there, \
                          --no-owner without the roles that owned it";
