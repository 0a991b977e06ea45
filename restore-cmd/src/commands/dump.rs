//! `restore-cmd dump`

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::{HumanBytes, HumanDuration};
use proto::SystemId;
use proto::config::Config;
use proto::conninfo::ConnInfo;
use repository::Branch;
use repository::dump::{Contents, DumpLabel, Dumps, Part};
use restore::dump::{
    Chosen, DumpLine, Fit, Load, Picks, UnreadableDump, choose, fetch_parts, load, narrowed,
    prepare_database, told, way,
};
use restore::prepare::open_branch;
use restore::program::{self, GlobalArgs, Interrupt, Progress, failure, no_password};
use restore::scratch::{Binaries, become_user};
use serde::Serialize;

/// Bring a logical backup back, as files or into a server; without either, list them
#[derive(clap::Args, Debug)]
#[command(after_long_help = MANUAL)]
pub(crate) struct Args {
    /// Which dump: a label, or "latest" for the newest that has what is named, whole: one of single tables, or without some,
    /// must be named by its label
    #[arg(value_name = "LABEL", default_value = "latest")]
    label: Which,

    /// A database of it; may be given several times. All of the dump if neither this nor --globals is given
    #[arg(long, value_name = "NAME")]
    database: Vec<String>,

    /// Roles and tablespaces
    #[arg(long)]
    globals: bool,

    /// Where to; it must not be there yet. A directory where several databases, or the format directory, make one
    #[arg(long, value_name = "FILE", conflicts_with = "to_connection")]
    output: Option<PathBuf>,

    /// Load it into a running server: libpq keywords or a URI, without a password
    #[arg(long, value_name = "CONNINFO")]
    to_connection: Option<String>,

    /// Into a new database of that name
    #[arg(long, value_name = "NAME", requires = "to_connection", conflicts_with = "clean")]
    create_database: Option<String>,

    /// A table, as name or schema.name, as `pg_restore --table` takes it: without its indexes and constraints; may be given
    /// several times
    #[arg(long, value_name = "NAME", requires = "to_connection")]
    table: Vec<String>,

    /// A schema with all that is in it; may be given several times
    #[arg(long, value_name = "NAME", requires = "to_connection")]
    schema: Vec<String>,

    /// Drop what is there of the same names before
    #[arg(long, requires = "to_connection")]
    clean: bool,

    /// Definitions, without rows
    #[arg(long, requires = "to_connection", conflicts_with = "data_only")]
    schema_only: bool,

    /// Rows only, without the definitions of tables
    #[arg(long, requires = "to_connection")]
    data_only: bool,

    /// Without the owners
    #[arg(long, requires = "to_connection")]
    no_owner: bool,

    /// Without privileges
    #[arg(long, requires = "to_connection")]
    no_privileges: bool,

    /// Sessions at once; with more than one it is not all or nothing any more
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,

    /// The directory below which a copy is made where one is needed. /var/tmp if not given
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// The folder with PostgreSQL's programs; looked for in the usual places if not given
    #[arg(long, value_name = "DIR")]
    bindir: Option<PathBuf>,

    /// As root: the user that all of it runs as; postgres if not given
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,

    /// Which system identifier, if the repository has several under the cluster's name
    #[arg(long, value_name = "NUMBER")]
    system_id: Option<SystemId>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
  restore-cmd dump
  restore-cmd dump latest --database shop --output shop.dump
  restore-cmd dump 20261124T013015Z-dump-1a2b3c --database shop --to-connection 'host=db2 dbname=postgres' \\
      --create-database shop_of_monday

Every byte is held against its digest before success is told, and what is damaged is named. A whole database of the format custom is
loaded as it comes, in one transaction that is ended only when all of it was verified; for everything else a verified copy is made
first in a directory of its own, walkeep-scratch-… below --scratch.

Roles and tablespaces (--globals) are loaded before what they own. A role that is there already is told, and becomes what the dump says. A
dump of everything is loaded into a server that has none of its databases: it stops at the first that is there.

Exit codes: 0 done; 1 failed, and nothing was written or loaded, but for --jobs, --globals and scripts (the format plain, a dump of
everything): the message says so; 2 wrong usage.";

#[derive(Clone, Debug)]
enum Which {
    Latest,
    Label(DumpLabel),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            label => label.parse().map(Self::Label).map_err(|error| format!("{error}, or \"latest\"")),
        }
    }
}

/// What `--json` prints after it has brought something back.
#[derive(Debug, Serialize)]
struct Brought {
    dump: DumpLabel,
    /// What it was, in words.
    parts: Vec<String>,
    /// The file or directory, if one was written.
    output: Option<String>,
    /// The database that was loaded, if one was.
    database: Option<String>,
    /// What of the databases the dump has not, in words; none: it has all.
    narrowed: Option<String>,
    bytes: u64,
    seconds: f64,
}

pub(crate) fn run(global: &GlobalArgs, args: &Args) -> Result<()> {
    if args.to_connection.is_some() {
        become_user(args.run_as.as_deref())?;
    }
    let config = program::load(global)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let done = runtime.block_on(Box::pin(done(global, args, &config)));
    // What still waits for the network ends with the process.
    runtime.shutdown_background();
    print!("{}", done?);
    Ok(())
}

/// What is to be printed.
async fn done(global: &GlobalArgs, args: &Args, config: &Config) -> Result<String> {
    let branch = open_branch(config, args.system_id).await?;
    if args.output.is_none() && args.to_connection.is_none() {
        return listed(&branch, args).await;
    }
    let begun = Instant::now();
    let mut interrupt = Interrupt::listen()?;
    let chosen = Chosen { databases: args.database.clone(), globals: args.globals };
    let dump = find(&branch, &args.label, &chosen).await?;
    let parts = choose(&dump, &chosen)?;
    let bytes = parts.iter().map(Part::size_bytes).sum();
    let progress = if global.quiet { Progress::hidden() } else { Progress::new("dump", Some(bytes)) };
    let bring = async {
        match (&args.output, &args.to_connection) {
            (Some(output), _) => {
                let output = absolute(output)?;
                let jobs = usize::from(args.jobs.max(4));
                fetch_parts((&branch, &dump.label), &parts, &output, (jobs, &progress)).await?;
                Ok(None)
            }
            (None, Some(conninfo)) => {
                into_server(args, config, (&branch, &dump), (&parts, conninfo), &progress).await.map(Some)
            }
            (None, None) => anyhow::bail!("neither --output nor --to-connection is given"),
        }
    };
    let brought = tokio::select! {
        brought = Box::pin(bring) => brought,
        () = interrupt.wait() => Err(failure("it was stopped by a signal", match &args.output {
            Some(_) => "nothing of it is where it should go",
            None => {
                "the tool was killed, and the server undoes what was one transaction: look what is there if it was a script, \
                 or --jobs was given; a database of --create-database stays"
            }
        })),
    };
    progress.finish();
    let done = Brought {
        dump: dump.label.clone(),
        parts: parts.iter().map(Part::title).collect(),
        output: args.output.as_ref().map(|path| path.display().to_string()),
        database: brought?,
        narrowed: narrowed(&dump.selection),
        bytes,
        seconds: (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    };
    Ok(match args.json {
        true => serde_json::to_string(&done)? + "\n",
        false => human(&done),
    })
}

/// The dump that is meant.
async fn find(branch: &Branch, which: &Which, chosen: &Chosen) -> Result<Contents> {
    let labels = branch.dumps().await?;
    if let Which::Label(label) = which {
        return match labels.contains(label) {
            true => Ok(branch.read_dump(label).await?),
            false => Err(absent(label)),
        };
    }
    let mut partial: Option<Contents> = None;
    for label in labels.iter().rev() {
        let dump =
            branch.read_dump(label).await.context("the newest dump cannot be used: name another one")?;
        match chosen.fit(&dump) {
            Fit::Whole => return Ok(dump),
            Fit::Partial => partial = partial.or(Some(dump)),
            Fit::Absent => {}
        }
    }
    if let Some(partial) = partial {
        let lacks = narrowed(&partial.selection).unwrap_or_default();
        return Err(failure(
            format!(
                "no dump has what was named as a whole; {} is the newest of a part of it: {lacks}",
                partial.label
            ),
            "name it by its label instead of \"latest\" if that part is meant",
        ));
    }
    let (what, hint) = match labels.is_empty() {
        true => ("the repository has no dump of this cluster", "take one with `walkeep dump`"),
        false => ("no dump has what was named", "`restore-cmd dump` lists them, with what they hold"),
    };
    Err(failure(what, hint))
}

/// What is condemned may go at any time, and is not offered.
fn absent(label: &DumpLabel) -> anyhow::Error {
    failure(
        format!("there is no dump {label}, or retention does not keep it any more"),
        "`restore-cmd dump` lists those that there are",
    )
}

async fn listed(branch: &Branch, args: &Args) -> Result<String> {
    let dumps = Dumps::load(branch).await?;
    if let Which::Label(label) = &args.label
        && !dumps.has(label)
    {
        return Err(absent(label));
    }
    let is_meant = |dump: &&Contents| match &args.label {
        Which::Latest => true,
        Which::Label(label) => dump.label == *label,
    };
    let lines: Vec<DumpLine> = dumps.whole.iter().filter(is_meant).map(DumpLine::of).collect();
    let unreadable = match &args.label {
        Which::Label(label) if lines.is_empty() => UnreadableDump::of(&dumps, |other| other == label),
        Which::Label(_) => Vec::new(),
        Which::Latest => UnreadableDump::of(&dumps, |_| true),
    };
    if args.json {
        let listing = serde_json::json!({ "dumps": lines, "unreadable_dumps": unreadable });
        return Ok(serde_json::to_string(&listing)? + "\n");
    }
    let text = told(&lines, &unreadable);
    match text.is_empty() {
        true => Ok("no dump: take one with `walkeep dump`\n".to_owned()),
        false => Ok(text),
    }
}

/// Loads it; returns the database that was loaded.
async fn into_server(
    args: &Args,
    config: &Config,
    (branch, dump): (&Branch, &Contents),
    (parts, conninfo): (&[Part], &str),
    progress: &Progress,
) -> Result<String> {
    no_password(conninfo, "--to-connection")?;
    let [part] = parts else {
        let there: Vec<String> = parts.iter().map(Part::title).collect();
        return Err(failure(
            format!("one thing can be loaded at a time, and the dump has {}", there.join(", ")),
            "name a database with --database, or take --globals, which comes first",
        ));
    };
    let picks = Picks {
        tables: args.table.clone(),
        schemas: args.schema.clone(),
        clean: args.clean,
        schema_only: args.schema_only,
        data_only: args.data_only,
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        jobs: args.jobs,
    };
    let way = way(part, &picks)?;
    let info = ConnInfo::resolve(conninfo).context("--to-connection cannot be used")?;
    // The tools reach one host, and that is the one that is asked beforehand, too.
    let info = ConnInfo { hosts: info.hosts.into_iter().take(1).collect(), ..info };
    let client = proto::client::sql(&info, "restore-cmd").await;
    drop(client.context("cannot connect to the server of --to-connection")?);
    let bindir = args.bindir.as_deref().or(config.dump.bindir.as_deref());
    let binaries = Binaries::clients(dump.tool_major(), bindir)?;
    binaries.needed(way.program)?;
    let scratch = args.scratch.as_ref().or(config.dump.scratch.as_ref()).unwrap_or(&config.drill.scratch);
    let database = args.create_database.clone().unwrap_or_else(|| info.dbname.clone());
    if let Some(name) = &args.create_database {
        prepare_database(&info, name, &way.schemas).await?;
    }
    let jobs = usize::from(args.jobs.max(4));
    let to = Load { info, database: database.clone(), binaries: &binaries, scratch, jobs, progress };
    load(&to, (branch, &dump.label), part, &way, args.create_database.is_some()).await?;
    Ok(database)
}

fn absolute(output: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(output);
    let absolute = absolute.with_context(|| format!("{} is no file's name", output.display()))?;
    if absolute.symlink_metadata().is_ok() {
        let hint = "name another file with --output: nothing is overwritten";
        return Err(failure(format!("{} is there already", absolute.display()), hint));
    }
    Ok(absolute)
}

fn human(done: &Brought) -> String {
    let to = match (&done.output, &done.database) {
        (Some(path), _) => path.clone(),
        (None, database) => format!("database {}", database.as_deref().unwrap_or_default()),
    };
    let took = HumanDuration(std::time::Duration::from_secs_f64(done.seconds));
    let what = done.parts.join(", ");
    let lacks = done.narrowed.as_ref().map(|lacks| format!(": {lacks}")).unwrap_or_default();
    format!(
        "{:<12} {what} of dump {}{lacks}\n{:<12} {to}, {} ({took})\n",
        "brought back",
        done.dump,
        "to",
        HumanBytes(done.bytes)
    )
}
