//! `walkeep run`: the daemon.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::config::{ClusterName, Config, NotifyConfig, StreamConfig};
use repository::{Error, Repository};
use restore::program::{GlobalArgs, failure, load, set_log_level};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, oneshot, watch};
use tracing::{debug, error, info, warn};

use super::list::BackupLine;
use crate::archive::{Archive, KnownSegments};
use crate::backoff::Backoff;
use crate::drill::LastDrills;
use crate::health::{self, HealthState};
use crate::http::{self, Watched};
use crate::notify::{Event, EventKind, Events, Notifier, watch_agent};
use crate::schedule::{Keeper, Runner, Schedule};
use crate::server::{AgentState, BackupSource, Guests, Listener, serve};
use crate::service::{Manager, compare, pulse};
use crate::statements::keep_stating;
use crate::stop::stopped;
use crate::stream::{PostgreSql, StreamOptions, StreamState, follow};

/// How long the agent waits at its end for those who are to be told of events.
const LAST_NEWS: Duration = Duration::from_secs(5);

/// The arguments of `walkeep run`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct RunArgs {}

const MANUAL: &str = "\
Runs in the foreground until SIGTERM or SIGINT, which end it when the flush in flight is durable. SIGHUP reads the configuration anew. \
What fails is tried again: neither a dead server nor an unreachable repository ends it. A second agent of the same cluster waits, and \
takes over when the first is gone.

Examples:
  walkeep run                                       with /etc/walkeep/walkeep.toml
  walkeep run --config main.toml --log-format json
  systemctl enable --now walkeep                    with the unit of the package

Exit codes: 0 it was asked to end; 1 it cannot run like this, such as a wrong configuration; 2 wrong usage.";

/// How the end of the stream is told that nobody asked for.
const DEFECT: &str = "the stream has a defect";

/// What the daemon makes of the sections whose values have to fit together.
///
/// # Errors
/// It could not run with them.
pub(crate) fn settings(config: &Config) -> anyhow::Result<(Option<http::Settings>, Schedule)> {
    let http = http::Settings::load(&config.http)?;
    let schedule = Schedule::new(&config.schedule, &config.cluster.clone().unwrap_or_default());
    Ok((http, schedule.map_err(|error| failure(error.to_string(), error.hint()))?))
}

/// Streams and serves until SIGTERM or SIGINT.
pub async fn run(global: &GlobalArgs, _args: RunArgs) -> anyhow::Result<ExitCode> {
    let config = load(global)?;
    let cluster = config.cluster.clone().unwrap_or_default();
    super::repository_url(&config)?;
    let (http, schedule) = settings(&config)?;
    let runner = Runner::new(global)?;
    set_log_level(global, config.log.level);
    let manager = Arc::new(Manager::default());
    let stop = stop_signal(manager.clone())?;
    let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    // Bound first: a second agent is told so before it does anything.
    let listener = Listener::bind(&config.socket_path(), Guests::with(&config.socket_users)?).await?;
    let watching = Arc::new(OnceLock::new());
    if let Some(settings) = http {
        tokio::spawn(http::serve(settings, watching.clone(), stop.clone()));
    }
    let Some(repository) = open(&config, &manager, stop.clone()).await? else { return Ok(ExitCode::SUCCESS) };
    let backups = Arc::new(Mutex::new(()));
    let known = KnownSegments::default();
    let newest = NewestBackup { repository: repository.clone(), cluster: cluster.clone() };
    let state = AgentState::new(cluster.clone(), Arc::new(newest));
    let archive = Archive::new(repository.clone(), cluster.clone(), known.clone());

    let health = HealthState::default();
    if config.health.enabled {
        let watch = health::Watch {
            config: config.clone(),
            postgres: super::conninfo(&config)?,
            repository: repository.clone(),
            state: health.clone(),
        };
        // Should it die of a defect, its metrics grow old: that costs no WAL.
        tokio::spawn(watch.keep(stop.clone()));
    }
    if config.http.listen.is_some() {
        let watched = Watched {
            state: state.clone(),
            archive: archive.counts(),
            repository: repository.clone(),
            postgres: super::conninfo(&config)?,
            slot: config.stream.slot.clone(),
            stream_enabled: config.stream.enabled,
            synchronous: config.stream.synchronous,
            flush_interval: config.stream.flush_interval,
            refresh: config.http.refresh,
            health: health.clone(),
        };
        watching.get_or_init(|| watched.watch(&stop));
    }

    let (exchange_notify, notify) = watch::channel(config.notify.clone());
    let (events, notifier) = Notifier::new(cluster.clone(), notify.clone());
    let notifier = tokio::spawn(notifier.run());
    let (stream, archived, streams) = (state.stream.clone(), state.archive.clone(), config.stream.enabled);
    let watcher = tokio::spawn(watch_agent(stream, archived, streams, notify, events.clone()));

    refuse_to_mix(&repository, &cluster).await?;
    if config.signing.key_file.is_some() {
        let interval = config.signing.statement_interval;
        tokio::spawn(keep_stating(
            repository.clone(),
            cluster.clone(),
            interval,
            state.stream.clone(),
            events.clone(),
            stop.clone(),
        ));
    }

    let gaps = Arc::new(Notify::new());
    if config.stream.backup_after_gap {
        tokio::spawn(backups_after_gaps(
            global.clone(),
            state.clone(),
            gaps.clone(),
            backups.clone(),
            events.clone(),
            stop.clone(),
        ));
    }
    let stream = if config.stream.enabled {
        let options = StreamOptions {
            servers: Arc::new(PostgreSql),
            postgres: super::conninfo(&config)?,
            cluster: cluster.clone(),
            slot: config.stream.slot.clone(),
            flush_interval: config.stream.flush_interval,
            synchronous: config.stream.synchronous,
            shutdown_grace: config.stream.shutdown_grace,
            gaps,
        };
        let grows = repository.store().can_grow();
        let stream = follow(repository.clone(), options, state.stream.clone(), known, stop.clone());
        let task = match grows {
            true => in_a_thread(stream)?,
            false => {
                let task = tokio::spawn(stream);
                async move { task.await.context(DEFECT) }.boxed()
            }
        };
        Some(task)
    } else {
        state.stream.disabled();
        info!(%cluster, "streaming is off: only archive_command brings WAL");
        None
    };
    let (exchange_schedule, schedule) = watch::channel(Arc::new(schedule));
    let keeper = Keeper {
        repository,
        cluster: cluster.clone(),
        runner,
        schedule,
        state: state.schedule.clone(),
        stream: config.stream.enabled.then(|| state.stream.clone()),
        backups,
        events,
    };
    let keeper = tokio::spawn(keeper.keep(stop.clone()));
    let socket = listener.path().display().to_string();
    let reload = Reload {
        global: global.clone(),
        cluster: cluster.clone(),
        schedule: exchange_schedule,
        notify: exchange_notify,
        stream: state.stream.clone(),
        manager: manager.clone(),
        config,
    };
    let reload = tokio::spawn(reload.on_hangup(hangup));
    let (streaming, scheduled) = (streams.then(|| state.stream.clone()), state.schedule.clone());
    let server = tokio::spawn(serve(listener, archive, state, stop));
    info!(%cluster, socket, "READY");
    manager.ready();
    let pulse = {
        let manager = manager.clone();
        tokio::spawn(async move { pulse(&manager, streaming, scheduled).await })
    };
    // Should one of them die of a defect, so does the agent, aloud: half an agent would look alive, and protect nobody.
    let streaming = async {
        match stream {
            Some(stream) => stream.await,
            None => Ok(()),
        }
    };
    tokio::try_join!(
        async { server.await.context("the socket's server has a defect") },
        async { keeper.await.context("the schedule's keeper has a defect") },
        streaming
    )?;
    // What was told last goes out, if it can be done in a moment.
    watcher.abort();
    pulse.abort();
    reload.abort();
    let _ = tokio::time::timeout(LAST_NEWS, notifier).await;
    info!(%cluster, "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Ends an agent that is not configured as the repository was begun: all that it wrote would be refused, one by one.
async fn refuse_to_mix(repository: &Repository, cluster: &ClusterName) -> anyhow::Result<()> {
    let branch = match Box::pin(repository.only_branch(cluster)).await {
        Ok(branch) => branch,
        // Its first object was not put there by whom we trust, or nobody can read it: no time mends that.
        Err(error @ (Error::Corrupt { .. } | Error::Foreign { .. })) => return Err(error.into()),
        // What else is the matter is found out, and told, by whoever goes on.
        Err(_) => return Ok(()),
    };
    match branch.sealing() {
        Ok(_) => Ok(()),
        Err(error) => Err(failure(error.to_string(), super::MIXED)),
    }
}

/// Runs the stream in a thread of its own. Where WAL becomes durable by the sync of a file, a commit takes no longer than the
/// ways between threads: here there is none from the server's words to our answer.
fn in_a_thread(
    stream: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<BoxFuture<'static, anyhow::Result<()>>> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the stream")?;
    let (done, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("stream".to_owned());
    let thread = thread.spawn(move || {
        runtime.block_on(stream);
        // Its tasks end with the process, as those of the other runtime.
        std::mem::forget(runtime);
        // Whoever waits for it may be gone.
        let _ = done.send(());
    });
    thread.context("cannot start the stream")?;
    // A panic takes the sender with it.
    Ok(async move { ended.await.context(DEFECT) }.boxed())
}

/// Becomes true at the first SIGTERM or SIGINT. A second one ends the program at once.
fn stop_signal(manager: Arc<Manager>) -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                info!("stopping: what was received is stored first");
                manager.stopping();
                sender.send_replace(true);
            } else {
                std::process::exit(1);
            }
        }
    });
    Ok(receiver)
}

/// What of the configuration can be exchanged while the agent runs.
struct Reload {
    global: GlobalArgs,
    cluster: ClusterName,
    /// What counts now.
    config: Config,
    schedule: watch::Sender<Arc<Schedule>>,
    notify: watch::Sender<NotifyConfig>,
    stream: StreamState,
    manager: Arc<Manager>,
}

impl Reload {
    /// Reads the configuration anew at each SIGHUP.
    async fn on_hangup(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            self.manager.reloading();
            if let Err(error) = self.reload() {
                let cluster = &self.cluster;
                error!(%cluster, "the configuration was read anew, and is wrong: the old one still counts: {error:#}");
            }
            self.manager.ready();
        }
    }

    fn reload(&mut self) -> anyhow::Result<()> {
        let new = load(&self.global)?;
        super::repository_url(&new)?;
        let schedule = Schedule::new(&new.schedule, &self.cluster)?;
        let mut changes = compare(&self.config, &new);
        set_log_level(&self.global, new.log.level);
        self.stream.set_flush_interval(new.stream.flush_interval);
        if self.config.schedule != new.schedule {
            self.schedule.send_replace(Arc::new(schedule));
        }
        self.notify.send_replace(new.notify.clone());
        let cluster = &self.cluster;
        for keys in [&mut changes.taken, &mut changes.later].into_iter().filter(|keys| keys.is_empty()) {
            keys.push("nothing");
        }
        let (taken, later) = (changes.taken.join(", "), changes.later.join(", "));
        info!(%cluster, "the configuration was read anew: taken: {taken}; needs a restart: {later}");
        // What needs a restart is compared with the start's again.
        self.config = Config {
            stream: StreamConfig { flush_interval: new.stream.flush_interval, ..self.config.stream.clone() },
            schedule: new.schedule,
            notify: new.notify,
            log: new.log,
            retention: new.retention,
            backup: new.backup,
            dump: new.dump,
            drill: new.drill,
            checklist: new.checklist,
            upkeep: new.upkeep,
            ..self.config.clone()
        };
        Ok(())
    }
}

/// Opens the repository, waiting for it while it does not answer. `None`: we were asked to stop meanwhile.
async fn open(
    config: &Config,
    manager: &Manager,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<Option<Repository>> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        match Box::pin(Repository::from_config(config)).await {
            Ok(repository) => return Ok(Some(repository)),
            Err(error) if error.is_transient() => {
                warn!("{error}; trying again");
                manager.waiting("waiting for the repository");
            }
            Err(error) => {
                let message = format!("cannot open the repository: {error}");
                return Err(match error.hint() {
                    Some(hint) => failure(message, hint),
                    None => anyhow::anyhow!(message),
                });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = stopped(&mut stop) => return Ok(None),
        }
    }
}

/// Takes a full backup after each gap in the WAL: what follows the gap is worth nothing before there is one. It is tried
/// until it succeeds, or another gap has come.
async fn backups_after_gaps(
    global: GlobalArgs,
    state: AgentState,
    gaps: Arc<Notify>,
    backups: Arc<Mutex<()>>,
    events: Events,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));
    let mut due = false;
    loop {
        if due {
            let take = async {
                // One that the schedule has begun ends first: it does not reach across the gap.
                let _turn = backups.lock().await;
                info!("taking a full backup, since WAL is missing");
                Box::pin(super::backup::take_after_gap(&global)).await
            };
            let taken = tokio::select! {
                taken = take => taken,
                () = stopped(&mut stop) => return,
            };
            match taken {
                Ok(label) => {
                    info!(%label, "the backup after the gap is complete");
                    state.backup_taken().await;
                    events.tell(Event::now(EventKind::BackupDone, format!("{label}, after a gap")));
                    due = false;
                    backoff.reset();
                }
                Err(error) => {
                    warn!("the backup after the gap has failed, and is tried again: {error:#}");
                    events.tell(Event::now(EventKind::BackupFailed, format!("after a gap: {error:#}")));
                }
            }
        }
        let pause = async {
            match due {
                true => tokio::time::sleep(backoff.next_wait()).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = gaps.notified() => due = true,
            () = stopped(&mut stop) => return,
        }
    }
}

/// Looks into the repository for the newest backup.
struct NewestBackup {
    repository: Repository,
    cluster: ClusterName,
}

impl BackupSource for NewestBackup {
    fn newest(&self) -> futures::future::BoxFuture<'static, Option<serde_json::Value>> {
        let (repository, cluster) = (self.repository.clone(), self.cluster.clone());
        Box::pin(async move {
            let newest = async {
                let branch = repository.only_branch(&cluster).await?;
                match branch.backups().await?.last() {
                    Some(newest) => branch.read_manifest_head(newest).await.map(Some),
                    None => Ok(None),
                }
            };
            let head =
                newest.await.inspect_err(|error| debug!("cannot tell the last backup: {error}")).ok()??;
            serde_json::to_value(BackupLine::of(&head)).ok()
        })
    }

    fn drills(&self) -> futures::future::BoxFuture<'static, Option<LastDrills>> {
        let (repository, cluster) = (self.repository.clone(), self.cluster.clone());
        Box::pin(async move {
            let last = async {
                let branch = repository.only_branch(&cluster).await?;
                LastDrills::of(&branch, jiff::Timestamp::now()).await
            };
            last.await.inspect_err(|error| debug!("cannot tell the last drill: {error}")).ok()
        })
    }
}
