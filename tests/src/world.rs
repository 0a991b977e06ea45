//! A folder of its own for each scenario, which the unprivileged account can use.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Account;

/// If this variable is set, folders stay, and their paths are told.
pub const KEEP: &str = "WALKEEP_KEEP";

/// A scenario's folder; removed with all that is in it.
///
/// Its path is short: a Unix socket's path may have 107 bytes.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    account: Account,
}

impl World {
    /// A new, empty folder.
    pub fn new() -> Result<World> {
        let account = Account::current();
        let mut folder =
            tempfile::Builder::new().prefix("wk-").tempdir().context("cannot make a temporary folder")?;
        if std::env::var_os(KEEP).is_some() {
            folder.disable_cleanup(true);
            eprintln!("{} stays", folder.path().display());
        }
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        account.own(folder.path())?;
        Ok(World { folder, account })
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
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// Writes a file that belongs to the account.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.at(name);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        self.account.own(&path)?;
        Ok(path)
    }
}
