//! Whether what is stored can be restored.

use jiff::SignedDuration;

use super::super::observed::{Cluster, Observed};
use super::or;
use crate::finding::Finding;

/// An older backup means a long replay: a week between full ones is usual.
const STALE: SignedDuration = SignedDuration::from_hours(8 * 24);

const FIX: &str = "walkeep backup";

pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    let Some(cluster) = observed.repository.as_ref().ok().and_then(|stored| stored.cluster.as_ref()) else {
        return Vec::new();
    };
    match cluster {
        Ok(cluster) => {
            let mut findings = vec![backup(observed, cluster)];
            findings.extend(cluster.backup.is_some().then(|| gaps(cluster)));
            findings
        }
        Err(failed) => vec![Finding::error(
            "cluster",
            format!("the repository cannot tell about this cluster: {}", failed.message),
            or(&failed.hint, "walkeep init"),
        )],
    }
}

fn backup(observed: &Observed, cluster: &Cluster) -> Finding {
    const CODE: &str = "backup";
    let Some(backup) = &cluster.backup else {
        return Finding::error(CODE, "there is no backup: nothing can be restored", FIX);
    };
    let (label, age) = (&backup.label, observed.now.duration_since(backup.finished_at));
    let days = age.as_hours() / 24;
    if !backup.restorable {
        return Finding::error(
            CODE,
            format!("the newest backup, {label}, lacks WAL: it cannot be restored"),
            FIX,
        );
    }
    if age > STALE {
        return Finding::warning(
            CODE,
            format!(
                "the newest backup, {label}, is {days} days old: a restore has to replay all WAL since then"
            ),
            FIX,
        );
    }
    Finding::ok(CODE, format!("the newest backup is {label}, {} hours old", age.as_hours().max(0)))
}

fn gaps(cluster: &Cluster) -> Finding {
    const CODE: &str = "gap";
    match &cluster.gaps[..] {
        [] => Finding::ok(CODE, "no WAL is missing since the newest backup"),
        [(timeline, from, to), ..] => Finding::error(
            CODE,
            format!(
                "WAL from {from} to {to} on timeline {timeline} is missing: what was written since can be restored only \
                 with a new backup"
            ),
            FIX,
        ),
    }
}
