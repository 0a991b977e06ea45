//! The backup that an incremental one is compared with.
//!
//! Its manifest says where each block of its files lies, and beside each pack lie the digests of the blocks in it. A
//! block of the server's whose digest is the same needs no place of its own: the new manifest names the parent's.
//!
//! Whatever is not known of the parent makes a block count as changed: that costs space, and never content.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use proto::page::BLOCK_SIZE;
use repository::backup::IndexedManifest;
use repository::manifest::{Entry, SafePath};
use repository::pack::{BlockDigest, Extent, PackBlocks, PackEntry};
use repository::{Branch, Error};

use super::collect::CollectError;

/// Digests of so many bytes are kept in memory, beyond those of the file that is being compared.
const CACHE: usize = 48 << 20;

/// So many packs' digests are fetched at once.
const FETCHES: usize = 8;

/// The parent's files and packs.
pub struct Parent {
    branch: Branch,
    manifest: Arc<IndexedManifest>,
    damaged: HashMap<SafePath, Vec<u32>>,
    cache: Cache,
}

/// A file of the parent.
#[derive(Debug, Default)]
struct Stored {
    size: u64,
    extents: Vec<Extent>,
    /// Blocks whose checksums were wrong.
    damaged: Vec<u32>,
}

impl Parent {
    /// From its manifest.
    pub fn new(branch: Branch, manifest: Arc<IndexedManifest>) -> Self {
        let damaged = manifest.head.damaged_pages.iter().map(|file| (file.path.clone(), file.blocks.clone()));
        let damaged = damaged.collect();
        Self { branch, manifest, damaged, cache: Cache::default() }
    }

    /// The packs that its extents refer to.
    pub fn packs(&self) -> &[PackEntry] {
        &self.manifest.packs
    }

    /// Gives those packs away, in their order.
    pub fn into_packs(self) -> Vec<PackEntry> {
        self.manifest.packs.clone()
    }

    /// A file of the parent, ready to be compared with. `None` if it has none of that path.
    ///
    /// # Errors
    /// The store cannot be reached, or the parent's manifest not be read again. Digests that are not there, or damaged, are no error: those blocks count as
    /// changed.
    pub async fn open(&mut self, path: &SafePath) -> Result<Option<ParentFile>, CollectError> {
        let Some(mut file) = self.find(path)? else { return Ok(None) };
        let wanted: BTreeSet<u32> = file.stored.extents.iter().map(|extent| extent.pack).collect();
        let missing: Vec<u32> = wanted.iter().copied().filter(|pack| !self.cache.has(*pack)).collect();
        let fetched = stream::iter(missing).map(|pack| fetch(&self.branch, &self.manifest.packs, pack));
        let fetched: Vec<_> = fetched.buffer_unordered(FETCHES).try_collect().await?;
        file.blocks = self.cache.take(&wanted, fetched);
        Ok(Some(file))
    }

    /// The same without the digests: nothing can be compared with it, but its blocks can be taken over.
    ///
    /// # Errors
    /// The parent's manifest cannot be read again.
    pub fn find(&self, path: &SafePath) -> io::Result<Option<ParentFile>> {
        let Some(Entry::File { size, extents, .. }) = self.manifest.entries.find(path)? else {
            return Ok(None);
        };
        let damaged = self.damaged.get(path).cloned().unwrap_or_default();
        Ok(Some(ParentFile {
            stored: Stored { size, extents, damaged },
            blocks: HashMap::new(),
            zeros: None,
        }))
    }
}

async fn fetch(
    branch: &Branch,
    packs: &[PackEntry],
    number: u32,
) -> repository::Result<(u32, Arc<PackBlocks>)> {
    let Some(pack) = packs.get(number as usize) else { return Ok((number, Arc::default())) };
    let blocks = match branch.read_pack_blocks(pack.name()).await {
        Ok(blocks) => blocks.unwrap_or_default(),
        Err(error @ (Error::Corrupt { .. } | Error::Foreign { .. } | Error::Locked { .. })) => {
            tracing::warn!("the blocks of pack {} are taken anew: {error}", pack.name());
            PackBlocks::default()
        }
        Err(error) => return Err(error),
    };
    Ok((number, Arc::new(blocks)))
}

/// Digests that were fetched lately, by pack.
#[derive(Default)]
struct Cache {
    packs: HashMap<u32, (Arc<PackBlocks>, u64)>,
    uses: u64,
}

impl Cache {
    fn has(&self, pack: u32) -> bool {
        self.packs.contains_key(&pack)
    }

    /// Those that are wanted, all of which must be here or in `fetched`. Then the oldest go while there are too many.
    fn take(
        &mut self,
        wanted: &BTreeSet<u32>,
        fetched: Vec<(u32, Arc<PackBlocks>)>,
    ) -> HashMap<u32, Arc<PackBlocks>> {
        self.uses += 1;
        let now = self.uses;
        self.packs.extend(fetched.into_iter().map(|(pack, blocks)| (pack, (blocks, now))));
        let taken = wanted.iter().filter_map(|pack| {
            let (blocks, used) = self.packs.get_mut(pack)?;
            *used = now;
            Some((*pack, blocks.clone()))
        });
        let taken = taken.collect();
        let mut held: usize = self.packs.values().map(|(blocks, _)| blocks.size()).sum();
        while held > CACHE {
            let oldest = self.packs.iter().min_by_key(|(_, (_, used))| *used).map(|(pack, _)| *pack);
            let Some((blocks, _)) = oldest.and_then(|oldest| self.packs.remove(&oldest)) else { break };
            held -= blocks.size();
        }
        taken
    }
}

/// A file of the parent with the digests of its blocks.
#[derive(Debug)]
pub struct ParentFile {
    stored: Stored,
    blocks: HashMap<u32, Arc<PackBlocks>>,
    /// The digest of a block of zeros, once it was needed.
    zeros: Option<BlockDigest>,
}

impl ParentFile {
    /// Blocks of it whose checksums were wrong, ascending.
    pub fn damaged(&self) -> &[u32] {
        &self.stored.damaged
    }

    /// Where its bytes of `[from, to)` lie. What no extent covers is zeros, or beyond its end.
    pub fn range(&self, from: u64, to: u64) -> impl Iterator<Item = Extent> {
        let extents = &self.stored.extents;
        let first = extents.partition_point(|extent| extent.file_offset + extent.length <= from);
        extents[first..].iter().take_while(move |extent| extent.file_offset < to).map(move |extent| {
            let (start, end) = (extent.file_offset.max(from), (extent.file_offset + extent.length).min(to));
            let pack_offset = extent.pack_offset + (start - extent.file_offset);
            Extent { file_offset: start, length: end - start, pack: extent.pack, pack_offset }
        })
    }

    /// Where the parent has the block that begins at `offset` of the file, if its block there has the same bytes. No
    /// extent if these are zeros that are stored nowhere. Extents are numbered as the parent's manifest does.
    pub fn find(&mut self, offset: u64, length: usize, digest: BlockDigest) -> Option<Vec<Extent>> {
        let extents = self.block(offset, length)?;
        let same = match extents.first() {
            Some(first) => self.blocks.get(&first.pack)?.at(first.pack_offset)? == (length, digest),
            None => length == BLOCK_SIZE && digest == self.zeros(),
        };
        same.then_some(extents)
    }

    /// Where the parent has its block at `offset`, whatever is in it; `None` if it has no block of this length there.
    pub fn block(&self, offset: u64, length: usize) -> Option<Vec<Extent>> {
        let end = offset.checked_add(length as u64)?;
        let size = self.stored.size;
        if offset >= size || (size - offset).min(BLOCK_SIZE as u64) != length as u64 {
            return None;
        }
        let pieces: Vec<Extent> = self.range(offset, end).collect();
        // Blocks are stored whole or not at all; anything else is not what this code wrote.
        let covered: u64 = pieces.iter().map(|piece| piece.length).sum();
        (covered == 0 || covered == length as u64).then_some(pieces)
    }

    fn zeros(&mut self) -> BlockDigest {
        *self.zeros.get_or_insert_with(|| BlockDigest::of(&[0; BLOCK_SIZE]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_SIZE as u64;

    fn extent(file_offset: u64, length: u64, pack: u32, pack_offset: u64) -> Extent {
        Extent { file_offset, length, pack, pack_offset }
    }

    /// Blocks 0 and 1 from pack 0, block 2 across the end of pack 0, block 3 nowhere, and ten bytes of pack 1.
    fn file() -> ParentFile {
        let extents = vec![
            extent(0, 2 * BLOCK + 100, 0, 7),
            extent(2 * BLOCK + 100, BLOCK - 100, 1, 0),
            extent(4 * BLOCK, 10, 1, 50_000),
        ];
        ParentFile {
            stored: Stored { size: 4 * BLOCK + 10, extents, damaged: Vec::new() },
            blocks: HashMap::new(),
            zeros: None,
        }
    }

    #[test]
    fn a_block_is_found_where_it_lies() {
        let file = file();
        assert_eq!(file.block(BLOCK, BLOCK_SIZE), Some(vec![extent(BLOCK, BLOCK, 0, 7 + BLOCK)]));
        let straddling =
            [extent(2 * BLOCK, 100, 0, 7 + 2 * BLOCK), extent(2 * BLOCK + 100, BLOCK - 100, 1, 0)];
        assert_eq!(file.block(2 * BLOCK, BLOCK_SIZE), Some(straddling.to_vec()));
        assert_eq!(file.block(3 * BLOCK, BLOCK_SIZE), Some(Vec::new()));
        assert_eq!(file.block(4 * BLOCK, 10), Some(vec![extent(4 * BLOCK, 10, 1, 50_000)]));
    }

    #[test]
    fn a_block_of_another_length_is_not_the_same() {
        let file = file();
        assert_eq!(file.block(4 * BLOCK, 9), None);
        assert_eq!(file.block(4 * BLOCK, BLOCK_SIZE), None);
        assert_eq!(file.block(3 * BLOCK, 10), None);
        assert_eq!(file.block(5 * BLOCK, BLOCK_SIZE), None);
    }

    #[test]
    fn what_is_not_known_counts_as_changed() {
        let mut file = file();
        let zeros = BlockDigest::of(&[0; BLOCK_SIZE]);
        assert_eq!(file.find(3 * BLOCK, BLOCK_SIZE, zeros), Some(Vec::new()));
        assert_eq!(file.find(3 * BLOCK, BLOCK_SIZE, BlockDigest::of(&[1; BLOCK_SIZE])), None);
        // Its pack's digests are not here, or have nothing of this block.
        assert_eq!(file.find(0, BLOCK_SIZE, zeros), None);
        file.blocks.insert(0, Arc::default());
        assert_eq!(file.find(0, BLOCK_SIZE, zeros), None);
    }

    #[test]
    fn the_cache_forgets_the_oldest_but_gives_what_is_wanted() {
        let mut cache = Cache::default();
        let empty = |pack: u32| (pack, Arc::new(PackBlocks::default()));
        let taken = cache.take(&BTreeSet::from([1, 2]), vec![empty(1), empty(2)]);
        assert_eq!(taken.len(), 2);
        assert!(cache.has(1) && !cache.has(3));
    }
}
