//! A file system that is soon full.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{World, skip};

/// A small file system in memory; it goes when this is dropped.
#[derive(Debug)]
pub struct Small(PathBuf);

impl Small {
    /// Of so many MiB, for the account. `None`, and a loud skip, where this machine does not let us.
    pub fn mount(world: &World, name: &str, mib: u32) -> Result<Option<Small>> {
        let at = world.folder(name)?;
        let account = world.account();
        let options = format!("size={mib}m,mode=0700,uid={},gid={}", account.uid, account.gid);
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Some(Small(at))),
            Ok(output) => {
                skip(format!("mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
                Ok(None)
            }
            Err(error) => {
                skip(format!("mount: {error}"));
                Ok(None)
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What lies directly in it.
    pub fn entries(&self) -> usize {
        std::fs::read_dir(&self.0).map_or(0, Iterator::count)
    }

    /// The path of something in it that need not exist.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
