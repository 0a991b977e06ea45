//! The parts of the agent, a card each.

use repository::drill::Verdict;

use super::words::{between, moment, size, span};
use crate::html::{Html, html};
use crate::http::facts::Facts;
use crate::stream::StreamPhase;

/// The section.
pub(super) fn section(facts: &Facts) -> Html {
    html!("<div class=\"cards\">" (stream(facts)) (archive(facts)) (slot(facts)) (drill(facts)) (store(facts)) "</div>")
}

fn card(title: &'static str, state: Html, rows: Vec<(&'static str, String)>) -> Html {
    let rows: Html =
        rows.into_iter().map(|(name, value)| html!("<dt>" (name) "</dt><dd>" (value) "</dd>")).collect();
    html!("<section class=\"card\"><h2>" (title) "</h2><p class=\"state\">" (state) "</p><dl>" (rows) "</dl></section>")
}

fn stream(facts: &Facts) -> Html {
    let stream = &facts.stream;
    let state = match (facts.stream_enabled, stream.state) {
        (false, _) => html!("<b>off</b>: only archive_command brings WAL"),
        (true, StreamPhase::Streaming) => html!("<b class=\"good\">streaming</b>"),
        (true, StreamPhase::Connecting) => html!("<b class=\"warning\">connecting</b>"),
        (true, StreamPhase::Waiting) => html!("<b class=\"bad\">waiting</b>"),
        (true, StreamPhase::Stopped) => html!("<b class=\"bad\">stopped</b>"),
    };
    let mut rows = Vec::new();
    if let Some(timeline) = stream.timeline {
        rows.push(("timeline", timeline.to_string()));
    }
    for (name, lsn) in
        [("server", stream.server_lsn), ("received", stream.received_lsn), ("durable", stream.durable_lsn)]
    {
        if let Some(lsn) = lsn {
            rows.push((name, lsn.to_string()));
        }
    }
    if let (Some(bytes), Some(seconds)) = (stream.lag_bytes, stream.lag_seconds) {
        rows.push(("lag", format!("{}, {}", size(bytes), span(seconds))));
    }
    let puts: u64 = facts.puts.iter().map(|put| put.durations.count).sum();
    let took: f64 = facts.puts.iter().map(|put| put.durations.sum).sum();
    if puts > 0 {
        rows.push(("flushes", format!("{puts}, {:.1} ms each", took * 1000.0 / puts as f64)));
    }
    rows.push(("interruptions", facts.interruptions.to_string()));
    card("Stream", state, rows)
}

fn archive(facts: &Facts) -> Html {
    let state = match (&facts.archive.last_error, facts.archive.last_at) {
        (Some(_), _) => html!("<b class=\"warning\">the last call failed</b>"),
        (None, Some(at)) => html!("<b class=\"good\">answered</b> " (between(at, facts.now)) " ago"),
        (None, None) => html!("no call yet"),
    };
    let mut rows = Vec::new();
    if let Some(segment) = facts.archive.last_segment {
        rows.push(("last", segment.to_string()));
    }
    rows.push(("answered", facts.calls.answered.to_string()));
    rows.push(("stored for it", facts.calls.shipped.to_string()));
    rows.push(("refused", facts.calls.refused.to_string()));
    rows.push(("failed", facts.calls.failed.to_string()));
    if let Some(backlog) = facts.server.facts().and_then(|server| server.backlog) {
        rows.push(("files waiting", backlog.to_string()));
    }
    card("archive_command", state, rows)
}

fn slot(facts: &Facts) -> Html {
    let Some(server) = facts.server.facts() else {
        let why = facts.server.failure.clone().unwrap_or_else(|| "not looked at yet".to_owned());
        return card("Slot", html!(""(why)), Vec::new());
    };
    let Some(slot) = &server.slot else {
        return card("Slot", html!("<b class=\"warning\">absent</b>"), Vec::new());
    };
    let state = match slot.wal_status.as_str() {
        "reserved" | "extended" => html!("<b class=\"good\">" (slot.wal_status) "</b>"),
        _ => html!("<b class=\"bad\">" (slot.wal_status) "</b>"),
    };
    let mut rows = vec![("in use", if slot.active { "yes" } else { "no" }.to_owned())];
    if let Some(retained) = slot.retained {
        rows.push(("keeps", size(retained)));
    }
    rows.push(("safe for", slot.safe.map_or_else(|| "no limit set".to_owned(), size)));
    card("Slot", state, rows)
}

fn drill(facts: &Facts) -> Html {
    let Some(found) = facts.repository.facts() else {
        return card("Last drill", html!("not looked at yet"), Vec::new());
    };
    let Some(last) = &found.drills.last_drill else {
        return card(
            "Last drill",
            html!("<b class=\"warning\">never</b>: run <code>walkeep drill</code>"),
            Vec::new(),
        );
    };
    let state = match last.verdict {
        Verdict::Passed => {
            html!("<b class=\"good\">passed</b> " (between(last.started_at, facts.now)) " ago")
        }
        Verdict::Failed => html!("<b class=\"bad\">failed</b> " (between(last.started_at, facts.now)) " ago"),
    };
    let mut rows = vec![("began", moment(last.started_at))];
    if let Some(seconds) = last.recovery_seconds {
        rows.push(("open after", span(seconds)));
    }
    if let Some(time) = last.reached_time {
        rows.push(("reached", moment(time)));
    }
    if let Some(failure) = &last.failure {
        rows.push(("why", failure.clone()));
    }
    let passed = found.drills.last_passed_drill.as_ref().filter(|passed| passed.object != last.object);
    if let Some(passed) = passed {
        rows.push(("last passed", format!("{} ago", between(passed.started_at, facts.now))));
    }
    card("Last drill", state, rows)
}

fn store(facts: &Facts) -> Html {
    let state = match (facts.repository.answers(), &facts.repository.failure) {
        (None, _) => html!("not looked at yet"),
        (Some(false), why) => html!("<b class=\"bad\">no answer</b> "(why.clone().unwrap_or_default())),
        (Some(true), _) => html!("<b class=\"good\">answers</b>"),
    };
    let mut rows = Vec::new();
    if let Some(found) = facts.repository.facts() {
        rows.push(("system identifier", found.system_id.to_string()));
        rows.push(("backups", found.backups.len().to_string()));
    }
    rows.push(("written", format!("{} in {} objects", size(facts.written.bytes), facts.written.objects)));
    rows.push(("failed writes", facts.written.failures.to_string()));
    rows.push(("retried flushes", facts.retries.to_string()));
    card("Repository", state, rows)
}
