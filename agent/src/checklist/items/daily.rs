//! Each day: is all protected, and does anything press?

use repository::run::Job;

use super::super::seen::{Agent, Seen};
use super::stored::{A_DAY, A_WEEK, ago, stored};
use super::{Item, Level, of_health};

pub(super) fn items(seen: &Seen) -> Vec<Item> {
    vec![
        backup(seen),
        wal(seen),
        jobs(seen),
        of_health(seen, ("disk", "room on the disk"), &["disk"]),
        of_health(
            seen,
            ("connections", "connections and locks"),
            &["connections", "blocked", "idle_in_transaction", "long_transactions"],
        ),
        of_health(
            seen,
            ("replication", "replication"),
            &["replication_lag", "replication_slots", "replay_lag"],
        ),
        of_health(seen, ("server_log", "errors in the server's log"), &["server_log"]),
    ]
}

fn backup(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("backup", "backups");
    let stored = match stored(seen, NAME) {
        Ok(stored) => stored,
        Err(item) => return item,
    };
    let todo = "walkeep backup";
    let failed = [Job::Full, Job::Incremental].into_iter().find_map(|job| {
        let last = stored.last_runs.get(&job).filter(|last| !last.succeeded)?;
        // One that was taken since, by hand or after a gap, makes up for it.
        let is_made_up_for = stored.backups.iter().any(|backup| backup.label.started() > last.started_at);
        (!is_made_up_for).then(|| {
            let why = last.message.as_deref().unwrap_or("nobody knows why");
            format!("the scheduled {job} backup has failed {}: {why}", ago(seen.now, last.started_at))
        })
    });
    if let Some(failed) = failed {
        return Item::bad(Level::Red, NAME, failed, todo);
    }
    let Some(newest) = stored.backups.last() else {
        return Item::bad(Level::Red, NAME, "there is no backup: nothing can be restored", todo);
    };
    let evidence =
        format!("the newest backup is {}, taken {}", newest.label, ago(seen.now, newest.finished_at));
    match () {
        () if !newest.restorable => {
            Item::bad(Level::Red, NAME, format!("{evidence}: it lacks WAL, and cannot be restored"), todo)
        }
        () if stored.unreadable > 0 => {
            let evidence = format!("{evidence}; {} others cannot be used", stored.unreadable);
            Item::bad(Level::Yellow, NAME, evidence, "walkeep verify")
        }
        () if seen.now.duration_since(newest.finished_at) > A_WEEK => {
            Item::bad(Level::Yellow, NAME, format!("{evidence}: a restore has to replay all WAL since"), todo)
        }
        () => Item::green(NAME.0, NAME.1, evidence),
    }
}

fn wal(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("wal", "WAL");
    let stored = match stored(seen, NAME) {
        Ok(stored) => stored,
        Err(item) => return item,
    };
    if stored.gaps > 0 {
        let evidence = format!("{} stretches of WAL are missing since the newest backup", stored.gaps);
        return Item::bad(Level::Red, NAME, evidence, "walkeep list; walkeep backup");
    }
    match &seen.agent {
        Err(why) => Item::bad(Level::Red, NAME, why, "walkeep run"),
        Ok(agent) if !seen.streams => archived(agent),
        Ok(Agent { state, last_error, .. }) if state != "streaming" => {
            let error = last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            Item::bad(
                Level::Red,
                NAME,
                format!("the agent is {state}{error}"),
                "walkeep status; walkeep check",
            )
        }
        Ok(Agent { state, .. }) => Item::green(
            NAME.0,
            NAME.1,
            format!("the agent is {state}, and no WAL is missing since the newest backup"),
        ),
    }
}

/// WAL that the archiver alone brings.
fn archived(agent: &Agent) -> Item {
    const NAME: (&str, &str) = ("wal", "WAL");
    let Agent { archived, not_archived, .. } = agent;
    let evidence = format!(
        "of the archiver's calls {archived} have succeeded since the agent was started, and {not_archived} have failed"
    );
    match agent.archive_error.as_ref().or(agent.last_error.as_ref()) {
        Some(error) => {
            Item::bad(Level::Red, NAME, format!("{evidence}: {error}"), "walkeep status; walkeep check")
        }
        None if *archived == 0 => {
            Item::bad(Level::Yellow, NAME, evidence, "walkeep check sees whether WAL arrives")
        }
        None => Item::green(NAME.0, NAME.1, format!("{evidence}; no WAL is missing since the newest backup")),
    }
}

fn jobs(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("schedule", "scheduled jobs");
    let stored = match stored(seen, NAME) {
        Ok(stored) => stored,
        Err(item) => return item,
    };
    let of_today: Vec<_> =
        stored.runs.iter().filter(|run| seen.now.duration_since(run.started_at) <= A_DAY).collect();
    // A checklist fails by what it finds, which is told by itself.
    let failed = of_today.iter().filter(|run| !run.succeeded && !run.job.is_checklist());
    let failed: Vec<String> =
        failed.map(|run| format!("{} has failed {}", run.job, ago(seen.now, run.started_at))).collect();
    let missed = stored.missed.iter().map(|(job, due)| {
        format!("{job} was due {}, and has not been run to its end since", ago(seen.now, *due))
    });
    let missed: Vec<String> = missed.collect();
    match failed.is_empty() {
        true if !missed.is_empty() => Item {
            evidence: missed,
            ..Item::bad(
                Level::Yellow,
                NAME,
                "",
                "walkeep status tells what it waits for; walkeep run keeps the schedule",
            )
        },
        true => Item::green(
            NAME.0,
            NAME.1,
            format!("{} were run since yesterday, and none has failed", of_today.len()),
        ),
        false => Item {
            evidence: failed.into_iter().chain(missed).collect(),
            ..Item::bad(Level::Red, NAME, "", "walkeep status tells why")
        },
    }
}
