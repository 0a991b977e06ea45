//! The agent as a service: what its manager is told, what SIGHUP takes, how the journal gets its lines.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World, wait_for};

const PATIENCE: Duration = Duration::from_secs(90);

/// A service manager that only listens.
struct Manager {
    told: Arc<Mutex<Vec<String>>>,
    socket: String,
}

impl Manager {
    fn start(world: &World) -> Result<Manager> {
        let path = world.at("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        // The agent runs as another user.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = told.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let lines = String::from_utf8_lossy(&message[..length]).into_owned();
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(lines.lines().map(str::to_owned));
            }
        });
        Ok(Manager { told, socket: path.display().to_string() })
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait(&self, line: &str, count: usize, agent: &Agent) -> Result<()> {
        wait_for(&format!("the manager was told {line:?} {count} times"), PATIENCE, || {
            let told = self.told();
            let found = told.iter().filter(|told| told.starts_with(line)).count();
            ensure!(found >= count, "{told:?}");
            Ok(Some(()))
        })
        .with_context(|| agent.log_text())
    }
}

fn wait_log(agent: &Agent, words: &str) -> Result<()> {
    wait_for(&format!("{words:?} is logged"), PATIENCE, || Ok(agent.log_text().contains(words).then_some(())))
        .with_context(|| agent.log_text())
}

#[test]
fn a_service_manager_and_the_journal_are_told() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(StoreKind::File, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    let manager = Manager::start(&world)?;
    agent.init()?;
    // What the agent's standard error is going to be.
    let log = world.at("walkeep.log");
    fs::write(&log, "")?;
    let facts = fs::metadata(&log)?;
    agent.set_env("JOURNAL_STREAM", &format!("{}:{}", facts.dev(), facts.ino()));
    agent.set_env("NOTIFY_SOCKET", &manager.socket);
    agent.set_env("WATCHDOG_USEC", "3000000");
    agent.start()?;
    manager.wait("READY=1", 1, &agent)?;
    manager.wait("STATUS=streaming timeline 1", 1, &agent)?;
    manager.wait("WATCHDOG=1", 3, &agent)?;
    let first = agent.log_text().lines().next().unwrap_or_default().to_owned();
    ensure!(
        first.starts_with("<6>") && !first.contains("INFO"),
        "the journal has times and levels of its own: {first}"
    );

    // What can be taken is taken, the rest is told.
    agent.set("schedule", "verify", "\"* * * * * *\"")?;
    agent.set("stream", "flush_interval", "\"100ms\"")?;
    agent.set("stream", "slot", "\"another\"")?;
    agent.hang_up()?;
    manager.wait("RELOADING=1", 1, &agent)?;
    manager.wait("READY=1", 2, &agent)?;
    wait_log(&agent, "taken: stream.flush_interval, schedule; needs a restart: stream")?;
    agent.wait_status("the new schedule is kept", |status| {
        status["schedule"]["jobs"][0]["last"]["succeeded"] == true
    })?;

    // A broken file changes nothing.
    agent.set("schedule", "verify", "\"61 * * * *\"")?;
    agent.hang_up()?;
    wait_log(&agent, "the old one still counts")?;
    wait_log(&agent, "`verify` in [schedule]")?;
    agent.set("stream", "flush_interval", "\"0s\"")?;
    agent.hang_up()?;
    wait_log(&agent, "from 1ms to 1h")?;
    manager.wait("READY=1", 4, &agent)?;
    // Nobody has said yet that this one counts.
    agent.set("stream", "flush_interval", "\"100ms\"")?;
    agent.set("schedule", "verify", "\"0 0 1 1 *\"")?;
    let runs = |status: &serde_json::Value| status["schedule"]["jobs"][0]["last"]["started_at"].clone();
    let before = runs(&agent.status()?);
    agent.wait_status("the old schedule is kept", |status| runs(status) != before)?;

    agent.stop()?;
    ensure!(manager.told().iter().any(|line| line == "STOPPING=1"), "{:?}", manager.told());
    let log = agent.log_text();
    let wrong: Vec<&str> = log.lines().filter(|line| line.contains("the old one still counts")).collect();
    ensure!(wrong.len() == 2 && wrong.iter().all(|line| line.starts_with("<3>")), "{wrong:?}\n{log}");
    Ok(())
}

/// The units name programs and files that the packages install, and systemd understands them.
#[test]
fn the_units_are_understood() -> Result<()> {
    let packaging = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    for unit in ["walkeep.service", "walkeep@.service"] {
        let text = fs::read_to_string(packaging.join(unit))?;
        for line in
            ["Type=notify", "ExecReload=", "WatchdogSec=", "NoNewPrivileges=yes", "ProtectSystem=strict"]
        {
            ensure!(text.contains(line), "{unit} lacks {line}");
        }
    }
    let Ok(output) = std::process::Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(packaging.join("walkeep.service"))
        .output()
    else {
        harness::skip("systemd-analyze is not on this machine");
        return Ok(());
    };
    let told = String::from_utf8_lossy(&output.stderr);
    // The program itself is not installed here.
    let strange: Vec<&str> = told
        .lines()
        .filter(|line| {
            line.contains("walkeep") && !line.contains("is not executable") && !line.contains("man:")
        })
        .collect();
    ensure!(strange.is_empty(), "{strange:?}");
    Ok(())
}
