//! Asking everybody: the server, the agent, the repository, this machine. Whoever does not answer is written down so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use proto::client::{Replication, SystemIdentity};
use proto::config::Config;
use proto::conninfo::{Address, ConnInfo, Env, ProcessEnv};
use proto::socket::{Request, Response};
use proto::wal::SegmentSize;
use repository::catalogue::Inventory;
use repository::{Branch, Key, Repository, Store};

use super::command::{flag, words};
use super::hba;
use super::observed::{Agent, Archiver, Backup, Cluster, Failed, Observed, Program, Server, Space, Stored};
use crate::backup::facts::{APPLICATION_NAME, Sql};
use crate::commands::init::hba_line;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The settings that matter.
const SETTINGS: [&str; 37] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "autovacuum",
    "autovacuum_analyze_scale_factor",
    "autovacuum_freeze_max_age",
    "autovacuum_naptime",
    "autovacuum_vacuum_cost_delay",
    "autovacuum_vacuum_scale_factor",
    "data_checksums",
    "data_directory",
    "fsync",
    "full_page_writes",
    "idle_replication_slot_timeout",
    "listen_addresses",
    "log_checkpoints",
    "log_connections",
    "log_destination",
    "log_disconnections",
    "log_lock_waits",
    "log_min_duration_statement",
    "logging_collector",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "max_wal_size",
    "password_encryption",
    "server_version_num",
    "ssl",
    "summarize_wal",
    "synchronous_commit",
    "synchronous_standby_names",
    "track_counts",
    "wal_level",
    "wal_segment_size",
    "wal_sender_timeout",
];

/// What the proof needs besides.
pub(super) struct Sources {
    pub(super) sql: Option<Sql>,
    pub(super) identity: Option<(SystemIdentity, SegmentSize)>,
    pub(super) branch: Option<Branch>,
}

/// Asks everybody.
///
/// # Errors
/// The configuration makes no sense.
pub(super) async fn gather(config: Config, archive_command: String) -> anyhow::Result<(Observed, Sources)> {
    let info = crate::commands::conninfo(&config)?;
    let application_name = info.application_name.clone().or_else(|| info.fallback_application_name.clone());
    let (server, sql) = match Box::pin(server(&config, &info)).await {
        Ok((server, sql)) => (Ok(server), Some(sql)),
        Err(error) => (Err(failed(&error)), None),
    };
    let (replication, identity) = match Box::pin(replication(&info)).await {
        Ok(identity) => (Ok(()), Some(identity)),
        Err(error) => (Err(failed(&error)), None),
    };
    let agent = agent(&config).await;
    let (repository, branch) = match Box::pin(repository(&config, identity)).await {
        Ok((stored, branch)) => (Ok(stored), branch),
        Err(error) => (Err(failed(&error)), None),
    };
    let role = server.as_ref().map_or(info.user.as_str(), |server: &Server| server.role.as_str());
    let observed = Observed {
        hba_line: hba_line(role, &info, ProcessEnv.user().as_deref()).trim_end().to_owned(),
        database: info.dbname.clone(),
        config,
        archive_command,
        application_name: application_name.unwrap_or_else(|| APPLICATION_NAME.to_owned()),
        now: Timestamp::now(),
        server,
        replication,
        agent,
        repository,
    };
    Ok((observed, Sources { sql, identity, branch }))
}

fn failed(error: &anyhow::Error) -> Failed {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message += &format!(": {cause}");
        }
    }
    let hint = restore::program::hint(error).unwrap_or_default();
    Failed { message, hint }
}

/// What is the matter with the cluster's part of a repository that is there. Where nothing was begun yet the fix is the plain
/// command: that the repository itself answers was seen before.
fn unbegun(error: repository::Error) -> Failed {
    let begun = !matches!(error, repository::Error::NotBegun { .. });
    let told = failed(&error.into());
    Failed { hint: if begun { told.hint } else { String::new() }, ..told }
}

async fn replication(info: &ConnInfo) -> anyhow::Result<(SystemIdentity, SegmentSize)> {
    let mut session: Replication = Box::pin(crate::commands::connect(info)).await?;
    let identity = session.identify_system().await?;
    let segment_size = session.segment_size().await?;
    session.close().await;
    Ok((identity, segment_size))
}

async fn server(config: &Config, info: &ConnInfo) -> anyhow::Result<(Server, Sql)> {
    let sql = Sql::connect(info).await?;
    let names = SETTINGS.map(|name| format!("'{name}'")).join(", ");
    let mut server = Server { remote: is_remote(info), ..Server::default() };
    let rows = sql.rows(&format!("SELECT name, setting FROM pg_settings WHERE name IN ({names})")).await?;
    server.settings.extend(rows.into_iter().filter_map(|row| {
        let mut fields = row.into_iter();
        Some((fields.next()??, fields.next()??))
    }));
    server.version = server.setting("server_version_num").parse().context("the server told no version")?;
    let rows = sql.rows("SELECT name FROM pg_settings WHERE pending_restart ORDER BY name").await?;
    server.pending_restart = rows.into_iter().filter_map(|row| row.into_iter().next()?).collect();
    let row = only_row(
        &sql,
        "SELECT pg_is_in_recovery(), rolname, rolreplication OR rolsuper, \
         rolsuper OR pg_has_role(current_user, 'pg_monitor', 'member'), \
         has_function_privilege('pg_switch_wal()', 'execute'), \
         coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), \
         (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_stat_replication) \
         FROM pg_roles WHERE rolname = current_user",
    )
    .await?;
    server.in_recovery = row.is(0);
    server.role = row.text(1);
    server.may_replicate = row.is(2);
    server.may_monitor = row.is(3);
    server.may_switch_wal = row.is(4);
    server.tls = row.is(5);
    server.slots_used = row.text(6).parse().unwrap_or_default();
    server.senders_used = row.text(7).parse().unwrap_or_default();
    let row = only_row(
        &sql,
        "SELECT archived_count, failed_count, CASE WHEN last_failed_time > \
         coalesce(last_archived_time, '-infinity') THEN last_failed_wal END FROM pg_stat_archiver",
    )
    .await?;
    server.archiver = Archiver {
        archived: row.text(0).parse().unwrap_or_default(),
        failed: row.text(1).parse().unwrap_or_default(),
        failing: Some(row.text(2)).filter(|name| !name.is_empty()),
        waiting: 0,
    };
    if server.may_monitor {
        let row = only_row(&sql, "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'")
            .await?;
        server.archiver.waiting = row.text(0).parse().unwrap_or_default();
    }
    server.synchronous_overrides = overrides(&sql).await?;
    if only_row(&sql, hba::MAY_ASK).await?.is(0) {
        server.hba = Some(sql.many(hba::LINES).await?);
    }
    server.slot = sql.slot(&config.stream.slot).await?;
    let before = Timestamp::now();
    let theirs = sql.clock().await?;
    server.clock_ahead = theirs.duration_since(middle(before, Timestamp::now()));
    if !server.remote {
        look_around(config, &mut server);
    }
    Ok((server, sql))
}

/// `synchronous_commit` where it is set for a role or a database only.
async fn overrides(sql: &Sql) -> anyhow::Result<Vec<(String, String)>> {
    let rows = sql
        .rows(
            "SELECT CASE WHEN setrole = 0 THEN format('ALTER DATABASE %I RESET synchronous_commit;', datname) \
             WHEN setdatabase = 0 THEN format('ALTER ROLE %I RESET synchronous_commit;', rolname) \
             ELSE format('ALTER ROLE %I IN DATABASE %I RESET synchronous_commit;', rolname, datname) END, \
             split_part(s, '=', 2) \
             FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS s LEFT JOIN pg_roles r ON r.oid = setrole \
             LEFT JOIN pg_database d ON d.oid = setdatabase WHERE s LIKE 'synchronous_commit=%' ORDER BY 1",
        )
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let mut fields = row.into_iter();
            Some((fields.next()??, fields.next()??))
        })
        .collect())
}

/// One row of text.
struct Row(Vec<Option<String>>);

impl Row {
    fn text(&self, at: usize) -> String {
        self.0.get(at).cloned().flatten().unwrap_or_default()
    }

    fn is(&self, at: usize) -> bool {
        self.text(at) == "t"
    }
}

async fn only_row(sql: &Sql, query: &str) -> anyhow::Result<Row> {
    sql.rows(query).await?.into_iter().next().map(Row).context("the server answered with no row")
}

fn middle(before: Timestamp, after: Timestamp) -> Timestamp {
    before.checked_add(after.duration_since(before) / 2).unwrap_or(after)
}

/// Whether the server is on another machine, as far as the configuration tells.
pub(crate) fn is_remote(info: &ConnInfo) -> bool {
    info.hosts.iter().any(|host| match &host.address {
        Address::Unix(_) => false,
        Address::Name(name) => name != "localhost",
        Address::Numeric { addr, .. } => !addr.is_loopback(),
    })
}

/// What can be seen of a server on this machine.
fn look_around(config: &Config, server: &mut Server) {
    let data = PathBuf::from(server.setting("data_directory"));
    let Some(data) = Some(data).filter(|data| data.is_absolute()) else { return };
    server.space = space(&data.join("pg_wal")).or_else(|| space(&data));
    // The server runs as the owner of its data. Without a look at that, nothing is said about the program either.
    let Ok(owner) = fs::metadata(&data) else { return };
    let Some(words) = words(server.setting("archive_command")) else { return };
    let Some(program) = words.first().map(PathBuf::from).filter(|path| path.is_absolute()) else { return };
    server.archive_program = Some(Program {
        trouble: trouble(&program, owner.uid(), owner.gid()),
        other_configuration: flag(&words, "--config").and_then(|file| other(config, Path::new(file))),
        path: program,
    });
}

/// Why a user cannot run this program.
fn trouble(program: &Path, uid: u32, gid: u32) -> Option<String> {
    let metadata = match fs::metadata(program) {
        Ok(metadata) => metadata,
        Err(error) => return Some(error.to_string()),
    };
    let bit = match () {
        () if metadata.uid() == uid => 0o100,
        () if metadata.gid() == gid => 0o010,
        () => 0o001,
    };
    match () {
        () if !metadata.is_file() => Some("it is no file".to_owned()),
        () if metadata.mode() & bit == 0 => Some("the server's user may not execute it".to_owned()),
        () => None,
    }
}

/// In what the configuration file that the archiver's program reads differs from ours.
fn other(config: &Config, file: &Path) -> Option<String> {
    let theirs = fs::read_to_string(file)
        .map_err(|error| error.to_string())
        .and_then(|text| Config::parse(&text).map_err(|error| error.to_string()));
    let theirs = match theirs {
        Ok(theirs) => theirs,
        Err(error) => return Some(format!("{} cannot be used: {error}", file.display())),
    };
    let differs = [
        ("socket", theirs.socket_path() != config.socket_path()),
        ("repository", theirs.repository != config.repository),
        ("cluster", theirs.cluster.unwrap_or_default() != config.cluster.clone().unwrap_or_default()),
    ];
    let keys: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key).collect();
    (!keys.is_empty()).then(|| format!("{} has another {}", file.display(), keys.join(" and another ")))
}

pub(crate) fn space(place: &Path) -> Option<Space> {
    let found = rustix::fs::statvfs(place).ok()?;
    Some(Space {
        place: place.display().to_string(),
        free: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

async fn agent(config: &Config) -> Result<Agent, String> {
    let answer = crate::server::ask(&config.socket_path(), &Request::Status, PATIENCE).await;
    match answer.map_err(|error| error.to_string())? {
        Response::Status { json } => {
            let status: serde_json::Value =
                serde_json::from_str(&json).map_err(|error| format!("the agent's answer: {error}"))?;
            Ok(Agent {
                state: status["stream"]["state"].as_str().unwrap_or_default().to_owned(),
                last_error: status["last_error"].as_str().map(str::to_owned),
                lag_seconds: status["stream"]["lag_seconds"].as_f64(),
            })
        }
        Response::Failed { message } => Err(message),
        Response::Stored => Err("the agent answered something else than was asked".to_owned()),
    }
}

async fn repository(
    config: &Config,
    identity: Option<(SystemIdentity, SegmentSize)>,
) -> anyhow::Result<(Stored, Option<Branch>)> {
    let repository = Box::pin(Repository::from_config(config)).await?;
    let store = repository.store();
    let mut stored = Stored { description: store.description().to_owned(), ..Stored::default() };
    let cluster = config.cluster.clone().unwrap_or_default();
    try_writing(store, &Key::root().child(&cluster), &mut stored).await;
    stored.space = store.directory().and_then(space);
    let Some((identity, _)) = identity else { return Ok((stored, None)) };
    let branch = match repository.branch(&cluster, identity.system_id).await {
        Ok(branch) => branch,
        Err(error) => {
            stored.cluster = Some(Err(unbegun(error)));
            return Ok((stored, None));
        }
    };
    let found = cluster_of(&branch, &identity).await;
    stored.cluster = Some(found.map_err(unbegun));
    Ok((stored, Some(branch)))
}

/// Writes a small object, reads it back, looks at its time, and deletes it. Its name is random: two of us do not meet.
async fn try_writing(store: &Store, folder: &Key, stored: &mut Stored) {
    let key = folder.child(format!("check-{:016x}", rand::random::<u64>()));
    let content = Bytes::from_static(b"written by walkeep check, and of no use to anybody\n");
    let before = Timestamp::now();
    let tried = async {
        store.put(&key, content.clone()).await?;
        let after = Timestamp::now();
        let modified = store.head(&key).await?.modified;
        Ok::<_, repository::Error>((store.get(&key).await? == content, middle(before, after), modified))
    };
    match tried.await {
        Ok((true, ours, theirs)) => {
            // Stores tell seconds only.
            let ahead = theirs.duration_since(ours);
            let whole = ahead.abs() < SignedDuration::from_secs(2);
            stored.clock_ahead = Some(if whole { SignedDuration::ZERO } else { ahead });
        }
        Ok((false, ..)) => {
            stored.write_trouble = Some(Failed {
                message: "what was read is not what was written".to_owned(),
                hint: "do not trust this store: find out what stands between it and this machine".to_owned(),
            });
        }
        Err(error) => stored.write_trouble = Some(failed(&error.into())),
    }
    if stored.write_trouble.is_none()
        && let Err(error) = store.delete(&key).await
    {
        stored.delete_trouble = Some(error);
    }
}

async fn cluster_of(branch: &Branch, identity: &SystemIdentity) -> repository::Result<Cluster> {
    let inventory = Inventory::load(branch).await?;
    let listing = inventory.listing(branch.cluster(), branch.system_id());
    let Some(newest) = listing.backups.last() else { return Ok(Cluster::default()) };
    let backup = Backup {
        label: newest.label.to_string(),
        finished_at: newest.finished_at,
        restorable: newest.restorable,
    };
    let later = listing.gaps.iter().filter(|gap| {
        gap.timeline == identity.timeline && (gap.timeline > newest.timeline || gap.to_lsn > newest.start_lsn)
    });
    let gaps = later.map(|gap| (gap.timeline, gap.from_lsn, gap.to_lsn)).collect();
    Ok(Cluster { backup: Some(backup), gaps })
}
