//! Against Debian's pgBackRest: a full backup, its restore, and `archive_command` without streaming.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use harness::{Postgres, programs, workload};

use crate::report::{Goal, Report};
use crate::stage::{Scene, Stage};
use crate::turns::{Comparison, Run, time};

const PROGRAM: &str = "pgbackrest";
/// The variable that names another one than the machine's: 2.45 of Debian 12 makes no increments by blocks.
const VARIABLE: &str = "WALKEEP_PGBACKREST";
/// pgbench's scale for a little over 2 GB.
const SCALE: u32 = 140;
const PAIRS: usize = 5;
const PUSHES: usize = 30;

/// A repository of pgBackRest's, and how to call it.
pub(crate) struct Peer<'a> {
    stage: &'a Stage,
    config: PathBuf,
    /// Where everything is stored.
    pub(crate) folder: PathBuf,
}

fn program() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| PROGRAM.to_owned())
}

impl<'a> Peer<'a> {
    /// `more`: lines of its configuration.
    pub(crate) fn new(stage: &'a Stage, more: &str) -> Result<Peer<'a>> {
        let world = &stage.world;
        let place = |name: &str| world.folder(name).map(|path| path.display().to_string());
        let server = &stage.server;
        let text = format!(
            "[global]\nrepo1-path={}\nrepo1-retention-full=100\nlog-path={}\nlock-path={}\nspool-path={}\n\
             compress-type=zst\ncompress-level=1\nprocess-max=2\nstart-fast=y\nlog-level-console=warn\n\
             log-level-file=off\n{more}[main]\npg1-path={}\npg1-socket-path={}\npg1-port={}\npg1-user=postgres\n",
            place("peer")?,
            place("peer.log")?,
            place("peer.lock")?,
            place("peer.spool")?,
            server.data().display(),
            server.socket_folder().display(),
            server.port()
        );
        let config = world.write("pgbackrest.conf", text)?;
        let peer = Peer { stage, config, folder: world.at("peer") };
        peer.run(&["stanza-create"])?;
        Ok(peer)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.stage.world.account().command(program());
        command.arg("--config").arg(&self.config).arg("--stanza=main").args(arguments);
        command.stdout(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Run> {
        time(&mut self.command(arguments))
    }

    pub(crate) fn archive_command(&self) -> String {
        format!("{} --config {} --stanza=main archive-push %p", program(), self.config.display())
    }
}

/// Installs Debian's package where it is missing.
pub(crate) fn install(report: &mut Report) -> Result<()> {
    let version = || Command::new(program()).arg("version").output();
    let version = match version() {
        Ok(output) => output,
        Err(_) => {
            let done = Command::new("apt-get")
                .args(["install", "-y", "--no-install-recommends", PROGRAM])
                .stdout(Stdio::null())
                .status()
                .context("cannot run apt-get")?;
            ensure!(done.success(), "apt-get could not install {PROGRAM}: {done}");
            version()?
        }
    };
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    report.setting(format!("{version}, zst at level 1, 2 processes, its files on the same disk"));
    Ok(())
}

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new("walkeep and pgBackRest");
    install(&mut report)?;
    backups(&mut report)?;
    pushes(&mut report)?;
    Ok(report)
}

fn backups(report: &mut Report) -> Result<()> {
    let mut stage = Stage::set(&Scene::default())?;
    stage.agent.start()?;
    report.setting(stage.describe());
    workload::init(&stage.server, SCALE)?;
    workload::transactions(&stage.server, 20_000)?;
    stage.server.sql("CHECKPOINT")?;
    let peer = Peer::new(&stage, "")?;
    stage.server.archive_with(&peer.archive_command())?;
    let size = stage.server.sql("SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database")?;
    report.setting(format!("cluster of {size}; {PAIRS} pairs of runs in turns, in brackets the quartiles"));

    let account = stage.world.account();
    let walkeep = programs::program("walkeep")?;
    stage.server.sql(match stage.server.major() {
        ..15 => "GRANT EXECUTE ON FUNCTION pg_start_backup, pg_stop_backup(boolean, boolean) TO walkeep",
        _ => "GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO walkeep",
    })?;
    for (source, goal) in [("protocol", 0.75), ("local", 0.5)] {
        let backup = Comparison::of(
            PAIRS,
            || {
                let mut command = account.command(&walkeep);
                command.args(["backup", "--full", "--source", source, "--config"]).arg(stage.agent.config());
                stage.with_server_cpu(|| time(command.stdout(Stdio::null()).stderr(Stdio::null())))
            },
            || stage.with_server_cpu(|| peer.run(&["backup", "--type=full"])),
        )?;
        report.row(&format!("full backup, {source}"), PROGRAM, "ms", backup.wall(), Goal::AtMost(goal));
        let name = "its seconds of the processor, the server's too";
        report.row(name, PROGRAM, "s", backup.cpu(), Goal::AtMost(0.7));
    }

    let restore_cmd = programs::program("restore-cmd")?;
    let (ours, theirs) = (stage.world.at("ours"), stage.world.at("theirs"));
    let restore = Comparison::of(
        PAIRS,
        || {
            let _ = fs::remove_dir_all(&ours);
            let mut command = account.command(&restore_cmd);
            command.args(["restore", "--pgdata"]).arg(&ours).arg("--config").arg(stage.agent.config());
            time(command.stdout(Stdio::null()).stderr(Stdio::null()))
        },
        || {
            let _ = fs::remove_dir_all(&theirs);
            stage.world.folder("theirs")?;
            let target = format!("--pg1-path={}", theirs.display());
            peer.run(&[&target, "--archive-mode=off", "restore"])
        },
    )?;
    let content = content(&stage.server)?;
    for (name, data) in [("ours", &ours), ("theirs", &theirs)] {
        ensure!(recovered(&stage, name, data)? == content, "what {name} restored is not what was backed up");
    }
    report.row("its restore, compared afterwards", PROGRAM, "ms", restore.wall(), Goal::AtMost(0.6));
    report.row("seconds of the processor", PROGRAM, "s", restore.cpu(), Goal::None);
    Ok(())
}

/// Starts what was restored and asks for its content.
fn recovered(stage: &Stage, name: &str, data: &Path) -> Result<String> {
    let server = Postgres::adopt(stage.server.installation(), &stage.world, &format!("{name}.run"), data)?;
    server.start()?;
    server.wait_promoted()?;
    content(&server)
}

/// Something that differs where the tables do.
fn content(server: &Postgres) -> Result<String> {
    let tables = ["accounts", "branches", "tellers", "history"];
    let one =
        |table| format!("SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM pgbench_{table} t");
    server.sql(&tables.map(one).join(" UNION ALL "))
}

/// Segments that nobody has streamed: each contender stores the same ones, durably.
fn pushes(report: &mut Report) -> Result<()> {
    let scene = Scene { settings: &[("stream", "enabled", "false")], ..Scene::default() };
    let mut stage = Stage::set(&scene)?;
    // The slot would keep nothing that is needed here, and the agent does not stream.
    stage.agent.launch()?;
    let peer = Peer::new(&stage, "")?;
    stage.server.sql(
        "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 8) AS filler FROM generate_series(1, 4000000) n",
    )?;
    stage.server.switch_wal()?;
    let names = stage.server.sql(
        "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'
         AND name < pg_walfile_name(pg_current_wal_lsn()) ORDER BY 1",
    )?;
    let segments: Vec<PathBuf> =
        names.lines().map(|name| stage.server.data().join("pg_wal").join(name)).collect();
    if segments.len() <= PUSHES {
        bail!("only {} segments are there", segments.len());
    }
    let archive_cmd = programs::program("archive-cmd")?;
    let account = stage.world.account();
    let (mut ours, mut theirs) = (segments.iter(), segments.iter());
    let push = Comparison::of(
        PUSHES,
        || {
            let file = ours.next().context("too few segments")?;
            time(account.command(&archive_cmd).arg("--config").arg(stage.agent.config()).arg(file))
        },
        || {
            let file = theirs.next().context("too few segments")?.display().to_string();
            peer.run(&["archive-push", &file])
        },
    )?;
    // Stored and readable: the last one is fetched again.
    let last = segments.get(PUSHES).context("too few segments")?;
    let name = last.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fetched = stage.world.at("fetched");
    stage.world.write("fetched", "")?;
    stage.agent.restore_cmd(&["fetch", &name, &fetched.display().to_string()])?.ok()?;
    ensure!(fs::read(&fetched)? == fs::read(last)?, "{name} came back differently");
    report.row("archive_command, 16 MiB that nobody streamed", PROGRAM, "ms", push.wall(), Goal::AtMost(0.3));
    Ok(())
}
