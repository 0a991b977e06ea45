//! The end of a restore: what makes files a cluster that can be started.
//!
//! Order: configuration and signal, `PG_VERSION`, `backup_manifest`; everything durable; then `pg_control`, durable;
//! then the mark goes. A server starts on none of the steps before the last but one.

use std::collections::BTreeMap;
use std::io::{self, BufWriter};

use anyhow::{Context, Result};
use proto::backup_label::BackupLabelFile;
use proto::backup_manifest::{BackupManifestWriter, Checksum, FileEntry, WalRange};
use proto::control::ControlFile;
use repository::manifest::{ManifestHead, RawBytes, SafePath};

use super::beneath::{Beneath, dress};
use super::crc::crc32c;
use super::directory::UNFINISHED;
use super::external;
use super::files::{Files, Held};
use crate::conf::{self, Setting};
use crate::plan::{Plan, tablespace_map};
use crate::program::failure;

/// Folders that a server needs and does not make.
const FOLDERS: &[&str] = &[
    "pg_wal",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_commit_ts",
    "pg_logical",
    "pg_logical/snapshots",
    "pg_logical/mappings",
];

/// Makes every folder that a server needs; what is there stays.
pub(super) fn make_folders(beneath: &Beneath) -> Result<()> {
    for folder in FOLDERS {
        let path = SafePath::new(*folder)?;
        beneath.make_missing(&path).with_context(|| format!("cannot make the folder {folder}"))?;
    }
    Ok(())
}

/// Works through the last steps.
pub(super) struct Finish<'a> {
    pub(super) plan: &'a Plan,
    pub(super) head: &'a ManifestHead,
    pub(super) files: &'a Files,
    pub(super) beneath: &'a Beneath,
    /// Those of the new `backup_manifest`'s files that are written here, by their paths.
    listed: BTreeMap<Vec<u8>, FileEntry>,
    pub(super) notices: Vec<String>,
}

impl<'a> Finish<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        head: &'a ManifestHead,
        files: &'a Files,
        beneath: &'a Beneath,
    ) -> Self {
        Self { plan, head, files, beneath, listed: BTreeMap::new(), notices: Vec::new() }
    }

    /// Does it all, durably.
    pub(super) fn run(&mut self) -> Result<()> {
        let control = self.control()?;
        self.check_label()?;
        self.tablespaces()?;
        self.configuration()?;
        let version = self.files.take_held(b"PG_VERSION").context("the backup has no PG_VERSION")?;
        let group = version.mode & 0o040 != 0;
        self.put_back("PG_VERSION", &version)?;
        self.list("global/pg_control", &control.content, control.mtime);
        self.manifest().context("cannot write the file backup_manifest")?;
        let root = if group { 0o750 } else { 0o700 };
        rustix::fs::fchmod(self.beneath.root(), rustix::fs::Mode::from_raw_mode(root))
            .context("cannot set the data directory's permissions")?;
        self.sync()?;
        // All else is durable: from here on the cluster may be started.
        self.put("global/pg_control", &control.content, control.mode, Some(control.mtime), false)?;
        self.beneath
            .remove(&SafePath::new(UNFINISHED)?)
            .context("cannot remove the mark of an unfinished restore")?;
        self.sync()?;
        let parent = self.plan.pgdata.parent().unwrap_or(&self.plan.pgdata);
        let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
        synced.with_context(|| format!("cannot sync the directory {}", parent.display()))
    }

    /// `pg_control`, proven to be this cluster's.
    fn control(&self) -> Result<Held> {
        let control = self.files.take_held(b"global/pg_control").context("the backup has no pg_control")?;
        let parsed =
            ControlFile::parse(&control.content).context("the backup's pg_control cannot be used")?;
        if parsed.system_id != self.head.system_id {
            return Err(failure(
                format!(
                    "the backup's pg_control belongs to cluster {}, not to {}",
                    parsed.system_id, self.head.system_id
                ),
                "restore another backup with --backup",
            ));
        }
        Ok(control)
    }

    /// `backup_label` must say what the manifest says: without it the server would come up silently corrupt.
    fn check_label(&mut self) -> Result<()> {
        let file = self.files.take_held(b"backup_label").context("the backup has no backup_label")?;
        let label =
            BackupLabelFile::parse(&file.content).context("the backup's backup_label cannot be used")?;
        if label.start != self.head.start_lsn {
            let message =
                format!("backup_label begins at {}, the manifest at {}", label.start, self.head.start_lsn);
            return Err(failure(message, "restore another backup with --backup"));
        }
        self.put_back("backup_label", &file)
    }

    /// Writes a file as it was, and lists it.
    fn put_back(&mut self, path: &str, file: &Held) -> Result<()> {
        self.put(path, &file.content, file.mode, Some(file.mtime), true)
    }

    /// Writes a file of the last steps, and lists it in `backup_manifest` if that is to hold it.
    fn put(&mut self, path: &str, content: &[u8], mode: u32, mtime: Option<i64>, listed: bool) -> Result<()> {
        let safe = SafePath::new(path)?;
        // A delta restore finds the file of the time before.
        self.beneath.remove(&safe).with_context(|| format!("cannot replace the file {path}"))?;
        let written = self.beneath.write(&safe, content, mode, mtime);
        let file = written.with_context(|| format!("cannot write the file {path}"))?;
        file.sync_all().with_context(|| format!("cannot sync the file {path}"))?;
        if listed {
            self.list(path, content, mtime.unwrap_or(self.head.finished_at.as_second()));
        }
        Ok(())
    }

    fn list(&mut self, path: &str, content: &[u8], last_modified: i64) {
        let path = path.as_bytes().to_vec();
        let listed = entry(path.clone(), content.len() as u64, last_modified, crc32c(content));
        self.listed.insert(path, listed);
    }

    /// The map from which the server makes its links, and the links: `pg_verifybackup` runs before the server.
    fn tablespaces(&mut self) -> Result<()> {
        let map = tablespace_map(&self.plan.tablespaces);
        let original = self.files.take_held(b"tablespace_map");
        if map.is_empty() && original.is_none() {
            return Ok(());
        }
        let (mode, mtime) = original.map_or((0o600, None), |file| (file.mode, Some(file.mtime)));
        self.put("tablespace_map", &map, mode, mtime, true)?;
        for space in self.plan.tablespaces.iter().filter(|space| !space.in_place) {
            let path = SafePath::new(format!("pg_tblspc/{}", space.oid))?;
            self.beneath.link(&path, &space.to).with_context(|| format!("cannot make the link {path}"))?;
        }
        Ok(())
    }

    fn configuration(&mut self) -> Result<()> {
        let mut texts: Vec<Vec<u8>> = Vec::new();
        match self.files.take_held(b"postgresql.conf") {
            Some(file) => {
                self.put_back("postgresql.conf", &file)?;
                texts.push(file.content);
            }
            None => texts.push(self.configuration_from_outside()?),
        }
        let inherited = self.files.take_held(b"postgresql.auto.conf");
        let (auto, mode) = inherited.map_or((Vec::new(), 0o600), |file| (file.content, file.mode));
        texts.push(auto);
        let mut settings = self.plan.settings.clone();
        let waits = texts.iter().rev().find_map(|text| conf::last_value(text, "synchronous_standby_names"));
        let waits = waits.filter(|names| !names.trim().is_empty());
        let included = texts.iter().any(|text| conf::has_includes(text));
        if waits.is_some() || included {
            settings.push(Setting::new("synchronous_standby_names", ""));
            let was = match waits {
                Some(names) => format!("was '{names}' and is empty now"),
                None => "is empty now, since an included file may set it".to_owned(),
            };
            self.notices.push(format!(
                "synchronous_standby_names {was}, or every commit would wait for a standby that is not there"
            ));
        }
        let auto = texts.pop().unwrap_or_default();
        self.put("postgresql.auto.conf", &conf::rewrite(&auto, &settings), mode, None, false)?;
        self.put(self.plan.signal.file_name(), b"", 0o600, None, false)
    }

    /// The data directory has no `postgresql.conf`: it lay elsewhere.
    fn configuration_from_outside(&mut self) -> Result<Vec<u8>> {
        let mut found: Vec<(&str, &RawBytes, Vec<u8>)> = Vec::new();
        for file in &self.head.external_config {
            if let Some(held) = self.files.take_held(file.path.as_bytes()) {
                found.push((file.role.as_str(), &file.original_path, held.content));
            }
        }
        let of =
            |role: &str| found.iter().find(|(r, ..)| *r == role).map(|(_, _, content)| content.as_slice());
        let config = match of("config_file") {
            Some(config) => {
                let included: Vec<(String, Vec<u8>)> = found
                    .iter()
                    .filter(|(role, ..)| *role == "include")
                    .map(|(_, path, content)| (path.as_path().display().to_string(), content.clone()))
                    .collect();
                self.notices.push(
                    "the lost server's configuration lay outside the data directory; its copies are in there now: \
                     look at postgresql.conf before the server is started for good"
                        .to_owned(),
                );
                external::gather(config, &included)
            }
            None => {
                self.notices.push(
                    "the backup has no postgresql.conf: a minimal one was written, with the limits of the lost server"
                        .to_owned(),
                );
                external::minimal(&self.head.controls).into_bytes()
            }
        };
        self.put("postgresql.conf", &config, 0o600, None, true)?;
        if !self.files.has("pg_hba.conf") {
            let hba = of("hba_file").unwrap_or(external::MINIMAL_HBA.as_bytes()).to_vec();
            self.put("pg_hba.conf", &hba, 0o600, None, true)?;
        }
        if !self.files.has("pg_ident.conf") {
            let ident = of("ident_file").unwrap_or_default().to_vec();
            self.put("pg_ident.conf", &ident, 0o600, None, true)?;
        }
        Ok(config)
    }

    /// Writes `backup_manifest`: what came with the packs, and what was written here, in the order of paths.
    fn manifest(&mut self) -> Result<()> {
        let modern = self.head.server_version >= 170_000;
        let path = SafePath::new("backup_manifest")?;
        self.beneath.remove(&path)?;
        let to = BufWriter::new(self.beneath.create(&path, 0)?);
        let system_id = modern.then_some(self.head.system_id);
        let mut writer = BackupManifestWriter::new(to, if modern { 2 } else { 1 }, system_id)?;
        let mut listed = std::mem::take(&mut self.listed).into_values().peekable();
        self.files.each(|file, crc| {
            while let Some(earlier) = listed.next_if(|listed| listed.path.as_slice() < file.path.as_bytes()) {
                writer.file(&earlier)?;
            }
            let path = file.path.as_bytes().to_vec();
            Ok(writer.file(&entry(path, file.size, file.mtime, crc))?)
        })?;
        listed.try_for_each(|listed| writer.file(&listed))?;
        let ranges = self.head.wal_ranges.iter().map(|range| WalRange {
            timeline: range.timeline,
            start: range.start_lsn,
            end: range.end_lsn,
        });
        let ranges: Vec<WalRange> = ranges.collect();
        let file = writer.finish(&ranges)?.into_inner().map_err(io::IntoInnerError::into_error)?;
        dress(&file, 0o600, None)?;
        Ok(file.sync_all()?)
    }

    /// Everything that was written so far becomes durable, in all file systems that it lies in.
    fn sync(&self) -> Result<()> {
        for top in self.beneath.tops() {
            rustix::fs::syncfs(top).map_err(io::Error::from).context("cannot sync the restored files")?;
        }
        Ok(())
    }
}

fn entry(path: Vec<u8>, size: u64, last_modified: i64, crc: u32) -> FileEntry {
    FileEntry { path, size, last_modified, checksum: Some(Checksum::from_crc32c(crc)) }
}
