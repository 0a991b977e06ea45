//! What several checklists ask of the repository.

use jiff::{SignedDuration, Timestamp};
use repository::run::Job;

use super::super::seen::{Seen, Stored};
use super::{Item, Level};

/// A day, with some time for jobs that take long.
pub(super) const A_DAY: SignedDuration = SignedDuration::from_hours(26);
/// The same of a week and of a month.
pub(super) const A_WEEK: SignedDuration = SignedDuration::from_hours(8 * 24);
pub(super) const A_MONTH: SignedDuration = SignedDuration::from_hours(35 * 24);

/// What the repository has, or a red item.
pub(super) fn stored<'a>(seen: &'a Seen, name: (&'static str, &'static str)) -> Result<&'a Stored, Item> {
    seen.stored.as_ref().map_err(|why| {
        let evidence = format!("the repository could not be looked at: {why}");
        Item::bad(Level::Red, name, evidence, "walkeep check")
    })
}

/// So long ago, for people.
pub(super) fn ago(now: Timestamp, at: Timestamp) -> String {
    let hours = now.duration_since(at).as_hours().max(0);
    if hours < 48 { format!("{hours} h ago") } else { format!("{} d ago", hours / 24) }
}

/// Whether one of these jobs was run within so much time, and how that ended: the worst of them, unless one that does as much and
/// more has succeeded since. The lesser come first. `todo`: what to do if none was run.
pub(super) fn job(
    seen: &Seen,
    name: (&'static str, &'static str),
    jobs: &[Job],
    within: SignedDuration,
    todo: &str,
) -> Item {
    let stored = match stored(seen, name) {
        Ok(stored) => stored,
        Err(item) => return item,
    };
    let all: Vec<_> = jobs.iter().filter_map(|job| Some((job, stored.last_runs.get(job)?))).collect();
    let is_made_up_for = |at: usize| {
        let more = all.iter().skip(at + 1).map(|(_, last)| last);
        more.into_iter().any(|last| last.succeeded && last.started_at > all[at].1.started_at)
    };
    let failed = (0..all.len()).find(|&at| !all[at].1.succeeded && !is_made_up_for(at)).map(|at| all[at]);
    let youngest = all.iter().copied().max_by_key(|(_, last)| last.started_at);
    let Some((job, last)) = failed.or(youngest) else {
        return Item::bad(Level::Yellow, name, "no scheduled run is known", todo);
    };
    let words = last.message.as_deref().unwrap_or_default();
    let when = ago(seen.now, last.started_at);
    match () {
        () if !last.succeeded => {
            Item::bad(Level::Red, name, format!("{job} has failed {when}: {words}"), "see the agent's log")
        }
        () if seen.now.duration_since(last.started_at) > within => {
            Item::bad(Level::Yellow, name, format!("{job} was last run {when}"), todo)
        }
        () => Item::green(name.0, name.1, format!("{job} succeeded {when}: {words}")),
    }
}
