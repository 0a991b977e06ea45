//! A moment out of the window, by chance. Pure.

use jiff::Timestamp;
use proto::{Lsn, TimelineId};
use rand::Rng;
use repository::catalogue::Window;
use restore::plan::{RecoveryTarget, TargetTime};

/// Any moment of any window, each as likely as every other; where times are not known, any position. `None`: there is no
/// window.
pub fn random_moment(windows: &[Window], random: &mut impl Rng) -> Option<(TimelineId, RecoveryTarget)> {
    let spans: Vec<(TimelineId, Timestamp, Timestamp)> = windows
        .iter()
        .filter_map(|window| Some((window.timeline, window.from_time?, window.to_time?)))
        .filter(|(_, from, to)| from <= to)
        .collect();
    let length = |from: &Timestamp, to: &Timestamp| to.as_microsecond() - from.as_microsecond() + 1;
    let total: i64 = spans.iter().map(|(_, from, to)| length(from, to)).sum();
    if total > 0 {
        let mut at = random.random_range(0..total);
        for (timeline, from, to) in spans {
            if at < length(&from, &to) {
                let time = Timestamp::from_microsecond(from.as_microsecond() + at).ok()?;
                return Some((timeline, RecoveryTarget::Time(TargetTime::at(time))));
            }
            at -= length(&from, &to);
        }
    }
    let window = windows.get(random.random_range(0..windows.len().max(1)))?;
    match window.from_lsn < window.to_lsn {
        true => {
            let lsn = Lsn(random.random_range(window.from_lsn.0..window.to_lsn.0));
            Some((window.timeline, RecoveryTarget::Lsn(lsn)))
        }
        false => Some((window.timeline, RecoveryTarget::Immediate)),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn window(timeline: u32, from: i64, to: i64, times: bool) -> Window {
        let time = |second| times.then(|| Timestamp::from_second(second).unwrap());
        Window {
            timeline: TimelineId::new(timeline).unwrap(),
            from_lsn: Lsn(from as u64),
            to_lsn: Lsn(to as u64),
            from_time: time(from),
            to_time: time(to),
        }
    }

    #[test]
    fn each_moment_lies_in_a_window_and_every_window_is_met() {
        let mut random = StdRng::seed_from_u64(7);
        assert_eq!(random_moment(&[], &mut random), None);
        let windows = [window(1, 100, 200, true), window(2, 500, 501, true), window(3, 900, 1000, true)];
        let mut met = [0; 4];
        for _ in 0..1000 {
            let (timeline, target) = random_moment(&windows, &mut random).unwrap();
            let RecoveryTarget::Time(time) = target else { panic!("{target}") };
            let window = windows.iter().find(|window| window.timeline == timeline).unwrap();
            assert!(window.from_time.unwrap() <= time.instant() && time.instant() <= window.to_time.unwrap());
            met[timeline.get() as usize] += 1;
        }
        assert!(met[1] > 300 && met[2] > 0 && met[3] > 300, "{met:?}");
    }

    #[test]
    fn without_times_a_position_is_chosen() {
        let mut random = StdRng::seed_from_u64(7);
        let (_, target) = random_moment(&[window(1, 100, 200, false)], &mut random).unwrap();
        assert!(matches!(target, RecoveryTarget::Lsn(lsn) if (100..200).contains(&lsn.0)));
        let (_, target) = random_moment(&[window(1, 100, 100, false)], &mut random).unwrap();
        assert_eq!(target, RecoveryTarget::Immediate);
    }
}
