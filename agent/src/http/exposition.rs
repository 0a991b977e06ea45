//! Prometheus' text format, version 0.0.4: metrics, their help and type, their samples.

use std::fmt::{Display, Write as _};

use crate::counters::{BOUNDS, Durations};

/// What the format is called in an answer.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows, and begins at 0 with the agent.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Durations in seconds, by buckets.
    Histogram,
}

impl Kind {
    /// The format's word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric: its name, what it is, and what it says in one sentence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The labels of each sample, in their order.
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// The text that becomes an answer.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// The samples of one metric.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    metric: &'static Metric,
}

impl Exposition {
    /// Begins a metric. One of which nothing is known has no samples.
    pub(super) fn metric(&mut self, metric: &'static Metric) -> Samples<'_> {
        let Metric { name, kind, help, .. } = metric;
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {}", escaped(help, false), kind.name());
        Samples { text: &mut self.0, metric }
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Samples<'_> {
    /// The one sample of a metric without labels, if its value is known.
    pub(super) fn one(mut self, value: Option<impl Display>) {
        if let Some(value) = value {
            self.with(&[], value);
        }
    }

    /// A sample with values for the metric's labels.
    pub(super) fn with(&mut self, labels: &[&str], value: impl Display) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "{}", self.metric.name);
        let _ = writeln!(self.text, "{}{} {value}", self.metric.name, self.labels(labels, None));
    }

    /// One sample for each of `names`: 1 for the one that holds, 0 for the others.
    pub(super) fn states(mut self, names: &[&str], holds: Option<&str>) {
        for name in names {
            self.with(&[name], u8::from(holds == Some(name)));
        }
    }

    /// The samples of a histogram.
    pub(super) fn durations(&mut self, labels: &[&str], durations: &Durations) {
        let name = self.metric.name;
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(durations.at_most.iter().chain([&durations.count])) {
            let labels = self.labels(labels, Some(&bound));
            let _ = writeln!(self.text, "{name}_bucket{labels} {count}");
        }
        let labels = self.labels(labels, None);
        let _ = writeln!(
            self.text,
            "{name}_sum{labels} {}\n{name}_count{labels} {}",
            durations.sum, durations.count
        );
    }

    fn labels(&self, values: &[&str], bound: Option<&str>) -> String {
        let of_metric = self.metric.labels.iter().zip(values).map(|(name, value)| (*name, *value));
        let pairs: Vec<String> = of_metric
            .chain(bound.map(|bound| ("le", bound)))
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value, true)))
            .collect();
        if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
    }
}

/// Backslashes and line ends; in the value of a label also quotes.
fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::counters::Histogram;

    static ONE: Metric = Metric { name: "one", kind: Kind::Gauge, labels: &[], help: "A \\ and\nan end." };
    static STATE: Metric = Metric { name: "state", kind: Kind::Gauge, labels: &["state"], help: "It." };
    static TOOK: Metric = Metric { name: "took", kind: Kind::Histogram, labels: &["of"], help: "It." };

    #[test]
    fn the_text_is_as_the_format_has_it() {
        let mut text = Exposition::default();
        text.metric(&ONE).one(Some(1.5));
        text.metric(&ONE).one(None::<u64>);
        text.metric(&STATE).states(&["a", "b\"\n"], Some("a"));
        assert_eq!(
            text.finish(),
            "# HELP one A \\\\ and\\nan end.\n# TYPE one gauge\none 1.5\n\
             # HELP one A \\\\ and\\nan end.\n# TYPE one gauge\n\
             # HELP state It.\n# TYPE state gauge\nstate{state=\"a\"} 1\nstate{state=\"b\\\"\\n\"} 0\n"
        );
    }

    #[test]
    fn a_histogram_counts_upwards_to_all() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(2));
        histogram.record(Duration::from_secs(100));
        let mut text = Exposition::default();
        text.metric(&TOOK).durations(&["x"], &histogram.durations());
        let text = text.finish();
        for line in [
            "took_bucket{of=\"x\",le=\"0.001\"} 0",
            "took_bucket{of=\"x\",le=\"0.0025\"} 1",
            "took_bucket{of=\"x\",le=\"30\"} 1",
            "took_bucket{of=\"x\",le=\"+Inf\"} 2",
            "took_sum{of=\"x\"} 100.002",
            "took_count{of=\"x\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
