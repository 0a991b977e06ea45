//! `cargo xtask reproducible`: a release build made twice, in two places, comes to the same bytes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cargo::{self, cargo};

/// The arguments of `cargo xtask reproducible`.
#[derive(clap::Args)]
pub(crate) struct ReproducibleArgs {
    /// The programs; building them all twice takes as long as it sounds
    #[arg(default_values = ["walkeep", "archive-cmd", "restore-cmd"], value_parser = ["walkeep", "archive-cmd", "restore-cmd"])]
    programs: Vec<String>,
}

/// Builds the programs in two folders, neither of which is the usual one, and compares them.
pub(crate) fn run(args: &ReproducibleArgs) -> Result<()> {
    let folder = cargo::target()?.join("reproducible");
    let mut built = Vec::new();
    for place in ["one", "another-place-with-a-longer-name"] {
        let target = folder.join(place);
        for program in &args.programs {
            build(program, &target)?;
        }
        let read = |program: &String| {
            let file = target.join("release").join(program);
            fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
        };
        built.push(args.programs.iter().map(read).collect::<Result<Vec<_>>>()?);
    }
    for (number, program) in args.programs.iter().enumerate() {
        ensure!(
            built[0][number] == built[1][number],
            "{program} is another each time: see {}",
            folder.display()
        );
        println!("{program}: the same {} bytes twice", built[0][number].len());
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

fn build(program: &str, target: &Path) -> Result<()> {
    // Where it was built must not be in it: neither the checkout nor cargo's home.
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).unwrap_or_default();
    let flags = [
        format!("--remap-path-prefix={}=/walkeep", cargo::root().display()),
        format!("--remap-path-prefix={}=/cargo", home.display()),
        format!("--remap-path-prefix={}=/target", target.display()),
    ];
    let mut call =
        cargo(&["build", "--locked", "--quiet", "--release", "--package", program, "--bin", program]);
    cargo::run(call.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env("CARGO_TARGET_DIR", target))
}
