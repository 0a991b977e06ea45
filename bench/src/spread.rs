//! The middle of a set of figures, and how far they lie apart.

use std::fmt;

/// The median and the quartiles: half of the figures lie between those. Without figures all three are NaN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl Spread {
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let at = |quarters: usize| {
            let last = figures.len().saturating_sub(1);
            figures.get((last * quarters + 2) / 4).copied().unwrap_or(f64::NAN)
        };
        Spread { lower: at(1), median: at(2), upper: at(3) }
    }

    /// One over the other, pair by pair.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Spread {
        Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }

    /// The figure below which the given share of them lies.
    pub(crate) fn quantile(figures: &[f64], share: f64) -> f64 {
        let mut figures = figures.to_vec();
        figures.sort_by(f64::total_cmp);
        let at = (figures.len() as f64 * share) as usize;
        figures.get(at.min(figures.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

/// Three digits that count, and no more.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}–{})", figure(self.median), figure(self.lower), figure(self.upper))
    }
}
