//! `restore-cmd export`

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::{HumanBytes, HumanDuration};
use jiff::Timestamp;
use proto::config::{Config, DumpFormat};
use proto::conninfo::ConnInfo;
use proto::{Lsn, TimelineId};
use repository::Branch;
use repository::backup::BackupLabel;
use repository::catalogue::Inventory;
use restore::export::{Dump, Goal, Wish, load_into, select};
use restore::plan::RecoveryTarget;
use restore::prepare::open_branch;
use restore::program::{GlobalArgs, Interrupt, TargetArgs, failure, load};
use restore::scratch::{Copy, CopyArgs, become_user, copy_options};
use serde::Serialize;

/// Dump tables, schemas or a database as they were at a moment
#[derive(clap::Args, Debug)]
#[command(after_long_help = MANUAL)]
pub(crate) struct Args {
    /// A table, as schema.name, with its partitions and children; may be given several times
    #[arg(long, value_name = "NAME")]
    table: Vec<String>,

    /// A schema with all that is in it; may be given several times
    #[arg(long, value_name = "NAME")]
    schema: Vec<String>,

    /// The database; without --table and --schema all of it. That of `postgres` in the configuration if not given
    #[arg(long, value_name = "NAME")]
    database: Option<String>,

    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    goal: GoalArgs,

    /// What pg_dump writes: custom, directory, plain or tar
    #[arg(long, value_name = "FORMAT", default_value_t, conflicts_with = "to_connection")]
    format: DumpFormat,

    /// Put it under the name of another schema, such as one that lies beside the living tables
    #[arg(long = "as", value_name = "SCHEMA")]
    rename: Option<String>,

    /// Rows only, without the definitions of tables
    #[arg(long)]
    data_only: bool,

    /// Without the owners; for --format plain and --to-connection
    #[arg(long)]
    no_owner: bool,

    /// Without privileges
    #[arg(long)]
    no_privileges: bool,

    #[command(flatten)]
    copy: CopyArgs,

    /// Say what would be done and how much room it takes, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct GoalArgs {
    /// Where to; it must not be there yet
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Load it into a running server, all or nothing: libpq keywords or a URI, without a password
    #[arg(long, value_name = "CONNINFO")]
    to_connection: Option<String>,
}

const MANUAL: &str = "\
What happens: the whole backup is restored into a directory of its own, walkeep-scratch-… below --scratch, since nobody can tell \
beforehand which files a table's rows, values and definitions lie in. PostgreSQL of the same major version is started on it, \
cut off from the network and from the original, and recovers to the target. pg_dump takes out what was named; then the copy is \
removed. What was named and did not exist at that moment is told, and nothing is written.

  restore-cmd export --table public.orders --target-time '2026-11-24 03:10:00+01' --output orders.dump
  restore-cmd export --table public.orders --target-time '2026-11-24 03:10:00+01' \\
      --to-connection 'host=/var/run/postgresql dbname=shop' --as rescued

A table that was dropped is loaded back under its own name. For one whose rows are gone or wrong, --as puts the old ones beside it, \
in a schema that is made for them, without foreign keys; INSERT … SELECT takes over what is missing. --data-only loads rows \
into a table that is there, if none of them are.

Exit codes: 0 done; 1 failed, and nothing was written or loaded; 2 wrong usage.";

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Exported {
    backup: BackupLabel,
    target: RecoveryTarget,
    timeline: TimelineId,
    /// The end of what was replayed.
    reached_lsn: Option<Lsn>,
    /// When the last transaction ended that was replayed.
    reached_time: Option<Timestamp>,
    database: String,
    /// Quoted; empty: the whole database.
    names: Vec<String>,
    /// The file, if one was written.
    output: Option<String>,
    /// Its bytes; what was loaded if nothing was written.
    bytes: u64,
    /// Whether it was loaded into a server.
    loaded: bool,
    seconds: f64,
}

pub(crate) fn run(global: &GlobalArgs, args: &Args) -> Result<()> {
    become_user(args.copy.run_as())?;
    let config = load(global)?;
    if args.no_owner && args.goal.output.is_some() && args.format != DumpFormat::Plain {
        return Err(failure(
            "an archive always knows the owners: pg_restore leaves them out when it is loaded",
            "leave out --no-owner, and give it to pg_restore",
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let done = runtime.block_on(exported(global, args, &config));
    // What still waits for the network ends with the process.
    runtime.shutdown_background();
    let Some(done) = done? else { return Ok(()) };
    if args.json {
        println!("{}", serde_json::to_string(&done)?);
    } else {
        print!("{}", human(&done));
    }
    Ok(())
}

/// `None` after a dry run.
async fn exported(global: &GlobalArgs, args: &Args, config: &Config) -> Result<Option<Exported>> {
    let mut interrupt = Interrupt::listen()?;
    let wish = wish(args, config)?;
    let goal = goal(args)?;
    goal.check(&wish, args.data_only).await?;
    let branch = open_branch(config, args.target.system_id()).await?;
    let inventory = Inventory::load(&branch).await?;
    let mut copy = Copy::begin(args.copy.base(config))?;
    let done = tokio::select! {
        done = Box::pin(export(global, args, config, (&branch, &inventory), (&wish, &goal), &mut copy)) => Some(done),
        () = interrupt.wait() => None,
    };
    let removed = copy.remove().await;
    let Some(done) = done else {
        removed?;
        return Err(failure("the export was stopped by a signal", "nothing of it was left"));
    };
    if let Err(error) = removed {
        tracing::warn!("{error:#}; the next export or drill tries again");
    }
    done
}

async fn export(
    global: &GlobalArgs,
    args: &Args,
    config: &Config,
    (branch, inventory): (&Branch, &Inventory),
    (wish, goal): (&Wish, &Goal),
    copy: &mut Copy,
) -> Result<Option<Exported>> {
    let begun = Instant::now();
    let options = copy_options(&args.target, args.target.target(), args.target.timeline());
    let wanted = args.copy.wanted(global, config, (branch, inventory), options)?;
    Box::pin(copy.plan(&wanted)).await?;
    let plan = copy.plan.clone().context("there is no plan")?;
    let binaries = copy.binaries.clone().context("there are no programs")?;
    for program in ["pg_dump", "pg_restore"] {
        binaries.needed(program)?;
    }
    match (args.dry_run, args.json) {
        (true, true) => println!("{}", serde_json::json!({ "plan": plan, "room_bytes": plan.room() })),
        (_, false) => print!("{}", plan.announced()),
        (false, true) => {}
    }
    if args.dry_run {
        return Ok(None);
    }
    Box::pin(copy.bring_up(&wanted)).await?;
    let server = copy.server.as_ref().context("the copy has no server")?;
    let moment = moment(copy);
    let selection = select(server, wish, &moment).await?;
    let dump = Dump {
        format: args.format,
        data_only: args.data_only,
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        jobs: args.copy.jobs(),
    };
    let archive = copy.folder().join("export.dump");
    let to: &Path = match goal {
        Goal::File(path) => path,
        Goal::Server(_) => &archive,
    };
    let bytes = dump.write(server, &binaries, &selection, to).await?;
    if let Goal::Server(conninfo) = goal {
        load_into(conninfo, &binaries, &archive, dump).await?;
    }
    Ok(Some(Exported {
        backup: plan.backup,
        target: plan.target,
        timeline: plan.timeline,
        reached_lsn: copy.reached,
        reached_time: copy.reached_time,
        database: selection.database,
        names: selection.names,
        output: args.goal.output.as_ref().map(|path| path.display().to_string()),
        bytes,
        loaded: matches!(goal, Goal::Server(_)),
        seconds: (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    }))
}

/// The moment that was reached, in words.
fn moment(copy: &Copy) -> String {
    let lsn = copy.reached.map_or_else(|| "the target".to_owned(), |lsn| format!("LSN {lsn}"));
    match copy.reached_time {
        Some(time) => format!("at {lsn}, after the last transaction of {time}"),
        None => format!("at {lsn}"),
    }
}

fn wish(args: &Args, config: &Config) -> Result<Wish> {
    let database = match &args.database {
        Some(database) => database.clone(),
        None => ConnInfo::resolve(config.postgres.as_deref().unwrap_or_default())?.dbname,
    };
    if args.table.is_empty() && args.schema.is_empty() {
        if args.database.is_none() {
            return Err(failure(
                "nothing is named that is to be exported",
                "name tables with --table, schemas with --schema, or a whole database with --database",
            ));
        }
        if args.rename.is_some() {
            return Err(failure(
                "--as is for tables, or for one schema",
                "a database goes into the one that --to-connection names",
            ));
        }
    }
    Ok(Wish {
        database,
        tables: args.table.clone(),
        schemas: args.schema.clone(),
        rename: args.rename.clone(),
    })
}

fn goal(args: &Args) -> Result<Goal> {
    match (&args.goal.output, &args.goal.to_connection) {
        (Some(output), _) => {
            let absolute = std::path::absolute(output);
            let absolute = absolute.with_context(|| format!("{} is no file's name", output.display()))?;
            Ok(Goal::File(absolute))
        }
        (None, Some(conninfo)) => Ok(Goal::Server(conninfo.clone())),
        (None, None) => anyhow::bail!("neither --output nor --to-connection is given"),
    }
}

fn human(done: &Exported) -> String {
    let what = match done.names.as_slice() {
        [] => format!("database {}", done.database),
        names => format!("{} of database {}", names.join(", "), done.database),
    };
    let at = done.reached_lsn.map(|lsn| format!(" at {lsn}")).unwrap_or_default();
    let time = done.reached_time.map(|time| format!(", last transaction {time}")).unwrap_or_default();
    let to = match &done.output {
        Some(path) => format!("{path}, {}", HumanBytes(done.bytes)),
        None => "the running server".to_owned(),
    };
    let took = HumanDuration(std::time::Duration::from_secs_f64(done.seconds));
    format!("{:<12} {what}{at}{time}\n{:<12} {to} ({took} in all)\n", "exported", "to")
}
