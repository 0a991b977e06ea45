//! One file on its way from the server's archive to the packs and the manifest.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use proto::Lsn;
use proto::backup_label;
use proto::incremental::IncrementalHeader;
use proto::page::{self, BLOCK_SIZE};
use repository::manifest::{Entry, SafePath};
use repository::pack::{BlockDigest, Extent, push_extent};

use super::blocks::BlockCutter;
use super::collect::{CollectError, Sink};
use super::increment::{self, Increment};
use super::pages::{PageScanner, Suspects};
use super::parent::ParentFile;
use super::tar::Member;

/// What became of a file.
pub(super) struct Done {
    /// For the manifest.
    pub(super) entry: Entry,
    pub(super) suspects: Option<Suspects>,
    /// How it was sent, if that is not how it is stored.
    pub(super) sent: Option<Sent>,
    /// Blocks that are the parent's, damaged as they were there.
    pub(super) damaged: Vec<u32>,
}

/// A file as the server's own manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its path in the archive.
    pub path: Vec<u8>,
    /// Its length there.
    pub size: u64,
    /// The CRC-32C of that.
    pub crc32c: u32,
}

/// A file that is being received.
pub(super) struct OpenFile {
    path: SafePath,
    member: Member,
    crc: Crc,
    scanner: Option<PageScanner>,
    extents: Vec<Extent>,
    content: Content,
}

/// How the bytes that come are to be understood.
enum Content {
    /// They are the file, to be compared with the parent's.
    Whole { cutter: BlockCutter, parent: Option<ParentFile>, done: u64 },
    /// They are the blocks that changed since the parent, whose other ones count below a limit.
    Changed { increment: Increment, parent: ParentFile, limit: u32, filled: u32 },
    /// They name a parent that a server must not look for.
    Label(Vec<u8>),
}

impl OpenFile {
    /// A file that comes whole; `path` is where it belongs.
    pub(super) fn whole(path: SafePath, member: Member, parent: Option<ParentFile>) -> Self {
        let content = Content::Whole { cutter: BlockCutter::default(), parent, done: 0 };
        Self::new(path, member, content)
    }

    /// The blocks of the file at `path` that are not the parent's. The parent's count below `limit` only.
    pub(super) fn changed(path: SafePath, member: Member, parent: ParentFile, limit: u32) -> Self {
        Self::new(
            path,
            member,
            Content::Changed { increment: Increment::default(), parent, limit, filled: 0 },
        )
    }

    /// The `backup_label` of an incremental backup.
    pub(super) fn label(path: SafePath, member: Member) -> Self {
        Self::new(path, member, Content::Label(Vec::new()))
    }

    fn new(path: SafePath, member: Member, content: Content) -> Self {
        let crc = Crc::new(CrcAlgorithm::Crc32Iscsi);
        Self { path, member, crc, scanner: None, extents: Vec::new(), content }
    }

    /// From now on the checksums of its pages are looked at, if it is a relation's.
    pub(super) fn check_pages(&mut self, start: Lsn) {
        let relation = std::str::from_utf8(self.path.as_bytes()).ok().and_then(page::is_relation_file);
        self.scanner = relation.map(|file| PageScanner::new(file, start));
    }

    pub(super) fn path(&self) -> &SafePath {
        &self.path
    }

    /// The next bytes.
    pub(super) async fn data<S: Sink>(
        &mut self,
        mut bytes: Bytes,
        to: &mut Packs<S>,
    ) -> Result<(), CollectError> {
        self.crc.update(&bytes);
        match &mut self.content {
            Content::Whole { cutter, parent, done } => {
                if let Some(scanner) = &mut self.scanner {
                    scanner.push(&bytes);
                }
                while let Some(blocks) = cutter.take(&mut bytes) {
                    to.store(&mut self.extents, parent.as_mut(), done, blocks).await?;
                }
            }
            Content::Changed { increment, parent, limit, filled } => {
                while let Some((number, block)) = increment.take(&mut bytes)? {
                    if let Some(scanner) = &mut self.scanner {
                        scanner.skip_to(number);
                        scanner.push(&block);
                    }
                    inherit(&mut self.extents, parent, *filled, number.min(*limit));
                    *filled = number + 1;
                    let mut offset = u64::from(number) * BLOCK_SIZE as u64;
                    to.store(&mut self.extents, None, &mut offset, block).await?;
                }
            }
            Content::Label(content) => content.extend_from_slice(&bytes),
        }
        Ok(())
    }

    /// Its last byte has come.
    pub(super) async fn finish<S: Sink>(mut self, to: &mut Packs<S>) -> Result<Done, CollectError> {
        // The CRC has 32 bits; the crate's type has room for wider ones.
        let sent_crc = self.crc.finalize() as u32;
        let sent = |path| Some(Sent { path, size: self.member.size, crc32c: sent_crc });
        let (size, crc32c, sent, damaged) = match self.content {
            Content::Whole { mut cutter, mut parent, mut done } => {
                if let Some(rest) = cutter.rest() {
                    to.store(&mut self.extents, parent.as_mut(), &mut done, rest).await?;
                }
                (self.member.size, Some(sent_crc), None, Vec::new())
            }
            Content::Changed { increment, parent, limit, filled } => {
                let header = increment.finish()?;
                let length = increment::length(&header);
                inherit(&mut self.extents, &parent, filled, length.min(limit));
                let damaged = still_damaged(&parent, &header, length.min(limit));
                // Nobody has seen all of this file's bytes together.
                (
                    u64::from(length) * BLOCK_SIZE as u64,
                    None,
                    sent(increment::sent_as(self.path.as_bytes())),
                    damaged,
                )
            }
            Content::Label(content) => {
                let content = Bytes::from(backup_label::without_parent(&content));
                let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &content) as u32;
                let size = content.len() as u64;
                let mut done = 0;
                to.store(&mut self.extents, None, &mut done, content).await?;
                (size, Some(crc), sent(self.path.as_bytes().to_vec()), Vec::new())
            }
        };
        let Member { mode, mtime, .. } = self.member;
        let entry = Entry::File { path: self.path, size, mode, mtime, crc32c, extents: self.extents };
        Ok(Done { entry, suspects: self.scanner.and_then(PageScanner::finish), sent, damaged })
    }
}

/// Takes the parent's blocks from `from` up to `to`. What it has not is zeros.
fn inherit(extents: &mut Vec<Extent>, parent: &ParentFile, from: u32, to: u32) {
    let offset = |block: u32| u64::from(block) * BLOCK_SIZE as u64;
    if from < to {
        parent.range(offset(from), offset(to)).for_each(|extent| push_extent(extents, extent));
    }
}

/// The parent's damaged blocks that are still in use.
fn still_damaged(parent: &ParentFile, header: &IncrementalHeader, limit: u32) -> Vec<u32> {
    let kept = |block: &u32| *block < limit && header.blocks.binary_search(block).is_err();
    parent.damaged().iter().copied().filter(kept).collect()
}

/// Where blocks go that no parent has.
pub(super) struct Packs<S> {
    pub(super) sink: S,
    /// Extents number the parent's packs first, then the sink's.
    pub(super) first: u32,
}

impl<S: Sink> Packs<S> {
    /// Finds a place for the blocks of a file from `offset` on: the parent's, where that has the same bytes there, else
    /// in the sink.
    async fn store(
        &mut self,
        extents: &mut Vec<Extent>,
        mut parent: Option<&mut ParentFile>,
        offset: &mut u64,
        mut blocks: Bytes,
    ) -> repository::Result<()> {
        while !blocks.is_empty() {
            let block = blocks.split_to(blocks.len().min(BLOCK_SIZE));
            let (length, digest) = (block.len(), BlockDigest::of(&block));
            match parent.as_mut().and_then(|parent| parent.find(*offset, length, digest)) {
                Some(known) => known.into_iter().for_each(|extent| push_extent(extents, extent)),
                None => {
                    self.sink.begin_block(length, digest);
                    for extent in self.sink.append(block).await? {
                        let extent = Extent { pack: extent.pack + self.first, ..extent };
                        push_extent(extents, extent.shifted(*offset));
                    }
                }
            }
            *offset += length as u64;
        }
        Ok(())
    }
}
