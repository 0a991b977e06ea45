//! The command line of `walkeep`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use restore::program::{self, CompletionsArgs, GlobalArgs, ManArgs};

use crate::commands::{
    backup, check, checklist, drill, dump, expire, find, health, init, keep, list, push, rekey, run, status,
    upkeep, verify,
};

/// WAL archiving, streaming and base backup for PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "walkeep", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create the repository and the replication slot; print the lines for postgresql.conf and pg_hba.conf
    Init(init::InitArgs),
    /// Run the daemon: stream WAL, serve archive-cmd, keep the schedule
    Run(run::RunArgs),
    /// Take a base backup now
    Backup(backup::BackupArgs),
    /// Take a logical backup now: databases by pg_dump, roles and tablespaces by pg_dumpall
    Dump(Box<dump::DumpArgs>),
    /// Show backups and the recovery window, with every gap
    List(list::ListArgs),
    /// Apply retention: condemn what no backup to keep needs, delete what is condemned for long enough
    Expire(expire::ExpireArgs),
    /// Keep a backup, whatever retention says
    Keep(keep::KeepArgs),
    /// Show what the running agent does now
    Status(status::StatusArgs),
    /// Is this server protected? Every setting and permission, and WAL that arrives in the repository
    Check(check::CheckArgs),
    /// How is the server? Sessions, tables, indexes, room, replication, and what grows
    Health(health::HealthArgs),
    /// What is to be looked at each day, week and month: green, yellow or red, and what to do
    Checklist(checklist::ChecklistArgs),
    /// VACUUM, ANALYZE and REINDEX CONCURRENTLY, where it is worth it, and when it is allowed
    Upkeep(upkeep::UpkeepArgs),
    /// Is everything in the repository that is needed? With --deep every byte is read, and compared with its digest
    Verify(verify::VerifyArgs),
    /// Restore for real into a scratch directory, start PostgreSQL on it, prove it, record the proof
    Drill(Box<drill::DrillArgs>),
    /// Where in WAL did it happen: drops, truncates, large deletes, and the line to go back to before them
    Find(find::FindArgs),
    /// Encrypt manifests anew, to the recipients that are configured now
    Rekey(rekey::RekeyArgs),
    /// Ship one WAL file without a running agent
    Push(push::PushArgs),
    /// Print the completions for a shell: bash, zsh, fish, elvish, powershell
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

impl Cli {
    /// Runs the verb to its end. Exit codes: 0, 1 failed; clap itself exits with 2 on wrong usage.
    pub fn run(self) -> ExitCode {
        crate::schedule::end_with_the_agent();
        if let Verb::Run(_) = self.verb {
            crate::memory::give_back();
        }
        program::init_logging(&self.global);
        program::forbid_core_dumps();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                program::report(&anyhow::Error::new(error).context("cannot start the runtime"));
                return ExitCode::FAILURE;
            }
        };
        let Cli { global, verb } = self;
        // As a task: worker threads poll the network, and would have to wake the main thread for each message.
        let task = runtime.spawn(async move {
            match verb {
                Verb::Init(args) => Box::pin(init::run(&global, args)).await,
                Verb::Run(args) => Box::pin(run::run(&global, args)).await,
                Verb::Backup(args) => Box::pin(backup::run(&global, args)).await,
                Verb::Dump(args) => Box::pin(dump::run(&global, *args)).await,
                Verb::List(args) => Box::pin(list::run(&global, args)).await,
                Verb::Expire(args) => Box::pin(expire::run(&global, args)).await,
                Verb::Keep(args) => Box::pin(keep::run(&global, args)).await,
                Verb::Status(args) => Box::pin(status::run(&global, args)).await,
                Verb::Check(args) => Box::pin(check::run(&global, args)).await,
                Verb::Health(args) => Box::pin(health::run(&global, args)).await,
                Verb::Checklist(args) => Box::pin(checklist::run(&global, args)).await,
                Verb::Upkeep(args) => Box::pin(upkeep::run(&global, args)).await,
                Verb::Verify(args) => Box::pin(verify::run(&global, args)).await,
                Verb::Drill(args) => Box::pin(drill::run(&global, *args)).await,
                Verb::Find(args) => Box::pin(find::run(&global, args)).await,
                Verb::Push(args) => Box::pin(push::run(&global, args)).await,
                Verb::Rekey(args) => Box::pin(rekey::run(&global, args)).await,
                Verb::Completions(args) => {
                    program::completions(Cli::command(), &args).map(|()| ExitCode::SUCCESS)
                }
                Verb::Man(args) => program::man(Cli::command(), &args).map(|()| ExitCode::SUCCESS),
            }
        });
        let done = runtime.block_on(task).unwrap_or_else(|broken| Err(broken.into()));
        // A task that still waits for the network must not keep the program; and a runtime that is taken down under
        // its tasks makes them panic. All of them end with the process.
        std::mem::forget(runtime);
        done.unwrap_or_else(|error| {
            program::report(&error);
            ExitCode::FAILURE
        })
    }
}
