//! `walkeep checklist`: what is to be looked at each day, week and month.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use proto::config::Config;
use restore::program::{GlobalArgs, load};

use crate::checklist::{Checklist, Kind, gather, page, plots};

/// The arguments of `walkeep checklist`.
#[derive(Debug, Args)]
pub struct ChecklistArgs {
    /// Which
    kind: Kind,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Write a report with plots as well: one page, that loads nothing. Default: what `folder` in [checklist] says
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Goes through it, prints it, and writes the report; exit code 1 if anything is red.
pub async fn run(global: &GlobalArgs, args: ChecklistArgs) -> anyhow::Result<ExitCode> {
    let config = load(global)?;
    super::repository_url(&config)?;
    let seen = Box::pin(gather(&config)).await;
    let checklist = Checklist::of(args.kind, &seen);
    if let Some(file) = args.html.or_else(|| usual_file(&config, args.kind)) {
        let looks = seen.stored.as_ref().map(|stored| stored.looks.as_slice()).unwrap_or_default();
        write(&file, &page(&checklist, &plots(looks)))?;
    }
    if args.json {
        super::print_json(&checklist)?;
    } else {
        super::print(&checklist.text())?;
    }
    Ok(if checklist.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn usual_file(config: &Config, kind: Kind) -> Option<PathBuf> {
    let cluster = config.cluster.clone().unwrap_or_default();
    let folder = config.checklist.folder.as_ref()?;
    Some(folder.join(format!("{cluster}-{}.html", kind.as_str())))
}

/// Whoever reads the earlier one meanwhile has it whole.
fn write(file: &Path, page: &str) -> anyhow::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    // It tells of statements and names: that is for its owner. One of a process that was killed is in the way, and a link is
    // never followed.
    drop(std::fs::remove_file(&beside));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut new| new.write_all(page.as_bytes()))
        .and_then(|()| std::fs::rename(&beside, file));
    written
        .inspect_err(|_| drop(std::fs::remove_file(&beside)))
        .with_context(|| format!("cannot write the report {}", file.display()))
}
