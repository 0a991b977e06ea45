//! What is done by itself, and how it went.

use super::words::{between, count, moment, span};
use crate::html::{Html, html};
use crate::http::facts::Facts;
use crate::schedule::JobStatus;

/// The section; nothing where nothing is scheduled.
pub(super) fn section(facts: &Facts) -> Html {
    let Some(schedule) = &facts.schedule else { return Html::default() };
    let rows: Html = schedule.jobs.iter().map(|job| row(job, facts)).collect();
    let waits = match &schedule.waits_for {
        Some(why) => html!("<p class=\"note\">It waits: " (why.as_str()) "</p>"),
        None => Html::default(),
    };
    html!(
        "<section><h2>Schedule</h2>" (waits) "<div class=\"scroll\"><table><thead><tr><th>job</th><th>times</th>\
         <th>next</th><th>last run</th><th></th></tr></thead><tbody>" (rows) "</tbody></table></div>\
         <p class=\"note below\">" (count(schedule.jobs.len(), "job", "jobs")) ", times in " (schedule.timezone.as_str())
        ".</p></section>"
    )
}

fn row(job: &JobStatus, facts: &Facts) -> Html {
    let next = match (job.running_since, job.next_at) {
        (Some(since), _) => html!("<b>runs</b> for "(between(since, facts.now))),
        (None, Some(next)) if next <= facts.now => html!("<b>due</b>"),
        (None, Some(next)) => html!("in "(between(facts.now, next))),
        (None, None) => html!("never"),
    };
    let (last, how) = match &job.last {
        None => (html!("none yet"), Html::default()),
        Some(last) => {
            let took = last.seconds.map(|seconds| format!(" after {}", span(seconds))).unwrap_or_default();
            let why = last.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            let how = match last.succeeded {
                true => html!("<b class=\"good\">done</b>"(took)),
                false => html!("<b class=\"bad\">failed</b>"(took)(why)),
            };
            (html!(""(moment(last.started_at))), how)
        }
    };
    html!("<tr><td>" (job.job.as_str()) "</td><td><code>" (job.times.as_str()) "</code></td><td>" (next) "</td><td>" (last)
        "</td><td class=\"wrap\">" (how) "</td></tr>")
}
