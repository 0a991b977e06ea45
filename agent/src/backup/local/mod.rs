//! A backup that reads the server's files itself, beside a server on this machine, instead of receiving them.
//!
//! The server is told that a backup begins and ends, so that replay mends what it writes meanwhile; everything else is as if
//! it had sent the files: `rules` leave out what it would leave out, `walk` goes through its directories, `read`
//! reads files side by side. [`here`] proves beforehand that the directory is this server's.

mod here;
mod read;
mod rules;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use proto::backup_manifest::{BackupManifest, Checksum, FileEntry, WalRange};
use proto::client::{BackupStart, Tablespace};
use proto::control::{ControlError, ControlFile};
use proto::{Lsn, TimelineId};
use repository::backup::BackupLabel;
use restore::program::Progress;
use tokio::sync::mpsc::Receiver;
use tokio::task::{JoinHandle, spawn_blocking};

use super::collect::{Collector, Sink};
use super::compare::Receipts;
use super::facts::Sql;
use super::plan::Plan;
use super::tar::{Member, MemberKind};
use read::{Opened, Readers};
use walk::{Space, Walk};

pub use here::here;

/// What a server writes while we read is whole a moment later.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// A backup that the server knows to be running. Dropping it ends the session, and with it the backup.
pub struct LocalBackup {
    session: Sql,
    major: u32,
    data: PathBuf,
    spaces: Vec<Space>,
    start: BackupStart,
}

/// What the server said at the end.
pub struct Stopped {
    /// The WAL up to here makes the backup whole.
    pub lsn: Lsn,
    /// The list of what was read, as the server would have sent it.
    pub manifest: Vec<u8>,
}

impl LocalBackup {
    /// Has the server begin a backup in which `data`, its directory, is read. Waits for a checkpoint.
    pub async fn begin(plan: &Plan, data: PathBuf, label: &BackupLabel) -> anyhow::Result<Self> {
        let session = Sql::connect(&plan.info).await?;
        let major = plan.version.major();
        // A label has letters, digits and dashes only.
        let function = match major {
            ..15 => format!("pg_start_backup('walkeep {label}', true, false)"),
            15.. => format!("pg_backup_start('walkeep {label}', true)"),
        };
        let lsn = one(&session.rows(&format!("SELECT {function}")).await?, 0).parse();
        let lsn = lsn.context("the server did not say where the backup starts")?;
        // From here on: a tablespace that is made later is made by replay.
        let of = data.clone();
        let spaces = spawn_blocking(move || walk::spaces(&of)).await??;
        let tablespaces = spaces.iter().map(|space| {
            use std::os::unix::ffi::OsStrExt;
            let location = space.location.as_os_str().as_bytes().to_vec();
            Tablespace { oid: Some(space.oid), location: Some(location), size_kib: None }
        });
        let start = BackupStart { lsn, timeline: plan.identity.timeline, tablespaces: tablespaces.collect() };
        Ok(Self { session, major, data, spaces, start })
    }

    /// Where it starts.
    pub fn start(&self) -> &BackupStart {
        &self.start
    }

    /// The directory that is read.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Reads all files, and has the server end the backup.
    pub async fn take<S: Sink>(
        self,
        plan: &Plan,
        collector: &mut Collector<S>,
        progress: &Progress,
    ) -> anyhow::Result<Stopped> {
        let control = whole_control(&self.data).await?;
        let mut pace = Pace {
            bytes_a_second: plan.read_rate.map(|rate| u64::from(rate.kib()) << 10),
            ..Pace::default()
        };
        let (mut files, walk) = self.walk(plan.jobs, control.1.catalog_version);
        let mut listed = Vec::new();
        while let Some(opened) = files.recv().await {
            let Opened { member, mut pieces } = opened;
            if member.kind == MemberKind::File {
                listed.push((member.path.clone(), member.mtime));
            }
            let (path, is_file, mut left) =
                (member.path.clone(), member.kind == MemberKind::File, member.size);
            collector.member(member).await?;
            while let Some(piece) = pieces.recv().await {
                let piece = piece.with_context(|| {
                    format!(
                        "cannot read {}",
                        self.data.join(String::from_utf8_lossy(&path).as_ref()).display()
                    )
                })?;
                left -= piece.len() as u64;
                progress.add(piece.len() as u64);
                pace.pass(piece.len() as u64).await;
                collector.data(piece).await?;
            }
            anyhow::ensure!(left == 0, "a thread that reads files has ended before its time");
            if is_file {
                collector.file_end().await?;
            }
        }
        // That nothing more is found is no proof that all was: the walk itself must say so.
        let is_whole = walk.await?.context("cannot read the data directory")?;
        anyhow::ensure!(is_whole, "the data directory was not read to its end");
        // The last, as a standby's backup needs it: it says up to where the pages that were read may be new.
        let (content, _) = whole_control(&self.data).await?;
        let mut add = async |path: &str, content: Vec<u8>| {
            let member = Member {
                path: path.into(),
                kind: MemberKind::File,
                size: content.len() as u64,
                mode: 0o600,
                mtime: jiff::Timestamp::now().as_second(),
            };
            listed.push((member.path.clone(), member.mtime));
            collector.add_file(member, Bytes::from(content)).await
        };
        add("global/pg_control", content).await?;
        let function = match self.major {
            ..15 => "pg_stop_backup(false, false)",
            15.. => "pg_backup_stop(false)",
        };
        // A standby that was promoted meanwhile refuses this.
        let told = self.session.rows(&format!("SELECT lsn, labelfile, spcmapfile FROM {function}")).await?;
        let lsn = one(&told, 0).parse().context("the server did not say where the backup stops")?;
        add("backup_label", one(&told, 1).into()).await?;
        if !one(&told, 2).is_empty() {
            add("tablespace_map", one(&told, 2).into()).await?;
        }
        let receipts = &collector.collected().receipts;
        let manifest = manifest(plan, listed, receipts, (self.start.timeline, self.start.lsn, lsn));
        Ok(Stopped { lsn, manifest: manifest.write() })
    }

    /// Goes through the directories on a thread of its own, which ends with whether it came to their end.
    fn walk(&self, jobs: usize, catalog_version: u32) -> (Receiver<Opened>, JoinHandle<io::Result<bool>>) {
        let (readers, files) = Readers::new(jobs);
        let (data, spaces) = (self.data.clone(), self.spaces.clone());
        let version_folder = walk::version_folder(self.major, catalog_version);
        let walk = spawn_blocking(move || {
            let found = |found| readers.read(found);
            Walk { data: &data, version_folder: &version_folder, found }.all(&spaces)
        });
        (files, walk)
    }
}

/// As the server writes it, so that a later increment may be asked for from here, and `pg_verifybackup` reads it.
fn manifest(
    plan: &Plan,
    listed: Vec<(Vec<u8>, i64)>,
    receipts: &Receipts,
    (timeline, start, end): (TimelineId, Lsn, Lsn),
) -> BackupManifest {
    /// From this version on a manifest names the cluster.
    const NAMES_THE_CLUSTER: u32 = 17;
    let names_it = plan.version.major() >= NAMES_THE_CLUSTER;
    let files = listed.into_iter().filter_map(|(path, last_modified)| {
        let (size, crc32c) = receipts.get(&path)?;
        Some(FileEntry { size, last_modified, checksum: crc32c.map(Checksum::from_crc32c), path })
    });
    BackupManifest {
        version: if names_it { 2 } else { 1 },
        system_id: names_it.then(|| plan.branch.system_id()),
        files: files.collect(),
        wal_ranges: vec![WalRange { timeline, start, end }],
    }
}

/// `pg_control` as the server has written it: it does so without a lock that we could take.
async fn whole_control(data: &Path) -> anyhow::Result<(Vec<u8>, ControlFile)> {
    let path = data.join("global/pg_control");
    let mut attempt = 0;
    loop {
        attempt += 1;
        let content =
            tokio::fs::read(&path).await.with_context(|| format!("cannot read {}", path.display()))?;
        match ControlFile::parse(&content) {
            Ok(control) => return Ok((content, control)),
            Err(ControlError::Checksum) if attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error).with_context(|| format!("cannot use {}", path.display())),
        }
    }
}

/// A column of the only row; empty where there is none.
fn one(rows: &[Vec<Option<String>>], column: usize) -> &str {
    rows.first().and_then(|row| row.get(column)).and_then(Option::as_deref).unwrap_or_default()
}

/// Holds reading back to a rate, on average.
struct Pace {
    bytes_a_second: Option<u64>,
    begun: Instant,
    passed: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes_a_second: None, begun: Instant::now(), passed: 0 }
    }
}

impl Pace {
    async fn pass(&mut self, length: u64) {
        self.passed += length;
        if let Some(rate) = self.bytes_a_second {
            let due = self.begun + Duration::from_secs_f64(self.passed as f64 / rate as f64);
            tokio::time::sleep_until(due.into()).await;
        }
    }
}
