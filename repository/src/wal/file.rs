//! The small files beside the segments: history, partial and backup files.
//!
//! Two clones that were promoted at one target may write different bytes under one of these names, and
//! neither may stop a healthy server's archiver. So both are stored, and whoever reads decides whether they
//! contradict.

use bytes::Bytes;
use futures::Stream;
use proto::wal::{TimelineHistory, WalFile};
use proto::{Digest, TimelineId};

use super::Stored;
use super::names::{WalObject, wal_folder};
use crate::error::OrAbsent;
use crate::sealed::Header;
use crate::{Branch, Error, Kind, Result};

/// A timeline's history file as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryFile {
    /// The content's digest.
    pub digest: Digest,
    /// The file.
    pub content: Bytes,
}

/// A history has some 50 bytes for each fork; no cluster comes near this.
const LONGEST_HISTORY: u64 = 16 << 20;

fn kind(file: WalFile) -> Kind {
    match file {
        WalFile::Segment(_) => Kind::Segment,
        WalFile::Partial(_) => Kind::Partial,
        WalFile::History(_) => Kind::History,
        WalFile::Backup(..) => Kind::BackupHistory,
    }
}

impl Branch {
    /// Stores a history, partial or backup file; a segment goes the way of [`Branch::put_segment`]. Different
    /// contents under one name are both kept.
    pub async fn put_wal_file(&self, file: WalFile, content: Bytes) -> Result<Stored> {
        let digest = Digest::of(&content);
        if let WalFile::Segment(name) = file {
            return self.put_segment(name, digest, None, content).await;
        }
        let Some(header) = self.header_of_absent(file, digest).await? else { return Ok(Stored::Already) };
        // Durable when this returns; the name holds the digest, so nothing else can be there.
        self.put_sealed(header, content).await?;
        Ok(Stored::New)
    }

    /// The same in bounded memory, for what may be as long as a segment: a file of `length` bytes with this digest. If
    /// it is not what `digest` says, nothing is stored.
    pub async fn put_wal_file_stream(
        &self,
        file: WalFile,
        length: u64,
        digest: Digest,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<Stored> {
        if let WalFile::Segment(name) = file {
            return self.put_segment_stream(name, digest, None, content).await;
        }
        let Some(header) = self.header_of_absent(file, digest).await? else { return Ok(Stored::Already) };
        // Durable when this returns, as above.
        self.put_stream(&file.to_string(), header, length, digest, content).await?;
        Ok(Stored::New)
    }

    /// The header of a file that is not stored yet.
    async fn header_of_absent(&self, file: WalFile, digest: Digest) -> Result<Option<Header>> {
        let (timeline, segment) = match file {
            WalFile::History(timeline) => (timeline, None),
            WalFile::Segment(name) | WalFile::Partial(name) | WalFile::Backup(name, _) => {
                (name.timeline, Some(name))
            }
        };
        let name = WalObject::File(file, digest).key();
        if self.store().exists(&self.key(&name)).await? {
            // Whole, but its name may be visible before it is durable.
            self.store().settle(&self.key(&name)).await?;
            return Ok(None);
        }
        let mut header = self.header(kind(file), &name);
        header.timeline = Some(timeline);
        if let Some(segment) = segment {
            let number = segment.number(self.segment_size()).map_err(|why| Error::invalid(file, why))?;
            header.from = Some(number.start(self.segment_size()));
        }
        Ok(Some(header))
    }

    /// The contents that are stored under the name of a history, partial or backup file: usually one, at most
    /// a few.
    pub async fn read_wal_file(&self, file: WalFile) -> Result<Vec<HistoryFile>> {
        let max_length = match file {
            WalFile::History(_) | WalFile::Backup(..) => LONGEST_HISTORY,
            WalFile::Segment(_) | WalFile::Partial(_) => self.segment_size().bytes(),
        };
        let starting = format!("{file}-");
        let mut files = Vec::new();
        for object in self.store().list_starting(&self.key(&wal_folder()), &starting).await? {
            let name = object.key.below(self.root()).and_then(|name| name.parse().ok());
            let Some(WalObject::File(_, digest)) = name.as_ref().and_then(WalObject::parse) else { continue };
            let Some(name) = name else { continue };
            // Gone since it was listed: removed on purpose, so it does not count.
            let read = self.get_digested(kind(file), &name, max_length).await;
            let Some((_, content, actual)) = read.or_absent()? else { continue };
            self.check_digest(&name, digest, actual)?;
            files.push(HistoryFile { digest, content });
        }
        Ok(files)
    }

    /// A timeline's history; `None` if none is stored.
    ///
    /// # Errors
    /// [`Error::Conflict`] if two are stored that disagree on the lineage. Texts for people may differ.
    pub async fn read_history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
        let file = WalFile::History(timeline);
        let mut found: Option<TimelineHistory> = None;
        let files = self.read_wal_file(file).await?;
        for HistoryFile { digest, content } in &files {
            let name = WalObject::File(file, *digest).key();
            let history = TimelineHistory::parse(timeline, content)
                .map_err(|error| Error::corrupt(self.key(&name), error))?;
            match &found {
                Some(other) if !same_lineage(other, &history) => {
                    return Err(Error::Conflict {
                        what: file.to_string(),
                        found: files
                            .iter()
                            .map(|file_| self.key(&WalObject::File(file, file_.digest).key()).to_string())
                            .collect(),
                    });
                }
                Some(_) => {}
                None => found = Some(history),
            }
        }
        Ok(found)
    }
}

fn same_lineage(a: &TimelineHistory, b: &TimelineHistory) -> bool {
    let forks = |history: &TimelineHistory| -> Vec<_> {
        history.entries.iter().map(|entry| (entry.timeline, entry.switch)).collect()
    };
    forks(a) == forks(b)
}
