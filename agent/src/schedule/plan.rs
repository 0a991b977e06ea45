//! What is due, and when the next time comes: computed from times, without clock, network or file.

use std::collections::BTreeMap;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use proto::config::{ClusterName, ScheduleConfig};
use repository::run::Job;

/// The times of all jobs.
#[derive(Debug, Clone)]
pub struct Schedule {
    zone: TimeZone,
    zone_name: String,
    times: BTreeMap<Job, Times>,
}

/// The times of one job.
#[derive(Debug, Clone)]
struct Times {
    text: String,
    cron: Cron,
    /// Whole seconds that the job begins later than the expression says.
    delay: SignedDuration,
}

/// A schedule that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// An expression that nobody understands.
    #[error("`{job}` in [schedule] is {text:?}, which is no time: {why}")]
    Expression {
        /// Its key.
        job: Job,
        /// As it was written.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// An expression such as the 30th of February.
    #[error("`{job}` in [schedule] is {text:?}, and such a time never comes")]
    Never {
        /// Its key.
        job: Job,
        /// As it was written.
        text: String,
    },
    /// A time zone that is not known here.
    #[error("`timezone` in [schedule] is {0:?}, which is no time zone that this computer knows")]
    Zone(String),
}

impl ScheduleError {
    /// What an operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Expression { .. } | Self::Never { .. } => {
                "five fields are expected: minute, hour, day of the month, month, day of the week, such as \"0 2 * * 0\""
            }
            Self::Zone(_) => {
                "give a name such as \"Europe/Berlin\" (the package tzdata has them), or POSIX's form, such as \
                 \"CET-1CEST,M3.5.0,M10.5.0/3\""
            }
        }
    }
}

/// When each job was last run, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastTimes(BTreeMap<Job, Timestamp>);

impl LastTimes {
    /// Notes a run that began then. One that succeeded counts for the lesser job as well.
    pub fn note(&mut self, job: Job, at: Timestamp, succeeded: bool) {
        let lesser = match job {
            Job::Full if succeeded => Some(Job::Incremental),
            Job::VerifyDeep if succeeded => Some(Job::Verify),
            _ => None,
        };
        for job in std::iter::once(job).chain(lesser) {
            let last = self.0.entry(job).or_insert(at);
            *last = at.max(*last);
        }
    }

    /// When it was last run.
    pub fn of(&self, job: Job) -> Option<Timestamp> {
        self.0.get(&job).copied()
    }
}

/// A job that is to be run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub job: Job,
    /// The time that it is run for: the latest that has come. Earlier ones that were missed are made up for by this run.
    pub due_at: Timestamp,
}

impl Schedule {
    /// Reads the expressions. The jitter follows from the cluster's name.
    ///
    /// # Errors
    /// The first of them that is wrong.
    pub fn new(config: &ScheduleConfig, cluster: &ClusterName) -> Result<Self, ScheduleError> {
        let (zone, zone_name) = match &config.timezone {
            Some(name) => (time_zone(name).ok_or_else(|| ScheduleError::Zone(name.clone()))?, name.clone()),
            None => {
                let zone = TimeZone::system();
                let name = zone.iana_name().unwrap_or("the system's").to_owned();
                (zone, name)
            }
        };
        let expressions = [
            (Job::Full, &config.full),
            (Job::Incremental, &config.incremental),
            (Job::Dump, &config.dump),
            (Job::Expire, &config.expire),
            (Job::Verify, &config.verify),
            (Job::VerifyDeep, &config.verify_deep),
            (Job::Drill, &config.drill),
            (Job::Upkeep, &config.upkeep),
            (Job::ChecklistDaily, &config.checklist_daily),
            (Job::ChecklistWeekly, &config.checklist_weekly),
            (Job::ChecklistMonthly, &config.checklist_monthly),
        ];
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let mut times = BTreeMap::new();
        for (job, text) in expressions {
            let Some(text) = text.clone() else { continue };
            let cron = parser.parse(&text).map_err(|error| {
                let why = error.to_string();
                ScheduleError::Expression { job, text: text.clone(), why }
            })?;
            let anywhere = Timestamp::UNIX_EPOCH.to_zoned(zone.clone());
            if cron.find_next_occurrence(&anywhere, false).is_err() {
                return Err(ScheduleError::Never { job, text });
            }
            let delay = delay(config.jitter, cluster, job);
            times.insert(job, Times { text, cron, delay });
        }
        Ok(Self { zone, zone_name, times })
    }

    /// Whether nothing is scheduled.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The name of the time zone.
    pub fn zone_name(&self) -> &str {
        &self.zone_name
    }

    /// The jobs and their expressions.
    pub fn jobs(&self) -> impl Iterator<Item = (Job, &str)> {
        self.times.iter().map(|(job, times)| (*job, times.text.as_str()))
    }

    /// The first time of a job after `after`. `None`: it is not scheduled.
    pub fn next(&self, job: Job, after: Timestamp) -> Option<Timestamp> {
        let times = self.times.get(&job)?;
        let start = self.at(after, times)?;
        let next = times.cron.find_next_occurrence(&start, false).ok()?;
        next.timestamp().checked_add(times.delay).ok()
    }

    /// The latest time of a job that is not after `now`.
    fn latest(&self, job: Job, now: Timestamp) -> Option<Timestamp> {
        let times = self.times.get(&job)?;
        let start = self.at(now, times)?;
        let latest = times.cron.find_previous_occurrence(&start, true).ok()?;
        latest.timestamp().checked_add(times.delay).ok()
    }

    /// The second, on the clock of the expression.
    fn at(&self, moment: Timestamp, times: &Times) -> Option<Zoned> {
        let second = Timestamp::from_second(moment.as_second()).ok()?;
        Some(second.checked_sub(times.delay).ok()?.to_zoned(self.zone.clone()))
    }

    /// When a job comes next, or has been due since. `since`: from when on the schedule holds; a job that was never run is not
    /// due before its first time after that.
    pub fn next_run(&self, job: Job, last: &LastTimes, since: Timestamp) -> Option<Timestamp> {
        self.next(job, last.of(job).unwrap_or(since))
    }

    /// Of the jobs that are due the one that has been so for longest: however much is scheduled, each has its turn. Of those
    /// that are due since the same time what protects comes first.
    pub fn due(&self, last: &LastTimes, since: Timestamp, now: Timestamp) -> Option<Due> {
        let next = |&job: &Job| Some((self.next_run(job, last, since)?, job));
        let (next, job) = self.times.keys().filter_map(next).min().filter(|(next, _)| *next <= now)?;
        let due_at = self.latest(job, now).unwrap_or(next).max(next);
        Some(Due { job, due_at })
    }

    /// When the next job comes; in the past if one is due.
    pub fn wake(&self, last: &LastTimes, since: Timestamp) -> Option<Timestamp> {
        self.times.keys().filter_map(|&job| self.next_run(job, last, since)).min()
    }
}

/// By its name, or in POSIX's form.
pub(crate) fn time_zone(name: &str) -> Option<TimeZone> {
    // A name is looked for first: "EST5EDT" is both.
    TimeZone::get(name).or_else(|_| TimeZone::posix(name)).ok()
}

/// A part of the jitter, always the same for this job of this cluster.
fn delay(jitter: std::time::Duration, cluster: &ClusterName, job: Job) -> SignedDuration {
    let digest = blake3::hash(format!("{cluster}\n{job}").as_bytes());
    let (chance, _) = digest.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
    let part = (u128::from(u64::from_le_bytes(*chance)) * u128::from(jitter.as_secs())) >> 64;
    // Less than the jitter, which is a day at most.
    SignedDuration::from_secs(part as i64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    fn config(job: Job, text: &str, zone: &str) -> ScheduleConfig {
        let mut config = ScheduleConfig { timezone: Some(zone.to_owned()), ..ScheduleConfig::default() };
        let key = match job {
            Job::Full => &mut config.full,
            Job::Incremental => &mut config.incremental,
            Job::Expire => &mut config.expire,
            Job::Verify => &mut config.verify,
            Job::VerifyDeep => &mut config.verify_deep,
            Job::Dump => &mut config.dump,
            Job::Drill => &mut config.drill,
            Job::Upkeep => &mut config.upkeep,
            Job::ChecklistDaily => &mut config.checklist_daily,
            Job::ChecklistWeekly => &mut config.checklist_weekly,
            Job::ChecklistMonthly => &mut config.checklist_monthly,
        };
        *key = Some(text.to_owned());
        config
    }

    fn main() -> ClusterName {
        "main".parse().unwrap()
    }

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::new(&config(Job::Full, text, zone), &main()).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The next times from there on.
    fn times(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
        let mut last = at(from);
        let next = || {
            last = schedule.next(Job::Full, last).unwrap();
            last.to_string()
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let weekly = schedule("0 2 * * 0", BERLIN);
        assert_eq!(
            times(&weekly, "2026-11-26T09:00:00Z", 2),
            ["2026-11-29T01:00:00Z", "2026-12-06T01:00:00Z"]
        );
        assert_eq!(
            times(&schedule("0 2 * * 7", "UTC0"), "2026-11-26T09:00:00Z", 1),
            ["2026-11-29T02:00:00Z"]
        );
        // Either day will do, as in every crontab.
        let either = schedule("0 0 1 * mon", "UTC0");
        assert_eq!(
            times(&either, "2026-11-26T00:00:00Z", 3),
            ["2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z", "2026-12-07T00:00:00Z"]
        );
        let seconds = schedule("*/20 * * * * *", "UTC0");
        assert_eq!(
            times(&seconds, "2026-11-26T09:00:00.9Z", 3),
            ["2026-11-26T09:00:20Z", "2026-11-26T09:00:40Z", "2026-11-26T09:01:00Z"]
        );
    }

    /// On 29 March 2026 the hour from two to three does not exist in Berlin: three o'clock is at 01:00 UTC.
    #[test]
    fn a_time_that_is_left_out_comes_at_the_end_of_the_gap() {
        let nightly = schedule("30 2 * * *", BERLIN);
        assert_eq!(
            times(&nightly, "2026-03-27T12:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // The hours go on without the one that is not there.
        let hourly = schedule("0 * * * *", BERLIN);
        assert_eq!(
            times(&hourly, "2026-03-28T23:30:00Z", 3),
            ["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]
        );
    }

    /// On 25 October 2026 the hour from two to three comes twice in Berlin: at 00:00 and at 01:00 UTC.
    #[test]
    fn a_time_that_comes_twice_is_taken_once() {
        let nightly = schedule("30 2 * * *", BERLIN);
        assert_eq!(
            times(&nightly, "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        let hourly = schedule("0 * * * *", BERLIN);
        assert_eq!(
            times(&hourly, "2026-10-24T23:30:00Z", 3),
            ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"]
        );
        // A run at the first of the two is not repeated at the second.
        let mut last = LastTimes::default();
        last.note(Job::Full, at("2026-10-25T00:30:02Z"), true);
        assert_eq!(nightly.due(&last, at("2026-10-01T00:00:00Z"), at("2026-10-25T01:30:05Z")), None);
    }

    #[test]
    fn what_was_missed_is_made_up_for_once() {
        let nightly = schedule("0 2 * * *", "UTC0");
        let since = at("2026-11-20T12:00:00Z");
        let now = at("2026-11-26T09:00:00Z");
        let mut last = LastTimes::default();
        last.note(Job::Full, at("2026-11-20T02:00:01Z"), false);
        let due = nightly.due(&last, since, now).unwrap();
        assert_eq!((due.job, due.due_at), (Job::Full, at("2026-11-26T02:00:00Z")));
        last.note(Job::Full, now, false);
        assert_eq!(nightly.due(&last, since, now), None);
        assert_eq!(nightly.wake(&last, since), Some(at("2026-11-27T02:00:00Z")));
    }

    #[test]
    fn what_was_never_run_waits_for_its_first_time() {
        let nightly = schedule("0 2 * * *", "UTC0");
        let since = at("2026-11-26T09:00:00Z");
        let none = LastTimes::default();
        assert_eq!(nightly.due(&none, since, at("2026-11-27T01:59:59Z")), None);
        assert!(nightly.due(&none, since, at("2026-11-27T02:00:00Z")).is_some());
    }

    #[test]
    fn what_protects_comes_first_and_counts_for_the_lesser() {
        let config = ScheduleConfig {
            incremental: Some("0 2 * * *".into()),
            verify: Some("0 2 * * *".into()),
            drill: Some("0 2 * * *".into()),
            ..config(Job::Full, "0 2 * * 0", "UTC0")
        };
        let schedule = Schedule::new(&config, &main()).unwrap();
        let (since, now) = (at("2026-11-28T12:00:00Z"), at("2026-11-29T02:00:30Z"));
        let mut last = LastTimes::default();
        let mut order = Vec::new();
        while let Some(due) = schedule.due(&last, since, now) {
            order.push(due.job);
            last.note(due.job, now, true);
        }
        assert_eq!(order, [Job::Full, Job::Verify, Job::Drill]);
        // What has waited for longer comes before it all.
        let mut late = LastTimes::default();
        for job in [Job::Full, Job::Verify] {
            late.note(job, at("2026-11-28T12:00:00Z"), true);
        }
        late.note(Job::Drill, at("2026-11-27T12:00:00Z"), true);
        assert_eq!(schedule.due(&late, since, now).map(|due| due.job), Some(Job::Drill));
        let mut failed = LastTimes::default();
        failed.note(Job::Full, now, false);
        assert_eq!(schedule.due(&failed, since, now).map(|due| due.job), Some(Job::Incremental));
    }

    #[test]
    fn jitter_follows_from_the_name_and_the_job() {
        let with = |job, cluster: &str| {
            let config =
                ScheduleConfig { jitter: Duration::from_secs(3600), ..config(job, "0 2 * * *", "UTC0") };
            let schedule = Schedule::new(&config, &cluster.parse().unwrap()).unwrap();
            schedule.next(job, at("2026-11-26T12:00:00Z")).unwrap()
        };
        let first = with(Job::Full, "a");
        assert_eq!(first, with(Job::Full, "a"));
        assert!(first != with(Job::Full, "b") && first != with(Job::Drill, "a"));
        // Within the jitter, and at the same distance each day; a run is not followed by itself.
        let config =
            ScheduleConfig { jitter: Duration::from_secs(3600), ..config(Job::Full, "0 2 * * *", "UTC0") };
        let schedule = Schedule::new(&config, &main()).unwrap();
        let first = schedule.next(Job::Full, at("2026-11-26T12:00:00Z")).unwrap();
        assert!((at("2026-11-27T02:00:00Z")..at("2026-11-27T03:00:00Z")).contains(&first), "{first}");
        let second = schedule.next(Job::Full, first).unwrap();
        assert_eq!(second.duration_since(first), SignedDuration::from_hours(24));
        let mut last = LastTimes::default();
        assert_eq!(schedule.due(&last, at("2026-11-26T12:00:00Z"), first).unwrap().due_at, first);
        last.note(Job::Full, first, true);
        assert_eq!(schedule.due(&last, at("2026-11-26T12:00:00Z"), first), None);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_its_key() {
        let error =
            |text: &str, zone: &str| Schedule::new(&config(Job::Expire, text, zone), &main()).unwrap_err();
        assert!(
            error("61 2 * * *", "UTC0")
                .to_string()
                .starts_with("`expire` in [schedule] is \"61 2 * * *\", which is no")
        );
        assert!(error("0 2 * 13 *", "UTC0").to_string().contains("is no time"));
        assert_eq!(
            error("0 0 30 2 *", "UTC0").to_string(),
            "`expire` in [schedule] is \"0 0 30 2 *\", and such a time never comes"
        );
        assert_eq!(error("0 2 * * *", "Middle/Earth"), ScheduleError::Zone("Middle/Earth".into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the expression, the zone and the moment: the next time lies ahead, and the job is due then and not before.
        #[test]
        fn a_job_is_due_at_its_next_time(
            minute in 0u8..60, hour in 0u8..24, step in 1u8..30, day in 0usize..3, berlin: bool, jitter in 0u64..7200,
            moment in 1_700_000_000i64..1_900_000_000,
        ) {
            let day = ["* * *", "* * 1-5", "1,15 * *"][day];
            let text = if minute % 2 == 0 { format!("{minute} {hour} {day}") } else { format!("*/{step} {hour} {day}") };
            let mut config = config(Job::Full, &text, if berlin { BERLIN } else { "UTC0" });
            config.jitter = Duration::from_secs(jitter);
            let schedule = Schedule::new(&config, &main()).unwrap();
            let since = Timestamp::from_second(moment).unwrap();
            let last = LastTimes::default();
            let next = schedule.wake(&last, since).unwrap();
            prop_assert!(next > since);
            let second = SignedDuration::from_secs(1);
            prop_assert_eq!(schedule.due(&last, since, next.checked_sub(second).unwrap()), None);
            prop_assert_eq!(schedule.due(&last, since, next), Some(Due { job: Job::Full, due_at: next }));
        }

        #[test]
        fn no_expression_makes_it_panic(text in "[-0-9a-zA-Z*,/#?+]{1,6}( [-0-9a-zA-Z*,/#?+]{1,6}){4,5}", zone: String) {
            let _ = Schedule::new(&config(Job::Full, &text, "UTC0"), &main());
            let _ = Schedule::new(&config(Job::Full, "0 2 * * *", &zone), &main());
        }
    }
}
