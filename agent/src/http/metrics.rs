//! The metrics: what there is, and the facts as their samples.
//!
//! Of what is not known there is no sample, never a zero. `docs/monitoring/README.md` has the same list as a table; a test
//! compares them.

use jiff::Timestamp;
use repository::backup::BackupKind;
use repository::catalogue::{BackupSummary, Window};
use repository::drill::Verdict;

use super::exposition::Kind::{Counter, Gauge, Histogram};
use super::exposition::{Exposition, Kind, Metric};
use super::facts::Facts;
use super::look::{RepositoryFacts, ServerFacts};
use crate::schedule::JobStatus;
use crate::stream::StreamPhase;

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(static $id: Metric = metric($name, $kind, &[$($label),*], $help);)*

        /// All of them, in the order of the output.
        #[cfg(test)]
        pub(super) static ALL: &[&Metric] = &[$(&$id),*];
    };
}

mod health;

metrics! {
    BUILD = "walkeep_build_info", Gauge, ["cluster", "version"],
        "Always 1; whose agent this is, and which walkeep.";
    START = "walkeep_start_time_seconds", Gauge, [],
        "When the agent was started, in seconds since 1970.";
    RISK_BYTES = "walkeep_at_risk_bytes", Gauge, [],
        "WAL that would be lost if the server burned now: it is there and not in the repository.";
    RISK_SECONDS = "walkeep_at_risk_seconds", Gauge, [],
        "The time whose commits would be lost at most if the server burned now.";
    STREAM_STATE = "walkeep_stream_state", Gauge, ["state"],
        "1 for what the stream does: connecting, streaming, waiting or stopped.";
    STREAM_ENABLED = "walkeep_stream_enabled", Gauge, [],
        "1 if the agent is to stream, 0 if only archive_command brings WAL.";
    STREAM_SYNCHRONOUS = "walkeep_stream_synchronous", Gauge, [],
        "1 if flushes are made at once, so that commits can wait for them.";
    STREAM_TIMELINE = "walkeep_stream_timeline", Gauge, [],
        "The timeline that is streamed.";
    STREAM_RECEIVED = "walkeep_stream_received_lsn_bytes", Gauge, [],
        "The end of the WAL that the server has sent, as a position in bytes.";
    STREAM_DURABLE = "walkeep_stream_durable_lsn_bytes", Gauge, [],
        "All WAL before this position is durable in the repository, and acknowledged.";
    STREAM_SERVER = "walkeep_stream_server_lsn_bytes", Gauge, [],
        "The end of the server's WAL as it last said, as a position in bytes.";
    STREAM_LAG_BYTES = "walkeep_stream_lag_bytes", Gauge, [],
        "From what is durable to the end of the server's WAL.";
    STREAM_LAG_SECONDS = "walkeep_stream_lag_seconds", Gauge, [],
        "How long the oldest byte that was received has been waiting to become durable.";
    STREAM_PUTS = "walkeep_stream_put_duration_seconds", Histogram, ["object"],
        "Flushes of WAL to the repository, with their retries, until they were durable: as a fragment, a record of \
         a journal, or a whole segment.";
    STREAM_BYTES = "walkeep_stream_put_wal_bytes_total", Counter, ["object"],
        "WAL in those flushes, uncompressed.";
    STREAM_RETRIES = "walkeep_stream_retries_total", Counter, [],
        "Flushes that have failed and were tried again.";
    STREAM_INTERRUPTIONS = "walkeep_stream_interruptions_total", Counter, [],
        "Times that WAL was flowing, and then did no more.";
    STORE_OBJECTS = "walkeep_store_objects_written_total", Counter, [],
        "Objects that were written to the repository by the running agent.";
    STORE_BYTES = "walkeep_store_written_bytes_total", Counter, [],
        "Bytes that were written to the repository by the running agent, as stored: compressed, encrypted.";
    STORE_FAILURES = "walkeep_store_write_failures_total", Counter, [],
        "Writes to the repository that have failed, each after the retries of the store's client.";
    ARCHIVE_ANSWERED = "walkeep_archive_answered_total", Counter, [],
        "Calls of archive_command that were answered with success: the file is durable in the repository.";
    ARCHIVE_SHIPPED = "walkeep_archive_segments_shipped_total", Counter, [],
        "Segments that were stored for the archiver or ahead of it, since the stream had not brought them.";
    ARCHIVE_REFUSED = "walkeep_archive_refused_total", Counter, [],
        "Calls of archive_command that were refused for what the file is: another content under its name, another \
         cluster's, damaged.";
    ARCHIVE_FAILED = "walkeep_archive_failed_total", Counter, [],
        "Calls of archive_command that have failed for another reason.";
    ARCHIVE_LAST = "walkeep_archive_last_success_time_seconds", Gauge, [],
        "When a call of archive_command last succeeded.";
    ARCHIVER_BACKLOG = "walkeep_archiver_backlog_files", Gauge, [],
        "Files that wait for the server's archiver.";
    ARCHIVER_FAILURES = "walkeep_archiver_failures_total", Counter, [],
        "Failures that the server's archiver has counted itself, of whatever command; the server can set it back.";
    SERVER_UP = "walkeep_server_reachable", Gauge, [],
        "1 if the last look at the server succeeded.";
    SERVER_AGE = "walkeep_server_look_age_seconds", Gauge, [],
        "How old the facts about the server are: its WAL, slot and archiver.";
    SERVER_LSN = "walkeep_server_lsn_bytes", Gauge, [],
        "The end of the server's WAL at the last look, as a position in bytes.";
    SLOT_STATUS = "walkeep_slot_wal_status", Gauge, ["status"],
        "1 for the state of the slot's WAL: reserved, extended, unreserved, lost, or absent where there is no slot.";
    SLOT_ACTIVE = "walkeep_slot_active", Gauge, [],
        "1 if somebody streams through the slot.";
    SLOT_RETAINED = "walkeep_slot_retained_bytes", Gauge, [],
        "WAL that the server keeps for the slot.";
    SLOT_SAFE = "walkeep_slot_safe_bytes", Gauge, [],
        "WAL that can still be written before the slot may lose what it needs; no sample where there is no limit.";
    REPOSITORY_UP = "walkeep_repository_reachable", Gauge, [],
        "1 if the last look at the repository succeeded.";
    REPOSITORY_AGE = "walkeep_repository_look_age_seconds", Gauge, [],
        "How old the facts about the repository are: backups, windows, gaps and drills.";
    REPOSITORY_TOOK = "walkeep_repository_look_duration_seconds", Gauge, [],
        "How long that look took.";
    BACKUPS = "walkeep_backups", Gauge, ["kind"],
        "Backups in the repository: full or incremental.";
    BACKUPS_UNUSABLE = "walkeep_backups_unusable", Gauge, [],
        "Backups that cannot be restored: their manifest is unreadable, or WAL that they need is missing.";
    BACKUP_TIME = "walkeep_last_backup_time_seconds", Gauge, ["kind"],
        "When the newest backup of the kind was finished.";
    BACKUP_AGE = "walkeep_last_backup_age_seconds", Gauge, ["kind"],
        "How long ago that is.";
    BACKUP_TOOK = "walkeep_last_backup_duration_seconds", Gauge, ["kind"],
        "How long it took.";
    BACKUP_SIZE = "walkeep_last_backup_size_bytes", Gauge, ["kind"],
        "Bytes of the cluster's files in it.";
    BACKUP_STORED = "walkeep_last_backup_stored_bytes", Gauge, ["kind"],
        "Bytes that it has added to the repository.";
    DUMPS = "walkeep_dumps", Gauge, [],
        "Logical backups in the repository.";
    DUMP_TIME = "walkeep_last_dump_time_seconds", Gauge, [],
        "When the newest logical backup began.";
    DUMP_AGE = "walkeep_last_dump_age_seconds", Gauge, [],
        "How long ago that is.";
    WINDOW_FROM_LSN = "walkeep_window_from_lsn_bytes", Gauge, ["timeline"],
        "Where the newest recovery window of the timeline begins, as a position in bytes.";
    WINDOW_TO_LSN = "walkeep_window_to_lsn_bytes", Gauge, ["timeline"],
        "Where it ends.";
    WINDOW_FROM = "walkeep_window_from_time_seconds", Gauge, ["timeline"],
        "The first moment of the newest recovery window of the timeline, in seconds since 1970.";
    WINDOW_TO = "walkeep_window_to_time_seconds", Gauge, ["timeline"],
        "Its last moment; no sample where nobody wrote it down.";
    GAPS = "walkeep_gaps", Gauge, [],
        "Stretches of WAL that are missing: no restore goes across.";
    GAP_BYTES = "walkeep_gap_bytes", Gauge, [],
        "WAL that is missing.";
    TAIL_BYTES = "walkeep_tail_bytes", Gauge, ["timeline"],
        "WAL at the end of the timeline that is in the repository in fragments only.";
    TAIL_OBJECTS = "walkeep_tail_objects", Gauge, ["timeline"],
        "The fragments and journals that hold it.";
    DRILL_TIME = "walkeep_last_drill_time_seconds", Gauge, [],
        "When the last drill began.";
    DRILL_AGE = "walkeep_last_drill_age_seconds", Gauge, [],
        "How long ago that is.";
    DRILL_PASSED = "walkeep_last_drill_passed", Gauge, [],
        "1 if the last drill has passed, 0 if it has failed.";
    DRILL_TOOK = "walkeep_last_drill_recovery_seconds", Gauge, [],
        "How long it took in the last drill until the restored server was open, where that is known.";
    PASSED_AGE = "walkeep_last_passed_drill_age_seconds", Gauge, [],
        "How long ago the last drill that has passed began.";
    JOB_RUNNING = "walkeep_job_running", Gauge, ["job"],
        "1 while the schedule runs the job.";
    JOB_NEXT = "walkeep_job_next_time_seconds", Gauge, ["job"],
        "The next time of the scheduled job, in seconds since 1970; in the past if it is due.";
    JOB_LAST = "walkeep_job_last_time_seconds", Gauge, ["job"],
        "When the schedule last began the job, whichever agent it was.";
    JOB_SUCCEEDED = "walkeep_job_last_succeeded", Gauge, ["job"],
        "1 if that run has succeeded, 0 if it has failed.";
    JOB_TOOK = "walkeep_job_last_duration_seconds", Gauge, ["job"],
        "How long it took.";
}

/// Their text.
pub(super) fn text(facts: &Facts) -> String {
    let mut text = Exposition::default();
    let out = &mut text;
    out.metric(&BUILD).with(&[&facts.cluster, env!("CARGO_PKG_VERSION")], 1);
    out.metric(&START).one(Some(seconds(facts.started)));
    let risk = facts.at_risk();
    out.metric(&RISK_BYTES).one(risk.bytes);
    out.metric(&RISK_SECONDS).one(risk.seconds);
    stream(out, facts);
    store(out, facts);
    archive(out, facts);
    server(out, facts);
    out.metric(&REPOSITORY_UP).one(facts.repository.answers().map(u8::from));
    out.metric(&REPOSITORY_AGE).one(facts.repository.age(facts.now));
    out.metric(&REPOSITORY_TOOK).one(facts.repository.found.as_ref().map(|(.., took)| took.as_secs_f64()));
    repository(out, facts.repository.facts(), facts.now);
    jobs(out, facts);
    health::samples(out, facts);
    text.finish()
}

fn stream(out: &mut Exposition, facts: &Facts) {
    let stream = &facts.stream;
    let state = match stream.state {
        StreamPhase::Connecting => "connecting",
        StreamPhase::Streaming => "streaming",
        StreamPhase::Waiting => "waiting",
        StreamPhase::Stopped => "stopped",
    };
    out.metric(&STREAM_STATE).states(&["connecting", "streaming", "waiting", "stopped"], Some(state));
    out.metric(&STREAM_ENABLED).one(Some(u8::from(facts.stream_enabled)));
    out.metric(&STREAM_SYNCHRONOUS).one(Some(u8::from(facts.synchronous)));
    out.metric(&STREAM_TIMELINE).one(stream.timeline);
    out.metric(&STREAM_RECEIVED).one(stream.received_lsn.map(|lsn| lsn.0));
    out.metric(&STREAM_DURABLE).one(stream.durable_lsn.map(|lsn| lsn.0));
    out.metric(&STREAM_SERVER).one(stream.server_lsn.map(|lsn| lsn.0));
    out.metric(&STREAM_LAG_BYTES).one(stream.lag_bytes);
    out.metric(&STREAM_LAG_SECONDS).one(stream.lag_seconds);
    let mut puts = out.metric(&STREAM_PUTS);
    for put in &facts.puts {
        puts.durations(&[put.kind.name()], &put.durations);
    }
    let mut bytes = out.metric(&STREAM_BYTES);
    for put in &facts.puts {
        bytes.with(&[put.kind.name()], put.bytes);
    }
    out.metric(&STREAM_RETRIES).one(Some(facts.retries));
    out.metric(&STREAM_INTERRUPTIONS).one(Some(facts.interruptions));
}

fn store(out: &mut Exposition, facts: &Facts) {
    out.metric(&STORE_OBJECTS).one(Some(facts.written.objects));
    out.metric(&STORE_BYTES).one(Some(facts.written.bytes));
    out.metric(&STORE_FAILURES).one(Some(facts.written.failures));
}

fn archive(out: &mut Exposition, facts: &Facts) {
    out.metric(&ARCHIVE_ANSWERED).one(Some(facts.calls.answered));
    out.metric(&ARCHIVE_SHIPPED).one(Some(facts.calls.shipped));
    out.metric(&ARCHIVE_REFUSED).one(Some(facts.calls.refused));
    out.metric(&ARCHIVE_FAILED).one(Some(facts.calls.failed));
    out.metric(&ARCHIVE_LAST).one(facts.archive.last_at.map(seconds));
}

fn server(out: &mut Exposition, facts: &Facts) {
    let found: Option<&ServerFacts> = facts.server.facts();
    let slot = found.and_then(|server| server.slot.as_ref());
    out.metric(&ARCHIVER_BACKLOG).one(found.and_then(|server| server.backlog));
    out.metric(&ARCHIVER_FAILURES).one(found.and_then(|server| server.archiver_failures));
    out.metric(&SERVER_UP).one(facts.server.answers().map(u8::from));
    out.metric(&SERVER_AGE).one(facts.server.age(facts.now));
    out.metric(&SERVER_LSN).one(found.and_then(|server| server.lsn).map(|lsn| lsn.0));
    let status = out.metric(&SLOT_STATUS);
    if found.is_some() {
        let is = slot.map_or("absent", |slot| slot.wal_status.as_str());
        status.states(&["reserved", "extended", "unreserved", "lost", "absent"], Some(is));
    }
    out.metric(&SLOT_ACTIVE).one(slot.map(|slot| u8::from(slot.active)));
    out.metric(&SLOT_RETAINED).one(slot.and_then(|slot| slot.retained));
    out.metric(&SLOT_SAFE).one(slot.and_then(|slot| slot.safe));
}

fn repository(out: &mut Exposition, found: Option<&RepositoryFacts>, now: Timestamp) {
    let kinds = [("full", BackupKind::Full), ("incremental", BackupKind::Incremental)];
    let of =
        |kind| found.into_iter().flat_map(|found| &found.backups).filter(move |backup| backup.kind == kind);
    let mut backups = out.metric(&BACKUPS);
    if found.is_some() {
        for (name, kind) in kinds {
            backups.with(&[name], of(kind).count());
        }
    }
    out.metric(&BACKUPS_UNUSABLE)
        .one(found.map(|found| {
            found.unreadable + found.backups.iter().filter(|backup| !backup.restorable).count()
        }));
    let mut newest = |metric: &'static Metric, value: &dyn Fn(&BackupSummary) -> f64| {
        let mut samples = out.metric(metric);
        for (name, kind) in kinds {
            if let Some(backup) = of(kind).next_back() {
                samples.with(&[name], value(backup));
            }
        }
    };
    newest(&BACKUP_TIME, &|backup| seconds(backup.finished_at));
    newest(&BACKUP_AGE, &|backup| since(backup.finished_at, now));
    newest(&BACKUP_TOOK, &|backup| since(backup.started_at, backup.finished_at));
    newest(&BACKUP_SIZE, &|backup| backup.size_bytes as f64);
    newest(&BACKUP_STORED, &|backup| backup.stored_bytes as f64);

    out.metric(&DUMPS).one(found.map(|found| found.dumps.0));
    let last = found.and_then(|found| found.dumps.1);
    out.metric(&DUMP_TIME).one(last.map(seconds));
    out.metric(&DUMP_AGE).one(last.map(|last| since(last, now)));

    let windows = found.map(newest_windows).unwrap_or_default();
    let mut of_windows = |metric: &'static Metric, value: &dyn Fn(&Window) -> Option<f64>| {
        let mut samples = out.metric(metric);
        for window in &windows {
            if let Some(value) = value(window) {
                samples.with(&[&window.timeline.to_string()], value);
            }
        }
    };
    of_windows(&WINDOW_FROM_LSN, &|window| Some(window.from_lsn.0 as f64));
    of_windows(&WINDOW_TO_LSN, &|window| Some(window.to_lsn.0 as f64));
    of_windows(&WINDOW_FROM, &|window| window.from_time.map(seconds));
    of_windows(&WINDOW_TO, &|window| window.to_time.map(seconds));

    let missing = |found: &RepositoryFacts| -> u64 {
        found.gaps.iter().map(|gap| gap.to_lsn.bytes_since(gap.from_lsn)).sum()
    };
    out.metric(&GAPS).one(found.map(|found| found.gaps.len()));
    out.metric(&GAP_BYTES).one(found.map(missing));
    let mut bytes = out.metric(&TAIL_BYTES);
    for tail in found.into_iter().flat_map(|found| &found.tails) {
        bytes.with(&[&tail.timeline.to_string()], tail.to.bytes_since(tail.from));
    }
    let mut objects = out.metric(&TAIL_OBJECTS);
    for tail in found.into_iter().flat_map(|found| &found.tails) {
        objects.with(&[&tail.timeline.to_string()], tail.objects);
    }

    let last = found.and_then(|found| found.drills.last_drill.as_ref());
    let passed = found.and_then(|found| found.drills.last_passed_drill.as_ref());
    out.metric(&DRILL_TIME).one(last.map(|drill| seconds(drill.started_at)));
    out.metric(&DRILL_AGE).one(last.map(|drill| since(drill.started_at, now)));
    out.metric(&DRILL_PASSED).one(last.map(|drill| u8::from(drill.verdict == Verdict::Passed)));
    out.metric(&DRILL_TOOK).one(last.and_then(|drill| drill.recovery_seconds));
    out.metric(&PASSED_AGE).one(passed.map(|drill| since(drill.started_at, now)));
}

fn jobs(out: &mut Exposition, facts: &Facts) {
    let jobs = facts.schedule.as_ref().map(|schedule| schedule.jobs.as_slice()).unwrap_or_default();
    let mut of_jobs = |metric: &'static Metric, value: &dyn Fn(&JobStatus) -> Option<f64>| {
        let mut samples = out.metric(metric);
        for job in jobs {
            if let Some(value) = value(job) {
                samples.with(&[job.job.as_str()], value);
            }
        }
    };
    of_jobs(&JOB_RUNNING, &|job| Some(f64::from(u8::from(job.running_since.is_some()))));
    of_jobs(&JOB_NEXT, &|job| job.next_at.map(seconds));
    of_jobs(&JOB_LAST, &|job| job.last.as_ref().map(|last| seconds(last.started_at)));
    of_jobs(&JOB_SUCCEEDED, &|job| job.last.as_ref().map(|last| f64::from(u8::from(last.succeeded))));
    of_jobs(&JOB_TOOK, &|job| job.last.as_ref()?.seconds);
}

/// The last window of each timeline.
fn newest_windows(found: &RepositoryFacts) -> Vec<Window> {
    let mut newest: Vec<Window> = Vec::new();
    for window in &found.windows {
        match newest.last_mut() {
            Some(last) if last.timeline == window.timeline => *last = window.clone(),
            _ => newest.push(window.clone()),
        }
    }
    newest
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

/// Never negative, whatever the clocks say.
fn since(time: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(time).as_secs_f64().max(0.0)
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
