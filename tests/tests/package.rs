//! The package: made by one command, with everything in its place, and its programs run from there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Output, World, programs};

#[test]
fn the_debian_package_has_everything_in_its_place() -> Result<()> {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        harness::skip("dpkg-deb is not on this machine");
        return Ok(());
    }
    let world = World::new()?;
    // The very build that this test is of; programs of another account's are copies, each in a folder of its own.
    let this = std::env::current_exe()?;
    let built = match std::env::var_os(programs::FOLDER) {
        Some(folder) => folder.into(),
        None => this.ancestors().nth(2).context("this program is in no folder")?.to_owned(),
    };
    let output = world.folder("package")?;
    let mut xtask =
        Command::new(this.ancestors().nth(2).context("this program is in no folder")?.join("xtask"));
    xtask.args(["deb", "--compression", "none", "--programs"]).arg(&built).arg("--output").arg(&output);
    let package = Output::of(&mut xtask)?.ok()?.stdout.lines().last().unwrap_or_default().to_owned();
    ensure!(package.ends_with(".deb"), "{package:?} is no package");

    let root = world.folder("root")?;
    Output::of(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root))?.ok()?;
    for name in [
        "usr/bin/walkeep",
        "usr/bin/archive-cmd",
        "usr/bin/restore-cmd",
        "usr/lib/systemd/system/walkeep.service",
        "usr/lib/systemd/system/walkeep@.service",
        "usr/share/man/man1/walkeep.1",
        "usr/share/man/man1/walkeep-run.1",
        "usr/share/man/man1/restore-cmd-restore.1",
        "usr/share/bash-completion/completions/walkeep",
        "usr/share/zsh/vendor-completions/_restore-cmd",
        "usr/share/fish/vendor_completions.d/walkeep.fish",
        "usr/share/doc/walkeep/examples/walkeep.toml",
        "usr/share/doc/walkeep/copyright",
    ] {
        let facts = fs::metadata(root.join(name)).with_context(|| format!("{name} is not in the package"))?;
        let is_program = name.starts_with("usr/bin/");
        ensure!(facts.len() > 0 && (facts.permissions().mode() & 0o111 != 0) == is_program, "{name}");
    }
    let page = fs::read_to_string(root.join("usr/share/man/man1/walkeep-backup.1"))?;
    ensure!(page.contains("incremental"), "{page}");
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/walkeep.service"))?;
    ensure!(unit.contains("ExecStart=/usr/bin/walkeep run"), "{unit}");
    // The example is a configuration.
    let example = root.join("usr/share/doc/walkeep/examples/walkeep.toml");
    let mut status = Command::new(root.join("usr/bin/walkeep"));
    status.args(["status", "--config"]).arg(&example);
    let told = Output::of(&mut status)?;
    ensure!(told.stderr.contains("/run/walkeep/main.sock"), "{}", told.stderr);
    let bash = fs::read_to_string(root.join("usr/share/bash-completion/completions/walkeep"))?;
    ensure!(bash.contains("--incremental"), "the completions know no flags");
    let control = Output::of(Command::new("dpkg-deb").args(["--field", &package, "Depends"]))?.ok()?.stdout;
    ensure!(control.contains("libc6 (>= 2."), "{control}");
    Ok(())
}
