//! The developers' one command each. `cargo xtask help` lists them.

mod cargo;
mod deb;
mod demo;
mod lint;
mod machine;
mod reproducible;
mod sbom;
mod servers;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The developers' one command each")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show the main job on a scratch server: back up, stream, an accident, back to the moment before
    Demo,
    /// Run all tests on every PostgreSQL that can be had, or those that match
    Test(test::TestArgs),
    /// Check format, lints, documentation and dependencies
    Lint,
    /// Fetch the PostgreSQL servers and object stores that the tests run on; does nothing for those that are there
    Servers(servers::ServersArgs),
    /// Build the Debian package
    Deb(deb::DebArgs),
    /// Print what a program is built from, as CycloneDX in JSON
    Sbom(sbom::SbomArgs),
    /// Make a release build twice, in two places, and compare the bytes
    Reproducible(reproducible::ReproducibleArgs),
    /// Run a benchmark; without a name: list them
    Bench {
        /// The name and the options of the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().verb {
        Verb::Demo => demo::run(),
        Verb::Test(args) => test::run(&args),
        Verb::Lint => lint::run(),
        Verb::Servers(args) => servers::run(&args),
        Verb::Deb(args) => deb::run(&args),
        Verb::Sbom(args) => sbom::run(&args),
        Verb::Reproducible(args) => reproducible::run(&args),
        Verb::Bench { arguments } => bench(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Benchmarks mean something only in release builds, of the programs as well.
fn bench(arguments: &[String]) -> anyhow::Result<()> {
    cargo::build(&["--bins", "--release"])?;
    let programs = cargo::target()?.join("release");
    let mut command = std::process::Command::new(programs.join("bench"));
    cargo::run(command.args(arguments).env(harness::programs::FOLDER, programs))
}
