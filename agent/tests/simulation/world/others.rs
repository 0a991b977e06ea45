//! Who else takes part: servers' clients, an archiver, and those who read while others write.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::wal::{SegmentName, SegmentNo};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use repository::{Branch, Error};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::World;
use crate::agents;
use crate::cluster::{Cluster, Up};
use crate::gate::Gate;
use crate::reader::has_strangers;
use crate::store::Network;
use crate::wal::size;

impl World {
    /// Small commits all the time, so that there is something to merge.
    pub(super) fn chatter(&mut self) -> JoinHandle<()> {
        self.tell("small commits from now on".to_owned());
        let (cluster, mut random) = (self.cluster.clone(), StdRng::seed_from_u64(self.random.random()));
        let pause = random.random_range(20..700);
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(random.random_range(pause / 2..=pause))).await;
                let length = random.random_range(30..400);
                cluster.change(|state| {
                    for host in 0..state.hosts.len() {
                        let (up, primary) = (state.hosts[host].up, state.hosts[host].primary);
                        if up == Up::Running && primary {
                            let writing = state.hosts[host].writing;
                            state.writings[writing].end = state.writings[writing].end + length;
                        }
                    }
                });
            }
        })
    }

    /// Somebody who reads all the time.
    pub(super) fn onlooker(&mut self) -> JoinHandle<()> {
        self.tell("somebody reads from now on".to_owned());
        let (cluster, network) = (self.cluster.clone(), self.network.clone());
        let mut random = StdRng::seed_from_u64(self.random.random());
        tokio::task::spawn_local(async move {
            let branch = branch(network).await;
            loop {
                sleep(Duration::from_millis(random.random_range(0..2500))).await;
                if let Some((name, there)) = last_tail(&cluster) {
                    look_at(&branch, &cluster, name, there).await;
                }
            }
        })
    }

    /// The archiver brings a whole segment on its own way.
    pub(super) fn archive(&mut self) {
        let host = self.primary;
        let (written, up) = {
            let state = self.cluster.state();
            (state.written(host).clone(), state.hosts[host].up)
        };
        let segment = SegmentNo(size().segment_at(written.end).0 - 1);
        if up == Up::Down
            || segment.start(size()) < size().floor(self.start)
            || segment.end(size()) <= written.begin
        {
            return;
        }
        let name = SegmentName::new(written.timeline, segment, size());
        self.tell(format!("{name} is archived"));
        let (network, cluster) = (self.network.clone(), self.cluster.clone());
        tokio::spawn(async move {
            let branch = branch(network).await;
            let content = written.bytes(segment.start(size()), segment.end(size()));
            let stored = branch.put_segment(name, written.digest(segment), None, content).await;
            if let Err(error @ Error::Conflict { .. }) = stored {
                cluster.change(|state| {
                    if !has_strangers(state) {
                        state.wrong.push(format!("the archiver: {error}"));
                    }
                });
            }
        });
    }

    /// Somebody reads a tail while others write, merge and delete.
    pub(super) fn read(&mut self) {
        let Some((name, there)) = last_tail(&self.cluster) else { return };
        self.tell(format!("{there} bytes of the tail of {name} are read"));
        let (network, cluster) = (self.network.clone(), self.cluster.clone());
        tokio::task::spawn_local(async move {
            look_at(&branch(network).await, &cluster, name, there).await;
        });
    }
}

/// The newest tail, and how much is there of it.
fn last_tail(cluster: &Cluster) -> Option<(SegmentName, u32)> {
    let inventory = cluster.inventory();
    let fragments =
        inventory.wal.timelines.values().flat_map(|wal| wal.fragments.iter().map(move |f| (wal, f)));
    let (wal, last) = fragments.last()?;
    let there = wal.tail_length(last.segment);
    (there > 0).then_some((last.segment, there))
}

/// Reads a tail of which so many bytes were there, and holds it against what servers wrote.
async fn look_at(branch: &Branch, cluster: &Cluster, name: SegmentName, there: u32) {
    let read = branch.read_tail(name).await;
    cluster.change(|state| {
        let start = name.number(size()).expect("a name").start(size());
        let is_right = |bytes: &Bytes| {
            let end = start + bytes.len() as u64;
            let writings = || state.writings.iter().filter(|w| w.timeline == name.timeline);
            writings().any(|w| w.end >= end && w.bytes(start, end) == *bytes)
        };
        let wrong = match &read {
            Ok(Some(tail)) if tail.valid < there => format!("is shorter: {}", tail.valid),
            Ok(Some(tail)) if !is_right(&tail.bytes) => "is not what one server wrote".to_owned(),
            Ok(None) => "is gone".to_owned(),
            Err(error @ (Error::Absent { .. } | Error::Corrupt { .. })) => error.to_string(),
            Err(error @ Error::Conflict { .. }) if !has_strangers(state) => error.to_string(),
            Ok(Some(_)) | Err(_) => return,
        };
        state.wrong.push(format!("the tail of {name}, of which {there} bytes were there, {wrong}"));
    });
}

/// A branch behind the network, in a process of its own.
async fn branch(network: Arc<Network>) -> Branch {
    agents::branch(&agents::open(network, Gate::default(), false).await).await
}
