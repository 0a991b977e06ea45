//! A look at the places that a restore will fill: how much room there is, and what will go. Nothing is changed.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::Existing;
use crate::plan::Place;

/// The places with what was found there.
///
/// # Errors
/// A directory cannot be looked at.
pub fn survey(places: &[Place], existing: Existing) -> Result<Vec<Place>> {
    let look = |place: &Place| look(place, existing);
    places
        .iter()
        .map(|place| look(place).with_context(|| format!("cannot look at {}", place.path.display())))
        .collect()
}

fn look(place: &Place, existing: Existing) -> io::Result<Place> {
    let (directory, meta) = nearest(&place.path)?;
    let room = rustix::fs::statvfs(directory)?;
    let mut found = place.clone();
    found.file_system = meta.dev();
    found.free_bytes = Some(room.f_bavail.saturating_mul(room.f_frsize));
    if existing != Existing::Refuse && directory == place.path {
        count(&place.path, &meta, &mut found)?;
        if matches!(existing, Existing::Delta(_)) {
            // What of it goes is known only when it is compared.
            found.removed_files = 0;
        }
    }
    Ok(found)
}

/// The directory itself, or the one in which it will be made.
fn nearest(path: &Path) -> io::Result<(&Path, Metadata)> {
    let mut at = path;
    loop {
        match (fs::metadata(at), at.parent()) {
            (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => at = parent,
            (meta, _) => return Ok((at, meta?)),
        }
    }
}

/// Counts what is in a directory. Links are not followed, and other file systems not entered.
fn count(directory: &Path, of: &Metadata, found: &mut Place) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // Gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if meta.dev() == of.dev() && (meta.is_dir() || meta.nlink() == 1) {
            found.removed_bytes += meta.blocks() * 512;
        }
        if meta.is_dir() && meta.dev() == of.dev() {
            count(&path, of, found)?;
        } else if !meta.is_dir() {
            found.removed_files += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_where_the_directory_will_be() {
        let home = tempfile::tempdir().unwrap();
        let place = |path: &Path| Place {
            path: path.to_owned(),
            needed_bytes: 1,
            free_bytes: None,
            removed_files: 0,
            removed_bytes: 0,
            file_system: 0,
        };
        fs::create_dir(home.path().join("there")).unwrap();
        fs::write(home.path().join("there/file"), vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink("/", home.path().join("there/link")).unwrap();
        let places = [place(&home.path().join("not/yet")), place(&home.path().join("there"))];
        let found = survey(&places, Existing::Refuse).unwrap();
        assert!(found.iter().all(|place| place.free_bytes.is_some() && place.removed_files == 0));
        assert_eq!(found[0].file_system, found[1].file_system);
        let found = survey(&places, Existing::Replace).unwrap();
        assert_eq!((found[0].removed_files, found[1].removed_files), (0, 2));
        assert!(found[1].removed_bytes >= 10_000);
    }
}
