//! `walkeep dump`: take a logical backup now.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::config::{Config, DumpConfig, DumpFormat};
use proto::conninfo::ConnInfo;
use repository::Repository;
use repository::dump::{Contents, Selection};
use restore::dump::{DumpLine, narrowed};
use restore::program::{GlobalArgs, Interrupt, Progress, failure};
use restore::scratch::Binaries;

use super::backup::note;
use crate::dump::execute::Task;
use crate::dump::plan::Wish;
use crate::dump::server::Server;

/// The arguments of `walkeep dump`. What is not given comes from `[dump]` of the configuration.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct DumpArgs {
    /// A database; may be given several times. All that can be connected to, but templates, if none is named
    #[arg(long, value_name = "NAME")]
    database: Vec<String>,

    /// Roles and tablespaces, too, where a database, tables or schemas are named; otherwise they are dumped anyway
    #[arg(long, conflicts_with = "no_globals")]
    globals: bool,

    /// No roles and tablespaces
    #[arg(long)]
    no_globals: bool,

    /// Roles and tablespaces, and nothing else
    #[arg(long, conflicts_with_all = ["database", "table", "schema", "no_globals", "everything"])]
    globals_only: bool,

    /// The whole server as one script of SQL, by pg_dumpall
    #[arg(long, conflicts_with_all = ["database", "table", "schema", "exclude_table", "exclude_schema",
        "exclude_table_data", "format", "globals", "no_globals"])]
    everything: bool,

    /// Only tables like this, a pattern of pg_dump; may be given several times
    #[arg(long, value_name = "PATTERN")]
    table: Vec<String>,

    /// Only schemas like this; may be given several times
    #[arg(long, value_name = "PATTERN")]
    schema: Vec<String>,

    /// No tables like this; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude_table: Vec<String>,

    /// No schemas like this; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude_schema: Vec<String>,

    /// Of tables like this the definitions alone; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude_table_data: Vec<String>,

    /// Definitions, no rows
    #[arg(long, conflicts_with = "data_only")]
    schema_only: bool,

    /// Rows, no definitions
    #[arg(long)]
    data_only: bool,

    /// What pg_dump writes: custom, directory, plain or tar
    #[arg(long, value_name = "FORMAT")]
    format: Option<DumpFormat>,

    /// Tables that are dumped at once, with --format directory
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,

    /// Roles without the digests of their passwords, which only a superuser may read
    #[arg(long)]
    no_role_passwords: bool,

    /// A note to keep with the dump, shown by `walkeep list`
    #[arg(long, value_name = "TEXT", value_parser = note)]
    label_note: Option<String>,

    /// The directory below which files wait until they are stored, with --format directory
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// The folder with pg_dump; looked for in the usual places if not given
    #[arg(long, value_name = "DIR")]
    bindir: Option<PathBuf>,

    /// Try it even where there does not seem to be room enough
    #[arg(long)]
    no_space_check: bool,

    /// Say what would be run, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object when it is done
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
A dump is complete or not there: what fails, or is killed, is never listed, and removes no earlier one. Without names all databases
are dumped, each by its own pg_dump, and roles and tablespaces beside them.

  walkeep dump
  walkeep dump --database shop --format directory --jobs 4
  walkeep dump --database shop --table 'public.orders*' --label-note 'before the change'

The role must be allowed to read what is dumped; set `postgres` in [dump] to one that is. The programs of the server's major version
are taken, or newer ones. `walkeep expire` lets dumps go as [dump] says; `restore-cmd dump` brings one back.

Exit codes: 0 the dump is durable in the repository; 1 failed, nothing is listed; 2 wrong usage.";

impl DumpArgs {
    fn wish(&self, config: &DumpConfig) -> Wish {
        let or = |given: &[String], configured: &[String]| match given {
            [] => configured.to_vec(),
            given => given.to_vec(),
        };
        let picks = !(self.table.is_empty() && self.schema.is_empty());
        let databases = or(&self.database, &config.databases);
        let selection = match self.everything {
            true => Selection { everything: true, ..Selection::default() },
            false if self.globals_only => {
                Selection { databases: Some(Vec::new()), globals: true, ..Selection::default() }
            }
            false => Selection {
                databases: (!databases.is_empty()).then_some(databases),
                // Who names something wants that.
                globals: self.globals
                    || config.globals && !self.no_globals && self.database.is_empty() && !picks,
                everything: false,
                tables: self.table.clone(),
                schemas: self.schema.clone(),
                exclude_tables: or(&self.exclude_table, &config.exclude_tables),
                exclude_schemas: self.exclude_schema.clone(),
                exclude_table_data: self.exclude_table_data.clone(),
                ..Selection::default()
            },
        };
        Wish {
            selection: Selection { schema_only: self.schema_only, data_only: self.data_only, ..selection },
            format: self.format.unwrap_or(config.format),
            jobs: self.jobs.unwrap_or(config.jobs),
            role_passwords: config.role_passwords && !self.no_role_passwords,
        }
    }
}

/// Takes the dump, or says why not. A signal ends it cleanly: nothing of it is listed.
pub async fn run(global: &GlobalArgs, args: DumpArgs) -> anyhow::Result<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let begun = std::time::Instant::now();
    let task = tokio::select! {
        task = Box::pin(prepare(global, &args)) => task?,
        () = interrupt.wait() => return Err(stopped()),
    };
    if args.dry_run {
        super::print(&announced(&task))?;
        return Ok(ExitCode::SUCCESS);
    }
    let label = task.branch.next_dump(Timestamp::now()).await?;
    tracing::info!(%label, "taking a logical backup");
    let progress = if global.quiet { Progress::hidden() } else { Progress::new("dump", None) };
    let failed = || format!("dump {label} failed");
    let gathered = tokio::select! {
        gathered = Box::pin(task.gather(&label, &progress)) => gathered.with_context(failed),
        () = interrupt.wait() => Err(stopped()),
    };
    progress.finish();
    let contents = match gathered {
        Ok(contents) => contents,
        Err(why) => {
            // Whoever may not delete leaves it to `expire`.
            if let Err(error) = task.branch.withdraw_dump(&label).await {
                tracing::debug!("leftovers of dump {label} stay: {error}");
            }
            return Err(why);
        }
    };
    // Nothing interrupts it: from here on the dump exists, or nobody knows.
    task.commit(&contents).await.with_context(failed)?;
    if args.json {
        super::print_json(&DumpLine::of(&contents))?;
    } else {
        super::print(&summary(&contents, begun.elapsed()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn stopped() -> anyhow::Error {
    failure(
        "the dump was stopped by a signal",
        "nothing of it is listed; what it had stored already is swept by `walkeep expire`",
    )
}

/// All that can be known to be wrong is told before anything is written.
async fn prepare(global: &GlobalArgs, args: &DumpArgs) -> anyhow::Result<Task> {
    let config = restore::program::load(global)?;
    super::repository_url(&config)?;
    let server = Server::look(conninfo(&config)?).await?;
    if !super::MAJOR_VERSIONS.contains(&server.major()) {
        return Err(failure(
            format!("PostgreSQL {} is not supported", server.major()),
            "walkeep works with PostgreSQL 13 to 18",
        ));
    }
    let wish = args.wish(&config.dump);
    let steps = wish.steps(&server.databases);
    let steps = steps.map_err(|error| failure(error.to_string(), error.hint()))?;
    let bindir = args.bindir.as_deref().or(config.dump.bindir.as_deref());
    let binaries = Binaries::clients(server.major(), bindir)?;
    for step in &steps {
        binaries.needed(step.program)?;
    }
    let repository = Repository::from_config(&config).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    let branch = repository.branch(&cluster, server.system_id).await?;
    let scratch = args.scratch.as_ref().or(config.dump.scratch.as_ref()).unwrap_or(&config.drill.scratch);
    let (scratch, note) = (scratch.clone(), args.label_note.clone());
    let task = Task { branch, server, wish, steps, binaries, scratch, note };
    if task.waits() {
        let room = task.room().await?;
        tracing::info!(
            "files wait in {} until they are stored: at least {} must fit, more if the store is slower than the server",
            task.scratch.display(),
            HumanBytes(room)
        );
        if !args.no_space_check {
            task.check_room(room)?;
        }
    }
    Ok(task)
}

fn conninfo(config: &Config) -> anyhow::Result<ConnInfo> {
    let text = config.dump.postgres.as_ref().or(config.postgres.as_ref());
    Ok(ConnInfo::resolve(text.map(String::as_str).unwrap_or_default())?)
}

fn announced(task: &Task) -> String {
    let line = |step: &crate::dump::plan::Step| {
        let of = step.database.as_ref().map(|name| format!("  ({name})")).unwrap_or_default();
        format!("{} {}{of}\n", step.program, step.arguments.join(" "))
    };
    let mut text = format!("with the programs of PostgreSQL {}\n", task.binaries.version());
    text.extend(task.steps.iter().map(line));
    text + "this was a dry run: nothing was changed\n"
}

fn summary(dump: &Contents, took: std::time::Duration) -> String {
    let mut text = format!(
        "dump {} is complete\n  {}, {} stored, in {:.1} s\n",
        dump.label,
        HumanBytes(dump.size_bytes()),
        HumanBytes(dump.stored_bytes()),
        took.as_secs_f64(),
    );
    for part in &dump.parts {
        text += &format!("  {}: {}, {}\n", part.title(), part.format, HumanBytes(part.size_bytes()));
    }
    if let Some(lacks) = narrowed(&dump.selection) {
        text += &format!("  only a part: {lacks}; `latest` never means it, its label does\n");
    }
    if dump.from_standby {
        text += "  taken from a standby\n";
    }
    text
}
