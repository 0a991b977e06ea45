//! Each month: is the recovery proven, is it tidy, and where does it go?

use repository::drill::Verdict;
use repository::run::Job;

use super::super::plots::{cache_hits, statement_times};
use super::super::seen::Seen;
use super::stored::{A_MONTH, A_WEEK, ago, job, stored};
use super::{Item, Level, of_health};

/// What was found in shared buffers has become less by so many per cent of all, or statements take so many times as long:
/// the server has become slower.
const FEWER_HITS: f64 = 5.0;
const TIMES_AS_LONG: f64 = 1.5;

pub(super) fn items(seen: &Seen) -> Vec<Item> {
    vec![
        drill(seen),
        job(
            seen,
            ("verify_deep", "every byte of the repository"),
            &[Job::VerifyDeep],
            A_MONTH,
            "walkeep verify --deep, or `verify_deep` in [schedule]",
        ),
        cleaning(seen),
        of_health(
            seen,
            ("leftovers", "what nobody needs"),
            &["replication_slots", "invalid_indexes", "duplicate_indexes", "unused_indexes"],
        ),
        of_health(seen, ("wraparound", "age of transactions"), &["xid_age", "multixact_age"]),
        trend(seen),
    ]
}

fn drill(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("drill", "a restore for proof");
    let stored = match stored(seen, NAME) {
        Ok(stored) => stored,
        Err(item) => return item,
    };
    let todo = "walkeep drill, or `drill` in [schedule]";
    let Some(last) = &stored.drills.last_drill else {
        return Item::bad(Level::Red, NAME, "no restore was ever proven", todo);
    };
    let when = ago(seen.now, last.started_at);
    match last.verdict {
        Verdict::Failed => {
            let why = last.failure.as_deref().unwrap_or("nobody knows why");
            Item::bad(Level::Red, NAME, format!("the last one has failed {when}: {why}"), todo)
        }
        Verdict::Passed => {
            let took = last
                .recovery_seconds
                .map(|seconds| format!(": open after {seconds:.0} s"))
                .unwrap_or_default();
            let evidence = format!("the last one has passed {when}{took}");
            match seen.now.duration_since(last.started_at) > A_MONTH {
                true => Item::bad(Level::Yellow, NAME, evidence, todo),
                false => Item::green(NAME.0, NAME.1, evidence),
            }
        }
    }
}

fn cleaning(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("cleaning", "cleaning up the repository");
    match seen.has_retention {
        false => Item::bad(
            Level::Yellow,
            NAME,
            "no retention is configured: the repository grows for ever",
            "[retention]\nwindow = \"14d\"",
        ),
        true => job(seen, NAME, &[Job::Expire], A_WEEK, "walkeep expire, or `expire` in [schedule]"),
    }
}

fn trend(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("trend", "trend of performance");
    let stored = match stored(seen, NAME) {
        Ok(stored) => stored,
        Err(item) => return item,
    };
    let (hits, times) = (halves(&cache_hits(&stored.looks)), halves(&statement_times(&stored.looks)));
    let mut item = Item::green(NAME.0, NAME.1, format!("{} looks were kept", stored.looks.len()));
    if let Some((then, now)) = hits {
        item.evidence.push(format!("found in shared buffers: {then:.1} % before, {now:.1} % of late"));
    }
    if let Some((then, now)) = times {
        item.evidence.push(format!(
            "a statement took {:.2} ms before, {:.2} ms of late",
            then * 1000.0,
            now * 1000.0
        ));
    }
    if hits.is_none() && times.is_none() {
        item.level = Level::Yellow;
        item.evidence.push("that is too few to tell".to_owned());
        item.todo.push("[health]\nenabled = true".to_owned());
    }
    let is_slower = hits.is_some_and(|(then, now)| then - now > FEWER_HITS)
        || times.is_some_and(|(then, now)| now > then * TIMES_AS_LONG);
    if is_slower {
        item.level = Level::Yellow;
        item.todo.push(
            "see what has changed: walkeep checklist weekly names slow statements and tables that grow"
                .to_owned(),
        );
    }
    item
}

/// The averages of the earlier and of the later half.
fn halves(points: &[(i64, f64)]) -> Option<(f64, f64)> {
    let (early, late) = points.split_at(points.len() / 2);
    let mean = |points: &[(i64, f64)]| {
        (!points.is_empty()).then(|| points.iter().map(|point| point.1).sum::<f64>() / points.len() as f64)
    };
    mean(early).zip(mean(late))
}
