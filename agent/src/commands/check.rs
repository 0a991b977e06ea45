//! `walkeep check`: is this server protected?

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use proto::config::parse_duration;
use restore::program::{GlobalArgs, load};

use crate::check;

/// The arguments of `walkeep check`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct CheckArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// How long the WAL of the end-to-end proof may take to arrive in the repository
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
}

const MANUAL: &str = "\
Each finding is an error, a warning or fine, and comes with a line to paste where something is to be done. Nothing is changed but for one \
WAL segment, which the server is asked to end, and which has to arrive in the repository.

Examples:
  walkeep check
  walkeep check --json | jq -r '.findings[] | select(.severity != \"ok\") | .fix'

Exit codes: 0 no error, though there may be warnings; 1 at least one error; 2 wrong usage.";

/// Looks at everything, prints what was found; exit code 1 if anything of it is an error.
pub async fn run(global: &GlobalArgs, args: CheckArgs) -> anyhow::Result<ExitCode> {
    let config = load(global)?;
    super::repository_url(&config)?;
    // Nothing is protected by an agent that would not start.
    super::run::settings(&config)?;
    let archive_command = super::init::wanted_archive_command(global)?;
    let findings = Box::pin(check::examine(config, archive_command, args.timeout)).await?;
    if args.json {
        super::print_json(&findings)?;
    } else {
        super::print(&findings.text())?;
    }
    Ok(findings.exit_code())
}
