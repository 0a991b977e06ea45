//! Where tablespaces go.

use std::path::{Component, Path, PathBuf};

use repository::manifest::Tablespace;
use serde::Serialize;

use super::choose::Refusal;
use super::options::lossy;

/// One tablespace of the backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TablespaceMove {
    /// Its oid, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it lay.
    #[serde(serialize_with = "lossy")]
    pub from: PathBuf,
    /// Where it goes; the same unless asked otherwise.
    #[serde(serialize_with = "lossy")]
    pub to: PathBuf,
    /// A folder in `pg_tblspc` rather than a link.
    pub in_place: bool,
    /// The one folder in it that is the backup's, such as `PG_15_202209061`: servers of other versions may have theirs
    /// beside it. `None` if the backup has nothing there.
    pub folder: Option<String>,
}

/// Decides for each tablespace.
///
/// # Errors
/// A new location is asked for that no tablespace has, two go to one place, or one lies within the data directory or
/// another one.
pub fn place(
    tablespaces: &[Tablespace],
    moves: &[(PathBuf, PathBuf)],
    pgdata: &Path,
) -> Result<Vec<TablespaceMove>, Refusal> {
    let refuse = |message: String, hint: &str| Refusal { message, hint: hint.to_owned() };
    let mut placed: Vec<TablespaceMove> = Vec::new();
    for tablespace in tablespaces {
        let from = tablespace.location.as_path().to_owned();
        let in_place = !from.is_absolute();
        let asked = moves.iter().find(|(old, _)| *old == from).map(|(_, new)| new.clone());
        let to = asked.unwrap_or_else(|| from.clone());
        placed.push(TablespaceMove { oid: tablespace.oid, from, to, in_place, folder: None });
    }
    if let Some((old, _)) = moves.iter().find(|(old, _)| placed.iter().all(|space| space.from != *old)) {
        let known: Vec<_> = placed.iter().map(|space| space.from.display().to_string()).collect();
        let hint = match known.is_empty() {
            true => "it has none outside the data directory".to_owned(),
            false => format!("it has {}", known.join(", ")),
        };
        return Err(refuse(format!("the backup has no tablespace at {}", old.display()), &hint));
    }
    let outside: Vec<&TablespaceMove> = placed.iter().filter(|space| !space.in_place).collect();
    for (index, space) in outside.iter().enumerate() {
        let to = &space.to;
        let odd = |part| matches!(part, Component::ParentDir | Component::CurDir);
        if !to.is_absolute() || to.components().any(odd) || to.parent().is_none() {
            let message = format!("a tablespace cannot go to {}", to.display());
            return Err(refuse(message, "give an absolute path without . and .. with --tablespace OLD=NEW"));
        }
        if to.starts_with(pgdata) || pgdata.starts_with(to) {
            let message = format!("the tablespace at {} and the data directory overlap", to.display());
            return Err(refuse(message, "give it another place with --tablespace OLD=NEW"));
        }
        let shared = |other: &&&TablespaceMove| to.starts_with(&other.to) || other.to.starts_with(to);
        if let Some(other) = outside[..index].iter().find(shared) {
            let message = format!("the tablespaces at {} and {} overlap", other.to.display(), to.display());
            return Err(refuse(message, "give one of them another place with --tablespace OLD=NEW"));
        }
    }
    Ok(placed)
}

/// The content of `tablespace_map`: a line for each link that the server makes when it starts.
pub fn tablespace_map(placed: &[TablespaceMove]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let mut map = Vec::new();
    for space in placed.iter().filter(|space| !space.in_place) {
        map.extend_from_slice(format!("{} ", space.oid).as_bytes());
        for &byte in space.to.as_os_str().as_bytes() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                map.push(b'\\');
            }
            map.push(byte);
        }
        map.push(b'\n');
    }
    map
}

#[cfg(test)]
mod tests {
    use repository::manifest::RawBytes;

    use super::*;

    fn spaces(paths: &[&str]) -> Vec<Tablespace> {
        let space = |(index, path): (usize, &&str)| Tablespace {
            oid: 16_384 + index as u32,
            location: RawBytes(path.as_bytes().to_vec()),
        };
        paths.iter().enumerate().map(space).collect()
    }

    fn try_place(paths: &[&str], moves: &[(&str, &str)]) -> Result<Vec<TablespaceMove>, Refusal> {
        let moves: Vec<_> = moves.iter().map(|(old, new)| (PathBuf::from(old), PathBuf::from(new))).collect();
        place(&spaces(paths), &moves, Path::new("/srv/pg"))
    }

    #[test]
    fn moves_what_was_asked_for() {
        let placed = try_place(&["/ts/a", "/ts/b\n\\", "pg_tblspc/16386"], &[("/ts/a", "/new/a")]).unwrap();
        let places: Vec<_> = placed.iter().map(|space| space.to.to_str().unwrap()).collect();
        assert_eq!(places, ["/new/a", "/ts/b\n\\", "pg_tblspc/16386"]);
        assert!(placed[2].in_place);
        assert_eq!(tablespace_map(&placed), b"16384 /new/a\n16385 /ts/b\\\n\\\\\n");
    }

    #[test]
    fn refuses_places_that_overlap() {
        assert!(try_place(&["/ts/a"], &[("/ts/b", "/new/b")]).unwrap_err().message.contains("/ts/b"));
        for (paths, to) in [
            (&["/ts/a"][..], "/srv/pg/ts"),
            (&["/ts/a"], "/srv"),
            (&["/ts/a"], "/srv/pg"),
            (&["/ts/a"], "new"),
            (&["/ts/a"], "/new/../etc"),
            (&["/ts/a"], "/"),
            (&["/ts/a", "/ts/b"], "/ts/b"),
            (&["/ts/a", "/ts/b"], "/ts/b/c"),
        ] {
            assert!(try_place(paths, &[("/ts/a", to)]).is_err(), "{to}");
        }
    }
}
