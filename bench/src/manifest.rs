//! The manifests of a cluster of 10 TB in a million files: written, looked up and made anew for an incremental backup,
//! each step in a process of its own, whose memory is watched.
//!
//! The cluster is simulated, its packs are empty files of the right length; all that is done with the manifests is what
//! `walkeep backup` does.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use harness::World;
use proto::SystemId;
use proto::wal::SegmentSize;
use repository::backup::IndexedManifest;
use repository::catalogue::Lineage;
use repository::manifest::{Entry, EntrySorter, ManifestHead, ManifestReader, SafePath};
use repository::pack::{Extent, PackEntry, push_extent};
use repository::{Branch, BranchFacts, Repository, Sealing, Store, Unsealing};
use restore::execute::{Existing, execute};
use restore::plan::{
    Archive, Choice, Content, FetchCommand, Options, RecoveryTarget, TargetAction, TimelineChoice, plan,
};
use restore::program::Progress;

use crate::report::Report;
use crate::turns::time_and_watch;

const FILES: u64 = 1_000_000;
/// Bytes of each file: 10 TB together.
const FILE: u64 = 1280 * BLOCK;
const BLOCK: u64 = 8192;
/// Of each file so many blocks have changed, scattered over it: one in a hundred.
const CHANGED: u64 = 13;
/// Files whose content lies in one pack: 64 MiB of packs compressed to two fifths.
const FILES_PER_PACK: u64 = 16;
const STORED: u64 = 64 << 20;
/// Changed blocks that one pack holds.
const BLOCKS_PER_PACK: u64 = FILES_PER_PACK * FILE / BLOCK;

const FULL: &str = "20261124T000000Z-full-000001";
const INCREMENTAL: &str = "20261125T000000Z-incremental-000002";

/// The steps, and what each is.
const STEPS: [(&str, &str); 4] = [
    ("full", "full backup: a million files in no order are sorted and written"),
    ("incremental", "incremental: the full one is read, each file is looked up, the new manifest is written"),
    ("read", "that one is read, to be looked up by the next"),
    (
        "restore",
        "a restore of it, up to the first pack: a million files are made, all that is wanted is sorted",
    ),
];

pub(crate) fn run() -> Result<Report> {
    let mut report =
        Report::new("manifests of a simulated cluster: 10 TB, 1,000,000 files, 1 % of its blocks changed");
    let world = World::new()?;
    let folder = world.folder("repository")?;
    for (step, what) in STEPS {
        let mut command = Command::new(std::env::current_exe().context("cannot tell which program this is")?);
        let run = time_and_watch(command.args([STEP, step]).arg(&folder).stdout(Stdio::null()))?;
        report.note(format!(
            "{what}: {:.1} s ({:.1} s of the processor), {} MiB",
            run.wall.as_secs_f64(),
            run.cpu.as_secs_f64(),
            run.peak_memory >> 20
        ));
    }
    for label in [FULL, INCREMENTAL] {
        let path = folder.join(format!("main/42/backup/{label}/manifest-00000001"));
        report.note(format!("manifest of {label}: {} MB", fs::metadata(path)?.len() / 1_000_000));
    }
    Ok(report)
}

/// The word that has this program do one step, in `folder`.
pub(crate) const STEP: &str = "manifest-step";

pub(crate) fn step(step: &str, folder: &str) -> Result<()> {
    harness::runtime().block_on(async {
        let branch = branch(folder).await?;
        match step {
            "full" => full(&branch, Path::new(folder)).await,
            "incremental" => incremental(&branch, Path::new(folder)).await,
            "read" => {
                let manifest = index(&branch, INCREMENTAL).await?;
                ensure!(manifest.entries.len() as u64 == FILES, "{} files", manifest.entries.len());
                Ok(())
            }
            "restore" => restore(&branch, &Path::new(folder).with_file_name("restored")).await,
            other => bail!("there is no step \"{other}\""),
        }
    })
}

async fn branch(folder: &str) -> Result<Branch> {
    let store = Store::open(&format!("file://{folder}"), &Default::default())?;
    Repository::create(store.clone()).await?;
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await?;
    let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 180_006 };
    Ok(repository.begin_branch(&"main".parse()?, SystemId(42), facts).await?)
}

async fn index(branch: &Branch, label: &str) -> Result<IndexedManifest> {
    Ok(branch.index_manifest(&branch.backup(&label.parse()?).await?).await?)
}

/// Packs of that backup, and their objects.
fn packs(label: &str, count: u64, folder: &Path) -> Result<(ManifestHead, Vec<PackEntry>)> {
    let lies_in = folder.join("main/42/pack").join(label);
    fs::create_dir_all(&lies_in)?;
    let raw = FILES_PER_PACK * FILE;
    let mut text = format!("{}\n", head(label));
    for number in 0..count {
        let id = format!("{number:08}-0000000000000001");
        File::create(lies_in.join(&id))?.set_len(STORED)?;
        text += &format!("P\t{label}/{id}\t{STORED}\t{raw}\t{}\t{number:064x}\n", STORED - (1 << 20));
    }
    // Entries of packs come out of a writer or out of a manifest, and this one writes none.
    Ok(ManifestReader::new(text.as_bytes())?.into_parts())
}

fn head(label: &str) -> String {
    let kind = if label == FULL { "full" } else { "incremental" };
    let parent = if label == FULL { "null".to_owned() } else { format!("\"{FULL}\"") };
    format!(
        r#"{{"format":1,"label":"{label}","kind":"{kind}","parent":{parent},"cluster":"main","system_id":"42","server_version":180006,"segment_size":16777216,"data_checksums":true,"timeline":1,"start_lsn":"0/1000028","checkpoint_lsn":"0/1000060","stop_timeline":1,"stop_lsn":"0/1000100","started_at":"2026-11-24T00:00:00Z","finished_at":"2026-11-24T00:00:00Z","from_standby":false,"label_note":null,"size_bytes":1,"stored_bytes":1,"tablespaces":[],"wal_ranges":[],"server_manifest":null,"damaged_page_count":0,"damaged_pages":[],"external_config":[],"controls":{{"max_connections":1,"max_worker_processes":1,"max_wal_senders":1,"max_prepared_transactions":0,"max_locks_per_transaction":1}}}}"#
    )
}

/// Numbers of files as a server's directories have them: in no order. The factor has no divisor in common with them.
fn shuffled() -> impl Iterator<Item = u64> {
    (0..FILES).map(|number| number * 387_420_489 % FILES)
}

/// A thousand databases of a thousand files.
fn path(number: u64) -> Result<SafePath> {
    Ok(SafePath::new(format!("base/{}/{}", 16_384 + number / 1000, 1_000_000 + number % 1000 * 7919))?)
}

fn file(path: SafePath, extents: Vec<Extent>) -> Entry {
    Entry::File { path, size: FILE, mode: 0o600, mtime: 1_795_483_815, crc32c: None, extents }
}

async fn full(branch: &Branch, folder: &Path) -> Result<()> {
    let (head, packs) = packs(FULL, FILES / FILES_PER_PACK, folder)?;
    let mut sorter = EntrySorter::default();
    for (at, number) in (0u64..).zip(shuffled()) {
        let extent = Extent {
            file_offset: 0,
            length: FILE,
            pack: (at / FILES_PER_PACK) as u32,
            pack_offset: at % FILES_PER_PACK * FILE,
        };
        sorter.push(&file(path(number)?, vec![extent]))?;
    }
    Ok(branch.put_sorted_manifest(&head, packs, sorter.sorted()?).await?)
}

async fn incremental(branch: &Branch, folder: &Path) -> Result<()> {
    let parent = Arc::new(index(branch, FULL).await?);
    let (head, new) = packs(INCREMENTAL, (FILES * CHANGED).div_ceil(BLOCKS_PER_PACK), folder)?;
    let first = parent.packs.len() as u64;
    let mut sorter = EntrySorter::default();
    let mut stored = 0;
    for number in shuffled() {
        let path = path(number)?;
        let Some(Entry::File { extents, .. }) = parent.entries.find(&path)? else {
            bail!("{path} is missing")
        };
        let [whole] = extents[..] else { bail!("{path} is not as it was written") };
        let mut extents = Vec::new();
        let mut done = 0;
        for nth in 0..CHANGED {
            // One somewhere in each thirteenth part of the file.
            let part = FILE / BLOCK / CHANGED;
            let block = (nth * part + (number * 31 + nth * 17) % part) * BLOCK;
            let inherited = Extent {
                file_offset: done,
                length: block - done,
                pack: whole.pack,
                pack_offset: whole.pack_offset + done,
            };
            push_extent(&mut extents, inherited);
            let pack = (first + stored / BLOCKS_PER_PACK) as u32;
            let pack_offset = stored % BLOCKS_PER_PACK * BLOCK;
            push_extent(&mut extents, Extent { file_offset: block, length: BLOCK, pack, pack_offset });
            (stored, done) = (stored + 1, block + BLOCK);
        }
        let rest = Extent {
            file_offset: done,
            length: FILE - done,
            pack: whole.pack,
            pack_offset: whole.pack_offset + done,
        };
        push_extent(&mut extents, rest);
        sorter.push(&file(path, extents))?;
    }
    let packs = parent.packs.iter().cloned().chain(new).collect();
    drop(parent);
    Ok(branch.put_sorted_manifest(&head, packs, sorter.sorted()?).await?)
}

/// As `restore-cmd restore` does it. There is nothing in the packs, so it ends when it opens the first.
async fn restore(branch: &Branch, pgdata: &Path) -> Result<()> {
    let manifest = index(branch, INCREMENTAL).await?;
    let content = Content::of(manifest.entries.iter())?;
    let head = manifest.head.clone();
    let choice = Choice {
        lineage: Lineage::of(head.timeline, &[].into()),
        wal_end: head.stop_lsn,
        resumes: None,
        wal_needed: head.stop_lsn,
        beyond: None,
        last_record: None,
        backup: head,
    };
    let options = Options {
        pgdata: pgdata.to_owned(),
        backup: None,
        target: RecoveryTarget::Latest,
        exclusive: false,
        timeline: TimelineChoice::Latest,
        action: TargetAction::Promote,
        standby: false,
        primary: None,
        archive: Archive::Off,
        tablespaces: Vec::new(),
    };
    let fetch = FetchCommand {
        program: "/usr/bin/restore-cmd".into(),
        config: None,
        repository: None,
        cluster: "main".into(),
        system_id: branch.system_id(),
    };
    let plan = plan(&choice, None, &content, &options, &fetch)?;
    let done = execute(branch, manifest, &plan, Existing::Refuse, 2, &Progress::hidden()).await;
    let error = format!("{:#}", done.err().context("packs without content were restored")?);
    ensure!(error.contains("cannot read the backup"), "{error}");
    Ok(())
}
