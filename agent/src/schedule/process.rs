//! A job is a process of its own: this very program with the same configuration. So its memory goes back to the system when it is
//! done, a defect in it does not end the stream, and it is stopped as an operator would stop it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use repository::run::Job;
use restore::program::{GlobalArgs, no_password};
use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::lines::{Line, summary};
use crate::stop::stopped;

/// This program, also where its file has been replaced meanwhile.
const OWN: &str = "/proc/self/exe";

/// Set for a job: its standard input ends with the agent.
const OF_AGENT: &str = "WALKEEP_JOB";

/// A job that was asked to stop has so long to clean up.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// So much of what a job prints is kept: the end.
const MOST_PRINTED: usize = 1 << 20;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// It succeeded; with what came of it.
    Done(Option<String>),
    /// It failed; why.
    Failed(String),
    /// The agent is stopping, and stopped it.
    Stopped,
}

/// Runs jobs.
#[derive(Debug, Clone)]
pub struct Runner {
    program: PathBuf,
    flags: Vec<OsString>,
}

impl Runner {
    /// With the flags that this program was started with.
    ///
    /// # Errors
    /// One of them holds a password, which would be an argument of each job.
    pub fn new(global: &GlobalArgs) -> anyhow::Result<Self> {
        if let Some(postgres) = &global.postgres {
            no_password(postgres, "--postgres")?;
        }
        Ok(Self { program: OWN.into(), flags: flags(global) })
    }

    /// Runs a job to its end, or until `stop` becomes true.
    pub(super) async fn run(&self, job: Job, stop: &mut watch::Receiver<bool>) -> Ended {
        match self.start(job) {
            Ok(child) => attend(job, child, stop).await,
            Err(error) => Ended::Failed(format!("the job could not be started: {error}")),
        }
    }

    fn start(&self, job: Job) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg0("walkeep").args(&self.flags).args(verb(job)).env(OF_AGENT, "1");
        // What the service manager wants to be told is the agent's.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn()
    }
}

/// The job's command line after the program's name: the flags that concern all verbs.
fn flags(global: &GlobalArgs) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["--log-format".into(), "json".into()];
    let mut flag = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            flags.extend([name.into(), value]);
        }
    };
    flag("--config", global.config.clone().map(Into::into));
    flag("--repository", global.repository.clone().map(Into::into));
    flag("--cluster", global.cluster.as_ref().map(|cluster| cluster.to_string().into()));
    flag("--postgres", global.postgres.clone().map(Into::into));
    if global.quiet {
        flags.push("--quiet".into());
    }
    flags.extend(std::iter::repeat_n(OsString::from("--verbose"), global.verbose.into()));
    flags
}

fn verb(job: Job) -> &'static [&'static str] {
    match job {
        Job::Full => &["backup", "--full", "--json"],
        Job::Incremental => &["backup", "--incremental", "--json"],
        Job::Dump => &["dump", "--json"],
        Job::Expire => &["expire"],
        Job::Verify => &["verify", "--json"],
        Job::VerifyDeep => &["verify", "--deep", "--json"],
        Job::Drill => &["drill", "--json"],
        Job::Upkeep => &["upkeep", "--json"],
        Job::ChecklistDaily => &["checklist", "daily", "--json"],
        Job::ChecklistWeekly => &["checklist", "weekly", "--json"],
        Job::ChecklistMonthly => &["checklist", "monthly", "--json"],
    }
}

/// Listens to the process, and sees to its end.
async fn attend(job: Job, mut child: Child, stop: &mut watch::Receiver<bool>) -> Ended {
    // Kept open: the job ends when it is closed, also if the agent is killed.
    let stdin = child.stdin.take();
    let said = tokio::spawn(listen(job, child.stderr.take()));
    let printed = tokio::spawn(collect(child.stdout.take()));
    let status = tokio::select! {
        status = child.wait() => Some(status),
        () = stopped(stop) => None,
    };
    let Some(status) = status else {
        end(job, child).await;
        drop(stdin);
        return Ended::Stopped;
    };
    // Both end with the process, unless a child of its own still holds the other end.
    let printed =
        tokio::time::timeout(LAST_WORDS, printed).await.ok().and_then(Result::ok).unwrap_or_default();
    let reason = tokio::time::timeout(LAST_WORDS, said).await.ok().and_then(Result::ok).flatten();
    let summary = summary(job, &printed);
    match status {
        Ok(status) if status.success() => Ended::Done(summary),
        Ok(status) => Ended::Failed(reason.or(summary).unwrap_or_else(|| ending(status))),
        Err(error) => Ended::Failed(format!("nobody knows how the job ended: {error}")),
    }
}

fn ending(status: ExitStatus) -> String {
    format!("the job ended with {status}, and gave no reason")
}

/// Asks the job to end, and kills it if it does not.
async fn end(job: Job, mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
        // An error: it has ended just now.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(LAST_WORDS, child.wait()).await {
        Ok(_) => tracing::info!(%job, "the job was stopped; it is made up for"),
        Err(_) => {
            tracing::warn!(%job, "the job does not end, and is killed; it is made up for");
            let _ = child.kill().await;
        }
    }
}

/// Says again what the process says; the last error of it.
async fn listen(job: Job, stderr: Option<impl AsyncRead + Unpin>) -> Option<String> {
    let mut lines = BufReader::new(stderr?).split(b'\n');
    let mut reason = None;
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = Line::parse(&String::from_utf8_lossy(&line));
        line.tell(job);
        reason = line.into_reason().or(reason);
    }
    reason
}

/// The end of what the process prints.
async fn collect(stdout: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stdout) = stdout else { return String::new() };
    let mut printed = Vec::new();
    while let Ok(1..) = stdout.read_buf(&mut printed).await {
        let surplus = printed.len().saturating_sub(MOST_PRINTED);
        printed.drain(..surplus);
    }
    String::from_utf8_lossy(&printed).into_owned()
}

/// In a job's process: ends it as by SIGTERM when the agent is gone, which closes its standard input. Elsewhere nothing.
pub(crate) fn end_with_the_agent() {
    if std::env::var_os(OF_AGENT).is_none() {
        return;
    }
    let wait = || {
        let mut input = io::stdin().lock();
        let _ = io::copy(&mut input, &mut io::sink());
        let _ = kill_process(getpid(), Signal::TERM);
    };
    // Without the thread the job only lives on to its end.
    let _ = std::thread::Builder::new().name("agent".to_owned()).spawn(wait);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn never() -> (watch::Sender<bool>, watch::Receiver<bool>) {
        watch::channel(false)
    }

    #[tokio::test]
    async fn a_job_tells_how_it_ended() {
        let (_stop, mut stop) = never();
        let done = attend(Job::Expire, shell("echo; echo '  1 KiB freed'"), &mut stop).await;
        assert_eq!(done, Ended::Done(Some("1 KiB freed".into())));
        let failed = r#"echo '{"level":"WARN","message":"hm"}' >&2; echo '{"level":"ERROR","message":"no room"}' >&2; exit 1"#;
        assert_eq!(attend(Job::Full, shell(failed), &mut stop).await, Ended::Failed("no room".into()));
        let silent = attend(Job::Full, shell("kill -9 $$"), &mut stop).await;
        assert!(matches!(&silent, Ended::Failed(why) if why.contains("signal: 9")), "{silent:?}");
    }

    #[tokio::test]
    async fn a_job_ends_with_the_agents_stop() {
        let (sender, mut stop) = never();
        let child = shell("trap 'exit 0' TERM; while :; do sleep 0.05; done");
        let job = tokio::spawn(async move { attend(Job::Drill, child, &mut stop).await });
        sender.send_replace(true);
        assert_eq!(job.await.unwrap(), Ended::Stopped);
    }

    #[tokio::test]
    async fn only_the_end_of_much_output_is_kept() {
        let (_stop, mut stop) = never();
        let much = "i=0; while [ $i -lt 40000 ]; do echo 'stays  a backup with a long name, for many reasons'; i=$((i+1)); done; echo sum";
        assert_eq!(attend(Job::Expire, shell(much), &mut stop).await, Ended::Done(Some("sum".into())));
    }

    #[test]
    fn a_job_gets_the_agents_flags_and_no_password() {
        let global = GlobalArgs {
            config: Some("/etc/walkeep/a.toml".into()),
            cluster: Some("a".parse().unwrap()),
            verbose: 2,
            ..GlobalArgs::default()
        };
        let expected = [
            "--log-format",
            "json",
            "--config",
            "/etc/walkeep/a.toml",
            "--cluster",
            "a",
            "--verbose",
            "--verbose",
        ];
        assert_eq!(Runner::new(&global).unwrap().flags, expected);
        let secret = GlobalArgs { postgres: Some("password=hidden".into()), ..GlobalArgs::default() };
        let error = Runner::new(&secret).unwrap_err().to_string();
        assert!(error.contains("--postgres") && !error.contains("hidden"), "{error}");
    }
}
