//! Fetching the segments that a recovering server will ask for next.
//!
//! A process of its own does it, in the background, for as long as the server goes on asking. It is told nothing but
//! which segment was asked for last ([`Spool::ask`]), keeps those behind it in the spool, and removes all others; so
//! whatever the server does, and whoever is killed, the spool is right again a moment later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, remove_file};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::Result;
use proto::TimelineId;
use proto::wal::{SegmentName, SegmentNo, SegmentSize};
use repository::Branch;
use repository::catalogue::Lineage;
use tokio::task::JoinSet;

use super::spool::{Filling, Spool};
use super::{Following, segment};

/// The most that a spool holds, unless a single segment is larger.
const MOST_BYTES: u64 = 256 << 20;

/// The most segments that a spool holds.
const MOST_SEGMENTS: u64 = 32;

/// Segments that are fetched side by side: each takes some 10 MiB of memory.
const SIDE_BY_SIDE: usize = 4;

/// When the server has asked for nothing for so long, the spool goes.
const IDLE: Duration = Duration::from_secs(60);

/// Between two looks at what was asked for.
const INTERVAL: Duration = Duration::from_millis(20);

/// Keeps the segments behind the one that was asked for last in `spool`, until nothing is asked for any more, nothing
/// more is there, or the spool is gone. Ends at once if somebody else does it already.
///
/// # Errors
/// The repository or the file system fails. Nothing is lost by that: the server's own request will meet the same.
pub async fn fetch_ahead(branch: &Branch, spool: &Spool, following: Following) -> Result<()> {
    let Some(filling) = spool.fill()? else { return Ok(()) };
    spool.sweep_parts();
    spool.sweep_others();
    let filled = fill(branch, spool, &filling, following).await;
    // Where it was removed and made anew it is somebody else's.
    if filling.is_of(spool) {
        spool.remove();
    }
    filled
}

async fn fill(branch: &Branch, spool: &Spool, filling: &Filling, following: Following) -> Result<()> {
    let size = branch.segment_size();
    let most = (MOST_BYTES / size.bytes()).clamp(1, MOST_SEGMENTS);
    let Some(mut asked) = spool.asked() else { return Ok(()) };
    let (mut since, mut lineage) = (Instant::now(), lineage(branch, asked, following).await?);
    let (mut jobs, mut coming) = (JoinSet::new(), BTreeSet::new());
    // The first segment that the repository does not have whole.
    let mut end: Option<SegmentName> = None;
    loop {
        // Gone: the recovery has come to its end.
        let Some(now) = spool.asked().filter(|_| filling.is_of(spool)) else { return Ok(()) };
        if now != asked {
            if now.timeline != asked.timeline {
                lineage = self::lineage(branch, now, following).await?;
            }
            (asked, since, end) = (now, Instant::now(), None);
        }
        let wanted = behind(&lineage, asked, size, most);
        let held: BTreeMap<_, _> = spool.held().into_iter().map(|(name, _, path)| (name, path)).collect();
        // What was asked for is on its way out of the spool.
        for (_, path) in held.iter().filter(|(name, _)| **name != asked && !wanted.contains(name)) {
            let _ = remove_file(path);
        }
        let there = wanted.iter().take_while(|name| Some(**name) != end);
        let missing: Vec<_> =
            there.filter(|name| !held.contains_key(name) && !coming.contains(*name)).collect();
        for name in missing.into_iter().take(SIDE_BY_SIDE.saturating_sub(coming.len())).copied() {
            coming.insert(name);
            let (branch, spool) = (branch.clone(), spool.clone());
            jobs.spawn(async move { (name, fetch_one(&branch, &spool, name).await) });
        }
        let is_empty = coming.is_empty() && !held.keys().any(|name| wanted.contains(name));
        if is_empty || since.elapsed() > IDLE {
            return Ok(());
        }
        tokio::select! {
            Some(done) = jobs.join_next() => {
                let (name, there) = done?;
                coming.remove(&name);
                // What is here counts on, also while the store does not answer; the next request tries again.
                let there = there.unwrap_or_else(|error| {
                    tracing::debug!("cannot fetch {name} ahead: {error:#}");
                    false
                });
                if !there {
                    end = Some(end.map_or(name, |end| end.min(name)));
                }
            }
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn lineage(branch: &Branch, name: SegmentName, following: Following) -> Result<Lineage> {
    let way = segment::way(branch, name, following).await?;
    // Without forks: what the server asked for, and what follows on the same timeline.
    Ok(way.unwrap_or_else(|| Lineage::of(name.timeline, &BTreeMap::new())))
}

/// The names under which the server will ask for the `count` segments behind `asked`: each on the newest timeline that
/// has begun in it. None if `asked` is not on this lineage.
fn behind(lineage: &Lineage, asked: SegmentName, size: SegmentSize, count: u64) -> Vec<SegmentName> {
    let Ok(number) = asked.number(size) else { return Vec::new() };
    let on = |number: SegmentNo| -> Option<TimelineId> {
        Some(lineage.timelines_of(number, size).next()?.timeline)
    };
    if on(number).is_none_or(|timeline| timeline < asked.timeline) {
        return Vec::new();
    }
    let numbers = (1..=count).map(|step| SegmentNo(number.0.saturating_add(step)));
    numbers.filter_map(|number| Some(SegmentName::new(on(number)?, number, size))).collect()
}

/// Fetches a segment into the spool, verified. Whether the repository has it whole; what is not, the server gets
/// without us: a tail grows, and is asked for again and again.
async fn fetch_one(branch: &Branch, spool: &Spool, name: SegmentName) -> Result<bool> {
    let Some(digest) = branch.segment_digest(name).await? else { return Ok(false) };
    let part = spool.part(name);
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    let written = branch.read_segment_content_to(name, digest, file).await;
    if let Err(error) = written {
        let _ = remove_file(&part);
        return Err(error.into());
    }
    spool.keep(name, digest)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proto::wal::history::TimelineHistory;

    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn names(lineage: &Lineage, asked: &str) -> Vec<String> {
        let size = SegmentSize::DEFAULT;
        behind(lineage, asked.parse().unwrap(), size, 3).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_fork_is_taken_where_the_server_will_take_it() {
        let history = TimelineHistory::parse(timeline(2), b"1\t0/4000158\tx\n").unwrap();
        let lineage = Lineage::from_history(&history);
        assert_eq!(
            names(&lineage, "000000010000000000000002"),
            ["000000010000000000000003", "000000020000000000000004", "000000020000000000000005"]
        );
        // The parent's own copy of the fork's segment: the server goes on with the child.
        assert_eq!(names(&lineage, "000000010000000000000004")[0], "000000020000000000000005");
        assert!(names(&lineage, "000000030000000000000002").is_empty());
        let alone = Lineage::of(timeline(7), &BTreeMap::new());
        assert_eq!(names(&alone, "0000000700000000000000FF")[0], "000000070000000100000000");
    }
}
