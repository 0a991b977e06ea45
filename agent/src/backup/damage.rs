//! Pages that did not bear their checksum: really damaged, or caught while the server wrote them?

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use proto::Lsn;
use proto::page::{self, BLOCK_SIZE, PageVerdict};
use repository::manifest::SafePath;

use super::collect::SuspectFile;
use super::facts::Sql;
use super::pages::SEGMENT_BLOCKS;

/// A page that is being written just now is whole a moment later.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// Beyond so many pages it is no accident of timing.
const MOST_REREAD: u64 = 200;

/// Who says whether a suspect page is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// We read it again through SQL. The server need not verify anything while it sends: that would cost it as much
    /// as us.
    Reread,
    /// The server, which reads a bad page again before it calls it bad: the role may not read files, so only the
    /// server can tell.
    Server,
}

/// From where a suspect page is read again.
#[derive(Clone, Copy)]
pub enum Again<'a> {
    /// Through the server.
    Server(&'a Sql),
    /// From the server's data directory, which is on this machine.
    Directory(&'a Path),
}

impl Again<'_> {
    /// A page of the file at `path`; fewer bytes where the file ends, `None` where it is gone.
    async fn read(self, path: &str, offset: u64) -> anyhow::Result<Option<Vec<u8>>> {
        match self {
            Self::Server(sql) => sql.read_file(path, offset, BLOCK_SIZE as u64).await,
            Self::Directory(directory) => {
                let mut page = vec![0; BLOCK_SIZE];
                let read = match File::open(directory.join(path)) {
                    Ok(file) => file.read_at(&mut page, offset)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error.into()),
                };
                page.truncate(read);
                Ok(Some(page))
            }
        }
    }
}

/// A page that is damaged on the server's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPage {
    /// The file.
    pub path: SafePath,
    /// Block within the file.
    pub block: u32,
}

/// What is left of the suspects of a backup that is as new as `span`. Also how many damaged pages there are beyond those that
/// are named.
pub async fn confirm(
    judge: Judge,
    server_complained: bool,
    suspects: Vec<SuspectFile>,
    again: Again<'_>,
    span: Range<Lsn>,
) -> (Vec<DamagedPage>, u64) {
    let impossible = |file: &SuspectFile| file.suspects.impossible(span.end);
    let count: u64 = suspects.iter().map(|file| file.suspects.count + impossible(file).1).sum();
    let rereads = judge == Judge::Reread && count <= MOST_REREAD;
    // The server looks at suspect pages again by itself; if it has found nothing they were being written.
    let acquitted = judge == Judge::Server && !server_complained;
    let mut damaged = Vec::new();
    let mut unnamed = 0;
    for file in suspects {
        let (mut blocks, all) = impossible(&file);
        unnamed += all - blocks.len() as u64;
        // Nor does the server look at pages that claim to be so new: only their checksum counts.
        if rereads {
            blocks = still_damaged(again, &file.path, blocks, page::check_sum).await;
        }
        if !acquitted {
            unnamed += file.suspects.count - file.suspects.blocks.len() as u64;
            blocks.extend(match rereads {
                true => {
                    let check = |page: &[u8], number| page::check(page, number, true, span.start);
                    still_damaged(again, &file.path, file.suspects.blocks, check).await
                }
                false => file.suspects.blocks,
            });
        }
        blocks.sort_unstable();
        damaged.extend(blocks.into_iter().map(|block| DamagedPage { path: file.path.clone(), block }));
    }
    (damaged, unnamed)
}

/// Which of the blocks are damaged when they are read again.
async fn still_damaged(
    again: Again<'_>,
    path: &SafePath,
    blocks: Vec<u32>,
    check: impl Fn(&[u8], u32) -> PageVerdict,
) -> Vec<u32> {
    let mut damaged = Vec::new();
    for block in blocks {
        if is_damaged(again, path, block, &check).await {
            damaged.push(block);
        }
    }
    damaged
}

/// Reads the page again. When in doubt it is damaged: a false alarm costs a look, a missed one costs data.
async fn is_damaged(
    again: Again<'_>,
    path: &SafePath,
    block: u32,
    check: impl Fn(&[u8], u32) -> PageVerdict,
) -> bool {
    let Ok(text) = std::str::from_utf8(path.as_bytes()) else { return true };
    let Some(relation) = page::is_relation_file(text) else { return true };
    let number = relation.segment_no.saturating_mul(SEGMENT_BLOCKS).wrapping_add(block);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let offset = u64::from(block) * BLOCK_SIZE as u64;
        match again.read(text, offset).await {
            Ok(Some(bytes)) if bytes.len() == BLOCK_SIZE => match check(&bytes, number) {
                PageVerdict::Ok | PageVerdict::New | PageVerdict::NewerThanStart => return false,
                PageVerdict::BadChecksum { .. } | PageVerdict::BadHeader => {}
            },
            // Truncated or dropped meanwhile: replay does the same with our copy.
            Ok(_) => return false,
            Err(error) => {
                tracing::warn!("cannot read block {block} of {path} again: {error:#}");
                return true;
            }
        }
    }
    true
}
