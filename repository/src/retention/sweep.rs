//! Carries a plan out.

use std::collections::BTreeSet;
use std::io::{self, Write};

use proto::Digest;
use proto::wal::SegmentName;

use super::condemned::folder;
use super::plan::{Plan, Removal, Why};
use super::survey::Survey;
use crate::backup::{BackupLabel, Member, parse_member};
use crate::dump::DumpLabel;
use crate::pack::PackName;
use crate::{Branch, Error, FragmentName, JournalName, Key, ObjectInfo, Result};

/// Why a run stops.
pub(super) const ANOTHER: &str = "something has changed since this run looked: another run, a backup, or a mark; nothing more goes before the next run";

/// What became of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Objects that are gone.
    pub deleted: Vec<Key>,
    /// Bytes in them.
    pub freed_bytes: u64,
    /// Objects that the store does not let go (yet), and why.
    pub refused: Vec<(Key, String)>,
    /// What stays although it was due, in plain sentences.
    pub held_back: Vec<String>,
}

impl Branch {
    /// Makes known what is condemned, then deletes what is due. Each step leaves a repository in which everything that is
    /// listed can be restored, so it may be cut off anywhere.
    ///
    /// # Errors
    /// The store failed. That it refuses a deletion is no error: the credentials may not delete, or the object is locked.
    pub async fn sweep(&self, survey: &Survey, plan: &Plan) -> Result<Swept> {
        let condemned = plan.condemned();
        let mut sweep = Sweep { branch: self, swept: Swept::default() };
        if self.condemned().await? != survey.condemned {
            sweep.swept.held_back.push(ANOTHER.to_owned());
            return Ok(sweep.swept);
        }
        let before = self.store().list_folder(&self.key(&folder())).await?.objects;
        if condemned != survey.condemned {
            // First of all: who begins to read or to compare from now on does not use what goes.
            self.put_condemned(&condemned).await?;
        }
        let due = |of: fn(&Why) -> bool| plan.removals.iter().filter(move |r| r.is_due && of(&r.why));
        // A backup's manifests go before anything that they name, older generations first: as long as the newest is there,
        // the backup is whole, and nothing else of it is touched.
        let mut staying: BTreeSet<&BackupLabel> = plan
            .removals
            .iter()
            .filter(|removal| !removal.is_due)
            .filter_map(|removal| manifest_of(&removal.why))
            .collect();
        for removal in due(|why| matches!(why, Why::Manifest(_))) {
            let Some(label) = manifest_of(&removal.why) else { continue };
            if staying.contains(label) || !sweep.delete(removal).await? {
                staying.insert(label);
            }
        }
        let mut older_stay = false;
        for removal in due(|why| {
            matches!(why, Why::BesideManifest(_) | Why::OldGeneration(_) | Why::OldSign(_) | Why::CutOff(_))
        }) {
            if !matches!(&removal.why, Why::BesideManifest(label) if staying.contains(label)) {
                let is_gone = sweep.delete(removal).await?;
                older_stay |= !is_gone && matches!(removal.why, Why::OldGeneration(_));
            }
        }
        sweep.dumps(plan).await?;
        // A look at what has happened meanwhile. From here on no manifest goes, so nothing can come to need what goes now but
        // what is new since the survey.
        if self.condemned().await? != condemned || self.has_news(survey).await? {
            sweep.swept.held_back.push(ANOTHER.to_owned());
            return Ok(sweep.swept);
        }
        let named: BTreeSet<&PackName> = staying
            .iter()
            .filter_map(|label| survey.packs.get(*label))
            .flat_map(|packs| packs.keys())
            .collect();
        if older_stay {
            sweep.swept.held_back.push("no pack goes before the older manifests that may name it".to_owned());
        }
        for removal in due(|why| matches!(why, Why::Pack(_))) {
            if !older_stay && !matches!(&removal.why, Why::Pack(pack) if named.contains(pack)) {
                sweep.delete(removal).await?;
            }
        }
        let refused = plan.removals.iter().any(|removal| {
            removal.is_due && manifest_of(&removal.why).is_some_and(|label| staying.contains(label))
        });
        if refused {
            sweep.swept.held_back.push("no WAL goes before the manifests that need it".to_owned());
        } else {
            for removal in due(|why| matches!(why, Why::Wal(..))) {
                sweep.delete(removal).await?;
            }
        }
        sweep.tails(plan).await?;
        for file in &plan.interrupted {
            // Whoever should still be at it after such a silence finds it gone when he wants to publish it, and fails.
            match self.store().remove_leftover(file).await {
                Ok(()) => sweep.swept.freed_bytes += file.size,
                Err(error @ Error::Refused { .. }) => sweep.swept.held_back.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        for removal in due(|why| matches!(why, Why::OldEpoch(_) | Why::OldRun | Why::OldLook)) {
            sweep.delete(removal).await?;
        }
        if condemned != survey.condemned {
            self.forget_records(&before).await?;
        }
        Ok(sweep.swept)
    }

    /// Whether a backup has begun, was finished, or was marked since the survey.
    pub(super) async fn has_news(&self, survey: &Survey) -> Result<bool> {
        let known: BTreeSet<&Key> = survey.objects.iter().map(|object| &object.key).collect();
        let listed = self.store().list(&self.key(&crate::backup::folder())).await?;
        let mut names = listed.iter().filter_map(|object| Key::new(object.key.below(self.root())?).ok());
        Ok(names.any(|name| {
            let news = [Member::Intent, Member::Keep];
            let member = parse_member(&name).map(|(_, member)| member);
            let counts = member.is_some_and(|m| news.contains(&m) || matches!(m, Member::Manifest { .. }));
            counts && !known.contains(&name)
        }))
    }

    /// Records that the present one has replaced. Whoever may not delete leaves them.
    async fn forget_records(&self, before: &[ObjectInfo]) -> Result<()> {
        for object in before {
            match self.store().delete(&object.key).await {
                Ok(()) => {}
                Err(Error::Refused { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn manifest_of(why: &Why) -> Option<&BackupLabel> {
    match why {
        Why::Manifest(label) => Some(label),
        _ => None,
    }
}

fn dump_of(why: &Why) -> Option<&DumpLabel> {
    match why {
        Why::Dump(label) => Some(label),
        _ => None,
    }
}

struct Sweep<'a> {
    branch: &'a Branch,
    swept: Swept,
}

impl Sweep<'_> {
    /// Whether the object is gone.
    async fn delete(&mut self, removal: &Removal) -> Result<bool> {
        match self.branch.store().delete(&self.branch.key(&removal.key)).await {
            Ok(()) => {
                self.swept.deleted.push(removal.key.clone());
                self.swept.freed_bytes += removal.size;
                Ok(true)
            }
            Err(error @ Error::Refused { .. }) => {
                self.swept.refused.push((removal.key.clone(), error.to_string()));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Of a dump that goes first what makes it exist, then its files. Nothing else needs them.
    async fn dumps(&mut self, plan: &Plan) -> Result<()> {
        let due = |of: fn(&Why) -> bool| plan.removals.iter().filter(move |r| r.is_due && of(&r.why));
        let whole = plan.removals.iter().filter(|removal| matches!(removal.why, Why::Dump(_)));
        let mut staying: BTreeSet<&DumpLabel> = whole.filter_map(|removal| dump_of(&removal.why)).collect();
        for removal in due(|why| matches!(why, Why::Dump(_))) {
            if let (Some(label), true) = (dump_of(&removal.why), self.delete(removal).await?) {
                staying.remove(label);
            }
        }
        for removal in due(|why| matches!(why, Why::BesideDump(_) | Why::OldDumpSign(_) | Why::CutOffDump(_)))
        {
            if !matches!(&removal.why, Why::BesideDump(label) if staying.contains(label)) {
                self.delete(removal).await?;
            }
        }
        Ok(())
    }

    /// Fragments and journals go when their segment has been read back whole, and has the very bytes that they hold.
    async fn tails(&mut self, plan: &Plan) -> Result<()> {
        let due: Vec<(&Removal, Part)> = plan
            .removals
            .iter()
            .filter(|removal| removal.is_due)
            .filter_map(|removal| match removal.why {
                Why::WholeSegment(fragment) => Some((removal, Part::Fragment(fragment))),
                Why::WholeJournal(journal) => Some((removal, Part::Journal(journal))),
                _ => None,
            })
            .collect();
        for group in due.chunk_by(|a, b| a.1.segment() == b.1.segment()) {
            let segment = group[0].1.segment();
            match self.tails_of(segment, group).await {
                Err(
                    error @ (Error::Corrupt { .. }
                    | Error::Conflict { .. }
                    | Error::Locked { .. }
                    | Error::Absent { .. }),
                ) => {
                    self.swept.held_back.push(format!("the fragments of segment {segment} stay: {error}"));
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    async fn tails_of(&mut self, segment: SegmentName, group: &[(&Removal, Part)]) -> Result<()> {
        let mut held = Vec::new();
        for (_, part) in group {
            held.push(part.held(self.branch).await?);
        }
        let equal = self.branch.compare(segment, held.iter().flatten().copied().collect()).await?;
        for ((removal, part), held) in group.iter().zip(held) {
            if held.is_some_and(|held| !equal.contains(&held)) {
                self.swept.held_back.push(format!(
                    "{} stays: it holds other bytes than segment {segment}, so two servers have written them",
                    removal.key
                ));
            } else if part.held(self.branch).await? != held {
                // A journal whose writer is still at work. It notices when its journal is gone, and begins another.
                self.swept.held_back.push(format!("{} stays: it is being written", removal.key));
            } else {
                self.delete(removal).await?;
            }
        }
        Ok(())
    }
}

/// A part of a segment that is stored whole.
#[derive(Clone, Copy)]
enum Part {
    Fragment(FragmentName),
    Journal(JournalName),
}

impl Part {
    fn segment(self) -> SegmentName {
        match self {
            Self::Fragment(fragment) => fragment.segment,
            Self::Journal(journal) => journal.segment,
        }
    }

    /// Which bytes it holds; `None`: none.
    async fn held(self, branch: &Branch) -> Result<Option<FragmentName>> {
        match self {
            Self::Fragment(fragment) => Ok(Some(fragment)),
            Self::Journal(journal) => branch.readable_of(journal).await,
        }
    }
}

impl Branch {
    /// Reads a whole segment, verified, and tells which of its fragments hold the same bytes.
    async fn compare(
        &self,
        segment: SegmentName,
        fragments: Vec<FragmentName>,
    ) -> Result<BTreeSet<FragmentName>> {
        let hashers = fragments.into_iter().map(|fragment| (fragment, blake3::Hasher::new())).collect();
        let comparison = std::sync::Arc::new(std::sync::Mutex::new(Comparison { position: 0, hashers }));
        self.read_segment_to(segment, Shared(comparison.clone())).await?;
        let comparison = comparison.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let equal = comparison.hashers.iter().filter(|(fragment, hasher)| {
            comparison.position >= u64::from(fragment.to)
                && Digest::from(hasher.finalize()) == fragment.digest
        });
        Ok(equal.map(|(fragment, _)| *fragment).collect())
    }
}

/// Digests the parts of a segment that fragments hold, while it passes.
struct Comparison {
    position: u64,
    hashers: Vec<(FragmentName, blake3::Hasher)>,
}

struct Shared(std::sync::Arc<std::sync::Mutex<Comparison>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut comparison = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let position = comparison.position;
        let end = position + bytes.len() as u64;
        for (fragment, hasher) in &mut comparison.hashers {
            let from = u64::from(fragment.from).clamp(position, end) - position;
            let to = u64::from(fragment.to).clamp(position, end) - position;
            // Both within `bytes`, whose length is a usize.
            hasher.update(&bytes[from as usize..to as usize]);
        }
        comparison.position = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
