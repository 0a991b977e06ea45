//! `pg_receivewal`, PostgreSQL's own way of streaming WAL away.

use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use harness::account::Orphan;
use harness::wait_for;

use crate::stage::Stage;

/// Its name as a standby, and its slot's.
pub(crate) const NAME: &str = "receivewal";

/// A running one. Killed when dropped; the next goes on where it was.
pub(crate) struct Receiver(Child);

impl Receiver {
    /// Starts it and waits until it streams. `arguments`: such as `--synchronous`.
    pub(crate) fn start(stage: &Stage, arguments: &[&str]) -> Result<Receiver> {
        let program = stage.server.installation().tool("pg_receivewal").context("pg_receivewal is gone")?;
        let account = stage.world.account();
        let folder = stage.world.folder("receivewal")?;
        let conninfo = format!("{} application_name={NAME}", stage.server.conninfo());
        let slot = ["--slot", NAME];
        let made = account
            .command(&program)
            .args(["-d", &conninfo, "--create-slot", "--if-not-exists"])
            .args(slot)
            .stderr(Stdio::null())
            .status()?;
        anyhow::ensure!(made.success(), "pg_receivewal made no slot: {made}");
        let child = account
            .daemon(&program, Orphan::Kill)
            .args(["-d", &conninfo, "--status-interval", "1", "-D"])
            .arg(&folder)
            .args(slot)
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start pg_receivewal")?;
        let receiver = Receiver(child);
        stage.wait_streaming(NAME)?;
        Ok(receiver)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    /// Waits until the standby of this name streams.
    pub(crate) fn wait_streaming(&self, standby: &str) -> Result<()> {
        wait_for(&format!("{standby} streams"), harness::agent::PATIENCE, || {
            let state = format!("SELECT state FROM pg_stat_replication WHERE application_name = '{standby}'");
            Ok((self.server.sql(&state)? == "streaming").then_some(()))
        })
    }

    /// Waits until nobody of this name is connected any more.
    pub(crate) fn wait_gone(&self, standby: &str) -> Result<()> {
        wait_for(&format!("{standby} is gone"), harness::agent::PATIENCE, || {
            let count =
                format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = '{standby}'");
            Ok((self.server.sql(&count)? == "0").then_some(()))
        })
    }
}
