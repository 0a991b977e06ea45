//! A dump from its intent to its contents.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::config::DumpFormat;
use repository::Branch;
use repository::dump::{Contents, DUMP_FORMAT, DumpFile, DumpIntent, DumpLabel, Part};
use restore::program::{Progress, client, failure, free_bytes};
use restore::scratch::{Binaries, Scratch};

use super::plan::{Step, Wish};
use super::server::Server;
use super::{directory, stream};

/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// All that a dump needs.
pub struct Task {
    /// Where it goes.
    pub branch: Branch,
    /// What is dumped.
    pub server: Server,
    /// What was asked for.
    pub wish: Wish,
    /// What is run for it.
    pub steps: Vec<Step>,
    /// With what.
    pub binaries: Binaries,
    /// Where files of the format `directory` wait.
    pub scratch: PathBuf,
    /// The operator's note.
    pub note: Option<String>,
}

impl Task {
    /// Whether files wait in the scratch directory.
    pub fn waits(&self) -> bool {
        self.steps.iter().any(|step| step.format == DumpFormat::Directory)
    }

    /// Bytes that the scratch directory must hold at least: the largest tables of a database, as many as are dumped at once.
    /// Zero where nothing waits there.
    ///
    /// # Errors
    /// The server does not tell.
    pub async fn room(&self) -> Result<u64> {
        let mut most = 0;
        for step in self.steps.iter().filter(|step| step.format == DumpFormat::Directory) {
            if let Some(database) = &step.database {
                most = most.max(self.server.largest_tables(database, self.wish.jobs).await?);
            }
        }
        Ok(most)
    }

    /// Looks whether the scratch directory has that room.
    ///
    /// # Errors
    /// It has not, or cannot be looked at.
    pub fn check_room(&self, needed: u64) -> Result<()> {
        let place = self.scratch.display();
        let free = free_bytes(&self.scratch).map_err(|error| {
            failure(
                format!("cannot look at the scratch directory {place}: {error}"),
                "name a directory that is there with --scratch, or as `scratch` in [dump]",
            )
        })?;
        if needed <= free {
            return Ok(());
        }
        Err(failure(
            format!(
                "there is not enough room in {place}: the largest tables that are dumped at once take {}, and {} are free",
                HumanBytes(needed),
                HumanBytes(free)
            ),
            "make room, name another directory with --scratch, lower --jobs, or take the format custom, which needs none; \
             --no-space-check dumps all the same",
        ))
    }

    /// Announces the dump, and stores its files: all of them are durable when this returns. It does not exist before
    /// [`Task::commit`].
    ///
    /// # Errors
    /// A tool, the store or the scratch directory failed.
    pub async fn gather(&self, label: &DumpLabel, progress: &Progress) -> Result<Contents> {
        let branch = &self.branch;
        let intent = DumpIntent {
            label: label.clone(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            writer: branch.writer(),
            started_at: Timestamp::now(),
        };
        branch.begin_dump(&intent).await.context("cannot announce the dump in the repository")?;
        let parts = tokio::select! {
            parts = Box::pin(self.parts(label, progress)) => parts?,
            never = self.live(label) => match never {},
        };
        Ok(Contents {
            format: DUMP_FORMAT,
            label: label.clone(),
            server_version: self.server.version,
            tool_version: self.binaries.version().to_owned(),
            from_standby: self.server.in_recovery,
            started_at: intent.started_at,
            finished_at: Timestamp::now().max(intent.started_at),
            note: self.note.clone(),
            selection: self.wish.selection.clone(),
            parts,
        })
    }

    /// Makes the dump exist.
    ///
    /// # Errors
    /// The store failed. Then nobody knows whether it exists, and nothing of it may be taken back.
    pub async fn commit(&self, contents: &Contents) -> Result<()> {
        Ok(self.branch.put_dump(contents).await?)
    }

    /// Shows that the dump is alive. That it cannot be shown does no harm before `expire` would take it for dead.
    async fn live(&self, label: &DumpLabel) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if let Err(error) = self.branch.dump_heartbeat(label).await {
                tracing::warn!("dump {label} could not give a sign of life: {error}");
            }
        }
    }

    async fn parts(&self, label: &DumpLabel, progress: &Progress) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let number = parts.iter().map(|part| part.files.len()).sum::<usize>();
            let number = u32::try_from(number).context("the dump has too many files")?;
            let of = step.database.as_deref().unwrap_or("all databases");
            tracing::debug!(%label, program = step.program, of, format = %step.format, "dumping");
            let files = self.files(step, (label, number), progress).await;
            let files = files.with_context(|| format!("cannot dump {of}"))?;
            let (kind, database, format) = (step.kind, step.database.clone(), step.format);
            parts.push(Part { kind, database, format, files });
        }
        Ok(parts)
    }

    async fn files(
        &self,
        step: &Step,
        (label, number): (&DumpLabel, u32),
        progress: &Progress,
    ) -> Result<Vec<DumpFile>> {
        let info = &self.server.info;
        let database = step.database.as_ref().unwrap_or(&info.dbname);
        let mut command = client(&self.binaries.needed(step.program)?, info, database);
        command.args(&step.arguments);
        let to = (&self.branch, label, number);
        if step.format != DumpFormat::Directory {
            return Ok(vec![stream::store(to, command, step.program, progress).await?]);
        }
        let scratch = Waiting(Some(Scratch::make(&self.scratch)?));
        let folder = scratch.folder()?;
        directory::store(to, command, &folder, progress).await
    }
}

/// A scratch directory that goes when the dump is done with it, however that ends.
struct Waiting(Option<Scratch>);

impl Waiting {
    /// An empty directory in it.
    fn folder(&self) -> Result<PathBuf> {
        let folder = self.0.as_ref().map(Scratch::folder).unwrap_or(Path::new("."));
        let folder = folder.join("dump");
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Scratch::remove) {
            tracing::warn!("{error:#}; the next dump tries again");
        }
    }
}
