//! The lag of the last hours as a picture: on a scale of powers of ten, since a second matters, and so does an hour.

use super::words::span;
use crate::html::{Html, html};
use crate::http::facts::Facts;
use crate::http::history::{STEP, STEPS, Sample};

/// The picture's size in its own units; it is stretched to whatever room there is.
const SIZE: (f64, f64) = (1000.0, 120.0);

/// The scale: what is at the bottom, and lines that are drawn, in seconds.
const FLOOR: f64 = 0.05;
const LINES: [(f64, &str); 7] = [
    (0.1, "0.1 s"),
    (1.0, "1 s"),
    (10.0, "10 s"),
    (60.0, "1 min"),
    (600.0, "10 min"),
    (3600.0, "1 h"),
    (86_400.0, "1 d"),
];

/// The shortest time that is drawn, in steps: ten minutes.
const FEWEST: i64 = 20;

/// The section.
pub(super) fn section(facts: &Facts) -> Html {
    let now = facts.now.as_second();
    let samples = &facts.history;
    let first = samples.first().map_or(now, |sample| sample.at);
    let length = (now - first).clamp(FEWEST * STEP, STEPS as i64 * STEP) as f64;
    let start = now as f64 - length;
    let worst = samples.iter().filter_map(|sample| sample.seconds).fold(0.0, f64::max);
    let top =
        LINES.iter().map(|(value, _)| *value).find(|line| *line > worst && *line >= 1.0).unwrap_or(worst);
    let x = |at: f64| ((at - start) / length * SIZE.0).clamp(0.0, SIZE.0);
    let y = |seconds: f64| {
        let share = (seconds.max(FLOOR) / FLOOR).log10() / (top.max(1.0) / FLOOR).log10();
        SIZE.1 - share.min(1.0) * (SIZE.1 - 4.0)
    };
    let lines: Html = LINES.iter().filter(|(value, _)| *value <= top).map(|(value, _)| {
        html!("<line class=\"grid\" x1=\"0\" x2=\"1000\" y1=\"" (y(*value)) "\" y2=\"" (y(*value)) "\"/>")
    }).collect();
    let labels: Html = LINES.iter().filter(|(value, _)| *value <= top).map(|(value, words)| {
        html!("<text x=\"46\" y=\"" (y(*value) + 4.0) "\" text-anchor=\"end\">" (*words) "</text>")
    }).collect();
    let away: Html = samples
        .iter()
        .filter(|sample| sample.away && facts.stream_enabled)
        .map(|sample| {
            let from = x(sample.at as f64);
            let width = (x((sample.at + STEP) as f64) - from).max(1.0);
            html!("<rect class=\"away\" x=\"" (from) "\" y=\"0\" width=\"" (width) "\" height=\"120\"/>")
        })
        .collect();
    let curve: Html = stretches(samples).into_iter().map(|stretch| {
        let mut points = String::new();
        for sample in stretch {
            let (left, right) = (x(sample.at as f64), x((sample.at + STEP).min(now) as f64));
            let height = y(sample.seconds.unwrap_or(0.0));
            points += &format!("{left:.1},{height:.1} {right:.1},{height:.1} ");
        }
        let (from, to) = (stretch[0].at as f64, (stretch[stretch.len() - 1].at + STEP).min(now) as f64);
        let area = format!("{:.1},120 {points}{:.1},120", x(from), x(to));
        html!("<polygon class=\"area\" points=\"" (area) "\"/><polyline class=\"curve\" points=\"" (points) "\"/>")
    }).collect();
    let half = span((length / 2.0).round());
    let is_known = samples.iter().any(|sample| sample.seconds.is_some());
    let at_most = if is_known { span(worst) } else { "unknown".to_owned() };
    html!(
        "<section><h2>Commits at risk over time</h2><p class=\"note\">The worst of each half minute; at most "
        (at_most) " in the last " (span(length)) ". Red: no WAL was streaming.</p>\
         <div class=\"chart\"><svg class=\"scale\" width=\"50\" height=\"120\" aria-hidden=\"true\">" (labels) "</svg>\
         <svg class=\"plot\" viewBox=\"0 0 1000 120\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"seconds of \
         commits at risk over time\">" (lines) (away) (curve) "</svg></div>\
         <div class=\"axis shifted\"><span>" (span(length)) " ago</span><span>" (half) " ago</span><span>now</span></div></section>"
    )
}

/// Runs of samples of which the lag is known.
fn stretches(samples: &[Sample]) -> Vec<&[Sample]> {
    let joined = |a: &Sample, b: &Sample| a.seconds.is_some() == b.seconds.is_some() && b.at - a.at == STEP;
    samples.chunk_by(joined).filter(|stretch| stretch[0].seconds.is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::facts::tests::{everything, nothing};

    #[test]
    fn what_is_not_known_is_not_drawn() {
        let drawn = section(&everything()).into_string();
        assert_eq!(drawn.matches("class=\"curve\"").count(), 2, "before and after the outage");
        assert_eq!(drawn.matches("class=\"away\"").count(), 30);
        assert!(drawn.contains("9.") && drawn.contains(">10 s<") && !drawn.contains(">1 min<"), "{drawn}");
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
        let none = section(&nothing()).into_string();
        assert!(!none.contains("curve") && !none.contains("NaN"), "{none}");
    }
}
