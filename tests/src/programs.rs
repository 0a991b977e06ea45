//! The programs under test: `walkeep`, `archive-cmd`, `restore-cmd`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};

use crate::Account;
use crate::servers::cache;

/// The folder that holds the programs, if it is not the one of the test's own build.
pub const FOLDER: &str = "WALKEEP_BIN_DIR";

/// The path of a program, such that the unprivileged account can run it.
///
/// It is looked for in `$WALKEEP_BIN_DIR`, then where cargo put this very build. If the account cannot get there
/// (a home directory is often closed) a copy beside the fetched servers is used.
pub fn program(name: &str) -> Result<PathBuf> {
    let built = folder()?.join(name);
    ensure!(built.is_file(), "{} is not built; `cargo xtask test` builds it", built.display());
    if reachable(&built, Account::current()) { Ok(built) } else { copied(&built, name) }
}

fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return Ok(PathBuf::from(folder));
    }
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let beside = this.parent().context("this program is in no folder")?;
    let is_deps = beside.file_name().is_some_and(|name| name == "deps");
    Ok(if is_deps { beside.parent().unwrap_or(beside) } else { beside }.to_owned())
}

/// True if the account may enter every folder on the way and run the file.
fn reachable(path: &Path, account: Account) -> bool {
    path.ancestors().filter(|step| !step.as_os_str().is_empty()).all(|step| {
        fs::metadata(step).is_ok_and(|facts| {
            let shift = match (facts.uid() == account.uid, facts.gid() == account.gid) {
                (true, _) => 6,
                (false, true) => 3,
                (false, false) => 0,
            };
            facts.mode() >> shift & 1 == 1
        })
    })
}

fn copied(built: &Path, name: &str) -> Result<PathBuf> {
    let facts = fs::metadata(built)?;
    let changed = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let home = cache().join("programs").join(format!("{changed:x}-{:x}", facts.len()));
    let copy = home.join(name);
    if copy.is_file() {
        return Ok(copy);
    }
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let staged = tempfile::NamedTempFile::new_in(&home)?;
    fs::copy(built, staged.path()).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::set_permissions(staged.path(), fs::Permissions::from_mode(0o755))?;
    // `copy` opened the file for writing; it must be closed before anyone runs it.
    staged.into_temp_path().persist(&copy)?;
    for folder in [cache(), cache().join("programs"), home] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(copy)
}
