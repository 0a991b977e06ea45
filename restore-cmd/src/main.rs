//! `restore-cmd`: WAL for a recovering server, and point-in-time restore.

mod commands;

use std::process::ExitCode;

use ::restore::program::{
    CompletionsArgs, GlobalArgs, ManArgs, completions, forbid_core_dumps, init_logging, man, report,
};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use commands::{dump, export, fetch, restore};

/// Bring a PostgreSQL cluster back from a walkeep repository
#[derive(Parser, Debug)]
#[command(name = "restore-cmd", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Restore(Box<restore::Args>),
    Export(Box<export::Args>),
    Dump(Box<dump::Args>),
    Fetch(fetch::Args),
    /// Print the completions for a shell: bash, zsh, fish, elvish, powershell
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

/// Something in the command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    init_logging(&cli.global);
    forbid_core_dumps();
    match &cli.verb {
        Verb::Fetch(args) => {
            // A panic's usual exit code, 101, would be taken as the end of WAL.
            let failed = args.failed();
            std::panic::set_hook(Box::new(move |panic| {
                eprintln!("error: restore-cmd has a defect: {panic}");
                std::process::exit(i32::from(failed));
            }));
            fetch::run(&cli.global, args)
        }
        Verb::Restore(args) => ended(restore::run(&cli.global, args)),
        Verb::Export(args) => ended(export::run(&cli.global, args)),
        Verb::Dump(args) => ended(dump::run(&cli.global, args)),
        Verb::Completions(args) => ended(completions(Cli::command(), args)),
        Verb::Man(args) => ended(man(Cli::command(), args)),
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Help goes well. A wrong command line is 2, but never for `fetch`: PostgreSQL would take it as the end of WAL.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to be done if it cannot be printed.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if std::env::args_os().any(|arg| arg == "fetch") => ExitCode::from(fetch::FAILED),
        _ => ExitCode::from(USAGE),
    }
}
