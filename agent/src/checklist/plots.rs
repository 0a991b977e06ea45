//! What the looks that were kept have to show: curves over time, and their pictures. Pure.

use std::collections::{BTreeMap, BTreeSet};

use indicatif::HumanBytes;
use jiff::Timestamp;
use repository::look::{DatabaseFigures, Figures};

use crate::html::{Html, html};

/// A picture's size in its own units; it is stretched to whatever room there is.
const SIZE: (f64, f64) = (1000.0, 160.0);

/// So many databases are drawn: the largest.
const MOST_CURVES: usize = 5;

/// A picture: curves over seconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// What it shows.
    pub title: &'static str,
    /// How a value is written.
    unit: Unit,
    /// Each with its name.
    pub curves: Vec<(String, Vec<(i64, f64)>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    PerCent,
    Milliseconds,
    PerSecond,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Bytes => HumanBytes(value as u64).to_string(),
            Self::PerCent => format!("{value:.1} %"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::PerSecond => format!("{value:.2}/s"),
        }
    }
}

/// All of which there is something to draw.
pub fn plots(looks: &[Figures]) -> Vec<Plot> {
    let scaled = |points: Vec<(i64, f64)>, by: f64| -> Vec<(i64, f64)> {
        points.into_iter().map(|(at, value)| (at, value * by)).collect()
    };
    let one = |points| vec![(String::new(), points)];
    let all = [
        Plot { title: "Sizes of databases", unit: Unit::Bytes, curves: sizes(looks) },
        Plot { title: "Found in shared buffers", unit: Unit::PerCent, curves: one(cache_hits(looks)) },
        Plot { title: "Committed transactions", unit: Unit::PerSecond, curves: one(commits(looks)) },
        Plot {
            title: "Mean time of a statement",
            unit: Unit::Milliseconds,
            curves: one(scaled(statement_times(looks), 1000.0)),
        },
    ];
    // A point is no curve.
    all.into_iter().filter(|plot| plot.curves.iter().any(|(_, points)| points.len() > 1)).collect()
}

fn sizes(looks: &[Figures]) -> Vec<(String, Vec<(i64, f64)>)> {
    let mut largest: BTreeMap<&str, u64> = BTreeMap::new();
    for database in looks.iter().flat_map(|look| &look.databases) {
        let size = largest.entry(&database.name).or_default();
        *size = database.size_bytes.max(*size);
    }
    let mut names: Vec<(&str, u64)> = largest.into_iter().collect();
    names.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let curve = |name: &str| {
        let point = |look: &Figures| {
            let database = look.databases.iter().find(|database| database.name == name)?;
            Some((look.at.as_second(), database.size_bytes as f64))
        };
        looks.iter().filter_map(point).collect()
    };
    names.into_iter().take(MOST_CURVES).map(|(name, _)| (name.to_owned(), curve(name))).collect()
}

/// In per cent, between each two looks.
pub(super) fn cache_hits(looks: &[Figures]) -> Vec<(i64, f64)> {
    between(looks, |then, now| {
        let hit = now.blocks_hit.checked_sub(then.blocks_hit)?;
        let read = now.blocks_read.checked_sub(then.blocks_read)?;
        Some((hit as f64 * 100.0, (hit + read) as f64))
    })
}

/// Seconds of a statement on average, between each two looks, by `pg_stat_statements`.
pub(super) fn statement_times(looks: &[Figures]) -> Vec<(i64, f64)> {
    between(looks, |then, now| {
        let calls = now.calls?.checked_sub(then.calls?)?;
        let seconds = now.seconds? - then.seconds?;
        (seconds >= 0.0).then_some((seconds, calls as f64))
    })
}

/// Of a second, between each two looks.
fn commits(looks: &[Figures]) -> Vec<(i64, f64)> {
    let pairs = looks.windows(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
    let rate = |(then, now): (&Figures, &Figures)| {
        let seconds = now.at.duration_since(then.at).as_secs_f64();
        let made: u64 = both(then, now).filter_map(|(then, now)| now.commits.checked_sub(then.commits)).sum();
        (seconds > 0.0).then_some((now.at.as_second(), made as f64 / seconds))
    };
    pairs.filter_map(rate).collect()
}

/// What all databases have come to between each two looks, as a share: of a counter that was set back nothing is known.
fn between(
    looks: &[Figures],
    share: impl Fn(&DatabaseFigures, &DatabaseFigures) -> Option<(f64, f64)>,
) -> Vec<(i64, f64)> {
    let pairs = looks.windows(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
    let point = |(then, now): (&Figures, &Figures)| {
        let shares = both(then, now).filter_map(|(then, now)| share(then, now));
        let (part, all) = shares.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (all > 0.0).then(|| (now.at.as_second(), part / all))
    };
    pairs.filter_map(point).collect()
}

fn both<'a>(
    then: &'a Figures,
    now: &'a Figures,
) -> impl Iterator<Item = (&'a DatabaseFigures, &'a DatabaseFigures)> {
    now.databases
        .iter()
        .filter_map(|now| Some((then.databases.iter().find(|then| then.name == now.name)?, now)))
}

impl Plot {
    /// As SVG, within a section.
    pub(super) fn section(&self) -> Html {
        let points = || self.curves.iter().flat_map(|(_, points)| points);
        let times: BTreeSet<i64> = points().map(|point| point.0).collect();
        let (Some(first), Some(last)) = (times.first().copied(), times.last().copied()) else {
            return Html::default();
        };
        let top = points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
        let x = |at: i64| (at - first) as f64 / ((last - first) as f64).max(1.0) * SIZE.0;
        let y = |value: f64| SIZE.1 - value / top * (SIZE.1 - 6.0);
        let curves: Html = self
            .curves
            .iter()
            .zip(["one", "two", "three", "four", "five"])
            .map(|((_, points), class)| {
                let words: Vec<String> =
                    points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
                html!("<polyline class=\"curve " (class) "\" points=\"" (words.join(" ")) "\"/>")
            })
            .collect();
        let legend: Html = self
            .curves
            .iter()
            .zip(["one", "two", "three", "four", "five"])
            .map(|((name, points), class)| {
                let now = points.last().map(|point| self.unit.write(point.1)).unwrap_or_default();
                html!("<span><i class=\"k " (class) "\"></i>" (name.as_str()) " " (now) "</span>")
            })
            .collect();
        let day = |second: i64| {
            let at = Timestamp::from_second(second).unwrap_or_default();
            at.strftime("%Y-%m-%d %H:%MZ").to_string()
        };
        html!(
            "<section><h2>" (self.title) "</h2><p class=\"note\">at most " (self.unit.write(top)) "</p>\
             <svg class=\"plot\" viewBox=\"0 0 1000 160\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"" (self.title)
            "\"><line class=\"grid\" x1=\"0\" x2=\"1000\" y1=\"160\" y2=\"160\"/><line class=\"grid\" x1=\"0\" x2=\"1000\" \
             y1=\"6\" y2=\"6\"/>" (curves) "</svg><div class=\"axis\"><span>" (day(first)) "</span><span>" (day(last))
            "</span></div><div class=\"legend\">" (legend) "</div></section>"
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use repository::look::LOOK_FORMAT;

    use super::*;

    /// Looks of two databases on one day after another: the counters grow by what is given.
    pub(in crate::checklist) fn looks(counted: &[(u64, u64)]) -> Vec<Figures> {
        let database = |name: &str, day: u64, (hit, read): (u64, u64)| DatabaseFigures {
            name: name.to_owned(),
            size_bytes: (day + 1) << 30,
            commits: day * 86_400,
            blocks_hit: hit,
            blocks_read: read,
            temp_bytes: 0,
            counted_since: None,
            calls: Some(day * 1000),
            seconds: Some(day as f64 * 2.0),
        };
        let look = |(day, counted): (usize, &(u64, u64))| Figures {
            format: LOOK_FORMAT,
            at: Timestamp::from_second(day as i64 * 86_400).unwrap(),
            program: "walkeep".into(),
            host: "db1".into(),
            databases: vec![database("shop", day as u64, *counted), database("a<b", day as u64, *counted)],
            tables: Vec::new(),
            log: None,
        };
        counted.iter().enumerate().map(look).collect()
    }

    #[test]
    fn curves_are_of_what_has_come_since() {
        let looks = looks(&[(0, 0), (90, 10), (100, 100), (50, 150)]);
        assert_eq!(cache_hits(&looks), [(86_400, 90.0), (172_800, 10.0)], "a counter was set back");
        assert_eq!(statement_times(&looks)[0], (86_400, 0.002));
        let plots = plots(&looks);
        assert_eq!(plots.len(), 4);
        assert_eq!(plots[0].curves.len(), 2);
        assert_eq!(plots[2].curves[0].1[0], (86_400, 2.0), "of both databases");
        let drawn = plots[0].section().into_string();
        assert!(drawn.contains("a&lt;b") && drawn.contains("4.00 GiB") && !drawn.contains("NaN"), "{drawn}");
    }

    #[test]
    fn a_point_is_not_drawn() {
        assert!(plots(&looks(&[(1, 1)])).is_empty() && plots(&[]).is_empty());
        assert_eq!(plots(&looks(&[(1, 1), (2, 2)])).len(), 1, "only sizes are known of two moments");
    }
}
