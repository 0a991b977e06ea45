//! Where everything goes.

use ::repository::Error;

use super::super::observed::{Failed, Observed, Space, Stored};
use super::access::judge_clock;
use super::{or, toml};
use crate::finding::Finding;

/// Less room than this part of the disk is close to none.
const SCARCE: u64 = 10;

pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    let stored = match &observed.repository {
        Ok(stored) => stored,
        Err(failed) => return vec![unreachable(failed)],
    };
    let mut findings = vec![writable(stored)];
    findings.extend(stored.write_trouble.is_none().then(|| deletable(stored)));
    findings.extend(stored.clock_ahead.map(|ahead| judge_clock("store_clock", "the store's clock", ahead)));
    findings.extend(stored.space.as_ref().map(space));
    findings.push(retention(observed, stored));
    findings
}

fn unreachable(failed: &Failed) -> Finding {
    let message = format!("the repository cannot be used: {}", failed.message);
    Finding::error("repository", message, or(&failed.hint, "walkeep init"))
}

fn writable(stored: &Stored) -> Finding {
    const CODE: &str = "repository";
    let store = &stored.description;
    match &stored.write_trouble {
        None => Finding::ok(
            CODE,
            format!("{store} takes objects and gives them back; nothing here needs conditional writes"),
        ),
        Some(failed) => Finding::error(
            CODE,
            format!("an object cannot be written and read back: {}", failed.message),
            or(&failed.hint, "see the store's own logs"),
        ),
    }
}

fn deletable(stored: &Stored) -> Finding {
    const CODE: &str = "repository_deletion";
    match &stored.delete_trouble {
        None => Finding::ok(CODE, "these credentials may delete objects"),
        // Wanted by many: what cannot be deleted from here cannot be deleted by whoever takes this host.
        Some(Error::Refused { .. }) => Finding::ok(
            CODE,
            "these credentials may not delete objects: retention has to be applied by others; fragments that were \
             merged, and the trial objects of this command, stay until then",
        ),
        Some(error) => Finding::warning(
            CODE,
            format!("whether these credentials may delete objects could not be found out: {error}"),
            error.hint().unwrap_or("see the store's own logs"),
        ),
    }
}

fn space(space: &Space) -> Finding {
    const CODE: &str = "repository_space";
    let (free, place) = (indicatif::HumanBytes(space.free), &space.place);
    if space.free < space.total / SCARCE {
        return Finding::warning(
            CODE,
            format!(
                "{free} are free in {place}: when it is full nothing is stored any more, and WAL stays on the server"
            ),
            "make room, or shorten the retention: walkeep expire",
        );
    }
    Finding::ok(CODE, format!("{free} are free in {place}"))
}

fn retention(observed: &Observed, stored: &Stored) -> Finding {
    const CODE: &str = "retention";
    match (&observed.config.retention.keep, &stored.space) {
        (Some(_), _) => Finding::ok(CODE, "retention is set: `walkeep expire` removes what it does not keep"),
        (None, Some(space)) => Finding::warning(
            CODE,
            format!("no retention is set: everything is kept until {} is full", space.place),
            toml("retention", "window = \"14d\""),
        ),
        (None, None) => Finding::warning(
            CODE,
            "no retention is set: everything is kept for ever, and paid for",
            toml("retention", "window = \"14d\""),
        ),
    }
}
