//! Journals: the tail of a segment as records in one object that grows, where the store has such objects.
//!
//! A journal is written by one epoch alone, which made it under a name of its own, one record after the other, the next
//! when the last one is durable. To a reader its good records are one fragment, that gets longer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use proto::wal::SegmentName;
use proto::{Digest, ServerTime};
use zstd::bulk::Compressor;

use super::names::{JournalName, Place};
use super::record::{self, Damage, Extent, Identity};
use super::tail::LOOKS;
use super::{Epoch, FragmentName};
use crate::branch::off_thread;
use crate::error::OrAbsent;
use crate::sealed::{HEADER_LENGTH, UNSIGNED, front, parse_header};
use crate::store::{Activity, Growing};
use crate::{Branch, Error, Kind, Result, chance};

/// Journals that are read side by side.
const IN_FLIGHT: usize = 2;

/// What is no longer than this is compressed in place.
const SHORT: usize = 128 << 10;

/// A journal in the hands of its writer.
pub struct Journal {
    name: JournalName,
    object: Box<dyn Growing>,
    identity: Identity,
    /// Away while it compresses something in another thread.
    compressor: Option<Compressor<'static>>,
    level: i32,
    end: u32,
    activity: Arc<Activity>,
}

impl Journal {
    /// Its name.
    pub fn name(&self) -> JournalName {
        self.name
    }

    /// Offset in the segment after the last byte that is durable in it.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Whether more can be added. If not, the epoch goes on in another one.
    pub fn is_sound(&self) -> bool {
        self.object.is_sound()
    }

    /// Adds the segment's next bytes. When this returns they are durable.
    ///
    /// # Errors
    /// Nothing is known of `content`; what was durable is. If the journal is not sound any more, the bytes go into another.
    pub async fn append(&mut self, server_time: ServerTime, content: &Bytes) -> Result<()> {
        let record = self.encode(server_time, content).await?;
        let length = record.len() as u64;
        self.object.append(record).await.inspect_err(|_| self.activity.failed())?;
        self.activity.grown(length);
        self.end += content.len() as u32;
        Ok(())
    }

    async fn encode(&mut self, time: ServerTime, content: &Bytes) -> Result<Vec<u8>> {
        let failed = |error| Error::invalid(self.name.key(), error);
        let mut compressor = match self.compressor.take() {
            Some(compressor) => compressor,
            None => record::compressor(self.level).map_err(failed)?,
        };
        let (identity, from) = (&self.identity, self.end);
        if content.len() <= SHORT {
            let record = record::encode(identity, &mut compressor, from, time, content);
            self.compressor = Some(compressor);
            return record.map_err(failed);
        }
        let (identity, content, name) = (identity.clone(), content.clone(), self.name.key());
        let (record, compressor) = off_thread(&name, move || {
            let record = record::encode(&identity, &mut compressor, from, time, &content);
            Ok((record, compressor))
        })
        .await?;
        self.compressor = Some(compressor);
        record.map_err(failed)
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("name", &self.name).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Branch {
    /// Whether tails are journals here. Else they are fragments: where objects cannot grow, and where they are encrypted or
    /// signed.
    pub fn has_journals(&self) -> bool {
        self.store().can_grow() && self.writes_in_clear()
    }

    /// Makes a journal whose first record has the segment's bytes from `from` on. When this returns they are durable.
    pub async fn begin_journal(
        &self,
        epoch: &Epoch,
        segment: SegmentName,
        from: u32,
        server_time: ServerTime,
        content: &Bytes,
    ) -> Result<Journal> {
        let size = self.segment_size();
        let what = || format!("a journal of segment {segment} from {from} on");
        let number = segment.number(size).map_err(|why| Error::invalid(what(), why))?;
        let room = size.bytes().saturating_sub(from.into()).min(record::LONGEST.into());
        if content.is_empty() || content.len() as u64 > room {
            return Err(Error::invalid(what(), format_args!("{} bytes do not fit", content.len())));
        }
        let name = JournalName { segment, epoch: *epoch, from, nonce: chance::random() };
        let mut header = self.header(Kind::Journal, &name.key());
        header.timeline = Some(segment.timeline);
        header.from = Some(number.start(size) + u64::from(from));
        let key = self.key(&name.key());
        self.sealing()?;
        let level = self.level();
        let (identity, content, epoch_end) =
            (Identity::of(&key), content.clone(), from + content.len() as u32);
        let (record, compressor) = off_thread(&key, {
            let identity = identity.clone();
            move || {
                let failed = |error| Error::invalid(&header.name, error);
                let mut compressor = record::compressor(level).map_err(failed)?;
                let record = record::encode(&identity, &mut compressor, from, server_time, &content);
                let mut object = front(&header)?.to_vec();
                object.extend(record.map_err(failed)?);
                Ok((object, compressor))
            }
        })
        .await?;
        let object = self.store().create_growing(&key, record).await?;
        let activity = self.store().activity();
        Ok(Journal { name, object, identity, compressor: Some(compressor), level, end: epoch_end, activity })
    }

    /// What of a segment is in these journals: a fragment for each that has anything.
    ///
    /// One that is damaged counts as far as its last good record, as an object that is damaged does by its name: reading it
    /// says so.
    pub(super) async fn measure(&self, journals: &[JournalName]) -> Result<Vec<FragmentName>> {
        let measured = stream::iter(journals.to_vec())
            // Gone since it was listed: its segment has become whole.
            .map(async |journal| self.journal_fragment(journal).await.or_absent())
            .buffered(IN_FLIGHT);
        let measured: Vec<_> = measured.try_collect().await?;
        Ok(measured.into_iter().flatten().flatten().collect())
    }

    /// What of a segment is in a journal; `None` if nothing is.
    pub(crate) async fn journal_fragment(&self, journal: JournalName) -> Result<Option<FragmentName>> {
        let (extent, digest) = self.survey_journal(journal).await?;
        let to = extent.damage.map_or(extent.end, |damage| damage.reaches);
        Ok(as_fragment(journal, to, digest))
    }

    /// What of a segment can be read of a journal, damaged or not; `None` if nothing can.
    pub(crate) async fn readable_of(&self, journal: JournalName) -> Result<Option<FragmentName>> {
        let (extent, digest) = self.survey_journal(journal).await?;
        Ok(as_fragment(journal, extent.end, digest))
    }

    async fn survey_journal(&self, journal: JournalName) -> Result<(Extent, Digest)> {
        self.examine(journal, move |object, identity| {
            let mut hasher = blake3::Hasher::new();
            let extent = records(object, journal, identity, |wal, _| {
                hasher.update(wal);
            });
            (extent, Digest::from(hasher.finalize()))
        })
        .await
    }

    /// The bytes that the first records of a journal have held when somebody measured it, and when the server sent the last
    /// of them.
    pub(super) async fn read_journal(
        &self,
        journal: JournalName,
        fragment: &FragmentName,
    ) -> Result<(Bytes, Option<ServerTime>)> {
        let to = fragment.to;
        let (extent, (content, time)) = self
            .examine(journal, move |object, identity| {
                let (mut content, mut at, mut last) = (BytesMut::new(), journal.from, None);
                let extent = records(object, journal, identity, |wal, time| {
                    // It may have grown since.
                    if at < to {
                        content.extend_from_slice(wal);
                        at += wal.len() as u32;
                        last = Some(time);
                    }
                });
                (extent, (content.freeze(), last))
            })
            .await?;
        let name = journal.key();
        if let Some(Damage { at, reaches }) = extent.damage {
            let why = format!(
                "its record at byte {at} is not what was written, and good ones up to {reaches} follow"
            );
            return Err(Error::corrupt(self.key(&name), why));
        }
        if content.len() != (to - journal.from) as usize {
            let why = format!("it holds {} bytes instead of {}", content.len(), to - journal.from);
            return Err(Error::corrupt(self.key(&name), why));
        }
        self.check_digest(&name, fragment.digest, Digest::of(&content))?;
        Ok((content, time))
    }

    /// Reads a journal and lets `look` go through it, until it is seen in one piece: whoever reads while it is written may
    /// see a record half-written, and behind it what came later.
    async fn examine<T: Send + 'static>(
        &self,
        journal: JournalName,
        look: impl Fn(&[u8], &Identity) -> (Extent, T) + Send + Sync + Clone + 'static,
    ) -> Result<(Extent, T)> {
        let expected = self.expected(Kind::Journal, &journal.key(), 0);
        // Whoever signs writes none.
        let demands_signatures = !self.unsealing().trusted().is_empty();
        let mut seen = None;
        for _ in 0..LOOKS {
            let object = self.store().get(&expected.key).await?;
            let (look, expected, key) = (look.clone(), expected.clone(), expected.key.clone());
            let (extent, found) = off_thread(&key, move || {
                let (extent, found) = look(&object, &Identity::of(&expected.key));
                if extent.end > journal.from {
                    // A crash may have left a file without its front. With records behind it that cannot be.
                    parse_header(&object, &expected)?;
                    if demands_signatures {
                        return Err(Error::corrupt(&expected.key, UNSIGNED));
                    }
                }
                Ok((extent, found))
            })
            .await?;
            // Damage is where it was.
            let at = extent.damage.map(|damage| damage.at);
            if at.is_none() || at == seen {
                return Ok((extent, found));
            }
            seen = at;
        }
        Err(Error::Unreachable {
            what: format!("journal {}", expected.key),
            why: "it changed each time it was read".into(),
        })
    }
}

fn as_fragment(journal: JournalName, to: u32, digest: Digest) -> Option<FragmentName> {
    let JournalName { segment, epoch, from, nonce } = journal;
    (to > from).then_some(FragmentName { segment, epoch, from, to, digest, place: Place::Journal(nonce) })
}

fn records(
    object: &[u8],
    journal: JournalName,
    identity: &Identity,
    each: impl FnMut(&[u8], ServerTime),
) -> Extent {
    record::read(object, HEADER_LENGTH, journal.from, identity, each)
}
