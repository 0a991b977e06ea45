//! Base backups as a whole: packs, manifests and their way in and out of a store.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]
#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges with one range in it is meant")]

mod authenticity;
mod manifests;
mod packs;

use std::ops::Range;
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::memory::InMemory;
use proto::config::{CompressionConfig, EncryptionConfig};
use proto::wal::SegmentSize;
use proto::{Lsn, SystemId, TimelineId};
use repository::backup::{BackupKind, BackupLabel, Intent};
use repository::catalogue::Inventory;
use repository::manifest::{Controls, Entry, EntrySorter, MANIFEST_FORMAT, Manifest, ManifestHead, SafePath};
use repository::pack::{Extent, FRAME_SIZE, PackEntry, PackReader, PackWriter, push_extent};
use repository::{Branch, BranchFacts, Error, Repository, Sealing, Store, Unsealing};

const CLUSTER: &str = "main";

async fn branch_over(store: Store, sealing: Sealing, unsealing: Unsealing) -> Branch {
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, sealing, unsealing).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
    repository.begin_branch(&CLUSTER.parse().unwrap(), SystemId(42), facts).await.unwrap()
}

fn memory() -> Store {
    Store::over(Arc::new(InMemory::new()), "memory")
}

async fn plain() -> Branch {
    branch_over(memory(), Sealing::plain(1), Unsealing::none()).await
}

/// Keys to everything, and to metadata alone.
struct Keys {
    folder: tempfile::TempDir,
    recipient: String,
}

impl Keys {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (all, metadata) = (Identity::generate(), Identity::generate());
        for (name, identity) in [("all", &all), ("metadata", &metadata)] {
            std::fs::write(folder.path().join(name), identity.to_string().expose_secret()).unwrap();
        }
        Self { folder, recipient: all.to_public().to_string() }
    }

    fn config(&self, with_all: bool) -> EncryptionConfig {
        EncryptionConfig {
            recipients: vec![self.recipient.clone()],
            identity_file: with_all.then(|| self.folder.path().join("all")),
            metadata_identity_file: Some(self.folder.path().join("metadata")),
            ..Default::default()
        }
    }

    async fn branch(&self, store: Store, with_all: bool) -> Branch {
        let config = self.config(with_all);
        let sealing = Sealing::from_config(&CompressionConfig::default(), &config).unwrap();
        branch_over(store, sealing, Unsealing::from_config(&config).unwrap()).await
    }
}

fn label(random: u32) -> BackupLabel {
    format!("20261124T013015Z-full-{random:06x}").parse().unwrap()
}

fn head(label: &BackupLabel) -> ManifestHead {
    ManifestHead {
        format: MANIFEST_FORMAT,
        label: label.clone(),
        kind: BackupKind::Full,
        parent: None,
        cluster: CLUSTER.parse().unwrap(),
        system_id: SystemId(42),
        server_version: 150_018,
        segment_size: SegmentSize::DEFAULT,
        data_checksums: true,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(0x200_0028),
        checkpoint_lsn: Lsn(0x200_0060),
        stop_timeline: TimelineId::FIRST,
        stop_lsn: Lsn(0x200_0100),
        started_at: label.started(),
        finished_at: label.started(),
        from_standby: false,
        label_note: None,
        size_bytes: 0,
        stored_bytes: 0,
        tablespaces: Vec::new(),
        wal_ranges: Vec::new(),
        server_manifest: None,
        damaged_page_count: 0,
        damaged_pages: Vec::new(),
        external_config: Vec::new(),
        controls: Controls::default(),
    }
}

/// Bytes that compress to about a half, and are different everywhere.
fn content(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let words = (0..length.div_ceil(16)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        [state, 0x1122_3344_5566_7788]
    });
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes.into()
}

/// Appends `bytes` in pieces of these sizes, again and again.
async fn append(packs: &mut PackWriter, bytes: &Bytes, pieces: &[usize]) -> Vec<Extent> {
    let (mut extents, mut offset) = (Vec::new(), 0);
    for piece in pieces.iter().cycle() {
        if offset == bytes.len() {
            return extents;
        }
        let end = (offset + piece).min(bytes.len());
        for extent in packs.append(bytes.slice(offset..end)).await.unwrap() {
            push_extent(&mut extents, extent.shifted(offset as u64));
        }
        offset = end;
    }
    extents
}

async fn read(branch: &Branch, pack: &PackEntry, wanted: &[Range<u64>]) -> Result<Vec<(u64, Bytes)>, Error> {
    PackReader::read(branch, pack, wanted, 2).await?.try_collect().await
}

async fn read_extents(branch: &Branch, packs: &[PackEntry], extents: &[Extent]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extent in extents {
        let wanted = extent.pack_offset..extent.pack_offset + extent.length;
        for (offset, piece) in read(branch, &packs[extent.pack as usize], &[wanted]).await.unwrap() {
            assert_eq!(offset, extent.pack_offset + bytes.len() as u64 - extent.file_offset);
            bytes.extend_from_slice(&piece);
        }
    }
    bytes
}
