//! `cargo xtask lint`: format, lints, documentation, dependencies.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use harness::servers::cache;

use crate::cargo::{self, cargo, succeeds};

/// The release of cargo-deny that is built where the machine has none.
const CARGO_DENY: &str = "0.20.2";

pub(crate) fn run() -> Result<()> {
    step("format", || cargo::run(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("lints", || {
        let whole = ["--locked", "--quiet", "--workspace", "--all-targets", "--all-features"];
        cargo::run(cargo(&["clippy"]).args(whole).args(["--", "-D", "warnings"]))
    })?;
    step("documentation", || {
        let mut doc = cargo(&["doc", "--locked", "--quiet", "--workspace", "--no-deps", "--all-features"]);
        cargo::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("dependencies", dependencies)
}

fn step(what: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    check().with_context(|| format!("{what}: not as it should be"))?;
    println!("{what}: ok ({:.1} s)", begun.elapsed().as_secs_f32());
    Ok(())
}

fn dependencies() -> Result<()> {
    let deny = match cargo_deny() {
        Ok(deny) => deny,
        // A registry that does not answer says nothing of this project.
        Err(error) => {
            println!(
                "DEPENDENCIES NOT CHECKED: cargo-deny {CARGO_DENY} cannot be had on this machine: {error:#}"
            );
            return Ok(());
        }
    };
    let call = |arguments: &[&str]| {
        let mut command = Command::new(&deny);
        command.current_dir(cargo::root()).args(["--log-level", "error"]).args(arguments);
        command
    };
    cargo::run(&mut call(&["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    // The database of advisories lives on one server, which is not to be reached from everywhere.
    if succeeds(&mut call(&["fetch", "db"])) {
        return cargo::run(&mut call(&["check", "--hide-inclusion-graph", "--disable-fetch", "advisories"]));
    }
    println!("ADVISORIES NOT CHECKED: the advisory database cannot be reached from this machine");
    Ok(())
}

/// The machine's cargo-deny, else one that is built once and kept with the fetched servers.
fn cargo_deny() -> Result<PathBuf> {
    if succeeds(Command::new("cargo-deny").arg("--version")) {
        return Ok(PathBuf::from("cargo-deny"));
    }
    let home = cache().join("tools");
    let program = home.join("bin/cargo-deny");
    if !program.is_file() {
        println!("building cargo-deny {CARGO_DENY}, once");
        let mut install = cargo(&["install", "--quiet", "--locked", "cargo-deny", "--version", CARGO_DENY]);
        // In debug mode: it runs for a second, and builds in half the time.
        install
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .arg("--debug")
            .arg("--root")
            .arg(&home)
            .arg("--target-dir")
            .arg(home.join("build"));
        cargo::run(&mut install)?;
        std::fs::remove_dir_all(home.join("build"))?;
    }
    Ok(program)
}
