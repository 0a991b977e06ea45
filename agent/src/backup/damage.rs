//! Pages that did not bear their checksum: really damaged, or caught while the server wrote them?

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

/// A page that is damaged on the server's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPage {
    /// The file.
    pub path: SafePath,
    /// Block within the file.
    pub block: u32,
}

/// What is left of the suspects. Also how many damaged pages there are beyond those that are named.
pub async fn confirm(
    judge: Judge,
    server_complained: bool,
    suspects: Vec<SuspectFile>,
    sql: &Sql,
    start: Lsn,
) -> (Vec<DamagedPage>, u64) {
    let count: u64 = suspects.iter().map(|file| file.suspects.count).sum();
    let keep_all = match judge {
        Judge::Server if server_complained => true,
        // The server has looked at each page again, and found nothing: they were being written.
        Judge::Server => return (Vec::new(), 0),
        Judge::Reread => count > MOST_REREAD,
    };
    let mut damaged = Vec::new();
    let mut unnamed = 0;
    for file in suspects {
        unnamed += file.suspects.count - file.suspects.blocks.len() as u64;
        for block in file.suspects.blocks {
            if keep_all || is_damaged(sql, &file.path, block, start).await {
                damaged.push(DamagedPage { path: file.path.clone(), block });
            }
        }
    }
    (damaged, unnamed)
}

/// Reads the page again. When in doubt it is damaged: a false alarm costs a look, a missed one costs data.
async fn is_damaged(sql: &Sql, path: &SafePath, block: u32, start: Lsn) -> bool {
    let Ok(text) = std::str::from_utf8(path.as_bytes()) else { return true };
    let Some(relation) = page::is_relation_file(text) else { return true };
    let number = relation.segment_no.saturating_mul(SEGMENT_BLOCKS).wrapping_add(block);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let offset = u64::from(block) * BLOCK_SIZE as u64;
        match sql.read_file(text, offset, BLOCK_SIZE as u64).await {
            Ok(Some(bytes)) if bytes.len() == BLOCK_SIZE => match page::check(&bytes, number, true, start) {
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
