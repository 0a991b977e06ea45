//! The first line of a manifest: what the backup is.

use jiff::Timestamp;
use proto::config::ClusterName;
use proto::wal::SegmentSize;
use proto::{Lsn, SystemId, TimelineId};
use serde::{Deserialize, Serialize};

use super::{RawBytes, SafePath};
use crate::backup::{BackupKind, BackupLabel};

/// The version of the manifest's text form that this code reads and writes.
pub const MANIFEST_FORMAT: u32 = 1;

/// Damaged blocks that a head lists one by one; beyond these they are only counted.
pub const MAX_LISTED_DAMAGE: usize = 1000;

/// What a backup is, as one line of JSON. Keys that a reader does not know are ignored: whatever must not be
/// ignored raises [`MANIFEST_FORMAT`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManifestHead {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The backup's label.
    pub label: BackupLabel,
    /// Full or incremental.
    pub kind: BackupKind,
    /// The backup that an incremental one was compared with. Not needed to restore.
    pub parent: Option<BackupLabel>,
    /// The cluster's name in the repository.
    pub cluster: ClusterName,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// As `server_version_num`, such as 150018.
    pub server_version: u32,
    /// Bytes in a WAL segment.
    pub segment_size: SegmentSize,
    /// Whether the cluster has data checksums.
    pub data_checksums: bool,
    /// The timeline on which the backup began.
    pub timeline: TimelineId,
    /// Where replay of this backup begins (the checkpoint's redo position).
    pub start_lsn: Lsn,
    /// The checkpoint record that the backup begins with.
    pub checkpoint_lsn: Lsn,
    /// The timeline on which the backup ended; another than `timeline` only from a standby that followed a
    /// switch.
    pub stop_timeline: TimelineId,
    /// Where replay must at least arrive: before that the cluster is not consistent.
    pub stop_lsn: Lsn,
    /// By the server's clock.
    pub started_at: Timestamp,
    /// By the server's clock, not before `stop_lsn` was reached.
    pub finished_at: Timestamp,
    /// Whether a standby was read.
    pub from_standby: bool,
    /// What the operator noted.
    pub label_note: Option<String>,
    /// Bytes of all files of the cluster.
    pub size_bytes: u64,
    /// Bytes that this backup added to the repository in packs.
    pub stored_bytes: u64,
    /// The tablespaces other than `pg_default` and `pg_global`.
    pub tablespaces: Vec<Tablespace>,
    /// The WAL that the server's own manifest names as needed, by timeline.
    pub wal_ranges: Vec<WalRange>,
    /// The name of the object beside this manifest that keeps the server's own `backup_manifest`.
    pub server_manifest: Option<String>,
    /// Pages whose checksum was wrong in all.
    pub damaged_page_count: u64,
    /// The first of them, [`MAX_LISTED_DAMAGE`] blocks at most.
    pub damaged_pages: Vec<DamagedPages>,
    /// Configuration files that lie outside the data directory; their content is among the entries.
    pub external_config: Vec<ExternalConfig>,
    /// Settings that a server must not fall below when it recovers from this backup.
    pub controls: Controls,
}

/// A tablespace. Its files are among the entries, under `pg_tblspc/<oid>/`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its oid, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it lay on the server; relative (`pg_tblspc/<oid>`) for one in place.
    pub location: RawBytes,
}

/// A stretch of WAL on one timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte.
    pub start_lsn: Lsn,
    /// The first byte after it.
    pub end_lsn: Lsn,
}

/// Blocks of one file that the backup took as they are although their checksum is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DamagedPages {
    /// The file, as in its entry.
    pub path: SafePath,
    /// Numbers of blocks in this file, ascending.
    pub blocks: Vec<u32>,
}

/// A configuration file from outside the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExternalConfig {
    /// What the server uses it for: `config_file`, `hba_file`, `ident_file`, `include`.
    pub role: String,
    /// Where it lay on the server.
    pub original_path: RawBytes,
    /// The entry with its content, below [`EXTERNAL_PREFIX`](super::EXTERNAL_PREFIX).
    pub path: SafePath,
}

/// From `pg_control`: a server in recovery refuses to start with less than its primary had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of PostgreSQL's settings")]
pub struct Controls {
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
}

impl ManifestHead {
    /// Counts a block whose checksum is wrong, and lists it while there is room. Blocks of one file come one
    /// after another.
    pub fn record_damage(&mut self, path: &SafePath, block: u32) {
        let listed: usize = self.damaged_pages.iter().map(|file| file.blocks.len()).sum();
        self.damaged_page_count += 1;
        if listed >= MAX_LISTED_DAMAGE {
            return;
        }
        match self.damaged_pages.last_mut() {
            Some(file) if file.path == *path => file.blocks.push(block),
            _ => self.damaged_pages.push(DamagedPages { path: path.clone(), blocks: vec![block] }),
        }
    }
}
