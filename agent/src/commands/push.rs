//! `walkeep push FILE`: ships one WAL file without a running agent.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use proto::SystemId;
use proto::wal::WalFile;
use proto::wal::page::{LongHeader, PAGE_SIZE};
use repository::Repository;
use restore::program::{GlobalArgs, failure, load};

use crate::archive::{Archive, ArchiveError, KnownSegments, Offer};

/// The arguments of `walkeep push`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct PushArgs {
    /// The WAL file: a segment, or a .history, .partial or .backup file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

const MANUAL: &str = "\
What archive-cmd calls when no agent answers. The file is checked first: this cluster's, the name's position and timeline, and whole. One \
that the repository has already, with the same content, is fine; with another content it is refused, and both are kept.

Example:
  walkeep push /var/lib/postgresql/15/main/pg_wal/000000010000000000000007

Exit codes: 0 it is durable in the repository; 1 it is not; 2 wrong usage.";

/// Succeeds only if the file is durable in the repository.
pub async fn run(global: &GlobalArgs, args: PushArgs) -> anyhow::Result<ExitCode> {
    let path = args.file;
    let at = path.display();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let file: WalFile = name
        .parse()
        .map_err(|error| failure(format!("{error}"), "give archive_command's %p: a file of pg_wal"))?;
    let source = File::open(&path).with_context(|| format!("cannot open {at}"))?;
    let metadata = source.metadata().with_context(|| format!("cannot look at {at}"))?;
    anyhow::ensure!(metadata.is_file(), "{at} is not a file");
    let config = load(global)?;
    let cluster = config.cluster.clone().unwrap_or_default();
    super::repository_url(&config)?;
    let repository = Box::pin(Repository::from_config(&config)).await.map_err(|error| tell(error.into()))?;
    let archive = Archive::new(repository, cluster, KnownSegments::default());
    let owner = owner(file, &source, &path)?;
    let offer = Offer { file, size: metadata.len(), digest: None, source, path: None };
    Box::pin(archive.archive(offer, owner)).await.map_err(tell)?;
    // Durable: `archive` returns Ok for nothing else.
    Ok(ExitCode::SUCCESS)
}

/// Whose the file is: a segment tells it, any other belongs to the data directory in which it lies.
fn owner(file: WalFile, source: &File, path: &Path) -> anyhow::Result<SystemId> {
    if let WalFile::Segment(_) | WalFile::Partial(_) = file {
        let mut page = [0; PAGE_SIZE];
        let cannot = || format!("{} has no beginning that could be read", path.display());
        source.read_exact_at(&mut page, 0).with_context(cannot)?;
        let header = LongHeader::parse(&page).with_context(|| format!("{} is no WAL", path.display()))?;
        return Ok(header.system_id);
    }
    for control in SystemId::control_files(path) {
        match std::fs::read(&control) {
            Ok(content) => {
                let owner = SystemId::of_control_file(&content);
                return owner.with_context(|| format!("{} is not of PostgreSQL 13 to 18", control.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", control.display())),
        }
    }
    Err(failure(
        format!("{} does not tell whose it is, and there is no global/pg_control that would", path.display()),
        "name the file in the data directory's pg_wal, or run this in the data directory",
    ))
}

fn tell(error: ArchiveError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => failure(error.to_string(), hint),
        None => error.into(),
    }
}
