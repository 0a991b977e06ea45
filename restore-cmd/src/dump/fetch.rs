//! Parts of a dump as files: verified, durable, and there only when they are whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::HumanBytes;
use proto::config::DumpFormat;
use repository::Branch;
use repository::dump::{DumpFile, DumpLabel, DumpReader, Part, PartKind};
use tokio::task::spawn_blocking;

use crate::program::output::{partial, publish, remove};
use crate::program::{Progress, failure, free_bytes};

/// So much is read at a time.
pub(super) const PIECE: usize = 256 << 10;

/// Brings parts of a dump to `to`, which must not be there yet: one part as what its tool wrote, a file or a directory; several
/// as a directory with each of them under its name. Returns their bytes. All of it is verified and durable then.
///
/// # Errors
/// The store failed, an object is damaged, which the message names, or there is no room. Nothing is left then.
pub async fn fetch_parts(
    (branch, label): (&Branch, &DumpLabel),
    parts: &[Part],
    to: &Path,
    (jobs, progress): (usize, &Progress),
) -> Result<u64> {
    let needed = parts.iter().map(Part::size_bytes).sum();
    check_room(to, needed)?;
    let partial = partial(to);
    let fetched = fetch((branch, label), parts, &partial, (jobs, progress)).await;
    let moved = match fetched {
        Ok(()) => publish(&partial, to),
        Err(error) => Err(error),
    };
    if moved.is_err() {
        remove(&partial);
    }
    moved?;
    Ok(needed)
}

fn check_room(to: &Path, needed: u64) -> Result<()> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let free = free_bytes(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    if needed <= free {
        return Ok(());
    }
    let (needed, free) = (HumanBytes(needed), HumanBytes(free));
    Err(failure(
        format!(
            "there is not enough room in {}: the dump takes {needed}, and {free} are free",
            folder.display()
        ),
        "make room, or name a place elsewhere with --output or --scratch",
    ))
}

async fn fetch(
    (branch, label): (&Branch, &DumpLabel),
    parts: &[Part],
    to: &Path,
    (jobs, progress): (usize, &Progress),
) -> Result<()> {
    let mut files: Vec<(&DumpFile, PathBuf, String)> = Vec::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    if parts.len() != 1 {
        folders.push(to.to_owned());
    }
    for part in parts {
        let at = if parts.len() == 1 { to.to_owned() } else { to.join(file_name(part)) };
        if part.format == DumpFormat::Directory {
            folders.push(at.clone());
        }
        for file in &part.files {
            let path = file.name.as_ref().map_or_else(|| at.clone(), |name| at.join(name.as_str()));
            files.push((file, path, part.title()));
        }
    }
    for folder in &folders {
        let made = DirBuilder::new().mode(0o700).create(folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
    }
    stream::iter(files)
        .map(|(file, path, title)| async move {
            let reader = branch.read_dump_file(label, file).await;
            let reader = reader.with_context(|| format!("cannot read dump {label}, {title}"))?;
            let progress = progress.clone();
            let written = spawn_blocking(move || write(reader, &path, &progress)).await?;
            written.with_context(|| format!("cannot bring back dump {label}, {title}"))
        })
        .buffer_unordered(jobs.max(1))
        .try_collect::<()>()
        .await?;
    for folder in folders.iter().rev() {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.with_context(|| format!("cannot sync the directory {}", folder.display()))?;
    }
    Ok(())
}

fn write(mut reader: DumpReader, path: &Path, progress: &Progress) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    // A dump holds whatever the database does: nobody else may read it.
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.with_context(cannot)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match reader.read(&mut buffer) {
            // Only now has the digest been found to be right.
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Err(reader.failure(error).into()),
        };
        file.write_all(&buffer[..count]).with_context(cannot)?;
        progress.add(count as u64);
    }
    file.sync_all().with_context(cannot)
}

/// Under which name a part lies where there are several.
fn file_name(part: &Part) -> String {
    let ending = match part.format {
        DumpFormat::Custom => ".dump",
        DumpFormat::Plain => ".sql",
        DumpFormat::Tar => ".tar",
        DumpFormat::Directory => "",
    };
    let name = match (part.kind, &part.database) {
        // Prefixed, so that no database has such a name.
        (PartKind::Globals, _) => "%globals".to_owned(),
        (PartKind::Everything, _) => "%everything".to_owned(),
        (PartKind::Database, name) => {
            let name = name.as_deref().unwrap_or_default();
            let name = repository::manifest::escape(name.as_bytes()).replace('/', "%2F");
            name.strip_prefix('.').map_or_else(|| name.clone(), |rest| format!("%2E{rest}"))
        }
    };
    name + ending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_database_s_name_leads_elsewhere_or_hides() {
        let of = |name: &str, format| {
            let (kind, database) = (PartKind::Database, Some(name.to_owned()));
            file_name(&Part { kind, database, format, files: Vec::new() })
        };
        assert_eq!(of("shop", DumpFormat::Custom), "shop.dump");
        assert_eq!(of("../shop", DumpFormat::Plain), "%2E.%2Fshop.sql");
        assert_eq!(of("..", DumpFormat::Directory), "%2E.");
        assert_eq!(of("%globals", DumpFormat::Plain), "%25globals.sql");
        assert_eq!(of("ä b", DumpFormat::Tar), "%C3%A4%20b.tar");
    }
}
