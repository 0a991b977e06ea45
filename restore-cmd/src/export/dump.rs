//! `pg_dump` out of the copy, `pg_restore` into a running server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{CWD, RenameFlags};
use serde::Serialize;

use super::Selection;
use crate::program::failure;
use crate::scratch::{Binaries, Server};

/// The forms that `pg_dump` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For `pg_restore`, compressed.
    #[default]
    Custom,
    /// A script of SQL.
    Plain,
    /// For `pg_restore`: a directory, written by several processes at once.
    Directory,
    /// For `pg_restore`: a tar file.
    Tar,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::Plain => "plain",
            Self::Directory => "directory",
            Self::Tar => "tar",
        }
    }
}

/// How it is dumped.
#[derive(Clone, Copy, Debug)]
pub struct Dump {
    /// The form.
    pub format: Format,
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
        command.arg(format!("--format={}", self.format.word())).arg("--file").arg(to);
        if self.format == Format::Directory {
            command.arg(format!("--jobs={}", self.jobs));
        }
        let flags = [
            ("--data-only", self.data_only),
            ("--no-owner", self.no_owner && self.format == Format::Plain),
            ("--no-privileges", self.no_privileges),
        ];
        command.args(flags.iter().filter(|(_, given)| *given).map(|(flag, _)| flag));
        command.args(&selection.arguments);
        // Its files are synced by pg_dump itself.
        finish(command, "pg_dump").await
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
    finish(command, "pg_restore").await
}

/// Runs a program to its end, which is also ours if we are told to stop.
async fn finish(command: Command, name: &str) -> Result<()> {
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output().await.with_context(|| format!("cannot run {name}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        for line in words.lines() {
            tracing::warn!("{line}");
        }
        return Ok(());
    }
    let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(5)..].join(" | ");
    let hint = match name {
        "pg_restore" => {
            "nothing was loaded. --as loads beside what is there, --data-only into tables that are there, --no-owner \
                         without the roles that owned it"
        }
        _ => "nothing was written",
    };
    Err(failure(format!("{name} ended with {}: {last}", output.status), hint))
}

/// Where it is written until it is whole: beside its place, since that may be another file system than the copy's.
fn partial(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.partial-{}", std::process::id()))
}

fn publish(partial: &Path, to: &Path) -> Result<()> {
    let moved = match rustix::fs::renameat_with(CWD, partial, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot look and move at once.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.exists() => fs::rename(partial, to),
        moved => moved.map_err(io::Error::from),
    };
    moved.map_err(|error| {
        let hint = "name another file with --output: nothing is overwritten";
        failure(format!("cannot put the dump at {}: {error}", to.display()), hint)
    })?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("cannot sync the directory {}", folder.display()))
}

fn remove(partial: &Path) {
    let removed = match fs::symlink_metadata(partial) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(partial),
        Ok(_) => fs::remove_file(partial),
        Err(_) => return,
    };
    if let Err(error) = removed {
        tracing::warn!("cannot remove {}: {error}", partial.display());
    }
}

fn size(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_appears_whole_and_replaces_nothing() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("orders.dump");
        let written = partial(&to);
        assert_eq!(written.parent(), to.parent());
        fs::write(&written, "dump").unwrap();
        publish(&written, &to).unwrap();
        assert!(!written.exists() && size(&to).unwrap() == 4);
        fs::write(&written, "another").unwrap();
        assert!(publish(&written, &to).unwrap_err().to_string().contains("orders.dump"));
        assert_eq!(fs::read_to_string(&to).unwrap(), "dump");
        remove(&written);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
