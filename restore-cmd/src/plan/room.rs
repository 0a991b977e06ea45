//! How much room a restore needs, and whether it is there. Pure: `execute::survey` looks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use serde::Serialize;

use super::TablespaceMove;
use super::choose::{Refusal, refuse};
use super::content::{BLOCK, Content};
use super::options::lossy;

/// A place that a restore fills: the data directory, or a tablespace outside of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// The directory.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Bytes that its files take. What recovery fetches and writes afterwards is not counted.
    pub needed_bytes: u64,
    /// Free bytes on its file system; `None` before anybody has looked.
    pub free_bytes: Option<u64>,
    /// Files that are there now and will be removed first.
    pub removed_files: u64,
    /// Bytes that what is there now takes on the same file system: they become free, or are used again.
    pub removed_bytes: u64,
    /// Tells file systems from each other.
    #[serde(skip)]
    pub file_system: u64,
}

impl Place {
    fn new(path: &Path, needed_bytes: u64) -> Self {
        Self {
            path: path.to_owned(),
            needed_bytes,
            free_bytes: None,
            removed_files: 0,
            removed_bytes: 0,
            file_system: 0,
        }
    }
}

/// The places of a restore: the data directory first.
pub(super) fn places(content: &Content, spaces: &[TablespaceMove], pgdata: &Path) -> Vec<Place> {
    let mut within = content.room.saturating_add(BLOCK);
    let outside = |oid: &u32| spaces.iter().any(|space| space.oid == *oid && !space.in_place);
    for (_, space) in content.spaces.iter().filter(|(oid, _)| !outside(oid)) {
        within = within.saturating_add(space.room);
    }
    let spaces = spaces.iter().filter(|space| !space.in_place).map(|space| {
        let room = content.spaces.get(&space.oid).map_or(0, |found| found.room);
        Place::new(&space.to, room.saturating_add(BLOCK))
    });
    std::iter::once(Place::new(pgdata, within)).chain(spaces).collect()
}

/// Whether what is needed is free, file system by file system.
///
/// # Errors
/// It is not; the message says where, how much is needed, and how much is there.
pub fn check_room(places: &[Place]) -> Result<(), Refusal> {
    let mut systems: BTreeMap<u64, Vec<&Place>> = BTreeMap::new();
    for place in places.iter().filter(|place| place.free_bytes.is_some()) {
        systems.entry(place.file_system).or_default().push(place);
    }
    for places in systems.values() {
        let needed: u64 = places.iter().map(|place| place.needed_bytes).sum();
        let removed: u64 = places.iter().map(|place| place.removed_bytes).sum();
        let free = places.iter().filter_map(|place| place.free_bytes).min().unwrap_or(u64::MAX);
        if needed > free.saturating_add(removed) {
            let names: Vec<_> = places.iter().map(|place| place.path.display().to_string()).collect();
            let after = match removed {
                0 => String::new(),
                removed => format!(", besides {} that what is there takes", HumanBytes(removed)),
            };
            return refuse(
                format!(
                    "there is not enough room in {}: the restore needs {}, and {} are free{after}",
                    names.join(" and "),
                    HumanBytes(needed),
                    HumanBytes(free),
                ),
                "make room, or restore elsewhere with --pgdata or --tablespace OLD=NEW; --no-space-check restores all \
                 the same, as on a file system that compresses",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, file_system: u64, needed: u64, free: u64, removed: u64) -> Place {
        Place {
            free_bytes: Some(free),
            removed_bytes: removed,
            file_system,
            ..Place::new(Path::new(path), needed)
        }
    }

    #[test]
    fn places_on_one_file_system_share_its_room() {
        let two = [place("/a", 1, 60, 100, 0), place("/b", 1, 50, 100, 0)];
        let error = check_room(&two).unwrap_err();
        assert!(error.message.contains("/a and /b") && error.message.contains("110 B"), "{error}");
        assert!(check_room(&two[..1]).is_ok() && check_room(&two[1..]).is_ok());
        assert!(check_room(&[place("/a", 1, 60, 100, 0), place("/b", 2, 50, 100, 0)]).is_ok());
        assert!(check_room(&[place("/a", 1, 60, 100, 5), place("/b", 1, 50, 100, 5)]).is_ok());
        assert!(check_room(&[Place::new(Path::new("/a"), u64::MAX)]).is_ok(), "nobody has looked");
    }
}
