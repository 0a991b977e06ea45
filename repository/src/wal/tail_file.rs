//! A tail straight into a file: it may be as long as the largest segment, and need not be in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proto::ServerTime;
use proto::wal::SegmentName;

use super::tail::{LOOKS, runs};
use super::{Epoch, FragmentName};
use crate::{Branch, Error, Result};

/// How much of a segment's beginning there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TailEnd {
    /// So many bytes.
    pub valid: u32,
    /// The epoch that they are from.
    pub epoch: Epoch,
    /// The server's clock when the last of them was sent.
    pub server_time: Option<ServerTime>,
}

impl Branch {
    /// What [`Branch::read_tail`] reads, written to the beginning of `file`. Only one fragment at a time is in memory.
    ///
    /// # Errors
    /// As there; and the file cannot be written or read.
    pub async fn read_tail_to(&self, name: SegmentName, file: File) -> Result<Option<TailEnd>> {
        let mut vanished = None;
        for _ in 0..LOOKS {
            match self.try_read_tail_to(name, &file).await {
                Err(Error::Absent { what }) => vanished = Some(what),
                outcome => return outcome,
            }
        }
        Err(Error::Unreachable {
            what: format!("the tail of segment {name}"),
            why: format!("it changed each time it was read; {} went last", vanished.unwrap_or_default()),
        })
    }

    async fn try_read_tail_to(&self, name: SegmentName, file: &File) -> Result<Option<TailEnd>> {
        let mut runs: Vec<_> = runs(&self.fragments(name).await?).into_iter().collect();
        let reach = |run: &[FragmentName]| run.last().map_or(0, |fragment| fragment.to);
        runs.sort_by_key(|(epoch, run)| (std::cmp::Reverse(reach(run)), *epoch));
        let mut written: Option<TailEnd> = None;
        for (epoch, run) in runs {
            let mut end = TailEnd { valid: 0, epoch, server_time: None };
            for fragment in &run {
                let (content, sent) = self.read_fragment_at(fragment).await?;
                // The longest epoch is written; what others hold, and what overlaps, must be the same.
                let known = written.map_or(end.valid, |tail| tail.valid).min(fragment.to) - fragment.from;
                let (old, new) = content.split_at(known as usize);
                if !self.holds(file, name, fragment.from, old)? {
                    let other = written.map_or(epoch, |tail| tail.epoch);
                    let found = vec![format!("epoch {other}"), self.key(&fragment.key()).to_string()];
                    return Err(Error::Conflict { what: format!("the tail of segment {name}"), found });
                }
                file.write_all_at(new, (fragment.from + known).into())
                    .map_err(|error| refused(name, &error))?;
                end.valid = fragment.to;
                end.server_time = end.server_time.max(sent);
            }
            written.get_or_insert(end);
        }
        Ok(written)
    }

    fn holds(&self, file: &File, name: SegmentName, offset: u32, expected: &[u8]) -> Result<bool> {
        let mut piece = vec![0; expected.len()];
        file.read_exact_at(&mut piece, offset.into()).map_err(|error| refused(name, &error))?;
        Ok(piece == expected)
    }
}

fn refused(name: SegmentName, error: &std::io::Error) -> Error {
    Error::Refused { what: format!("the tail of segment {name}"), why: error.to_string() }
}
