//! `walkeep init`: create the repository and the replication slot; say what to write into PostgreSQL's configuration.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use proto::client::{Replication, SlotLifetime};
use proto::config::Config;
use proto::conninfo::{Address, ConnInfo, Env, ProcessEnv};
use repository::{BranchFacts, Repository, Store};
use restore::conf::{command_word, identifier, quote};
use restore::program::{GlobalArgs, failure, no_password};

use super::{connect, conninfo, print, repository_url};
use crate::backup::facts::{Facts, Sql};
use crate::{check, quick};

/// How long the proof at the end of `--quick` may take, where somebody ships WAL already.
const PROOF: Duration = Duration::from_secs(30);

/// The arguments of `walkeep init`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct InitArgs {
    /// Find the server of this machine, write the configuration file, and end with what `walkeep check` says. Run it as the
    /// server's operating system user
    #[arg(long)]
    quick: bool,

    /// With --quick: have the server take the settings that it needs, by ALTER SYSTEM
    #[arg(long, requires = "quick")]
    apply: bool,
}

const MANUAL: &str = "\
May be repeated at will: what is there already stays as it is, and is told. Needs a role that may replicate.

Examples:
  walkeep init                                      with the configuration that is there
  walkeep init --quick --apply                      on the server's machine, as its own user: nothing else is needed
  walkeep init --repository s3://backups/pg --cluster main --postgres 'host=db1 user=walkeep'

With --quick the server is looked for in /var/run/postgresql, /run/postgresql and /tmp, or where PGHOST and PGPORT point. The file is \
written to --config, else $WALKEEP_CONFIG, else /etc/walkeep/walkeep.toml, for its owner alone. An archive_command that somebody else \
needs is never replaced. What check says does not count for the exit code.

Exit codes: 0 all is there; 1 failed, and the message says what to do; 2 wrong usage.";

/// Makes everything ready, and prints what only an administrator can do. May be repeated at will.
pub async fn run(global: &GlobalArgs, args: InitArgs) -> anyhow::Result<ExitCode> {
    if args.quick {
        return quick(global, args.apply).await;
    }
    let ready = set_up(global).await?;
    print(&advice(&ready.config, &ready.facts, &ready.info, &command_line(global)?))?;
    Ok(ExitCode::SUCCESS)
}

/// What `init` has found.
struct Ready {
    config: Config,
    info: ConnInfo,
    facts: Facts,
    sql: Sql,
}

/// Makes the repository, the cluster's branch in it, and the slot.
async fn set_up(global: &GlobalArgs) -> anyhow::Result<Ready> {
    let config = restore::program::load(global)?;
    let url = repository_url(&config)?;
    let info = conninfo(&config)?;
    let sql = Sql::connect(&info).await.map_err(|error| let_in(error, &info))?;
    let facts = sql.facts().await?;
    // Asked before the replication connection is tried: the server's own messages would not say what to do.
    facts.check_wal_level()?;
    facts.check_replication_role()?;
    let mut replication = connect(&info).await.map_err(|error| let_in(error, &info))?;
    let identity = replication.identify_system().await?;
    let segment_size = replication.segment_size().await?;
    let version = replication.server_version();
    print(&format!(
        "server      PostgreSQL {version}, system identifier {}, timeline {}\n",
        identity.system_id, identity.timeline
    ))?;

    let store = Store::create(&url, &config.storage).context("cannot open the repository")?;
    Repository::create(store).await.with_context(|| format!("cannot create the repository {url}"))?;
    let repository = Repository::from_config(&config).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    let facts_of_branch = BranchFacts { segment_size, server_version: version.0 };
    repository.begin_branch(&cluster, identity.system_id, facts_of_branch).await?;
    print(&format!("repository  {url}, cluster \"{cluster}\"\n"))?;

    if config.stream.enabled {
        slot(&config, &sql, &mut replication).await?;
    }
    Ok(Ready { config, info, facts, sql })
}

/// Where pg_hba.conf keeps us out: says which lines let us in.
fn let_in(error: anyhow::Error, info: &ConnInfo) -> anyhow::Error {
    let said = format!("{error:#}");
    match keeps_out(&said) {
        true => failure(
            said,
            format!(
                "put these lines into pg_hba.conf, above all others, have the server read them (SELECT pg_reload_conf()), \
                 and run this again:\n\n{}",
                hba_line(&info.user, info, ProcessEnv.user().as_deref())
            ),
        ),
        false => error,
    }
}

/// Whether a server's message says that pg_hba.conf keeps us out.
pub(crate) fn keeps_out(message: &str) -> bool {
    message.contains("pg_hba.conf") || message.contains("eer authentication failed")
}

/// From a running server and nothing else to one that is set up.
async fn quick(global: &GlobalArgs, apply: bool) -> anyhow::Result<ExitCode> {
    let path = restore::program::config_file(global).unwrap_or_else(|| proto::config::DEFAULT_PATH.into());
    let path =
        std::path::absolute(&path).with_context(|| format!("cannot make {} absolute", path.display()))?;
    let is_there = path.try_exists().with_context(|| format!("cannot look for {}", path.display()))?;
    let mut global = global.clone();
    if is_there {
        print(&format!("configured  by {}, as it is\n", path.display()))?;
    } else {
        write_configuration(&global, &path)?;
        print(&format!("configured  {} written\n", path.display()))?;
        // What was given as flags is in the file now, and archive-cmd finds it there.
        (global.repository, global.cluster, global.postgres) = (None, None, None);
    }
    global.config = Some(path);
    let ready = set_up(&global).await?;
    let line = command_line(&global)?;
    if apply {
        take_settings(&ready, &archive_command(&line)).await?;
    } else {
        print(&advice(&ready.config, &ready.facts, &ready.info, &line))?;
    }
    print("\nWhat `walkeep check` says now, before `walkeep run` is started and a backup taken:\n\n")?;
    let findings = check::examine(ready.config, archive_command(&line), PROOF).await?;
    print(&findings.text())?;
    Ok(ExitCode::SUCCESS)
}

/// Finds out what the configuration has to say, and writes it.
fn write_configuration(global: &GlobalArgs, path: &Path) -> anyhow::Result<()> {
    let postgres = match &global.postgres {
        Some(postgres) => {
            no_password(postgres, "--postgres")?;
            postgres.clone()
        }
        None => {
            let user = std::env::var("PGUSER").ok().or_else(|| ProcessEnv.user());
            let user = user.unwrap_or_else(|| "postgres".to_owned());
            if user == "root" {
                return Err(failure(
                    "root is not who the server lets in",
                    "run it as the server's own user: runuser -u postgres -- walkeep init --quick",
                ));
            }
            let (servers, folders) = quick::look();
            quick::only_one(&servers, &folders, &user)?
        }
    };
    let cluster = global.cluster.clone().unwrap_or_default();
    let socket = quick::socket(&cluster, path);
    let answers = quick::Answers { repository: global.repository.clone(), cluster, postgres, socket };
    quick::write(path, &answers.text())
}

/// Has the server take the settings that are not yet as they have to be.
async fn take_settings(ready: &Ready, archive_command: &str) -> anyhow::Result<()> {
    let changes = quick::changes(&ready.facts, archive_command)?;
    for change in &changes {
        let statement = format!("ALTER SYSTEM SET {} = {}", change.name, quote(&change.value));
        ready.sql.rows(&statement).await.with_context(|| {
            failure(
                format!("the server does not take {statement}"),
                "connect as a superuser, or put the lines that `walkeep init` prints into postgresql.conf",
            )
        })?;
        print(&format!("set         {} = {}\n", change.name, quote(&change.value)))?;
    }
    ready.sql.rows("SELECT pg_reload_conf()").await?;
    let waiting: Vec<_> = changes.iter().filter(|change| change.restart).map(|change| change.name).collect();
    match waiting.as_slice() {
        [] => Ok(()),
        names => print(&format!("            restart the server: {} wait for that\n", names.join(", "))),
    }
}

/// Creates the slot if it is not there; refuses one that cannot serve.
async fn slot(config: &Config, sql: &Sql, replication: &mut Replication) -> anyhow::Result<()> {
    let name = &config.stream.slot;
    match sql.slot(name).await? {
        Some(slot) if !slot.physical => Err(failure(
            format!("the replication slot \"{name}\" is for logical replication"),
            "choose another name: `slot` in [stream]",
        )),
        Some(slot) if slot.lost => Err(failure(
            format!(
                "the replication slot \"{name}\" is lost: the server has removed WAL that it should have kept"
            ),
            format!(
                "drop it with SELECT pg_drop_replication_slot('{name}'), run `walkeep init` again, and take a backup \
                 at once: there is a gap in the WAL"
            ),
        )),
        Some(slot) => {
            let from = slot.restart_lsn.map(|lsn| format!(", keeps WAL from {lsn}")).unwrap_or_default();
            print(&format!("slot        {name} is there already{from}\n"))
        }
        None => {
            replication.create_slot(name, SlotLifetime::Permanent).await?;
            print(&format!(
                "slot        {name} created; from now on the server keeps WAL until the agent has it\n"
            ))
        }
    }
}

/// How `archive_command` has to call `archive-cmd`: so that it, and `walkeep push` after it, finds what we have found.
struct CommandLine {
    /// Absolute.
    program: PathBuf,
    /// The configuration file that applies, absolute.
    config: Option<PathBuf>,
    /// Given as flags, and therefore needed as flags there too. Never `postgres`, which may hold a password.
    flags: Vec<(&'static str, String)>,
    /// The system's user that runs us.
    user: Option<String>,
}

/// The `archive_command` that hands WAL to this walkeep with this configuration.
pub(crate) fn wanted_archive_command(global: &GlobalArgs) -> anyhow::Result<String> {
    Ok(archive_command(&command_line(global)?))
}

fn command_line(global: &GlobalArgs) -> anyhow::Result<CommandLine> {
    let own = std::env::current_exe().context("cannot find out where this program lies")?;
    let program = own.with_file_name("archive-cmd");
    if !program.exists() {
        tracing::warn!("{} is not there: install archive-cmd beside walkeep", program.display());
    }
    let config = match restore::program::config_file(global) {
        Some(path) => Some(
            std::path::absolute(&path).with_context(|| format!("cannot make {} absolute", path.display()))?,
        ),
        None => None,
    };
    let cluster = global.cluster.as_ref().map(ToString::to_string);
    let flags = [("--repository", global.repository.clone()), ("--cluster", cluster)];
    let flags = flags.into_iter().filter_map(|(flag, value)| Some((flag, value?))).collect();
    Ok(CommandLine { program, config, flags, user: ProcessEnv.user() })
}

/// What to write into postgresql.conf and pg_hba.conf. Pure.
fn advice(config: &Config, facts: &Facts, info: &ConnInfo, line: &CommandLine) -> String {
    let command = archive_command(line);
    let mut text = String::from("\nPut these lines into postgresql.conf:\n\n");
    let restart = match facts.setting("archive_mode") {
        Some("on" | "always") => "",
        _ => "                # needs a restart of the server",
    };
    if facts.setting("wal_level") != Some("logical") {
        text += "wal_level = replica\n";
    }
    text += &format!("archive_mode = on{restart}\narchive_command = {}\n", quote(&command));
    for (name, least) in [("max_wal_senders", 3), ("max_replication_slots", 2)] {
        let too_few = facts
            .setting(name)
            .and_then(|value| value.parse::<u32>().ok())
            .is_some_and(|value| value < least);
        if too_few {
            text += &format!("{name} = 10                # needs a restart of the server\n");
        }
    }
    if config.stream.synchronous {
        text +=
            "# Once `walkeep run` is streaming. From then on a commit waits until the repository has it:\n";
        text += "# synchronous_standby_names = 'walkeep'\n";
    }
    text += "\nand, if the role is not let in already, these into pg_hba.conf, above all others (the first that fits counts):\n\n";
    text += &hba_line(&facts.role, info, line.user.as_deref());
    text +=
        "\nThen reload the server (SELECT pg_reload_conf()), start `walkeep run`, and take a first backup:\n";
    text += "walkeep backup\n";
    text
}

/// The lines that let the role in, and replicate. Where the role is not named as the system's user that asks for it, the line
/// for pg_ident.conf that says who may be whom belongs to it.
pub(crate) fn hba_line(role: &str, info: &ConnInfo, user: Option<&str>) -> String {
    let quoted = identifier(role);
    // Backups look at the databases as well; and `all` does not include replication.
    let lines = |kind: &str, ending: &str| {
        format!("{kind}   all           {quoted}   {ending}\n{kind}   replication   {quoted}   {ending}\n")
    };
    let unix = info.hosts.iter().all(|host| matches!(host.address, Address::Unix(_)));
    match user.filter(|user| *user != role) {
        _ if !unix => lines("host", "<address of this machine>/32   scram-sha-256"),
        None => lines("local", "peer"),
        Some(user) => format!(
            "{}\nand this one into pg_ident.conf:\n\nwalkeep   {user}   {quoted}\n",
            lines("local", "peer map=walkeep")
        ),
    }
}

/// The command for PostgreSQL's shell.
fn archive_command(line: &CommandLine) -> String {
    let mut command = command_word(&line.program.to_string_lossy());
    if let Some(path) = &line.config {
        command += &format!(" --config {}", command_word(&path.to_string_lossy()));
    }
    for (flag, value) in &line.flags {
        command += &format!(" {flag} {}", command_word(value));
    }
    command + " %p"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(config: Option<&str>, repository: Option<&str>) -> CommandLine {
        CommandLine {
            program: "/usr/bin/archive-cmd".into(),
            config: config.map(PathBuf::from),
            flags: repository.map(|url| ("--repository", url.to_owned())).into_iter().collect(),
            user: None,
        }
    }

    #[test]
    fn a_role_that_is_not_named_as_the_user_needs_a_map() {
        let info = ConnInfo::resolve("host=/run/postgresql user=walkeep dbname=postgres").unwrap();
        let plain = hba_line("walkeep", &info, Some("walkeep"));
        assert!(plain.contains("local   replication   \"walkeep\"   peer\n"), "{plain}");
        assert!(plain.starts_with("local   all           \"walkeep\"   peer\n"), "{plain}");
        let mapped = hba_line("walkeep", &info, Some("postgres"));
        assert!(mapped.contains("peer map=walkeep") && mapped.contains("walkeep   postgres   \"walkeep\""));
    }

    #[test]
    fn the_command_finds_what_we_have_found() {
        assert_eq!(
            archive_command(&line(Some("/etc/walkeep/walkeep.toml"), None)),
            "/usr/bin/archive-cmd --config /etc/walkeep/walkeep.toml %p"
        );
        assert_eq!(
            archive_command(&line(None, Some("s3://bucket/prefix"))),
            "/usr/bin/archive-cmd --repository s3://bucket/prefix %p"
        );
    }

    #[test]
    fn odd_paths_are_quoted_for_the_shell_and_for_the_setting() {
        let command = archive_command(&line(Some("/srv/it's 100%/walkeep.toml"), None));
        assert_eq!(command, r"/usr/bin/archive-cmd --config '/srv/it'\''s 100%%/walkeep.toml' %p");
        assert_eq!(quote(r"a'\''b"), r"'a''\\''''b'");
    }
}
