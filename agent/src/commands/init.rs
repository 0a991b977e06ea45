//! `walkeep init`: create the repository and the replication slot; say what to write into PostgreSQL's configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use proto::client::{Replication, SlotLifetime};
use proto::config::Config;
use proto::conninfo::{Address, ConnInfo, Env, ProcessEnv};
use repository::{BranchFacts, Repository, Store};
use restore::conf::{command_word, identifier, quote};
use restore::program::{GlobalArgs, failure};

use super::{connect, conninfo, print, repository_url};
use crate::backup::facts::{Facts, Sql};

/// The arguments of `walkeep init`.
#[derive(Debug, Args)]
pub struct InitArgs {}

/// Makes everything ready, and prints what only an administrator can do. May be repeated at will.
pub async fn run(global: &GlobalArgs, _args: InitArgs) -> anyhow::Result<ExitCode> {
    let config = restore::program::load(global)?;
    let url = repository_url(&config)?;
    let info = conninfo(&config)?;
    let sql = Sql::connect(&info).await?;
    let facts = sql.facts().await?;
    // Asked before the replication connection is tried: the server's own messages would not say what to do.
    facts.check_wal_level()?;
    facts.check_replication_role()?;
    let mut replication = connect(&info).await?;
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
    print(&advice(&config, &facts, &info, &command_line(global)?))?;
    Ok(ExitCode::SUCCESS)
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
    text += "\nand, if `walkeep` is not let in already, this one into pg_hba.conf:\n\n";
    text += &hba_line(&facts.role, info, line.user.as_deref());
    text +=
        "\nThen reload the server (SELECT pg_reload_conf()), start `walkeep run`, and take a first backup:\n";
    text += "walkeep backup\n";
    text
}

/// The line that lets the role replicate. Where the role is not named as the system's user that asks for it, the line
/// for pg_ident.conf that says who may be whom belongs to it.
pub(crate) fn hba_line(role: &str, info: &ConnInfo, user: Option<&str>) -> String {
    let quoted = identifier(role);
    let unix = info.hosts.iter().all(|host| matches!(host.address, Address::Unix(_)));
    match user.filter(|user| *user != role) {
        _ if !unix => {
            format!("host   replication   {quoted}   <address of this machine>/32   scram-sha-256\n")
        }
        None => format!("local   replication   {quoted}   peer\n"),
        Some(user) => format!(
            "local   replication   {quoted}   peer map=walkeep\n\nand this one into pg_ident.conf:\n\n\
             walkeep   {user}   {quoted}\n"
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
        assert_eq!(hba_line("walkeep", &info, Some("walkeep")), "local   replication   \"walkeep\"   peer\n");
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
