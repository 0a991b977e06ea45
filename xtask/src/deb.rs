//! A Debian package: the programs, their manual pages and completions, the units, an example of a configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// The arguments of `cargo xtask deb`.
#[derive(clap::Args)]
pub(crate) struct DebArgs {
    /// Where the package goes; by default the folder `deb` in the one that cargo builds in
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,

    /// A folder with programs that are built already; by default they are built for release
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,

    /// How dpkg-deb compresses: xz, zstd, gzip, none
    #[arg(long, value_name = "NAME", default_value = "xz")]
    compression: String,
}

const PROGRAMS: [&str; 3] = ["walkeep", "archive-cmd", "restore-cmd"];

/// Those that are made with clap, and so make their own manual.
const WITH_MANUAL: [&str; 2] = ["walkeep", "restore-cmd"];

/// Where each shell looks for the completions of a program.
fn completions(program: &str) -> [(&'static str, String); 3] {
    [
        ("bash", format!("usr/share/bash-completion/completions/{program}")),
        ("zsh", format!("usr/share/zsh/vendor-completions/_{program}")),
        ("fish", format!("usr/share/fish/vendor_completions.d/{program}.fish")),
    ]
}

pub(crate) fn run(args: &DebArgs) -> Result<()> {
    let programs = match &args.programs {
        Some(programs) => programs.clone(),
        None => {
            cargo::build(&["--bins", "--release"])?;
            cargo::target()?.join("release")
        }
    };
    let output = match &args.output {
        Some(output) => output.clone(),
        None => cargo::target()?.join("deb"),
    };
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    let staged = tempfile::tempdir().context("cannot make a temporary folder")?;
    let root = Root(staged.path());
    stage(&root, &programs)?;
    let architecture = architecture()?;
    root.write("DEBIAN/control", &control(architecture, &libc()?), 0o644)?;
    for script in ["postinst", "prerm"] {
        root.copy(&cargo::root().join("packaging/debian").join(script), &format!("DEBIAN/{script}"), 0o755)?;
    }
    let package = output.join(format!("walkeep_{}_{architecture}.deb", env!("CARGO_PKG_VERSION")));
    let mut build = Command::new("dpkg-deb");
    build.arg("--root-owner-group").arg(format!("-Z{}", args.compression)).arg("--build");
    cargo::run(build.arg(staged.path()).arg(&package))?;
    println!("{}", package.display());
    Ok(())
}

/// The files of the package.
fn stage(root: &Root<'_>, programs: &Path) -> Result<()> {
    let packaging = cargo::root().join("packaging");
    for program in PROGRAMS {
        root.copy(&programs.join(program), &format!("usr/bin/{program}"), 0o755)?;
    }
    let manual = root.folder("usr/share/man/man1")?;
    for program in WITH_MANUAL {
        let path = programs.join(program);
        cargo::run(Command::new(&path).arg("man").arg(&manual))?;
        for (shell, place) in completions(program) {
            let made = Command::new(&path).args(["completions", shell]).output();
            let made = made.with_context(|| format!("cannot run {}", path.display()))?;
            ensure!(made.status.success(), "{program} made no completions for {shell}");
            root.write(&place, &String::from_utf8(made.stdout)?, 0o644)?;
        }
    }
    for unit in ["walkeep.service", "walkeep@.service"] {
        root.copy(&packaging.join(unit), &format!("usr/lib/systemd/system/{unit}"), 0o644)?;
    }
    let manual = root.folder("usr/share/man/man1")?;
    for page in fs::read_dir(manual)? {
        fs::set_permissions(page?.path(), fs::Permissions::from_mode(0o644))?;
    }
    for (from, name) in [
        ("README.md", "README.md"),
        ("CHANGELOG.md", "CHANGELOG.md"),
        ("LICENSE", "copyright"),
        ("docs/configuration.md", "configuration.md"),
        ("docs/format.md", "format.md"),
        ("docs/operations.md", "operations.md"),
        ("docs/rebuild.sh", "rebuild.sh"),
        ("packaging/walkeep.toml", "examples/walkeep.toml"),
    ] {
        root.copy(&cargo::root().join(from), &format!("usr/share/doc/walkeep/{name}"), 0o644)?;
    }
    Ok(())
}

/// Debian's word for the processor.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => anyhow::bail!("nobody has tried a package for {other}"),
    }
}

/// The C library's version: what was linked here needs no older one.
fn libc() -> Result<String> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().context("cannot run getconf")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    told.split_whitespace().nth(1).map(str::to_owned).context("getconf tells no version of the C library")
}

fn control(architecture: &str, libc: &str) -> String {
    format!(
        "Package: walkeep\nVersion: {}\nArchitecture: {architecture}\nMaintainer: walkeep\nSection: database\nPriority: optional\n\
         Depends: libc6 (>= {libc}), libgcc-s1, passwd\nRecommends: ca-certificates, tzdata\nSuggests: postgresql, zstd, age\n\
         Description: WAL archiving and streaming backup agent for PostgreSQL\n \
         Streams the write-ahead log into a repository in pieces smaller than a segment, takes base\n \
         backups, and restores them to any moment.\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// The folder that becomes `/`.
struct Root<'a>(&'a Path);

impl Root<'_> {
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(path)
    }

    fn copy(&self, from: &Path, name: &str, mode: u32) -> Result<()> {
        let path = self.place(name)?;
        fs::copy(from, &path).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("cannot set permissions")
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.place(name)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("cannot set permissions")
    }
}
