//! The directory to restore into: whether it may be touched, and making it ready.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};
use proto::SystemId;
use proto::control::ControlFile;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, test_kill_process};

use super::beneath::Beneath;
use crate::plan::TablespaceMove;
use crate::program::failure;

/// Stands in a directory from the beginning of a restore to its end: what has it is ours, and not whole.
pub(super) const UNFINISHED: &str = "walkeep-restore-unfinished";

/// What the mark says. Its last words tell whose files they are, and in which tablespaces some of them lie.
fn unfinished_text(system_id: SystemId, tablespaces: &[TablespaceMove]) -> String {
    let places: String = tablespaces.iter().filter_map(mark_of).map(|line| line + "\n").collect();
    format!(
        "A restore into this directory has begun and has not ended. It cannot be started.\n\
         Restore again, with --delta to go on from here, or with --force to begin anew.\n\
         {SYSTEM}{system_id}\n{places}"
    )
}

/// The mark's line for a tablespace. `None` for a place that a line cannot tell: then nobody takes it for ours.
fn mark_of(space: &TablespaceMove) -> Option<String> {
    let place = space.to.to_str().filter(|place| !space.in_place && !place.contains('\n'))?;
    Some(format!("Tablespace {}: {place}", space.oid))
}

const SYSTEM: &str = "System identifier: ";

/// Whether a directory with a cluster in it may be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// It must be empty.
    Refuse,
    /// It may hold a data directory, which goes.
    Replace,
    /// It may hold the data directory of this cluster, of which stays what is right.
    Delta(SystemId),
}

/// A directory that was found fit, or is not there yet. Nothing was changed.
///
/// # Errors
/// A server runs in it, or it holds something that must not go.
pub fn check(pgdata: &Path, existing: Existing, tablespaces: &[TablespaceMove]) -> Result<()> {
    if let Some(names) = entries(pgdata)? {
        check_server(pgdata)?;
        if !names.is_empty() {
            check_contents(pgdata, existing, &names)?;
        }
    }
    tablespaces
        .iter()
        .filter(|space| !space.in_place)
        .try_for_each(|space| check_space(pgdata, existing, space))
}

/// A tablespace's directory must be empty, or this data directory's own. What lies at the place of the lost one may belong to
/// the server from which the backup came, alive and well.
fn check_space(pgdata: &Path, existing: Existing, space: &TablespaceMove) -> Result<()> {
    let names = entries(&space.to)?.unwrap_or_default();
    let refused = |why: String| {
        Err(failure(
            format!("the tablespace directory {} is not empty: {why}", space.to.display()),
            "choose another place with --tablespace OLD=NEW, or empty it if nobody needs what is there",
        ))
    };
    let Some(first) = names.first() else { return Ok(()) };
    if existing == Existing::Refuse {
        return refused(format!("it holds {}", first.display()));
    }
    if let Some(name) = names.iter().find(|name| !is_version_folder(name)) {
        return refused(format!("it holds {}", name.display()));
    }
    if !owns(pgdata, space)? {
        return refused(format!(
            "it holds {}, and is not known to be a tablespace of {}",
            first.display(),
            pgdata.display()
        ));
    }
    Ok(())
}

/// Whether the directory is this data directory's: its link leads there, or the mark of a restore that was cut off names it.
fn owns(pgdata: &Path, space: &TablespaceMove) -> Result<bool> {
    let cannot =
        |path: &Path| format!("cannot tell whose tablespace {} is: {}", space.to.display(), path.display());
    let (link, mark) = (pgdata.join(format!("pg_tblspc/{}", space.oid)), pgdata.join(UNFINISHED));
    let linked = match (fs::metadata(&link), fs::metadata(&space.to)) {
        (Ok(linked), Ok(place)) => (linked.dev(), linked.ino()) == (place.dev(), place.ino()),
        (Err(error), _) if absent(&error) => false,
        (linked, _) => linked.map(|_| false).with_context(|| cannot(&link))?,
    };
    let marked = || match fs::read(&mark) {
        Ok(text) => {
            let line = mark_of(space);
            Ok(String::from_utf8_lossy(&text).lines().any(|found| Some(found) == line.as_deref()))
        }
        Err(error) if absent(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| cannot(&mark)),
    };
    Ok(linked || marked()?)
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What a directory holds; `None` if it does not exist.
fn entries(directory: &Path) -> Result<Option<Vec<OsString>>> {
    let cannot = || format!("cannot read the directory {}", directory.display());
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(cannot),
    };
    let names = listed.map(|entry| Ok(entry?.file_name()));
    names.collect::<io::Result<_>>().with_context(cannot).map(Some)
}

/// `PG_15_202209061`: what a tablespace's directory holds.
fn is_version_folder(name: &OsStr) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.to_str()
        .and_then(|name| name.strip_prefix("PG_")?.split_once('_'))
        .is_some_and(|(a, b)| digits(a) && digits(b))
}

fn check_server(pgdata: &Path) -> Result<()> {
    let path = pgdata.join("postmaster.pid");
    let unknown = |why: &dyn std::fmt::Display| {
        failure(
            format!(
                "nobody can tell whether a server runs in {}: {}: {why}",
                pgdata.display(),
                path.display()
            ),
            "look for the server yourself; if none runs there, remove postmaster.pid",
        )
    };
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unknown(&error)),
    };
    let line = content.split(|byte| *byte == b'\n').next().and_then(|line| std::str::from_utf8(line).ok());
    // In single-user mode the number is negative.
    let number = line.and_then(|line| line.trim().parse::<i32>().ok()).map(i32::saturating_abs);
    let Some(pid) = number.and_then(Pid::from_raw) else { return Err(unknown(&"it names no process")) };
    match test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        // Also if it is another user's: that it is there is what counts.
        Ok(()) | Err(_) => Err(failure(
            format!("a server runs in {} (process {number})", pgdata.display(), number = pid.as_raw_pid()),
            "stop it, or restore into another directory; if that process is no PostgreSQL, remove postmaster.pid",
        )),
    }
}

fn check_contents(pgdata: &Path, existing: Existing, names: &[OsString]) -> Result<()> {
    let cluster = names.iter().any(|name| name == "PG_VERSION" || name == UNFINISHED);
    match (existing, cluster) {
        (Existing::Replace, true) => Ok(()),
        (Existing::Delta(wanted), true) => check_cluster(pgdata, wanted),
        (Existing::Refuse, true) => Err(failure(
            format!("the directory {} holds a data directory already", pgdata.display()),
            "restore into an empty directory, or give --delta to keep what is right of it, or --force to remove it first",
        )),
        (_, false) => Err(failure(
            format!("the directory {} is not empty and is no data directory", pgdata.display()),
            "restore into an empty directory; --force removes nothing but data directories",
        )),
    }
}

/// Whose files they are is told by the mark of a restore that was cut off, else by `pg_control`.
fn check_cluster(pgdata: &Path, wanted: SystemId) -> Result<()> {
    let marked = fs::read_to_string(pgdata.join(UNFINISHED)).ok();
    let found = match &marked {
        Some(text) => {
            text.lines().find_map(|line| line.strip_prefix(SYSTEM)).and_then(|number| number.parse().ok())
        }
        None => fs::read(pgdata.join("global/pg_control"))
            .ok()
            .and_then(|content| ControlFile::parse(&content).ok())
            .map(|control| control.system_id),
    };
    let hint = "restore into an empty directory, or give --force: what is there is then removed first";
    match found {
        Some(found) if found == wanted => Ok(()),
        Some(found) => Err(failure(
            format!("the directory {} belongs to cluster {found}, not to {wanted}", pgdata.display()),
            hint,
        )),
        None => Err(failure(
            format!("nobody can tell to which cluster the directory {} belongs", pgdata.display()),
            hint,
        )),
    }
}

/// A directory that is ours until the end. Dropping it lets the lock go.
pub(super) struct Target {
    pub(super) beneath: Beneath,
    /// Whether what it holds may stay.
    pub(super) keeps: bool,
    /// The open directory bears the lock.
    _lock: OwnedFd,
}

/// Makes the directory and the tablespaces' ready: there, locked, marked, and empty but for what `--delta` may keep.
///
/// # Errors
/// As [`check`], which is done again under the lock; or a directory cannot be made or emptied.
pub(super) fn prepare(
    pgdata: &Path,
    existing: Existing,
    tablespaces: &[TablespaceMove],
    system_id: SystemId,
) -> Result<Target> {
    check(pgdata, existing, tablespaces)?;
    let root = make(pgdata)?;
    let lock = root.try_clone().context("cannot keep the directory open")?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(failure(
            format!("another restore into {} is under way", pgdata.display()),
            "wait for it, or restore into another directory",
        ));
    }
    check(pgdata, existing, tablespaces)?;
    let mark = || format!("cannot write into the directory {}", pgdata.display());
    fs::write(pgdata.join(UNFINISHED), unfinished_text(system_id, tablespaces)).with_context(mark)?;
    sync(pgdata).with_context(mark)?;
    // First what lets a server start; durably, before anything else is changed: after a power failure a server would start
    // on a mixture.
    for name in ["global/pg_control", "PG_VERSION"] {
        let path = pgdata.join(name);
        remove(&path)?;
        let folder = path.parent().unwrap_or(pgdata);
        match sync(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot sync the directory {}", folder.display()));
            }
            _ => {}
        }
    }
    let keeps = matches!(existing, Existing::Delta(_));
    empty(pgdata, |name| !keeps && name != UNFINISHED)?;
    let mut spaces = BTreeMap::new();
    for space in tablespaces.iter().filter(|space| !space.in_place) {
        let opened = make(&space.to)?;
        empty(&space.to, |name| !keeps && Some(name) == space.folder.as_deref().map(OsStr::new))?;
        spaces.insert(space.oid, opened);
    }
    Ok(Target { beneath: Beneath::new(root, spaces), keeps, _lock: lock })
}

fn sync(directory: &Path) -> io::Result<()> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(tests::look(directory)));
    File::open(directory)?.sync_all()
}

fn make(directory: &Path) -> Result<OwnedFd> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let opened = File::open(directory);
    let opened = opened.with_context(|| format!("cannot open the directory {}", directory.display()))?;
    Ok(opened.into())
}

/// Removes what is in a directory and whose name `goes`. Links are removed, never followed.
fn empty(directory: &Path, goes: impl Fn(&OsStr) -> bool) -> Result<()> {
    for name in entries(directory)?.unwrap_or_default() {
        if goes(&name) {
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}

pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    thread_local! {
        /// What each directory that was synced held then.
        pub(super) static SYNCED: RefCell<Vec<(String, Vec<String>)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn look(directory: &Path) -> (String, Vec<String>) {
        let names = entries(directory).unwrap().unwrap_or_default();
        let mut names: Vec<_> = names.iter().map(|name| name.display().to_string()).collect();
        names.sort_unstable();
        (directory.file_name().unwrap().display().to_string(), names)
    }

    #[test]
    fn what_lets_a_server_start_is_gone_durably_before_anything_is_changed() {
        let home = tempfile::tempdir().unwrap();
        let pgdata = home.path().join("data");
        fs::create_dir_all(pgdata.join("global")).unwrap();
        for name in ["PG_VERSION", "global/pg_control", "global/1260"] {
            fs::write(pgdata.join(name), "15\n").unwrap();
        }
        SYNCED.take();
        prepare(&pgdata, Existing::Replace, &[], SystemId(7)).unwrap();
        let synced =
            |name: &str, names: &[&str]| (name.to_owned(), names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(
            SYNCED.take(),
            [
                synced("data", &["PG_VERSION", "global", UNFINISHED]),
                synced("global", &["1260"]),
                synced("data", &["global", UNFINISHED]),
            ]
        );
    }

    fn refusal(pgdata: &Path, existing: Existing) -> String {
        check(pgdata, existing, &[]).unwrap_err().to_string()
    }

    #[test]
    fn only_data_directories_are_emptied() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("letter"), "dear").unwrap();
        for existing in [Existing::Refuse, Existing::Replace] {
            assert!(refusal(home.path(), existing).contains("no data directory"));
            assert!(prepare(home.path(), existing, &[], SystemId(7)).is_err());
        }
        assert!(home.path().join("letter").exists());
    }

    #[test]
    fn a_data_directory_goes_only_if_told_so() {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("kept"), "x").unwrap();
        fs::write(home.path().join("PG_VERSION"), "15\n").unwrap();
        fs::create_dir_all(home.path().join("base/5")).unwrap();
        std::os::unix::fs::symlink(outside.path(), home.path().join("link")).unwrap();
        // In no encoding that a program has to know.
        fs::write(home.path().join(OsStr::from_bytes(b"caf\xe9")), "").unwrap();
        assert!(refusal(home.path(), Existing::Refuse).contains("already"));
        let target = prepare(home.path(), Existing::Replace, &[], SystemId(7)).unwrap();
        assert_eq!(entries(home.path()).unwrap().unwrap(), [UNFINISHED]);
        assert!(outside.path().join("kept").exists());
        // While it is ours nobody else may have it; afterwards the mark lets --force go on.
        assert!(prepare(home.path(), Existing::Replace, &[], SystemId(7)).is_err());
        drop(target);
        assert!(prepare(home.path(), Existing::Refuse, &[], SystemId(7)).is_err());
        assert!(prepare(home.path(), Existing::Replace, &[], SystemId(7)).is_ok());
    }

    #[test]
    fn a_running_server_is_never_touched() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("PG_VERSION"), "15\n").unwrap();
        fs::write(home.path().join("postmaster.pid"), format!("{}\n/data\n", std::process::id())).unwrap();
        assert!(refusal(home.path(), Existing::Replace).contains("a server runs"));
        fs::write(home.path().join("postmaster.pid"), "2147483646\n").unwrap();
        assert!(check(home.path(), Existing::Replace, &[]).is_ok());
        // What cannot be read says nothing.
        for unreadable in [&b""[..], b"\xff\n", b"a server\n", b"0\n"] {
            fs::write(home.path().join("postmaster.pid"), unreadable).unwrap();
            assert!(refusal(home.path(), Existing::Replace).contains("nobody can tell"));
        }
        fs::remove_file(home.path().join("postmaster.pid")).unwrap();
        fs::create_dir(home.path().join("postmaster.pid")).unwrap();
        assert!(refusal(home.path(), Existing::Replace).contains("nobody can tell"));
    }

    fn space(at: &Path) -> [TablespaceMove; 1] {
        let folder = Some("PG_15_202209061".to_owned());
        [TablespaceMove { oid: 16_384, from: at.to_owned(), to: at.to_owned(), in_place: false, folder }]
    }

    #[test]
    fn a_tablespace_keeps_what_is_not_postgresqls() {
        let (home, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spaces = space(place.path());
        fs::write(home.path().join("PG_VERSION"), "15\n").unwrap();
        fs::create_dir(home.path().join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(place.path(), home.path().join("pg_tblspc/16384")).unwrap();
        fs::create_dir_all(place.path().join("PG_15_202209061/5")).unwrap();
        assert!(check(home.path(), Existing::Refuse, &spaces).is_err());
        assert!(check(home.path(), Existing::Replace, &spaces).is_ok());
        fs::write(place.path().join("PG_notes"), "").unwrap();
        assert!(
            prepare(home.path(), Existing::Replace, &spaces, SystemId(7))
                .err()
                .unwrap()
                .to_string()
                .contains("PG_notes")
        );
        assert!(place.path().join("PG_15_202209061/5").exists());
    }

    /// A clone is made anew from the backup of a server that lives on the same machine.
    #[test]
    fn a_tablespace_of_another_data_directory_is_not_touched() {
        let (original, clone) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("PG_15_202209061/5/2");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::create_dir(place.path().join("PG_13_202007201")).unwrap();
        fs::write(&file, "alive").unwrap();
        for home in [&original, &clone] {
            fs::write(home.path().join("PG_VERSION"), "15\n").unwrap();
            fs::create_dir(home.path().join("pg_tblspc")).unwrap();
        }
        std::os::unix::fs::symlink(place.path(), original.path().join("pg_tblspc/16384")).unwrap();
        let spaces = space(place.path());
        let text = |error: Option<anyhow::Error>| error.unwrap().to_string();
        let refused = prepare(clone.path(), Existing::Replace, &spaces, SystemId(7));
        assert!(text(refused.err()).contains("not known to be a tablespace of"));
        // The refused directory was not marked either: trying again does not make it ours.
        assert!(prepare(clone.path(), Existing::Replace, &spaces, SystemId(7)).is_err());
        assert!(file.exists() && clone.path().join("PG_VERSION").exists());
        // Its own data directory may have it, but for what is another version's; and goes on if it is cut off.
        for _ in 0..2 {
            drop(prepare(original.path(), Existing::Replace, &spaces, SystemId(7)).unwrap());
            assert!(!file.exists() && place.path().join("PG_13_202007201").exists());
            assert_eq!(entries(original.path()).unwrap().unwrap(), [UNFINISHED]);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "half").unwrap();
        }
        let moved = [TablespaceMove { oid: 16_385, ..spaces[0].clone() }];
        assert!(check(original.path(), Existing::Replace, &moved).is_err());
    }

    #[test]
    fn makes_what_is_missing() {
        use std::os::unix::fs::MetadataExt;
        let home = tempfile::tempdir().unwrap();
        let pgdata = home.path().join("a/b");
        prepare(&pgdata, Existing::Refuse, &[], SystemId(7)).unwrap();
        assert_eq!(pgdata.metadata().unwrap().mode() & 0o777, 0o700);
    }
}
