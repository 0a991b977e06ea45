//! From nothing to an open server, phase by phase.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use proto::Lsn;
use repository::Branch;
use repository::backup::IndexedManifest;
use repository::catalogue::Inventory;

use super::{Binaries, Scratch, Server};
use crate::execute::{Existing, Outcome, conf, execute, survey};
use crate::late::{late_tablespaces, refuse_late};
use crate::plan::{FetchCommand, Options, Plan, check_room};
use crate::prepare::{Prepared, Spaces, prepare};
use crate::program::Progress;

/// A copy that is wanted.
pub struct Wanted<'a> {
    /// The branch to restore from.
    pub branch: &'a Branch,
    /// What it holds.
    pub inventory: &'a Inventory,
    /// Backup and target. Its directories are those of the scratch directory, and the copy never archives.
    pub options: Options,
    /// How its server fetches WAL.
    pub fetch: FetchCommand,
    /// Where PostgreSQL's programs are, if that is known.
    pub bindir: Option<&'a Path>,
    /// Settings of its server besides those that every copy has.
    pub settings: Vec<(String, String)>,
    /// Roles of the cluster of which one may log in.
    pub roles: Vec<String>,
    /// How long a recovery may stand still.
    pub patience: Duration,
    /// Threads.
    pub jobs: usize,
    /// Whether it is tried although there seems to be too little room.
    pub ignore_room: bool,
    /// Whether progress is shown.
    pub quiet: bool,
}

/// What is being done, or was done last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// The backup is chosen, and whether WAL is there is looked at.
    Plan,
    /// It is looked whether this computer can do it: room, and PostgreSQL's programs.
    Machine,
    /// Files are written.
    Restore,
    /// WAL is replayed.
    Recovery,
    /// The server is open.
    Open,
}

/// A copy on its way, and what is known of it. What was reached before a failure stays known.
pub struct Copy {
    scratch: Scratch,
    /// How far it has come.
    pub phase: Phase,
    /// What is restored.
    pub plan: Option<Plan>,
    manifest: Option<IndexedManifest>,
    /// PostgreSQL's programs.
    pub binaries: Option<Binaries>,
    /// What was restored.
    pub outcome: Option<Outcome>,
    /// The server.
    pub server: Option<Server>,
    /// The end of what was replayed.
    pub reached: Option<Lsn>,
    /// When the last transaction ended that was replayed.
    pub reached_time: Option<Timestamp>,
    /// How long the plan took.
    pub planned_in: Option<Duration>,
    /// How long the restore of files took.
    pub restored_in: Option<Duration>,
    /// How long it took from there until the server was open.
    pub recovered_in: Option<Duration>,
}

impl Copy {
    /// Makes the scratch directory below `base`.
    ///
    /// # Errors
    /// As [`Scratch::make`].
    pub fn begin(base: &Path) -> Result<Self> {
        Ok(Self {
            scratch: Scratch::make(base)?,
            phase: Phase::Plan,
            plan: None,
            manifest: None,
            binaries: None,
            outcome: None,
            server: None,
            reached: None,
            reached_time: None,
            planned_in: None,
            restored_in: None,
            recovered_in: None,
        })
    }

    /// The directory that holds all of it.
    pub fn folder(&self) -> &Path {
        self.scratch.folder()
    }

    /// Where the copy's data directory is, or will be.
    pub fn data(&self) -> PathBuf {
        self.scratch.data()
    }

    /// Chooses a backup, looks whether WAL is there, and whether this computer can restore it. Nothing is written.
    ///
    /// # Errors
    /// It cannot be restored, or not here; [`Copy::phase`] tells which.
    pub async fn plan(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let begun = Instant::now();
        let Prepared { mut plan, manifest } = self.prepare(wanted).await?;
        self.planned_in = Some(begun.elapsed());
        self.phase = Phase::Machine;
        plan.places = survey(&plan.places, Existing::Refuse)?;
        let binaries = Binaries::find(plan.server_version / 10_000, wanted.bindir)?;
        if !wanted.ignore_room {
            check_room(&plan.places)?;
        }
        let head = &manifest.head;
        Server::configure(&self.scratch, &binaries, &head.controls, head.segment_size, &wanted.settings)?;
        let progress = progress(wanted, "look through WAL", plan.wal_bytes());
        let late = late_tablespaces(wanted.branch, wanted.inventory, &plan, &progress).await;
        progress.finish();
        refuse_late(&late?)?;
        self.plan = Some(plan);
        self.binaries = Some(binaries);
        self.manifest = Some(manifest);
        Ok(())
    }

    /// Restores and starts the copy that was planned, and waits until its server is open.
    ///
    /// # Errors
    /// It does not come to that; [`Copy::phase`] tells how far it did.
    pub async fn bring_up(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let planned = (self.plan.clone(), self.binaries.clone(), self.manifest.take());
        let (Some(plan), Some(binaries), Some(manifest)) = planned else {
            bail!("a copy cannot be made before it is planned");
        };
        let size = manifest.head.segment_size;
        self.phase = Phase::Restore;
        let begun = Instant::now();
        let progress = progress(wanted, "restore", plan.read_bytes);
        let restored =
            execute(wanted.branch, manifest, &plan, Existing::Refuse, wanted.jobs, &progress).await;
        progress.finish();
        self.outcome = Some(restored?);
        self.restored_in = Some(begun.elapsed());
        self.phase = Phase::Recovery;
        let begun = Instant::now();
        // The lost server's own settings are not read; what recovery needs is all that there is.
        let auto = self.scratch.data().join("postgresql.auto.conf");
        std::fs::write(&auto, conf::rewrite(b"", &plan.settings))
            .with_context(|| format!("cannot write {}", auto.display()))?;
        let wal_bytes = plan.wal_to.bytes_since(plan.wal_from);
        let progress = self::progress(wanted, "recovery", wal_bytes);
        let server = Server::start(&self.scratch, &binaries, plan.server_version / 10_000)?;
        let server = self.server.insert(server);
        let recovered = server
            .opened(&wanted.roles, wanted.patience, |segments| {
                let done = (segments * size.bytes()).min(wal_bytes);
                progress.add(done.saturating_sub(progress.done()));
            })
            .await;
        progress.finish();
        let recovered = recovered?;
        // A backup without WAL behind it is replayed to its own end, of which the server keeps no note.
        self.reached = Some(recovered.lsn.unwrap_or(plan.consistent_lsn));
        self.reached_time = recovered.time.and_then(|time| Timestamp::from_microsecond(time).ok());
        self.recovered_in = Some(begun.elapsed());
        self.phase = Phase::Open;
        Ok(())
    }

    async fn prepare(&self, wanted: &Wanted<'_>) -> Result<Prepared> {
        let options = Options {
            pgdata: self.scratch.data(),
            archive: crate::plan::Archive::Off,
            action: crate::plan::TargetAction::Promote,
            standby: false,
            ..wanted.options.clone()
        };
        let spaces = self.scratch.tablespaces();
        prepare(wanted.branch, wanted.inventory, &options, Spaces::Within(&spaces), &wanted.fetch).await
    }

    /// Ends the server and removes everything.
    ///
    /// # Errors
    /// Something does not go.
    pub async fn remove(mut self) -> Result<()> {
        let (server, scratch) = (self.server.take(), self.scratch);
        let removed = tokio::task::spawn_blocking(move || {
            drop(server);
            scratch.remove()
        });
        removed.await.context("cannot remove the copy")?
    }
}

fn progress(wanted: &Wanted<'_>, what: &str, bytes: u64) -> Progress {
    if wanted.quiet { Progress::hidden() } else { Progress::new(what, Some(bytes)) }
}
