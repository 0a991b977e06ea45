//! Without an agent: `walkeep push` does the work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use proto::config::ENV;

use crate::arguments::Arguments;
use crate::failure::Failure;

/// Runs `walkeep push FILE` with the same flags, and waits.
///
/// It is not put in this process's place: were it killed, PostgreSQL would see the death by a signal and stop its
/// archiver. As a child, however it ends, it is a failure like any other. A success is its exit status 0, which
/// `walkeep push` gives only for a file that is durable in the repository.
pub(crate) fn file(arguments: &Arguments, socket: &Path) -> Result<(), Failure> {
    let none = format!("no agent listens on {}", socket.display());
    // The configuration in the usual place may be that of another cluster.
    let told =
        arguments.config.is_some() || arguments.repository.is_some() || std::env::var_os(ENV).is_some();
    if arguments.socket.is_some() && !told {
        return Err(Failure::new(format!(
            "{none}, and nothing tells `walkeep push` which repository to use"
        ))
        .hint("start the agent with `walkeep run`, or name the configuration file, too: --config FILE"));
    }
    let program = program();
    let mut command = Command::new(&program);
    command.arg("push").arg(&arguments.file);
    let flags: [(&str, Option<OsString>); 4] = [
        ("--config", arguments.config.clone().map(PathBuf::into_os_string)),
        ("--repository", arguments.repository.clone()),
        ("--cluster", arguments.cluster.as_ref().map(|name| name.as_str().into())),
        ("--postgres", arguments.postgres.clone()),
    ];
    for (flag, value) in flags {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    let status = command.status().map_err(|error| {
        Failure::new(format!("{none}, and {} cannot be started: {error}", program.display()))
            .hint("start the agent with `walkeep run`, or install walkeep beside archive-cmd")
    })?;
    if status.success() {
        return Ok(());
    }
    // Its own message is above this one.
    Err(Failure::new(format!("{none}, and `walkeep push` failed ({status})")))
}

/// The `walkeep` beside this program, else the one in PATH.
fn program() -> PathBuf {
    let beside =
        std::env::current_exe().ok().and_then(|own| own.parent().map(|folder| folder.join("walkeep")));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("walkeep"))
}
