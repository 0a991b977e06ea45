//! What can be restored, as a picture over time: a lane for each timeline, and one for the drills.
//!
//! Backups and drills know their times. Positions between them are put where they would have been had the server written
//! evenly from one known time to the next.

use jiff::Timestamp;
use proto::{Lsn, TimelineId};
use repository::backup::BackupKind;
use repository::drill::Verdict;

use super::words::{between, count, moment, size};
use crate::html::{Html, html};
use crate::http::facts::Facts;
use crate::http::look::RepositoryFacts;

/// Lanes that are drawn: the newest timelines.
const LANES: usize = 8;

/// The shortest thing that can still be seen, of a thousand.
const LEAST: f64 = 3.0;

/// The section.
pub(super) fn section(facts: &Facts) -> Html {
    let Some(found) = facts.repository.facts() else {
        return html!(
            "<section><h2>Recovery window</h2><p class=\"note\">The repository has not been looked at yet.</p></section>"
        );
    };
    let scale = Scale::of(facts, found);
    let mut timelines: Vec<TimelineId> = found.windows.iter().map(|window| window.timeline).collect();
    timelines.extend(found.backups.iter().map(|backup| backup.timeline));
    timelines.sort_unstable();
    timelines.dedup();
    let newest = timelines.len().saturating_sub(LANES);
    let lanes: Html =
        timelines[newest..].iter().rev().map(|timeline| lane(*timeline, facts, found, &scale)).collect();
    let drills = match found.drill_times.is_empty() {
        true => Html::default(),
        false => drills(found, &scale),
    };
    let empty = match found.windows.is_empty() {
        true => html!(
            "<p class=\"none\">Nothing can be restored yet. Take a backup with <code>walkeep backup</code>.</p>"
        ),
        false => Html::default(),
    };
    let middle = scale.middle();
    html!(
        "<section><h2>Recovery window</h2>" (sentence(facts, found)) (empty)
        "<div class=\"lanes\">" (lanes) (drills) "</div>"
        "<div class=\"axis shifted\"><span>" (day(scale.from)) "</span><span>" (day(middle)) "</span><span>now</span></div>"
        "<p class=\"legend\"><span><i class=\"k full\"></i>full backup</span><span><i class=\"k incremental\"></i>incremental</span>\
         <span><i class=\"k window\"></i>every moment</span><span><i class=\"k tail\"></i>still fragments</span>\
         <span><i class=\"k gap\"></i>WAL missing</span><span><i class=\"k passed\"></i>drill passed</span>\
         <span><i class=\"k failed\"></i>failed</span></p>" (gaps(found)) "</section>"
    )
}

/// From when to when, in words.
fn sentence(facts: &Facts, found: &RepositoryFacts) -> Html {
    let Some(last) = found.windows.iter().max_by_key(|window| (window.timeline, window.to_lsn)) else {
        return Html::default();
    };
    let from = last.from_time.map_or_else(|| last.from_lsn.to_string(), moment);
    let to = match (follows(facts, found, last.timeline, last.to_lsn), last.to_time) {
        (true, _) => "now, as it streams".to_owned(),
        (false, Some(time)) => moment(time),
        (false, None) => last.to_lsn.to_string(),
    };
    let tail: Html = found.tails.iter().filter(|tail| tail.timeline == last.timeline).map(|tail| {
        html!(" The last " (size(tail.to.bytes_since(tail.from))) " are in " (count(tail.objects, "fragment", "fragments")) ".")
    }).collect();
    html!("<p class=\"note\">Any moment from <b>" (from) "</b> to <b>" (to) "</b> on timeline "
        (last.timeline.to_string()) "." (tail) "</p>")
}

/// Whether the stream goes on with a window that ends there: not if WAL is missing behind it.
pub(super) fn follows(facts: &Facts, found: &RepositoryFacts, timeline: TimelineId, end: Lsn) -> bool {
    facts.streams()
        && facts.stream.timeline == Some(timeline)
        && facts.stream.durable_lsn.is_some_and(|durable| durable >= end)
        && found.gaps.iter().all(|gap| gap.timeline != timeline || gap.to_lsn <= end)
}

fn gaps(found: &RepositoryFacts) -> Html {
    found
        .gaps
        .iter()
        .map(|gap| {
            html!("<p class=\"gapline\">WAL of timeline " (gap.timeline.to_string()) " is missing from <code>"
            (gap.from_lsn.to_string()) "</code> to <code>" (gap.to_lsn.to_string()) "</code> ("
            (size(gap.to_lsn.bytes_since(gap.from_lsn))) ").</p>")
        })
        .collect()
}

fn lane(timeline: TimelineId, facts: &Facts, found: &RepositoryFacts, scale: &Scale) -> Html {
    let fork = found.forks.iter().find(|(child, _)| *child == timeline).map(|(_, lsn)| scale.x_of(*lsn));
    let windows: Html = found
        .windows
        .iter()
        .filter(|window| window.timeline == timeline)
        .map(|window| {
            let from = window.from_time.map_or_else(|| scale.x_of(window.from_lsn), |time| scale.x(time));
            let to = match follows(facts, found, timeline, window.to_lsn) {
                true => scale.x(facts.now),
                false => window.to_time.map_or_else(|| scale.x_of(window.to_lsn), |time| scale.x(time)),
            };
            let title = format!("every moment from {} to {}", window.from_lsn, window.to_lsn);
            let own = fork.map_or(from, |fork| fork.clamp(from, to.max(from)));
            html!(""(bar("window inherited", from, own, &title))(bar(
                "window",
                own,
                to.max(own + LEAST),
                &title
            )))
        })
        .collect();
    let tails: Html = found
        .tails
        .iter()
        .filter(|tail| tail.timeline == timeline)
        .map(|tail| {
            let to = if follows(facts, found, timeline, tail.from) {
                scale.x(facts.now)
            } else {
                scale.x_of(tail.to)
            };
            let from = scale.x_of(tail.from).min(to - 2.0 * LEAST);
            let title =
                format!("{} to {} in {}", tail.from, tail.to, count(tail.objects, "fragment", "fragments"));
            bar("tail", from, to, &title)
        })
        .collect();
    let gaps: Html = found
        .gaps
        .iter()
        .filter(|gap| gap.timeline == timeline)
        .map(|gap| {
            let (from, to) = (scale.x_of(gap.from_lsn), scale.x_of(gap.to_lsn));
            let title = format!("missing: {} to {}", gap.from_lsn, gap.to_lsn);
            bar("gap", from, to.max(from + 2.0 * LEAST), &title)
        })
        .collect();
    let backups: Html = found
        .backups
        .iter()
        .filter(|backup| backup.timeline == timeline)
        .map(|backup| {
            let class = match (backup.restorable, backup.kind) {
                (false, _) => "dot unusable",
                (true, BackupKind::Full) => "dot full",
                (true, BackupKind::Incremental) => "dot incremental",
            };
            let usable = if backup.restorable { "" } else { ", cannot be restored" };
            let title = format!("{}, {}{usable}", backup.label, size(backup.stored_bytes));
            dot(class, scale.x(backup.finished_at), &title)
        })
        .collect();
    html!(
        "<div class=\"lane\"><span class=\"name\"><span class=\"wide\">timeline </span><span class=\"narrow\">TL </span>"
        (timeline.to_string()) "</span>\
         <svg viewBox=\"0 0 1000 24\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"what can be restored of the timeline\">\
         <line class=\"track\" x1=\"0\" x2=\"1000\" y1=\"12\" y2=\"12\"/>" (windows) (gaps) (tails) (backups) "</svg></div>"
    )
}

fn drills(found: &RepositoryFacts, scale: &Scale) -> Html {
    let inside = found.drill_times.iter().filter(|(time, _)| *time >= scale.from);
    let dots: Html = inside
        .map(|(time, verdict)| {
            let class = if *verdict == Verdict::Passed { "dot passed" } else { "dot failed" };
            dot(class, scale.x(*time), &format!("drill {verdict} {}", moment(*time)))
        })
        .collect();
    html!(
        "<div class=\"lane\"><span class=\"name\">drills</span>\
         <svg viewBox=\"0 0 1000 24\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"drills\">" (dots) "</svg></div>"
    )
}

fn bar(class: &'static str, from: f64, to: f64, title: &str) -> Html {
    if to <= from {
        return Html::default();
    }
    html!("<rect class=\"" (class) "\" x=\"" (from) "\" y=\"7\" width=\"" (to - from) "\" height=\"10\"><title>" (title) "</title></rect>")
}

/// A line of no length with round ends is a circle however the picture is stretched.
fn dot(class: &'static str, x: f64, title: &str) -> Html {
    html!("<path class=\"" (class) "\" d=\"M" (x) " 12h0.01\"><title>" (title) "</title></path>")
}

/// Day and time, without the seconds.
fn day(time: Timestamp) -> Html {
    html!("<time>" (time.strftime("%Y-%m-%d %H:%M").to_string()) "</time>")
}

/// From times and positions to places.
struct Scale {
    from: Timestamp,
    to: Timestamp,
    /// Where the server was, and when, in seconds since 1970. Both ascending.
    known: Vec<(Lsn, f64)>,
}

impl Scale {
    fn of(facts: &Facts, found: &RepositoryFacts) -> Self {
        let mut known: Vec<(Lsn, f64)> = Vec::new();
        for backup in &found.backups {
            known.push((backup.start_lsn, seconds(backup.started_at)));
            known.push((backup.stop_lsn, seconds(backup.finished_at)));
        }
        known.extend(
            found.windows.iter().filter_map(|window| Some((window.to_lsn, seconds(window.to_time?)))),
        );
        if let Some(durable) = facts.stream.durable_lsn.filter(|_| facts.streams()) {
            known.push((durable, seconds(facts.now)));
        }
        known.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut latest = f64::MIN;
        for (_, time) in &mut known {
            // On two branches one position has two times: the later one, so that both ascend.
            latest = latest.max(*time);
            *time = latest;
        }
        let begins = found.backups.iter().map(|backup| backup.started_at);
        let first = begins.chain(found.windows.iter().filter_map(|window| window.from_time)).min();
        let latest_start = facts.now - jiff::SignedDuration::from_secs(60);
        Self { from: first.unwrap_or(latest_start).min(latest_start), to: facts.now, known }
    }

    fn middle(&self) -> Timestamp {
        self.from + self.to.duration_since(self.from) / 2
    }

    fn x(&self, time: Timestamp) -> f64 {
        self.place(seconds(time))
    }

    fn x_of(&self, lsn: Lsn) -> f64 {
        let after = self.known.partition_point(|(known, _)| *known <= lsn);
        let time = match (after.checked_sub(1).map(|at| self.known[at]), self.known.get(after)) {
            (Some((from, begun)), Some((to, ended))) => {
                let share = lsn.bytes_since(from) as f64 / to.bytes_since(from).max(1) as f64;
                begun + share * (ended - begun)
            }
            (Some((_, time)), None) => time,
            (None, Some((_, time))) => *time,
            (None, None) => seconds(self.from),
        };
        self.place(time)
    }

    fn place(&self, time: f64) -> f64 {
        let length = (seconds(self.to) - seconds(self.from)).max(1.0);
        // Room for half a dot at both ends.
        (8.0 + (time - seconds(self.from)) / length * 984.0).clamp(8.0, 992.0)
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

/// The table of the last backups.
pub(super) fn backups(facts: &Facts) -> Html {
    const ROWS: usize = 8;
    let Some(found) = facts.repository.facts().filter(|found| !found.backups.is_empty()) else {
        return Html::default();
    };
    let rows: Html = found.backups.iter().rev().take(ROWS).map(|backup| {
        let took = between(backup.started_at, backup.finished_at);
        let state = match (backup.restorable, backup.damaged_pages) {
            (false, _) => html!("<b class=\"bad\">cannot be restored</b>"),
            (true, 0) => html!("restorable"),
            (true, pages) => html!("<b class=\"warning\">" (count(pages as usize, "damaged page", "damaged pages")) "</b>"),
        };
        html!("<tr><td><code>" (backup.label.to_string()) "</code></td><td>" (moment(backup.finished_at)) "</td><td class=\"number\">"
            (took) "</td><td class=\"number\">" (size(backup.size_bytes)) "</td><td class=\"number\">" (size(backup.stored_bytes))
            "</td><td>" (state) "</td></tr>")
    }).collect();
    let more = found.backups.len().saturating_sub(ROWS);
    let more = match more {
        0 => Html::default(),
        _ => {
            html!("<p class=\"note\">and " (count(more, "older one", "older ones")) ": <code>walkeep list</code></p>")
        }
    };
    html!(
        "<section><h2>Backups</h2><div class=\"scroll\"><table><thead><tr><th>backup</th><th>finished</th><th class=\"number\">took</th>\
         <th class=\"number\">size</th><th class=\"number\">stored</th><th>state</th></tr></thead><tbody>" (rows)
        "</tbody></table></div>" (more) "</section>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::facts::tests::{ago, everything};

    #[test]
    fn everything_is_in_the_picture_at_its_place() {
        let facts = everything();
        let found = facts.repository.facts().unwrap();
        let scale = Scale::of(&facts, found);
        assert_eq!((scale.x(scale.from), scale.x(facts.now)), (8.0, 992.0));
        // A position right between two backups, of which the times are known.
        let (one, two) = (scale.x(ago(6 * 86_400)), scale.x(ago(3 * 86_400 + 60)));
        let between = scale.x_of(Lsn(0x3FF_F800));
        assert!((one..two).contains(&between), "{one} {between} {two}");
        assert_eq!(scale.x_of(Lsn(0xFFFF_0000)), 992.0);
        let drawn = section(&facts).into_string();
        for (class, number) in [
            ("\"dot full\"", 1),
            ("\"dot unusable\"", 1),
            ("\"dot incremental\"", 1),
            ("\"gap\"", 1),
            ("\"tail\"", 1),
            ("\"dot passed\"", 1),
            ("\"dot failed\"", 1),
            ("\"window inherited\"", 1),
        ] {
            assert_eq!(drawn.matches(&format!("class={class}")).count(), number, "{class}\n{drawn}");
        }
        assert!(drawn.contains("to <b>now, as it streams</b> on timeline 2"), "{drawn}");
        assert!(!drawn.contains("NaN"));
    }
}
