//! A file or directory that appears when it is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{CWD, RenameFlags};

use super::failure;

/// Where it is written until it is whole: beside its place, since that may be another file system than the copy's.
pub(crate) fn partial(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.partial-{}", std::process::id()))
}

/// Puts what is whole at its place, durably; nothing that is there is replaced.
pub(crate) fn publish(partial: &Path, to: &Path) -> Result<()> {
    let moved = match rustix::fs::renameat_with(CWD, partial, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot look and move at once.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.exists() => fs::rename(partial, to),
        moved => moved.map_err(io::Error::from),
    };
    moved.map_err(|error| {
        let hint = "name another file with --output: nothing is overwritten";
        failure(format!("cannot put the dump at {}: {error}", to.display()), hint)
    })?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("cannot sync the directory {}", folder.display()))
}

/// Removes what was not finished.
pub(crate) fn remove(partial: &Path) {
    let removed = match fs::symlink_metadata(partial) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(partial),
        Ok(_) => fs::remove_file(partial),
        Err(_) => return,
    };
    if let Err(error) = removed {
        tracing::warn!("cannot remove {}: {error}", partial.display());
    }
}

/// Bytes of a file, or of all files of a directory.
pub(crate) fn size(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}

/// Free bytes where a directory is.
///
/// # Errors
/// It cannot be looked at.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(directory)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_appears_whole_and_replaces_nothing() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("orders.dump");
        let written = partial(&to);
        assert_eq!(written.parent(), to.parent());
        fs::write(&written, "dump").unwrap();
        publish(&written, &to).unwrap();
        assert!(!written.exists() && size(&to).unwrap() == 4);
        fs::write(&written, "another").unwrap();
        assert!(publish(&written, &to).unwrap_err().to_string().contains("orders.dump"));
        assert_eq!(fs::read_to_string(&to).unwrap(), "dump");
        remove(&written);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
