//! `archive_command = 'archive-cmd %p'`: has a WAL file made durable in the repository.
//!
//! PostgreSQL starts this once per segment and waits, so it is small: no runtime, no TLS, no storage client. It
//! checks the file, digests it, hands both to the agent over a Unix socket, and reports what the agent says.
//!
//! Exit codes are the whole contract with PostgreSQL: 0 lets the server recycle the file, 1 to 125 makes it try
//! again later, and anything else, death by a signal included, stops its archiver. So 0 is returned in one place
//! only, and nothing here ends otherwise than by a code up to 125: a panic unwinds to 101, SIGPIPE is ignored.

mod agent;
mod arguments;
mod digest;
mod examine;
mod failure;
mod push;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{Arguments, Command};
use failure::Failure;
use proto::config::Config;
use proto::socket::{Request, Response};

const FAILED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(Command::Archive(arguments)) => arguments,
        Ok(Command::Print(text)) => {
            let printed = std::io::stdout().write_all(text.as_bytes());
            return printed.map_or(ExitCode::from(FAILED), |()| ExitCode::SUCCESS);
        }
        Err(failure) => {
            failure.print();
            return ExitCode::from(USAGE);
        }
    };
    match archive(&arguments) {
        Ok(Durable) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(FAILED)
        }
    }
}

/// The file is in the repository. Made of the agent's word, or of `walkeep push` having succeeded.
struct Durable;

fn archive(arguments: &Arguments) -> Result<Durable, Failure> {
    let socket = socket_path(arguments)?;
    let examined = examine::file(&arguments.file)?;
    // Absolute, so that the agent can find the backlog in `archive_status` beside the file.
    let path = std::path::absolute(&arguments.file).unwrap_or_else(|_| arguments.file.clone());
    let request = Request::Archive {
        file: examined.name,
        size: examined.size,
        digest: examined.digest,
        system_id: examined.system_id,
        path: path.into_os_string().into_encoded_bytes(),
    };
    match agent::ask(&socket, &request, &examined.file, arguments.timeout)? {
        // The agent answers so only after the repository has confirmed the write.
        Some(Response::Stored) => Ok(Durable),
        Some(Response::Failed { message }) => Err(Failure::from_agent(&message)),
        Some(Response::Status { .. }) => {
            Err(Failure::new(format!("the agent at {} answered another question", socket.display()))
                .hint("is the agent of the same version as archive-cmd?"))
        }
        None => push::file(arguments, &socket).map(|()| Durable),
    }
}

/// `--socket`, else what the configuration says. With `--socket` the configuration is not read, as the server's user
/// may not be allowed to.
fn socket_path(arguments: &Arguments) -> Result<PathBuf, Failure> {
    if let Some(socket) = &arguments.socket {
        return Ok(socket.clone());
    }
    let mut config = match proto::config::file(arguments.config.clone()) {
        Some(path) => read(&path)?,
        None => Config::default(),
    };
    config.cluster = arguments.cluster.clone().or(config.cluster);
    Ok(config.socket_path())
}

fn read(path: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(format!("the configuration {} cannot be read: {error}", path.display()))
            .hint("make it readable for the server's user, or name the agent's socket with --socket")
    })?;
    Config::parse(&text).map_err(|error| {
        Failure::new(format!("the configuration {} cannot be used: {error}", path.display()))
    })
}
