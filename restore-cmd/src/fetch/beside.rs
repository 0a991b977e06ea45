//! A file that appears under its name only when it is whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, test_kill_process};

/// Between the wanted file's name and the number of the process that writes it.
const INFIX: &str = ".restore-cmd-";

/// A file beside the one that is wanted. It gets that one's name when it is whole, else it goes.
///
/// It is not synced: the server syncs what it keeps, and fetches the rest again after a crash.
pub(super) struct Beside {
    pub(super) file: File,
    pub(super) path: PathBuf,
    to: PathBuf,
    done: bool,
}

pub(super) fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

impl Beside {
    pub(super) fn create(to: &Path) -> Result<Self> {
        let name = to.file_name().context("the path to write to names no file")?;
        sweep(to.parent(), name.as_encoded_bytes());
        let mut name = OsString::from(name);
        name.push(format!("{INFIX}{}", std::process::id()));
        let path = to.with_file_name(name);
        // Left there by a process of the same number that was killed.
        let _ = fs::remove_file(&path);
        let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.with_context(|| cannot_write(&path))?;
        Ok(Self { file, path, to: to.to_owned(), done: false })
    }

    pub(super) fn finish(mut self) -> Result<()> {
        fs::rename(&self.path, &self.to).with_context(|| cannot_write(&self.to))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what processes that are gone have left of the same file. Nothing depends on it, so it never fails.
fn sweep(directory: Option<&Path>, name: &[u8]) {
    let directory = directory.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let number = entry.file_name().as_encoded_bytes().strip_prefix(name).and_then(|rest| {
            let number = rest.strip_prefix(INFIX.as_bytes())?;
            Pid::from_raw(std::str::from_utf8(number).ok()?.parse().ok()?)
        });
        if number.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let (dead, alive) = ("RECOVERYXLOG.restore-cmd-2147483646", "RECOVERYXLOG.restore-cmd-1");
        for name in [dead, alive, "RECOVERYXLOG.restore-cmd-x", "00000001"] {
            fs::write(home.path().join(name), "").unwrap();
        }
        Beside::create(&home.path().join("RECOVERYXLOG")).unwrap().finish().unwrap();
        assert!(!home.path().join(dead).exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 4);
    }
}
