//! `walkeep status`: what the running agent does now.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use proto::socket::{Request, Response};
use restore::program::{GlobalArgs, failure, load};

use crate::server::{Shown, ask};

/// An agent answers at once, except that it may look up the last backup.
const PATIENCE: Duration = Duration::from_secs(15);

/// The arguments of `walkeep status`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const MANUAL: &str = "\
Asks the agent over its socket. `durable` is what the repository holds: the server may be lost up to there, and nothing is.

Examples:
  walkeep status
  walkeep status --json | jq .stream.lag_bytes

Exit codes: 0 it answers; 1 no agent answers; 2 wrong usage.";

/// Asks the agent and prints what it says.
pub async fn run(global: &GlobalArgs, args: StatusArgs) -> anyhow::Result<ExitCode> {
    let config = load(global)?;
    let answer = ask(&config.socket_path(), &Request::Status, PATIENCE).await;
    let answer = answer.map_err(|error| {
        failure(
            error.to_string(),
            "start the agent with `walkeep run`; `socket` in the configuration names its place",
        )
    })?;
    match answer {
        Response::Status { json } if args.json => super::print(&(json + "\n"))?,
        Response::Status { json } => super::print(&serde_json::from_str::<Shown>(&json)?.text())?,
        Response::Failed { message } => bail!("{message}"),
        Response::Stored => bail!("the agent answered something else than was asked"),
    }
    Ok(ExitCode::SUCCESS)
}
