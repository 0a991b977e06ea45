//! Which WAL is read.

use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proto::wal::SegmentNo;
use proto::{Lsn, TimelineId};
use repository::Branch;
use repository::catalogue::{Inventory, Lineage};
use restore::plan::TargetTime;
use restore::program::failure;

/// What somebody has done before the range begins counts as far back as this, in bytes of WAL.
pub const LOOK_BACK: u64 = 256 << 20;

/// Around a time: so much before and after it.
const AROUND_TIME: SignedDuration = SignedDuration::from_mins(10);

/// Around a position: so many bytes before and after it.
const AROUND_LSN: u64 = 64 << 20;

/// What was committed may be sent so much later.
const SENT_LATE: SignedDuration = SignedDuration::from_mins(10);

/// A moment as somebody names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// By the server's clock.
    Time(TargetTime),
    /// By a position.
    Lsn(Lsn),
}

impl Moment {
    /// A position, or a time; one without an offset is meant in this machine's zone.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(lsn) = text.trim().parse() {
            return Ok(Self::Lsn(lsn));
        }
        TargetTime::parse(text, &TimeZone::system()).map(Self::Time).map_err(|error| error.to_string())
    }
}

/// From when to when: what is not given has no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Nothing earlier, by time.
    pub since_time: Option<Timestamp>,
    /// Nothing later.
    pub until_time: Option<Timestamp>,
    /// Nothing before it, by position.
    pub since_lsn: Option<Lsn>,
    /// Nothing behind it.
    pub until_lsn: Option<Lsn>,
}

impl Bounds {
    /// Between two moments.
    pub fn between(since: Option<Moment>, until: Option<Moment>) -> Self {
        let mut bounds = Self::default();
        match since {
            Some(Moment::Time(time)) => bounds.since_time = Some(time.instant()),
            Some(Moment::Lsn(lsn)) => bounds.since_lsn = Some(lsn),
            None => {}
        }
        match until {
            Some(Moment::Time(time)) => bounds.until_time = Some(time.instant()),
            Some(Moment::Lsn(lsn)) => bounds.until_lsn = Some(lsn),
            None => {}
        }
        bounds
    }

    /// Some minutes, or some WAL, before and after one.
    pub fn around(moment: &Moment) -> Self {
        match moment {
            Moment::Time(time) => Self {
                since_time: time.instant().checked_sub(AROUND_TIME).ok(),
                until_time: time.instant().checked_add(AROUND_TIME).ok(),
                ..Self::default()
            },
            Moment::Lsn(lsn) => Self {
                since_lsn: Some(*lsn - AROUND_LSN),
                until_lsn: Some(*lsn + AROUND_LSN),
                ..Self::default()
            },
        }
    }

    /// Whether something at that position is between them.
    pub fn contains_lsn(&self, lsn: Lsn) -> bool {
        self.since_lsn.is_none_or(|since| lsn >= since) && self.until_lsn.is_none_or(|until| lsn <= until)
    }

    /// Whether something at that time is; what has none is.
    pub fn contains_time(&self, time: Option<Timestamp>) -> bool {
        let Some(time) = time else { return true };
        self.since_time.is_none_or(|since| time >= since) && self.until_time.is_none_or(|until| time <= until)
    }
}

/// The WAL to be read.
#[derive(Debug, Clone)]
pub struct WalRange {
    /// Along which timelines.
    pub lineage: Lineage,
    /// From there on.
    pub from: Lsn,
    /// Up to there.
    pub to: Lsn,
    /// What is missing in between.
    pub gaps: Vec<std::ops::Range<Lsn>>,
}

/// Decides it.
///
/// # Errors
/// The timeline cannot be followed; there is no WAL; the store does not answer.
pub async fn choose(
    branch: &Branch,
    inventory: &Inventory,
    timeline: Option<TimelineId>,
    bounds: &Bounds,
) -> Result<WalRange> {
    let newest = || inventory.windows().iter().map(|window| window.timeline).max();
    let timeline = timeline.or_else(newest).or_else(|| inventory.timelines().last().copied());
    let Some(timeline) = timeline else {
        return Err(failure(
            "the repository holds no WAL of this cluster",
            "see what it holds: walkeep list",
        ));
    };
    let lineage = inventory.certain_lineage(timeline).map_err(|why| {
        failure(
            format!("timeline {timeline} cannot be followed: {why}"),
            "name another one with --timeline; `walkeep list` shows which there are",
        )
    })?;
    let available = inventory.available(&lineage);
    let (Some(start), Some(end)) = (available.ranges().first().map(|range| range.start), available.end())
    else {
        return Err(failure(
            format!("the repository holds no WAL of timeline {timeline}"),
            "name another one with --timeline; `walkeep list` shows which there are",
        ));
    };
    let sent = Sent { branch, inventory, timeline, start, end };
    let mut from = bounds.since_lsn.unwrap_or(start).max(start);
    if let Some(since) = bounds.since_time {
        // Where nobody wrote down when it was sent, it may have been later.
        from = sent.first_after(since, false).await?;
    }
    let mut to = bounds.until_lsn.unwrap_or(end).min(end);
    if let Some(until) = bounds.until_time.and_then(|until| until.checked_add(SENT_LATE).ok()) {
        to = (sent.first_after(until, true).await? + inventory.segment_size().bytes()).min(end);
    }
    let from = (from - LOOK_BACK).max(start);
    let to = to.max(from);
    Ok(WalRange { gaps: available.missing(&(from..to)), lineage, from, to })
}

/// When WAL was sent.
struct Sent<'a> {
    branch: &'a Branch,
    inventory: &'a Inventory,
    timeline: TimelineId,
    start: Lsn,
    end: Lsn,
}

impl Sent<'_> {
    /// The beginning of the first segment that was sent later, at its end. `unknown`: whether that is true of no segment of
    /// which nobody knows.
    async fn first_after(&self, time: Timestamp, unknown: bool) -> Result<Lsn> {
        let size = self.inventory.segment_size();
        let (mut first, mut last) = (size.segment_at(self.start).0, size.segment_before(self.end).0);
        while first < last {
            let middle = first + (last - first) / 2;
            let end = SegmentNo(middle).end(size);
            let sent = self.inventory.time_before(self.branch, self.timeline, end).await?;
            match sent.map_or(unknown, |sent| sent <= time) {
                true => first = middle + 1,
                false => last = middle,
            }
        }
        Ok(SegmentNo(first).start(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_positions_or_times() {
        assert_eq!(Moment::parse(" 16/B374D848 "), Ok(Moment::Lsn(Lsn(0x16_B374_D848))));
        let Ok(Moment::Time(time)) = Moment::parse("2026-11-24 01:30:15+00") else { panic!() };
        assert_eq!(time.instant().as_second(), 1_795_483_815);
        for text in ["yesterday", "16", "2026-11-24 25:00:00Z"] {
            assert!(Moment::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_hold_positions_and_times() {
        let since = Moment::parse("0/100").unwrap();
        let until = Moment::parse("2026-11-24 01:30:15Z").unwrap();
        let bounds = Bounds::between(Some(since), Some(until.clone()));
        assert!(bounds.contains_lsn(Lsn(0x100)) && !bounds.contains_lsn(Lsn(0xFF)));
        let time = |second: i64| Some(Timestamp::from_second(1_795_483_815 + second).unwrap());
        assert!(
            bounds.contains_time(time(0)) && !bounds.contains_time(time(1)) && bounds.contains_time(None)
        );
        let around = Bounds::around(&until);
        assert!(around.contains_time(time(600)) && around.contains_time(time(-600)));
        assert!(!around.contains_time(time(601)) && !around.contains_time(time(-601)));
        let around = Bounds::around(&Moment::Lsn(Lsn(AROUND_LSN + 5)));
        assert!(!around.contains_lsn(Lsn(4)) && around.contains_lsn(Lsn(5)));
        assert!(around.contains_lsn(Lsn(2 * AROUND_LSN + 5)));
    }
}
