//! `global/pg_control`: what a cluster knows about itself.

use crate::bytes::{u32_at, u64_at};
use crate::wal::SegmentSize;
use crate::{Lsn, SystemId, TimelineId};

/// What the cluster was doing when the file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Just made.
    StartingUp,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down cleanly while recovering.
    ShutDownInRecovery,
    /// About to be shut down.
    ShuttingDown,
    /// Recovering after a crash.
    InCrashRecovery,
    /// Recovering from an archive, or a standby.
    InArchiveRecovery,
    /// Running, or crashed while it ran.
    InProduction,
}

/// `wal_level`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Crash recovery only.
    Minimal,
    /// Enough to archive and replicate.
    Replica,
    /// Logical decoding too.
    Logical,
}

/// The parts of `pg_control` that walkeep needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system_id: SystemId,
    /// `pg_control_version`: 1300 for 13–16, 1700 for 17, 1800 for 18.
    pub control_version: u32,
    /// `catalog_version_no`
    pub catalog_version: u32,
    /// PostgreSQL's major version, 13 to 18: from the catalogue's version.
    pub version: u16,
    /// What it was doing.
    pub state: ClusterState,
    /// Last checkpoint record.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// Of the checkpoint.
    pub timeline: TimelineId,
    /// Before that checkpoint, if it ended a recovery.
    pub previous_timeline: TimelineId,
    /// Server's clock at the checkpoint: seconds since 1970-01-01 UTC.
    pub checkpoint_time: i64,
    /// Recovery must reach this before the cluster is consistent; 0/0 outside of archive recovery.
    pub min_recovery_point: Lsn,
    /// Timeline of `min_recovery_point`; `None` where there is none.
    pub min_recovery_timeline: Option<TimelineId>,
    /// `backupStartPoint`: set while recovery from a base backup has not reached the backup's end.
    pub backup_start: Lsn,
    /// `wal_level`
    pub wal_level: WalLevel,
    /// `max_connections`
    pub max_connections: u32,
    /// `max_worker_processes`
    pub max_worker_processes: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: u32,
    /// `track_commit_timestamp`
    pub track_commit_timestamp: bool,
    /// Bytes in a data page.
    pub block_size: u32,
    /// Blocks in a full segment of a relation.
    pub relation_segment_blocks: u32,
    /// WAL segment size.
    pub segment_size: SegmentSize,
    /// 0: data pages carry no checksums.
    pub data_checksum_version: u32,
}

/// Why the file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Too few bytes.
    #[error("pg_control is too short: {0} bytes")]
    Short(usize),
    /// Not one of 13–18.
    #[error("pg_control version {0} is not one of PostgreSQL 13 to 18")]
    Version(u32),
    /// Of a server that is no release of 13–18.
    #[error("catalogue version {0} is not one of PostgreSQL 13 to 18")]
    Catalog(u32),
    /// Torn or damaged.
    #[error("pg_control is damaged: its checksum does not fit its content")]
    Checksum,
    /// A field that no server writes.
    #[error("pg_control is damaged: {0}")]
    Field(&'static str),
}

/// Bytes that are read: up to the checksum's end in the longest layout. The file itself is 8 KiB, zeros at its end.
pub const USED: usize = 296;

/// Where the checksum is: behind everything that it covers.
fn checksum_offset(control_version: u32) -> Option<usize> {
    match control_version {
        1300 | 1700 => Some(288),
        1800 => Some(292),
        _ => None,
    }
}

/// The major version of a release's catalogue. Minor releases never change it.
fn version_of(catalog_version: u32) -> Option<u16> {
    match catalog_version {
        202_007_201 => Some(13),
        202_107_181 => Some(14),
        202_209_061 => Some(15),
        202_307_071 => Some(16),
        202_406_281 => Some(17),
        202_506_291 => Some(18),
        _ => None,
    }
}

impl ControlFile {
    /// Reads the file's content; [`USED`] bytes are enough.
    ///
    /// # Errors
    /// [`ControlError::Checksum`] may mean that the server was writing it: read it again.
    pub fn parse(content: &[u8]) -> Result<ControlFile, ControlError> {
        let short = || ControlError::Short(content.len());
        let u32_at = |at| u32_at(content, at).ok_or_else(short);
        let u64_at = |at| u64_at(content, at).ok_or_else(short);
        // The version lies at the same place in all of them, and tells where the checksum lies.
        let control_version = u32_at(8)?;
        let end = checksum_offset(control_version).ok_or(ControlError::Version(control_version))?;
        let covered = content.get(..end).ok_or_else(short)?;
        if crate::checksum::crc32c(covered) != u32_at(end)? {
            return Err(ControlError::Checksum);
        }
        let catalog_version = u32_at(12)?;
        let timeline = |at, what| TimelineId::new(u32_at(at)?).ok_or(ControlError::Field(what));
        Ok(ControlFile {
            system_id: SystemId(u64_at(0)?),
            control_version,
            catalog_version,
            version: version_of(catalog_version).ok_or(ControlError::Catalog(catalog_version))?,
            state: state(u32_at(16)?)?,
            checkpoint: Lsn(u64_at(32)?),
            redo: Lsn(u64_at(40)?),
            timeline: timeline(48, "its timeline is 0")?,
            previous_timeline: timeline(52, "its previous timeline is 0")?,
            checkpoint_time: u64_at(104)? as i64,
            min_recovery_point: Lsn(u64_at(136)?),
            min_recovery_timeline: TimelineId::new(u32_at(144)?),
            backup_start: Lsn(u64_at(152)?),
            wal_level: wal_level(u32_at(172)?)?,
            max_connections: u32_at(180)?,
            max_worker_processes: u32_at(184)?,
            max_wal_senders: u32_at(188)?,
            max_prepared_transactions: u32_at(192)?,
            max_locks_per_transaction: u32_at(196)?,
            track_commit_timestamp: u32_at(200)? & 0xFF != 0,
            block_size: u32_at(216)?,
            relation_segment_blocks: u32_at(220)?,
            segment_size: SegmentSize::new(u32_at(228)?.into())
                .map_err(|_| ControlError::Field("its WAL segment size is impossible"))?,
            data_checksum_version: u32_at(252)?,
        })
    }
}

fn state(number: u32) -> Result<ClusterState, ControlError> {
    Ok(match number {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        _ => return Err(ControlError::Field("its state does not exist")),
    })
}

fn wal_level(number: u32) -> Result<WalLevel, ControlError> {
    Ok(match number {
        0 => WalLevel::Minimal,
        1 => WalLevel::Replica,
        2 => WalLevel::Logical,
        _ => return Err(ControlError::Field("its wal_level does not exist")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..USED + 8), right: bool) {
            // With a right version and checksum, too, so that the fields are reached.
            if right && bytes.len() >= USED {
                bytes[8..12].copy_from_slice(&1800_u32.to_le_bytes());
                let checksum = crate::checksum::crc32c(&bytes[..292]);
                bytes[292..296].copy_from_slice(&checksum.to_le_bytes());
            }
            let _ = ControlFile::parse(&bytes);
        }
    }
}
