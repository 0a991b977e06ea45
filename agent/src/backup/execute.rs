//! Carries out a planned backup. Whatever cuts it off, only leftovers remain: the manifest is written last, and it is
//! the manifest that makes a backup exist.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use proto::backup_label::{BackupFrom, BackupLabelFile};
use proto::backup_manifest::BackupManifest;
use proto::client::BackupStart;
use proto::control::{ControlError, ControlFile};
use proto::wal::WalFile;
use repository::Branch;
use repository::backup::{BackupLabel, IndexedManifest};
use repository::manifest::{
    Controls, EXTERNAL_PREFIX, ExternalConfig, MANIFEST_FORMAT, ManifestHead, RawBytes, SafePath, Tablespace,
    WalRange,
};
use repository::pack::PackWriter;
use restore::program::{Progress, failure};
use tokio::task::JoinHandle;

use super::collect::{Base, CollectError, Collected, Collector, SuspectFile};
use super::compare::compare;
use super::damage::{self, Again, Judge};
use super::external::{self, ExternalFile};
use super::facts::Sql;
use super::names;
use super::plan::{Plan, WalPlan};
use super::receive::{Received, begin, receive};
use super::tar::{Member, MemberKind};
use super::wal::{Coming, HeldWal, Source, check_start};

/// Between two signs of life. Others take a backup for dead after several times this.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Ends a task when its owner goes away, however that comes.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes the backup. When this returns the manifest is durable, and so is everything that it names.
///
/// `label` must have been announced by an intent, which names the parent. With a parent only what differs from it is
/// stored; the manifest is complete all the same. `native`: the server may be asked what has changed.
pub async fn execute(
    plan: &Plan,
    label: &BackupLabel,
    parent: Option<Box<IndexedManifest>>,
    native: bool,
    progress: &Progress,
) -> anyhow::Result<ManifestHead> {
    let branch = &plan.branch;
    let _heartbeat = heartbeat(branch, label);
    // Before the backup starts, so that not one byte of its WAL can vanish.
    let held = match plan.wal {
        WalPlan::Agent => None,
        WalPlan::Archiver | WalPlan::Elsewhere | WalPlan::Ourselves => {
            Some(HeldWal::hold(crate::commands::connect(&plan.info).await?).await?)
        }
    };
    let sql = Sql::connect(&plan.info).await?;
    let started_at = sql.clock().await?;
    store_history(branch, plan).await?;
    progress.step("waiting for a checkpoint");
    let parent = parent.map(|parent| Arc::new(*parent));
    let parent_head = parent.as_ref().map(|parent| parent.head.clone());
    let (reading, base) = begin(plan, label, parent, native, &sql).await?;
    let incremental_from = match &base {
        Base::Native(..) => parent_head.as_ref().map(|parent| (parent.start_lsn, parent.timeline)),
        Base::Nothing | Base::Content(_) => None,
    };
    let start = reading.start().clone();
    anyhow::ensure!(
        start.timeline == plan.identity.timeline,
        "the server has moved to timeline {} since this backup was planned: take it again",
        start.timeline
    );
    let mut wal = Coming::begin(
        Source {
            plan: plan.wal,
            held,
            info: plan.info.clone(),
            branch: branch.clone(),
            timeline: start.timeline,
            from: start.lsn,
        },
        progress.clone(),
    );
    progress.step("");
    let mut names = AbortOnDrop(tokio::spawn(names::keep(plan.info.clone(), branch.clone(), label.clone())));
    let mut received = tokio::select! {
        received = receive(plan, label, base, reading, start, progress) => received?,
        error = wal.failed() => return Err(error),
    };
    // A new session: the first has been silent for as long as the backup took.
    let sql = Sql::connect(&plan.info).await?;
    let finished_at = match sql.last_replayed().await? {
        // Commits bear the primary's time, and a moment before the backup's end must not be taken for one after it.
        Some(replayed) => sql.clock().await?.max(replayed),
        None => sql.clock().await?,
    };
    let server_manifest = check(plan, &mut received)?;
    let external = external::gather(&sql, &plan.facts, &plan.info).await;
    let external_config = store_external(&mut received.collector, external).await?;

    let (packs, base, collected) = received.collector.finish();
    progress.step("storing the last bytes");
    // All packs are durable when this returns.
    let packs = packs.finish().await.context("cannot store the backup's data")?;
    let stored_manifest = branch
        .put_server_manifest(label, Bytes::from(received.server_manifest))
        .await
        .context("cannot store the server's manifest")?;
    // Stored beside what is to be the manifest, or given up with a warning: no restore needs them.
    (&mut names.0).await.context("the names of relations were not kept")?;
    let control = control(&collected)?;
    let label_file = BackupLabelFile::parse(&collected.backup_label)?;
    anyhow::ensure!(
        label_file.start == received.start.lsn,
        "the server said that the backup starts at {}, and its backup_label says {}",
        received.start.lsn,
        label_file.start
    );
    anyhow::ensure!(
        label_file.timeline == received.start.timeline,
        "the server was on timeline {} when the backup was planned, and its backup_label says {}: take the backup again",
        received.start.timeline,
        label_file.timeline
    );
    anyhow::ensure!(
        label_file.incremental_from == incremental_from,
        "the server's backup_label says that it is incremental from {:?}, and {:?} was asked for",
        label_file.incremental_from,
        incremental_from
    );
    let mut head = ManifestHead {
        format: MANIFEST_FORMAT,
        label: label.clone(),
        kind: label.kind(),
        parent: parent_head.map(|parent| parent.label),
        cluster: branch.cluster().clone(),
        system_id: branch.system_id(),
        server_version: plan.version.0,
        segment_size: branch.segment_size(),
        data_checksums: control.data_checksum_version != 0,
        timeline: received.start.timeline,
        start_lsn: received.start.lsn,
        checkpoint_lsn: label_file.checkpoint,
        stop_timeline: received.stop_timeline,
        stop_lsn: received.stop_lsn,
        started_at,
        finished_at,
        from_standby: label_file.backup_from == BackupFrom::Standby,
        label_note: plan.note.clone(),
        size_bytes: collected.size_bytes,
        stored_bytes: packs.iter().map(|pack| pack.stored_length()).sum(),
        tablespaces: tablespaces(&received.start),
        wal_ranges: wal_ranges(&server_manifest),
        server_manifest: Some(stored_manifest),
        damaged_page_count: 0,
        damaged_pages: Vec::new(),
        external_config,
        controls: controls(&control),
    };
    collected.inherited_damage.iter().for_each(|page| head.record_damage(&page.path, page.block));
    record_damage(plan, &mut head, collected.suspects, received.checksum_failures, &sql).await;
    wal.until(received.stop_lsn).await?;
    check_start(branch, &head).await?;
    // The commit: packs, the server's manifest and the WAL are durable by now.
    let packs = base.into_packs().into_iter().chain(packs).collect();
    let entries = collected.entries.sorted().map_err(CollectError::Temporary)?;
    Box::pin(branch.put_sorted_manifest(&head, packs, entries)).await.context("cannot store the manifest")?;
    progress.finish();
    Ok(head)
}

/// Without its history file nobody can recover along a timeline; whoever else brings WAL may not have had it.
async fn store_history(branch: &Branch, plan: &Plan) -> anyhow::Result<()> {
    if let Some(history) = &plan.history {
        let content = Bytes::from(history.content.clone());
        branch.put_wal_file(WalFile::History(plan.identity.timeline), content).await?;
    }
    Ok(())
}

/// Writes down which pages are damaged on the server. The backup is kept all the same: it may be the only one.
async fn record_damage(
    plan: &Plan,
    head: &mut ManifestHead,
    suspects: Vec<SuspectFile>,
    checksum_failures: Option<String>,
    sql: &Sql,
) {
    let complained = checksum_failures.is_some();
    let span = head.start_lsn..head.stop_lsn;
    let (judge, again) = match &plan.directory {
        Some(directory) => (Judge::Reread, Again::Directory(directory)),
        None => (plan.judge, Again::Server(sql)),
    };
    let (damaged, unnamed) = damage::confirm(judge, complained, suspects, again, span).await;
    for page in &damaged {
        head.record_damage(&page.path, page.block);
    }
    head.damaged_page_count += unnamed;
    for file in &head.damaged_pages {
        let blocks = &file.blocks;
        tracing::warn!(path = %file.path, ?blocks, "pages are damaged on the server: their checksums are wrong");
    }
    if let Some(said) = checksum_failures.filter(|_| damaged.is_empty()) {
        tracing::warn!("the server found damaged pages, and we did not: {said}");
        head.damaged_page_count += 1;
    }
}

/// Shows others that the backup is alive.
fn heartbeat(branch: &Branch, label: &BackupLabel) -> AbortOnDrop {
    let (branch, label) = (branch.clone(), label.clone());
    AbortOnDrop(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(HEARTBEAT);
        loop {
            ticks.tick().await;
            if let Err(error) = branch.heartbeat(&label).await {
                tracing::warn!("cannot show in the repository that this backup is alive: {error}");
            }
        }
    }))
}

/// Compares what arrived with the server's manifest, and looks at pg_control.
fn check(plan: &Plan, received: &mut Received) -> anyhow::Result<BackupManifest> {
    anyhow::ensure!(
        received.stop_timeline == received.start.timeline,
        "the server has gone from timeline {} to {} during the backup: it was promoted, or has followed a new primary. Take \
         the backup again",
        received.start.timeline,
        received.stop_timeline
    );
    let manifest = BackupManifest::parse(&received.server_manifest)?;
    if let Some(system_id) = manifest.system_id {
        anyhow::ensure!(
            system_id == plan.branch.system_id(),
            "the server's manifest is of the cluster {system_id}: the server was exchanged during the backup"
        );
    }
    let receipts = received.collector.take_receipts();
    compare(&manifest, receipts)
        .map_err(|difference| failure(difference.to_string(), "take the backup again"))?;
    let control = control(received.collector.collected())?;
    anyhow::ensure!(
        control.system_id == plan.branch.system_id(),
        "the backup's pg_control is of the cluster {}: the server was exchanged during the backup",
        control.system_id
    );
    Ok(manifest)
}

fn control(collected: &Collected) -> anyhow::Result<ControlFile> {
    match ControlFile::parse(&collected.control) {
        Ok(control) => Ok(control),
        Err(ControlError::Checksum) => Err(failure(
            "the server was writing pg_control just when the backup read it: such a backup could not be restored",
            "take the backup again; that this happens twice is very unlikely",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Stores configuration files from outside the data directory under a prefix that restore treats by itself.
async fn store_external(
    collector: &mut Collector<PackWriter>,
    files: Vec<ExternalFile>,
) -> anyhow::Result<Vec<ExternalConfig>> {
    let mut listed = Vec::new();
    for file in files {
        use std::os::unix::ffi::OsStrExt;
        let original = file.path.as_os_str().as_bytes();
        let path = [EXTERNAL_PREFIX.as_bytes(), original].concat();
        let member = Member {
            path: path.clone(),
            kind: MemberKind::File,
            size: file.content.len() as u64,
            mode: file.mode,
            mtime: file.mtime,
        };
        collector.add_file(member, Bytes::from(file.content)).await?;
        listed.push(ExternalConfig {
            role: file.role.to_owned(),
            original_path: RawBytes(original.to_vec()),
            path: SafePath::new(path)?,
        });
    }
    Ok(listed)
}

fn tablespaces(start: &BackupStart) -> Vec<Tablespace> {
    start
        .tablespaces
        .iter()
        .filter_map(|space| {
            Some(Tablespace {
                oid: space.oid?,
                location: RawBytes(space.location.clone().unwrap_or_default()),
            })
        })
        .collect()
}

fn wal_ranges(manifest: &BackupManifest) -> Vec<WalRange> {
    let ranges = manifest.wal_ranges.iter();
    ranges
        .map(|range| WalRange { timeline: range.timeline, start_lsn: range.start, end_lsn: range.end })
        .collect()
}

fn controls(control: &ControlFile) -> Controls {
    Controls {
        max_connections: control.max_connections,
        max_worker_processes: control.max_worker_processes,
        max_wal_senders: control.max_wal_senders,
        max_prepared_transactions: control.max_prepared_transactions,
        max_locks_per_transaction: control.max_locks_per_transaction,
    }
}
