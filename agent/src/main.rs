//! `walkeep`: the daemon and the operator's tool.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    agent::cli::Cli::parse().run()
}
