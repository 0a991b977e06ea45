//! Statements in the store: who makes them, who reads them, and when the old ones go.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use proto::wal::WalFile;
use proto::{Digest, TimelineId};

use super::{Discrepancy, News, Present, Statement, Stretch, stretches};
use crate::backup::{BackupLabel, Generation};
use crate::catalogue::Inventory;
use crate::retention::{Plan, Why};
use crate::{Branch, Error, Key, Kind, ObjectInfo, Result};

/// A statement speaks of backups and stretches, some hundred bytes each.
const LONGEST: u64 = 64 << 20;

/// So many of the newest are read, and stay however old they are: what is older was named by one of them.
const READ: usize = 32;

/// What is known of the newest statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stated {
    /// Its number.
    pub number: u64,
    /// Its digest, which vouches for all before it.
    pub digest: Digest,
    /// When it was made, by its writer's clock.
    pub made_at: Timestamp,
    /// By when the next one was promised.
    pub next_by: Option<Timestamp>,
}

impl Stated {
    fn of((digest, statement): &(Digest, Statement)) -> Self {
        let Statement { number, made_at, next_by, .. } = *statement;
        Self { number, digest: *digest, made_at, next_by }
    }
}

/// What a look at the statements has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Examined {
    /// No key is trusted here, so nobody knows.
    Unknown {
        /// Whether the objects are signed, as far as the branch says so itself.
        is_signed: bool,
    },
    /// They were held against what there is.
    Known {
        /// The newest one.
        newest: Option<Stated>,
        /// What is not as it was stated.
        discrepancies: Vec<Discrepancy>,
    },
}

/// Statements that no other one has named.
type Heads = Vec<(Digest, Statement)>;

/// All that can be read of the statements.
struct Found {
    /// Those that no other one has named.
    heads: Heads,
    unusable: Vec<Error>,
    is_empty: bool,
}

fn folder() -> Key {
    Key::root().child("statement")
}

/// The number in an object's name.
fn number(object: &ObjectInfo) -> Option<u64> {
    object.key.name().split_once('-')?.0.parse().ok()
}

impl Branch {
    async fn statement_objects(&self) -> Result<Vec<ObjectInfo>> {
        let mut objects = self.store().list_folder(&self.key(&folder())).await?.objects;
        objects.retain(|object| number(object).is_some());
        objects.sort_by_key(|object| (number(object), object.key.clone()));
        Ok(objects)
    }

    async fn statements(&self) -> Result<Found> {
        let objects = self.statement_objects().await?;
        let is_empty = objects.is_empty();
        let newest = objects.into_iter().rev().take(READ);
        let read = stream::iter(newest)
            .map(async |object| {
                let name = Key::new(object.key.below(self.root()).unwrap_or_default())?;
                let (_, json, digest) = self.get_digested(Kind::Statement, &name, LONGEST).await?;
                let statement: Statement =
                    serde_json::from_slice(&json).map_err(|error| Error::corrupt(&object.key, error))?;
                match statement.is_known() && number(&object) == Some(statement.number) {
                    true => Ok((digest, statement)),
                    false => Err(Error::corrupt(&object.key, "it is none that this program can read")),
                }
            })
            .buffered(self.store().concurrency());
        let read: Vec<Result<(Digest, Statement)>> = read.collect().await;
        let (mut all, mut unusable) = (Vec::new(), Vec::new());
        for read in read {
            match read {
                Ok(statement) => all.push(statement),
                // Removed since it was listed.
                Err(Error::Absent { .. }) => {}
                Err(error @ (Error::Corrupt { .. } | Error::Invalid { .. })) => unusable.push(error),
                Err(error) => return Err(error),
            }
        }
        let named: BTreeSet<Digest> =
            all.iter().flat_map(|(_, statement)| statement.previous.iter().copied()).collect();
        let heads = all.into_iter().filter(|(digest, _)| !named.contains(digest)).collect();
        Ok(Found { heads, unusable, is_empty })
    }

    async fn put_statement(&self, statement: &Statement) -> Result<Stated> {
        let nonce: u64 = crate::chance::random();
        let name = folder().child(format_args!("{:08}-{nonce:016x}", statement.number));
        let json = serde_json::to_vec(statement).map_err(|error| Error::invalid(&name, error))?;
        let sealed = self.put_sealed(self.header(Kind::Statement, &name), json.into()).await?;
        Ok(Stated::of(&(sealed.digest, statement.clone())))
    }

    /// The first statement, if there is none: so later ones can tell that something was there before them.
    pub(crate) async fn begin_statements(&self) -> Result<()> {
        if self.statements().await?.is_empty {
            self.put_statement(&Statement::after(&[], News::default(), Timestamp::now(), None)).await?;
        }
        Ok(())
    }

    /// States what there is now, beside what was stated before; with `promise` that the next statement comes within that
    /// time. `None` where nothing is signed.
    ///
    /// # Errors
    /// The store failed, or this is not how the branch is written.
    pub async fn state(&self, promise: Option<Duration>) -> Result<Option<Stated>> {
        if !self.signs() {
            return Ok(None);
        }
        let found = self.statements().await?;
        let known = |label: &BackupLabel, generation: Generation| {
            found
                .heads
                .iter()
                .any(|(_, head)| head.backups.get(label).is_some_and(|known| *known >= generation))
        };
        let inventory = Inventory::of(self, Vec::new()).await?;
        let present = self.present(&inventory, &inventory).await?;
        let mut news = News { wal: stretches(&present.wal), histories: present.histories, ..News::default() };
        for backup in self.all_backups().await? {
            if known(&backup.label, backup.generation) {
                continue;
            }
            // Only what was signed is stated: its head, which also names the object.
            match self.read_manifest_head(&backup).await {
                Ok(_) => drop(news.backups.insert(backup.label, backup.generation)),
                Err(Error::Absent { .. } | Error::Locked { .. }) => {}
                Err(error @ (Error::Corrupt { .. } | Error::Invalid { .. })) => {
                    tracing::warn!("backup {} is not stated: {error}", backup.label);
                }
                Err(error) => return Err(error),
            }
        }
        let now = Timestamp::now();
        let next_by = promise.and_then(|promise| now.checked_add(promise).ok());
        self.put_statement(&Statement::after(&found.heads, news, now, next_by)).await.map(Some)
    }

    /// States what goes, before anything of it goes: whatever is gone without that was taken away by somebody else.
    pub(crate) async fn state_removals(&self, plan: &Plan) -> Result<()> {
        let size = self.segment_size().bytes();
        let mut news = News::default();
        for removal in plan.removals.iter().filter(|removal| removal.is_due) {
            match &removal.why {
                Why::Manifest(label) => drop(news.removed.insert(label.clone())),
                Why::Wal(timeline, start) => {
                    news.removed_wal.push(Stretch {
                        timeline: *timeline,
                        from_lsn: *start,
                        to_lsn: *start + size,
                    });
                }
                _ => {}
            }
        }
        if !self.signs() || news == News::default() {
            return Ok(());
        }
        let heads = self.statements().await?.heads;
        self.put_statement(&Statement::after(&heads, news, Timestamp::now(), None)).await.map(drop)
    }

    /// States that whatever is missing was removed on purpose. Returns what that was.
    ///
    /// # Errors
    /// The store failed, or nothing is signed here.
    pub async fn accept_losses(&self, inventory: &Inventory) -> Result<Vec<Discrepancy>> {
        self.sealing()?;
        if !self.signs() {
            return Err(Error::invalid("a statement", "no `key_file` is set in [signing]"));
        }
        let before = self.statements().await?.heads;
        let now = Timestamp::now();
        let (lost, heads) = Box::pin(self.held_against(&before, inventory, now)).await?;
        let mut news = News::default();
        for discrepancy in &lost {
            match discrepancy {
                Discrepancy::Backup(label) => drop(news.removed.insert(label.clone())),
                Discrepancy::Wal(stretch) => news.removed_wal.push(*stretch),
                _ => {}
            }
        }
        let mut accepted = Statement::after(&heads, news, now, None);
        for discrepancy in &lost {
            match discrepancy {
                Discrepancy::Generation { label, found, .. } => {
                    accepted.backups.insert(label.clone(), *found);
                }
                Discrepancy::History(name) => drop(accepted.histories.remove(name)),
                Discrepancy::BegunAnew { oldest, .. } => accepted.began_at = *oldest,
                Discrepancy::Unstated { label, generation, .. } => {
                    accepted.backups.insert(label.clone(), *generation);
                }
                _ => {}
            }
        }
        self.put_statement(&accepted).await?;
        Ok(lost)
    }

    /// Holds what was stated against what there is, at `now`; of `inventory` only the backups' heads count, so it may have
    /// been loaded a while ago.
    ///
    /// # Errors
    /// The store failed: then nothing is known.
    pub async fn examine_statements(&self, inventory: &Inventory, now: Timestamp) -> Result<Examined> {
        if self.unsealing().trusted().is_empty() {
            return Ok(Examined::Unknown { is_signed: self.is_signed() });
        }
        let found = self.statements().await?;
        let mut discrepancies: Vec<Discrepancy> =
            found.unusable.iter().map(|error| Discrepancy::Unusable(error.to_string())).collect();
        if found.heads.is_empty() {
            discrepancies.push(Discrepancy::NoStatement);
            return Ok(Examined::Known { newest: None, discrepancies });
        }
        let newest = found.heads.iter().max_by_key(|(_, head)| head.made_at);
        discrepancies.extend(Box::pin(self.held_against(&found.heads, inventory, now)).await?.0);
        Ok(Examined::Known { newest: newest.map(Stated::of), discrepancies })
    }

    /// Holds `before`, the heads that were read just now, against what there is; returns the present heads besides.
    ///
    /// Others write and remove meanwhile. So what there is is looked at after the statements were read, or what was stated
    /// between the two would seem to be gone; and what is missing then is no loss if somebody has stated its removal since.
    /// Of `inventory`, which is older, only the backups' heads are used.
    async fn held_against(
        &self,
        before: &[(Digest, Statement)],
        inventory: &Inventory,
        now: Timestamp,
    ) -> Result<(Vec<Discrepancy>, Heads)> {
        let wal = Inventory::of(self, Vec::new()).await?;
        let present = self.present(&wal, inventory).await?;
        let after = self.statements().await?.heads;
        let later = Statement::after(&after, News::default(), now, None);
        let removals = News { removed: later.removed, removed_wal: later.removed_wal, ..News::default() };
        let joined = Statement::after(before, removals, now, None);
        // Joined just now only for comparison: what counts is when the newest one was made.
        let made_at = before.iter().map(|(_, head)| head.made_at).max().unwrap_or(now);
        let mut found = Statement { made_at, ..joined }.compare(&present, now);
        found.retain(|found| match found {
            Discrepancy::Unstated { label, .. } => !later.backups.contains_key(label),
            _ => true,
        });
        Ok((found, after))
    }

    /// Whether a statement that this process has made itself, or a later one, is still the newest.
    ///
    /// # Errors
    /// The store failed.
    pub async fn still_states(&self, own: &Stated) -> Result<bool> {
        let newest = self.statement_objects().await?.iter().filter_map(number).max();
        Ok(newest >= Some(own.number))
    }

    /// What there is: WAL and histories of `inventory`, and backups, of which those in `readable` can be read.
    async fn present(&self, inventory: &Inventory, readable: &Inventory) -> Result<Present> {
        let backups = self.all_backups().await?;
        let name = |timeline: &TimelineId, digest| format!("{}-{digest}", WalFile::History(*timeline));
        let histories = inventory.wal.histories.iter();
        Ok(Present {
            backups: backups.into_iter().map(|backup| (backup.label, backup.generation)).collect(),
            wal: inventory.coverage.clone(),
            histories: histories
                .flat_map(|(timeline, files)| files.iter().map(move |file| name(timeline, file.digest)))
                .collect(),
            finished: readable.backups.iter().map(|head| (head.label.clone(), head.finished_at)).collect(),
        })
    }

    /// Old statements, which newer ones have named. Whoever may not delete leaves them.
    pub(crate) async fn forget_statements(&self, plan: &Plan) -> Result<()> {
        if !self.signs() {
            return Ok(());
        }
        let objects = self.statement_objects().await?;
        let grace = jiff::SignedDuration::try_from(plan.grace).unwrap_or(jiff::SignedDuration::MAX);
        for object in objects.iter().rev().skip(READ) {
            if plan.now.duration_since(object.modified) < grace {
                continue;
            }
            match self.store().delete(&object.key).await {
                Ok(()) => {}
                Err(Error::Refused { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
