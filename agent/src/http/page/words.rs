//! Spans, sizes and moments as people read them.

use indicatif::HumanBytes;
use jiff::Timestamp;

/// A span of time: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn span(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let whole = seconds.round() as u64;
    let two = |large: u64, unit: &str, small: u64, lesser: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {lesser}"),
    };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => two(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// The same from one moment to a later one, in whole seconds.
pub(super) fn between(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs().max(0);
    if seconds < 10 { format!("{seconds} s") } else { span(seconds as f64) }
}

/// Bytes.
pub(super) fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A moment, to the second, in UTC.
pub(super) fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// One of so many, as in `1 backup`, `2 backups`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, words) in [
            (0.04, "0.0 s"),
            (0.44, "0.4 s"),
            (12.2, "12 s"),
            (59.6, "1 min"),
            (185.0, "3 min 5 s"),
            (7500.0, "2 h 5 min"),
            (277_200.0, "3 d 5 h"),
            (-3.0, "0.0 s"),
        ] {
            assert_eq!(span(seconds), words);
        }
    }
}
