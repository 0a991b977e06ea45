//! One backup of a cluster at a time, also where two servers of it are read.
//!
//! On one server a lock sees to that, which ends with its holder. A primary and a standby share no lock: there the
//! intents in the repository tell. Should two backups run beside each other all the same, they do each other no harm.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use repository::Branch;
use repository::backup::{BackupLabel, Intent, Unfinished};

/// A sign of life is due every minute: whoever has missed two of them is not waited for.
const FRESH: SignedDuration = SignedDuration::from_secs(150);

/// Another backup that is running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// Its label.
    pub label: BackupLabel,
    /// When it last gave a sign of life, by the store's clock.
    pub last_alive: Timestamp,
    /// What it has announced, if that can be read.
    pub intent: Option<Intent>,
}

impl Rival {
    /// Who that is, in a sentence's middle.
    pub fn told(&self) -> String {
        let Rival { label, intent, .. } = self;
        match intent {
            Some(Intent { host, pid, started_at, .. }) => {
                let since = started_at.strftime("%Y-%m-%d %H:%M:%SZ");
                format!("{label}, on {host}, process {pid}, since {since}")
            }
            None => label.to_string(),
        }
    }
}

/// The unfinished backup that gave the last sign of life: whoever holds the server's lock, probably.
pub async fn likely_holder(branch: &Branch) -> Option<Rival> {
    let unfinished = branch.unfinished_backups().await.unwrap_or_default();
    let backup = unfinished.into_iter().max_by_key(|backup| backup.last_alive)?;
    Some(look(branch, backup).await)
}

/// A backup that began before ours and is still running. Ours must have been announced, just now.
///
/// # Errors
/// The store cannot be reached.
pub async fn before(branch: &Branch, own: &Intent) -> repository::Result<Option<Rival>> {
    let unfinished = branch.unfinished_backups().await?;
    // The store's present time.
    let now = unfinished.iter().find(|backup| backup.label == own.label).map(|backup| backup.last_alive);
    for backup in unfinished.into_iter().filter(|backup| backup.label < own.label) {
        let rival = look(branch, backup).await;
        if now.is_none_or(|now| is_running(&rival, own, now, is_process)) {
            return Ok(Some(rival));
        }
    }
    Ok(None)
}

async fn look(branch: &Branch, backup: Unfinished) -> Rival {
    let Unfinished { label, last_alive } = backup;
    let intent = branch.read_intent(&label).await.ok().flatten();
    Rival { label, last_alive, intent }
}

/// Whether it runs at `now`, as far as can be told. On this host the process can be looked for, so that a backup that was
/// killed blocks nobody here.
fn is_running(rival: &Rival, own: &Intent, now: Timestamp, is_process: impl Fn(u32) -> bool) -> bool {
    let killed = rival.intent.as_ref().is_some_and(|intent| {
        // Our own number was another's before: in a container all have the same.
        intent.host == own.host && (intent.pid == own.pid || !is_process(intent.pid))
    });
    !killed && now.duration_since(rival.last_alive) < FRESH
}

fn is_process(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// How long at most a backup that was killed elsewhere is still waited for.
pub fn forgotten_after() -> Duration {
    FRESH.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use repository::WriterId;

    use super::*;

    fn intent(host: &str, pid: u32) -> Intent {
        Intent {
            label: "20261124T013015Z-full-1a2b3c".parse().unwrap(),
            parent: None,
            host: host.into(),
            pid,
            writer: WriterId::from_number(1),
            started_at: "2026-11-24T01:30:15Z".parse().unwrap(),
        }
    }

    fn rival(host: &str, pid: u32) -> Rival {
        let intent = intent(host, pid);
        Rival { label: intent.label.clone(), last_alive: intent.started_at, intent: Some(intent) }
    }

    #[test]
    fn who_has_gone_blocks_nobody() {
        let (own, then) = (intent("here", 7), rival("x", 1).last_alive);
        let running = |rival: &Rival, seconds: i64, processes: &[u32]| {
            let now = then + SignedDuration::from_secs(seconds);
            is_running(rival, &own, now, |pid| processes.contains(&pid))
        };
        assert!(running(&rival("here", 8), 100, &[8]));
        assert!(!running(&rival("here", 8), 1, &[9]), "killed");
        assert!(!running(&rival("here", 7), 1, &[7]), "that is us");
        assert!(running(&rival("there", 8), 149, &[]), "nobody here can see that process");
        assert!(!running(&rival("there", 8), 150, &[]), "silent");
        let unreadable = Rival { intent: None, ..rival("here", 8) };
        assert!(running(&unreadable, 1, &[]) && !running(&unreadable, 150, &[]));
    }

    #[test]
    fn it_is_told_who_since_when_and_where() {
        let told = rival("db1", 4711).told();
        assert_eq!(told, "20261124T013015Z-full-1a2b3c, on db1, process 4711, since 2026-11-24 01:30:15Z");
    }
}
