//! `walkeep push FILE`: ships one WAL file without a running agent.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use proto::wal::WalFile;
use repository::Repository;
use restore::program::{GlobalArgs, failure, load};

use crate::archive::{Archive, ArchiveError, KnownSegments, Offer};

/// The arguments of `walkeep push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The WAL file: a segment, or a .history, .partial or .backup file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

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
    let offer = Offer { file, size: metadata.len(), digest: None, source, path: None };
    Box::pin(archive.archive(offer)).await.map_err(tell)?;
    // Durable: `archive` returns Ok for nothing else.
    Ok(ExitCode::SUCCESS)
}

fn tell(error: ArchiveError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => failure(error.to_string(), hint),
        None => error.into(),
    }
}
