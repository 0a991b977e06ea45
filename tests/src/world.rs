//! A folder of its own for each scenario, which the unprivileged account can use.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Account;

/// If this variable is set, folders stay, and their paths are told.
pub const KEEP: &str = "WALKEEP_KEEP";

/// How folders are called that go with their scenario, and those that stay.
const PREFIX: &str = "wk-";
const KEPT_PREFIX: &str = "wk-kept-";

/// A folder that is younger than this may be one whose owner has not locked it yet.
const SETTLED: Duration = Duration::from_secs(600);

/// A scenario's folder; removed with all that is in it.
///
/// Its path is short: a Unix socket's path may have 107 bytes.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    account: Account,
    /// The folder, locked: so it is seen that the scenario lives.
    _alive: File,
}

impl World {
    /// A new, empty folder.
    pub fn new() -> Result<World> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep(&std::env::temp_dir(), SETTLED));
        let account = Account::current();
        let keep = std::env::var_os(KEEP).is_some();
        let prefix = if keep { KEPT_PREFIX } else { PREFIX };
        let mut folder =
            tempfile::Builder::new().prefix(prefix).tempdir().context("cannot make a temporary folder")?;
        let alive = File::open(folder.path())?;
        alive.lock().context("cannot lock a temporary folder")?;
        if keep {
            folder.disable_cleanup(true);
            eprintln!("{} stays", folder.path().display());
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        account.own(folder.path())?;
        Ok(World { folder, account, _alive: alive })
    }

    /// The account that owns it.
    pub fn account(&self) -> Account {
        self.account
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of something in it that need not exist.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder that only the account can enter.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.at(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// Writes a file that belongs to the account.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.at(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        self.account.own(&path)?;
        Ok(path)
    }
}

/// Removes what killed scenarios left behind: their folders, which nobody holds locked any more.
fn sweep(temporary: &Path, settled: Duration) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age =
            entry.metadata().and_then(|facts| facts.modified()).map(|at| at.elapsed().unwrap_or_default());
        if !name.starts_with(PREFIX) || name.starts_with(KEPT_PREFIX) || !age.is_ok_and(|age| age >= settled)
        {
            continue;
        }
        // Another user's cannot be opened, or not be removed: they are his to sweep.
        if let Ok(folder) = File::open(entry.path())
            && folder.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() -> Result<()> {
        let temporary = tempfile::tempdir()?;
        let [dead, alive, kept, other] =
            ["wk-dead", "wk-alive", "wk-kept-1", "else"].map(|name| temporary.path().join(name));
        for folder in [&dead, &alive, &kept, &other] {
            fs::create_dir_all(folder.join("data"))?;
        }
        let lock = File::open(&alive)?;
        lock.lock()?;
        sweep(temporary.path(), SETTLED);
        assert!(dead.exists(), "it may be one that was only just made");
        sweep(temporary.path(), Duration::ZERO);
        assert!(!dead.exists() && alive.exists() && kept.exists() && other.exists());
        drop(lock);
        sweep(temporary.path(), Duration::ZERO);
        assert!(!alive.exists());
        Ok(())
    }
}
