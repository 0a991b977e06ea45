//! Which server to stream from: of several hosts, the one that the cluster goes on with.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use proto::client::{Error, Replication, SessionOptions, SystemIdentity};
use proto::conninfo::{ConnInfo, TargetSession};
use proto::wal::history::TimelineHistory;
use proto::{Lsn, TimelineId};
use repository::{Branch, WalListing};
use tokio::time::{Instant, timeout_at};

use super::error::StreamError;
use super::servers::Servers;

/// How long the other hosts may take to answer once one has: a dead one must not hold up a failover.
const GRACE: Duration = Duration::from_secs(2);

/// Epochs that are looked at to find out whether a timeline was streamed: only where there is no tail of it.
const EPOCHS: usize = 64;

/// A server of the wanted kind.
pub(super) struct Candidate {
    pub(super) session: Replication,
    /// How to reach this very server again.
    pub(super) info: ConnInfo,
    pub(super) identity: SystemIdentity,
}

/// All servers of the wanted kind, the newest timeline first.
///
/// After a failover the old primary may come back and call itself a primary, too. Its timeline tells them apart.
pub(super) async fn candidates(
    servers: &dyn Servers,
    info: &ConnInfo,
    options: &SessionOptions,
) -> Result<Vec<Candidate>, StreamError> {
    let hosts = single_hosts(info).into_iter().enumerate();
    let mut tries: FuturesUnordered<_> =
        hosts.map(|(at, info)| attempt(servers, at, info, options)).collect();
    let (mut found, mut errors): (Vec<(usize, Candidate)>, Vec<Error>) = (Vec::new(), Vec::new());
    let mut until = None;
    loop {
        let next = match until {
            Some(until) => timeout_at(until, tries.next()).await.unwrap_or(None),
            None => tries.next().await,
        };
        match next {
            None => break,
            Some(Ok(candidate)) => {
                found.push(candidate);
                until.get_or_insert_with(|| Instant::now() + GRACE);
            }
            Some(Err(error)) => errors.push(error),
        }
    }
    if found.is_empty() {
        return Err(match <[Error; 1]>::try_from(errors) {
            Ok([only]) => only.into(),
            Err(errors) => Error::AllHosts(errors).into(),
        });
    }
    found.sort_by_key(|(at, candidate)| (std::cmp::Reverse(candidate.identity.timeline), *at));
    Ok(found.into_iter().map(|(_, candidate)| candidate).collect())
}

/// One entry for each host. Where the order of the hosts has a meaning of its own, they stay together.
fn single_hosts(info: &ConnInfo) -> Vec<ConnInfo> {
    if info.target_session_attrs == TargetSession::PreferStandby {
        return vec![info.clone()];
    }
    info.hosts.iter().map(|host| ConnInfo { hosts: vec![host.clone()], ..info.clone() }).collect()
}

async fn attempt(
    servers: &dyn Servers,
    at: usize,
    info: ConnInfo,
    options: &SessionOptions,
) -> Result<(usize, Candidate), Error> {
    let mut session = servers.replication(&info, options).await?;
    let identity = session.identify_system().await?;
    Ok((at, Candidate { session, info, identity }))
}

/// An error if the cluster has gone on without this server: the repository has streamed a timeline that was forked
/// from the server's before the server's end. What it writes now is another history.
///
/// A timeline of which somebody has only archived segments does not count: a copy that was promoted for a trial, and
/// that still archives, must not stop the healthy server's stream.
pub(super) async fn refuse_left_behind(
    branch: &Branch,
    stored: &WalListing,
    identity: &SystemIdentity,
) -> Result<(), StreamError> {
    for (child, switch) in forks_before(stored, identity.timeline, identity.flush_lsn) {
        if was_streamed(branch, stored, child).await? {
            let (timeline, flushed) = (identity.timeline, identity.flush_lsn);
            return Err(StreamError::LeftBehind { timeline, flushed, child, switch });
        }
    }
    Ok(())
}

/// Timelines that leave `timeline` before `end`, and where, as the stored histories tell.
fn forks_before(stored: &WalListing, timeline: TimelineId, end: Lsn) -> Vec<(TimelineId, Lsn)> {
    let histories = stored.histories.iter().flat_map(|(child, files)| {
        files.iter().filter_map(|file| TimelineHistory::parse(*child, &file.content).ok())
    });
    let forks = histories.filter_map(|history| Some((history.timeline, history.switch_from(timeline)?)));
    forks.filter(|(_, switch)| *switch < end).collect()
}

async fn was_streamed(
    branch: &Branch,
    stored: &WalListing,
    timeline: TimelineId,
) -> Result<bool, StreamError> {
    let wal = stored.timelines.get(&timeline);
    if wal.is_some_and(|wal| !wal.fragments.is_empty() || !wal.journals.is_empty()) {
        return Ok(true);
    }
    for epoch in branch.epochs().await?.iter().rev().take(EPOCHS) {
        if branch.read_epoch(epoch).await?.timeline == timeline {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn forks_before_the_servers_end_are_found_and_others_are_not() {
        let mut stored = WalListing::default();
        let history = |text: &str| repository::HistoryFile {
            digest: proto::Digest::of(text.as_bytes()),
            content: text.to_owned().into(),
        };
        stored.histories.insert(timeline(2), vec![history("1\t0/5000000\tno reason\n")]);
        stored.histories.insert(timeline(3), vec![history("1\t0/5000000\tx\n2\t0/7000000\tx\n")]);
        let forks = |tli, end| forks_before(&stored, timeline(tli), Lsn(end));
        assert_eq!(forks(1, 0x500_0001), [(timeline(2), Lsn(0x500_0000)), (timeline(3), Lsn(0x500_0000))]);
        assert_eq!(forks(1, 0x500_0000), [], "a standby that has not followed yet is no writer");
        assert_eq!(forks(2, 0x800_0000), [(timeline(3), Lsn(0x700_0000))]);
        assert_eq!(forks(3, 0x900_0000), []);
    }

    #[test]
    fn each_host_is_asked_by_itself() {
        let env = proto::conninfo::ConnInfo::resolve("host=a,b port=1,2 user=u dbname=d").unwrap();
        let hosts = single_hosts(&env);
        assert_eq!(hosts.iter().map(|info| info.hosts[0].port).collect::<Vec<_>>(), [1, 2]);
    }
}
