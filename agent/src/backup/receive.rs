//! How the files of a backup come: the server sends them, or they are read beside it.

use std::sync::Arc;

use anyhow::Context;
use proto::client::{
    BackupMessage, BackupStart, BackupStream, BaseBackupOptions, Checkpoint, ManifestChecksums,
};
use proto::config::ReadRate;
use proto::{Lsn, TimelineId};
use repository::backup::{BackupLabel, IndexedManifest};
use repository::manifest::ManifestHead;
use repository::pack::PackWriter;
use restore::program::Progress;

use super::collect::{Base, Collector};
use super::damage::Judge;
use super::facts::Sql;
use super::local::LocalBackup;
use super::native::Limits;
use super::parent::Parent;
use super::plan::Plan;

/// The server's manifest is held in memory. This is that of some five million files.
const MAX_SERVER_MANIFEST: usize = 1 << 30;

/// What the server sent.
pub(super) struct Received {
    pub(super) collector: Collector<PackWriter>,
    pub(super) start: BackupStart,
    pub(super) stop_lsn: Lsn,
    pub(super) stop_timeline: TimelineId,
    pub(super) server_manifest: Vec<u8>,
    pub(super) checksum_failures: Option<String>,
}

/// Where the files come from.
pub(super) enum Reading {
    /// The server sends them.
    Server(Box<BackupStream>),
    /// They are read beside the server.
    Local(Box<LocalBackup>),
}

impl Reading {
    pub(super) fn start(&self) -> &BackupStart {
        match self {
            Self::Server(stream) => stream.start(),
            Self::Local(local) => local.start(),
        }
    }
}

/// Has the server begin, and says what its files are to be held against.
pub(super) async fn begin(
    plan: &Plan,
    label: &BackupLabel,
    parent: Option<Arc<IndexedManifest>>,
    native: bool,
    sql: &Sql,
) -> anyhow::Result<(Reading, Base)> {
    if let Some(parent) = parent.as_ref().filter(|_| native) {
        match begin_native(plan, label, &parent.head, sql).await {
            Ok((stream, limits)) => {
                let parent = Parent::new(plan.branch.clone(), parent.clone());
                return Ok((Reading::Server(Box::new(stream)), Base::Native(parent, limits)));
            }
            Err(error) => {
                tracing::warn!("the server cannot tell what has changed, so all is compared: {error:#}");
            }
        }
    }
    let base = match parent {
        Some(parent) => Base::Content(Parent::new(plan.branch.clone(), parent)),
        None => Base::Nothing,
    };
    if let Some(directory) = &plan.directory {
        let local = LocalBackup::begin(plan, directory.clone(), label).await;
        let local = local.context("the server did not begin a backup of its files")?;
        return Ok((Reading::Local(Box::new(local)), base));
    }
    let session = crate::commands::connect(&plan.info).await?;
    let stream = session.base_backup(&options(plan, label, false)).await;
    let stream = stream.context("the server did not begin a base backup")?;
    Ok((Reading::Server(Box::new(stream)), base))
}

/// The server sends what has changed since that parent. Its summaries are asked once it has begun: then they reach up to
/// the backup's start.
async fn begin_native(
    plan: &Plan,
    label: &BackupLabel,
    parent: &ManifestHead,
    sql: &Sql,
) -> anyhow::Result<(BackupStream, Limits)> {
    let manifest = plan.branch.read_server_manifest(parent).await?;
    let manifest = manifest.context("the server's own manifest of the parent was not kept")?;
    let known = Limits::so_far(sql, parent.timeline, parent.start_lsn).await?;
    let manifest = known.take_from(manifest)?;
    let mut session = crate::commands::connect(&plan.info).await?;
    session.upload_manifest(futures::stream::iter([Ok(manifest)])).await?;
    let stream = session.base_backup(&options(plan, label, true)).await?;
    let start = stream.start();
    let limits = Limits::ask(sql, start.timeline, parent.start_lsn, start.lsn).await?;
    limits.covered_by(&known)?;
    Ok((stream, limits))
}

fn options(plan: &Plan, label: &BackupLabel, incremental: bool) -> BaseBackupOptions {
    BaseBackupOptions {
        label: format!("walkeep {label}"),
        checkpoint: Checkpoint::Fast,
        max_rate_kib: plan.read_rate.map(ReadRate::kib),
        manifest_checksums: ManifestChecksums::Crc32c,
        incremental,
        verify_checksums: plan.judge == Judge::Server,
        progress: true,
        // We wait for the WAL ourselves, and say for which.
        wait_for_archive: false,
        tablespace_map: true,
    }
}

/// Reads the whole backup.
pub(super) async fn receive(
    plan: &Plan,
    label: &BackupLabel,
    base: Base,
    reading: Reading,
    start: BackupStart,
    progress: &Progress,
) -> anyhow::Result<Received> {
    let packs = PackWriter::paced(plan.branch.clone(), label.clone(), plan.jobs, plan.upload_rate);
    let mut collector = Collector::new(packs, base, start.lsn, plan.facts.data_checksums());
    match reading {
        Reading::Server(stream) => receive_stream(*stream, collector, start, progress).await,
        Reading::Local(local) => {
            let stopped = local.take(plan, &mut collector, progress).await?;
            Ok(Received {
                collector,
                stop_lsn: stopped.lsn,
                // A promotion in between has been refused by the server.
                stop_timeline: start.timeline,
                start,
                server_manifest: stopped.manifest,
                checksum_failures: None,
            })
        }
    }
}

/// Reads what the server sends.
async fn receive_stream(
    mut stream: BackupStream,
    mut collector: Collector<PackWriter>,
    start: BackupStart,
    progress: &Progress,
) -> anyhow::Result<Received> {
    if let Some(kib) = start.tablespaces.iter().map(|space| space.size_kib).sum::<Option<u64>>() {
        progress.set_total(kib.saturating_mul(1024));
    }
    let mut server_manifest = Vec::new();
    loop {
        match stream.next().await.context("the server broke off the backup")? {
            BackupMessage::Archive { tablespace, .. } => {
                collector.begin(tablespace.and_then(|space| space.oid))
            }
            BackupMessage::ArchiveData(bytes) => {
                progress.add(bytes.len() as u64);
                collector.push(bytes).await?;
            }
            BackupMessage::ArchiveEnd => collector.end()?,
            BackupMessage::Manifest => progress.step("reading the server's manifest"),
            BackupMessage::ManifestData(bytes) => {
                anyhow::ensure!(
                    server_manifest.len() + bytes.len() <= MAX_SERVER_MANIFEST,
                    "the server's manifest is larger than 1 GiB"
                );
                server_manifest.extend_from_slice(&bytes);
            }
            BackupMessage::Progress(_) => {}
            BackupMessage::Notice(text) => tracing::warn!("the server says: {text}"),
            BackupMessage::End { lsn, timeline, checksum_failures } => {
                return Ok(Received {
                    collector,
                    start,
                    stop_lsn: lsn,
                    stop_timeline: timeline,
                    server_manifest,
                    checksum_failures,
                });
            }
        }
    }
}
