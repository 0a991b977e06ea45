//! Which backup an incremental one is compared with, or why there is none.

use proto::TimelineId;
use proto::wal::TimelineHistory;
use repository::backup::{BackupLabel, BackupRef, IndexedManifest};
use repository::manifest::ManifestHead;
use repository::{Branch, Error};

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A full backup.
    Full,
    /// An incremental one. Where that cannot be, a full one is better than none.
    Incremental,
    /// Incremental if there is a parent, else full.
    Either,
}

/// How the backup will be taken.
#[derive(Debug)]
pub enum Base {
    /// In full.
    Full {
        /// Why not incrementally; `None` if that was not wanted.
        why: Option<String>,
    },
    /// Compared with this backup, of which this is the manifest.
    Parent(BackupRef, Box<IndexedManifest>),
}

impl Base {
    /// The parent's label.
    pub fn parent(&self) -> Option<&BackupLabel> {
        match self {
            Self::Full { .. } => None,
            Self::Parent(backup, _) => Some(&backup.label),
        }
    }
}

/// The newest of `backups` (oldest first) that can be compared with. Its packs are all there.
///
/// # Errors
/// The store cannot be reached. A backup that is damaged, or locked, or has gone meanwhile, is passed over.
pub async fn choose(
    branch: &Branch,
    backups: &[BackupRef],
    timeline: TimelineId,
    history: Option<&TimelineHistory>,
    wish: Wish,
) -> repository::Result<Base> {
    if wish == Wish::Full {
        return Ok(Base::Full { why: None });
    }
    let mut reason = None;
    for backup in backups.iter().rev() {
        match look(branch, backup, timeline, history).await {
            Ok(Ok(manifest)) => return Ok(Base::Parent(backup.clone(), manifest)),
            // The newest one's reason is what the operator should know.
            Ok(Err(why)) => {
                reason.get_or_insert_with(|| format!("{} cannot be its parent: {why}", backup.label));
            }
            Err(error @ (Error::Unreachable { .. } | Error::Refused { .. })) => return Err(error),
            Err(error) => {
                reason.get_or_insert_with(|| format!("{} cannot be its parent: {error}", backup.label));
            }
        }
    }
    Ok(Base::Full { why: Some(reason.unwrap_or_else(|| "there is no earlier backup".into())) })
}

/// The parent as it is once the intent is there: from then on `expire` spares it, and what this manifest names. Before,
/// it may have condemned it, or given it a manifest that names other packs. `None` if it goes.
///
/// # Errors
/// The store cannot be reached, or the new manifest cannot be used.
pub async fn confirm(
    branch: &Branch,
    chosen: &BackupRef,
    manifest: Box<IndexedManifest>,
) -> repository::Result<Option<Box<IndexedManifest>>> {
    let now = branch.backups().await?.into_iter().find(|backup| backup.label == chosen.label);
    match now {
        Some(now) if now != *chosen => {
            let manifest = branch.index_manifest(&now).await?;
            branch.check_packs(&manifest.packs).await?;
            Ok(Some(Box::new(manifest)))
        }
        now => Ok(now.map(|_| manifest)),
    }
}

async fn look(
    branch: &Branch,
    backup: &BackupRef,
    timeline: TimelineId,
    history: Option<&TimelineHistory>,
) -> repository::Result<Result<Box<IndexedManifest>, String>> {
    let head = branch.read_manifest_head(backup).await?;
    if let Err(why) = on_lineage(&head, timeline, history) {
        return Ok(Err(why));
    }
    let manifest = branch.index_manifest(backup).await?;
    branch.check_packs(&manifest.packs).await?;
    Ok(Ok(Box::new(manifest)))
}

/// Whether the server, on `timeline`, has gone through the end of that backup.
///
/// Blocks are compared by content, so another lineage could do no harm; but it shows that something was restored or
/// promoted, and then a chain of shared packs had better begin anew.
fn on_lineage(
    head: &ManifestHead,
    timeline: TimelineId,
    history: Option<&TimelineHistory>,
) -> Result<(), String> {
    let of = head.stop_timeline;
    if of == timeline {
        return Ok(());
    }
    match history.and_then(|history| history.switch_from(of)) {
        Some(switch) if head.stop_lsn <= switch => Ok(()),
        Some(switch) => Err(format!(
            "it ends at {} of timeline {of}, which the server's timeline {timeline} left at {switch}",
            head.stop_lsn
        )),
        None => {
            Err(format!("it is of timeline {of}, which is no ancestor of the server's timeline {timeline}"))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proto::Lsn;
    use repository::manifest::ManifestReader;

    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    pub(in crate::backup) fn head(of: u32, stop: u64) -> ManifestHead {
        let json = serde_json::json!({
            "format": 1, "label": "20261124T013015Z-full-1a2b3c", "kind": "full", "parent": null, "cluster": "main",
            "system_id": "7300000000000000000", "server_version": 150018, "segment_size": 16777216,
            "data_checksums": true, "timeline": of, "start_lsn": "0/1000028", "checkpoint_lsn": "0/1000060",
            "stop_timeline": of, "stop_lsn": Lsn(stop).to_string(), "started_at": "2026-11-24T01:30:15Z",
            "finished_at": "2026-11-24T01:30:20Z", "from_standby": false, "label_note": null, "size_bytes": 1,
            "stored_bytes": 1, "tablespaces": [], "wal_ranges": [], "server_manifest": null,
            "damaged_page_count": 0, "damaged_pages": [], "external_config": [],
            "controls": {"max_connections": 1, "max_worker_processes": 1, "max_wal_senders": 1,
                "max_prepared_transactions": 0, "max_locks_per_transaction": 1}
        });
        ManifestReader::head_only(format!("{json}\n").as_bytes()).unwrap()
    }

    #[test]
    fn a_parent_lies_on_the_servers_way() {
        let history = TimelineHistory::parse(timeline(4), b"1\t0/3000000\tx\n2\t0/5000000\tx\n").unwrap();
        let usable = |of, stop, now, history| on_lineage(&head(of, stop), timeline(now), history);
        assert_eq!(usable(1, 0x200_0000, 1, None), Ok(()));
        assert_eq!(usable(1, 0x300_0000, 4, Some(&history)), Ok(()));
        assert!(usable(1, 0x300_0001, 4, Some(&history)).unwrap_err().contains("left at 0/3000000"));
        assert!(usable(3, 0x200_0000, 4, Some(&history)).unwrap_err().contains("no ancestor"));
        assert!(usable(5, 0x200_0000, 4, Some(&history)).unwrap_err().contains("no ancestor"));
    }
}
