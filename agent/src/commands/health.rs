//! `walkeep health`: how is the server?

use std::process::ExitCode;

use clap::Args;
use restore::program::{GlobalArgs, load};

use crate::health;

/// The arguments of `walkeep health`.
#[derive(Debug, Args)]
#[command(after_help = "\
It needs the role pg_monitor, reads no table, and changes nothing. Thresholds are in [health] of the configuration. Growth is
measured against a look that an agent with [health] enabled, or a checklist, has kept in the repository.")]
pub struct HealthArgs {
    /// Print one JSON object: the findings, and all figures
    #[arg(long)]
    json: bool,
}

/// Looks, and prints what was found; exit code 1 if anything of it is an error.
pub async fn run(global: &GlobalArgs, args: HealthArgs) -> anyhow::Result<ExitCode> {
    let config = load(global)?;
    let found = Box::pin(health::examine(&config)).await?;
    if args.json {
        super::print_json(&found)?;
    } else {
        super::print(&found.findings.text())?;
    }
    Ok(found.findings.exit_code())
}
