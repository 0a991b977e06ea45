//! `walkeep find`: where in the WAL did it happen?

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use proto::TimelineId;
use repository::Repository;
use repository::catalogue::Inventory;
use restore::program::{GlobalArgs, Progress};

use crate::find::hit::{ACCIDENTS, Hit, Kind};
use crate::find::lines::{Lines, quoted};
use crate::find::names::{self, Names};
use crate::find::range::{self, Bounds, Moment};
use crate::find::report::{Found, Report, Wish};
use crate::find::scan;
use crate::find::track::{Tracker, Wanted};

/// The arguments of `walkeep find`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct FindArgs {
    /// Nothing earlier: a time, such as "2026-11-24 03:00:00+01", or an LSN
    #[arg(long, value_name = "MOMENT", value_parser = Moment::parse)]
    since: Option<Moment>,

    /// Nothing later: a time or an LSN
    #[arg(long, value_name = "MOMENT", value_parser = Moment::parse)]
    until: Option<Moment>,

    /// Ten minutes before and after a time, or 64 MiB of WAL before and after an LSN
    #[arg(long, value_name = "MOMENT", value_parser = Moment::parse, conflicts_with_all = ["since", "until"])]
    around: Option<Moment>,

    /// Only what happened to this relation: schema.name, a name, an oid, or the number of its file
    #[arg(long, value_name = "RELATION")]
    relation: Option<String>,

    /// Only what this transaction did; its commit too
    #[arg(long, value_name = "XID")]
    xid: Option<u32>,

    /// What to look for: drop, truncate, drop-database and delete unless told otherwise
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<Kind>,

    /// So many rows that one transaction deletes from a table are many
    #[arg(long, value_name = "ROWS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    many: u64,

    /// The timeline to follow, with its ancestors; by default the newest that can be restored
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<TimelineId>,

    /// List no more than so many
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,

    /// The directory to write into the lines that are printed
    #[arg(long, value_name = "DIR", default_value = "DIRECTORY")]
    pgdata: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
Reads the WAL in the repository; neither a server nor the agent is needed, and nothing is changed. Each thing that is found \
comes with the line that restores the moment before it, and tables with one that dumps them alone: everything that was committed earlier is in it, and nothing of its \
transaction.

Examples:
  walkeep find                                           what was dropped, truncated, or deleted in large numbers
  walkeep find --around '2026-11-24 03:10:00+01'         the same, ten minutes before and after
  walkeep find --relation public.orders                  what happened to a table
  walkeep find --kind commit --since 0/5000000 --limit 9 the next nine commits
  walkeep find --xid 4711                                what a transaction did

How it is known: a commit lists the files that go with it. Where nothing comes in their place, relations were dropped; where \
each gets a new file and a table's one is empty, they were truncated; VACUUM FULL, CLUSTER, REINDEX and ALTER TABLE, which \
write them anew, are `rewrite`. Where one transaction does several of these, or rewrites an empty table, the WAL may not tell \
which, and a note says so. Names are those that the backups before and after keep, and what the WAL tells of new relations.

What a transaction did more than 256 MiB of WAL before the range that is looked at is not counted. WAL that is missing is \
told; WAL that is damaged makes the exit code 1, too.";

/// Needs the repository only.
pub async fn run(global: &GlobalArgs, args: FindArgs) -> anyhow::Result<ExitCode> {
    let config = restore::program::load(global)?;
    super::repository_url(&config)?;
    let repository = Repository::from_config(&config).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    let branch = repository.only_branch(&cluster).await?;
    let inventory = Arc::new(Inventory::load(&branch).await?);
    let bounds = match &args.around {
        Some(moment) => Bounds::around(moment),
        None => Bounds::between(args.since.clone(), args.until.clone()),
    };
    let range = range::choose(&branch, &inventory, args.timeline, &bounds).await?;
    let moved = names::moved_catalogues(&branch, &inventory, range.from).await?;
    let tracker = Tracker::new(args.wanted(), moved);
    let bytes = range.to.bytes_since(range.from);
    let progress = if global.quiet { Progress::hidden() } else { Progress::new("find", Some(bytes)) };
    let scanned = scan::scan(&branch, &inventory, &range, &bounds, tracker, &progress).await;
    progress.finish();
    let (tracker, scanned) = scanned?;
    let (more, overwhelmed) = (tracker.more, tracker.overwhelmed);
    let (mut hits, known) = tracker.finish();
    let instant = |hit: &Hit| jiff::Timestamp::from_microsecond(hit.time?.unix_micros()).ok();
    hits.retain(|hit| bounds.contains_time(instant(hit)));
    let names = Names::look_up(&branch, &inventory, &hits, known).await?;
    let mut notices = Vec::new();
    if overwhelmed {
        notices
            .push("more transactions were open at once than can be followed: some are not told".to_owned());
    }
    let found = Found {
        hits: &hits,
        more,
        names: &names,
        range: &range,
        scanned,
        windows: &inventory.windows(),
        notices,
    };
    let lines = Lines { flags: flags(global), pgdata: args.pgdata.clone() };
    let wish = args.relation.clone().map(Wish);
    let report = Report::new(cluster, found, &lines, wish.as_ref(), args.limit);
    match args.json {
        true => super::print_json(&report)?,
        false => super::print(&report.human())?,
    }
    Ok(if report.is_damaged() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl FindArgs {
    fn wanted(&self) -> Wanted {
        let all = [ACCIDENTS, &[Kind::Rewrite, Kind::Create]].concat();
        let kinds: HashSet<Kind> = match (self.kind.is_empty(), self.relation.is_some(), self.xid.is_some()) {
            (false, ..) => self.kind.iter().copied().collect(),
            (true, _, true) => all.into_iter().chain([Kind::Commit]).collect(),
            (true, true, false) => all.into_iter().collect(),
            (true, false, false) => ACCIDENTS.iter().copied().collect(),
        };
        Wanted { kinds, many: self.many, xid: self.xid }
    }
}

/// The flags that say where the repository is, as they were given here.
fn flags(global: &GlobalArgs) -> String {
    let mut line = String::new();
    let config = global.config.as_deref().map(Path::to_string_lossy);
    let flags = [
        ("--config", config.as_deref()),
        ("--repository", global.repository.as_deref()),
        ("--cluster", global.cluster.as_ref().map(proto::config::ClusterName::as_str)),
    ];
    for (flag, value) in flags {
        if let Some(value) = value {
            line += &format!(" {flag} {}", quoted(value));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_what_the_shell_needs() {
        let global = GlobalArgs {
            config: Some("/etc/our db.toml".into()),
            cluster: Some("main".parse().unwrap()),
            ..GlobalArgs::default()
        };
        assert_eq!(flags(&global), " --config '/etc/our db.toml' --cluster main");
    }
}
