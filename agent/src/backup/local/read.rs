//! Reads files side by side, and hands them on one after the other.

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::tar::Member;
use super::walk::Found;

/// A file is read in pieces of so many bytes, whole blocks.
const PIECE: u64 = 256 << 10;

/// So many pieces of a file are read ahead.
const AHEAD: usize = 4;

/// A file or a directory, and its content as it is read.
pub(super) struct Opened {
    pub(super) member: Member,
    /// Exactly as many bytes as the member has, or an error. Closed for a directory.
    pub(super) pieces: mpsc::Receiver<io::Result<Bytes>>,
}

/// What is found goes in at one end and comes out in the same order at the other, with its content, of which the files that
/// wait are read already.
pub(super) struct Readers {
    opened: mpsc::Sender<Opened>,
    runtime: tokio::runtime::Handle,
}

impl Readers {
    /// So many files wait and are read; must be called within a runtime. In memory are at most `side_by_side + 2` times 1.25
    /// MiB.
    pub(super) fn new(side_by_side: usize) -> (Self, mpsc::Receiver<Opened>) {
        let (opened, files) = mpsc::channel(side_by_side.max(1));
        (Self { opened, runtime: tokio::runtime::Handle::current() }, files)
    }

    /// Reads what was found, on a thread of its own. Waits where enough is being read. `false` if nobody wants it any more.
    pub(super) fn read(&self, found: Found) -> bool {
        let (to, pieces) = mpsc::channel(AHEAD);
        let Found { member, file } = found;
        let size = member.size;
        if let Some(file) = file {
            self.runtime.spawn_blocking(move || read(file, size, &to));
        }
        self.opened.blocking_send(Opened { member, pieces }).is_ok()
    }
}

/// What was there when the file was opened. Bytes that were cut off since are zeros: its truncation is replayed.
fn read(mut file: File, size: u64, to: &mpsc::Sender<io::Result<Bytes>>) {
    let mut left = size;
    while left > 0 {
        let length = left.min(PIECE);
        let mut piece = Vec::with_capacity(length as usize);
        let read = file.by_ref().take(length).read_to_end(&mut piece);
        piece.resize(length as usize, 0);
        left -= length;
        let failed = read.is_err();
        if to.blocking_send(read.map(|_| Bytes::from(piece))).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::super::tar::MemberKind;
    use super::*;

    fn found(name: &str, content: &[u8], size: u64) -> Found {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let member = Member { path: name.into(), kind: MemberKind::File, size, mode: 0o600, mtime: 0 };
        Found { member, file: Some(file) }
    }

    async fn content(mut opened: Opened) -> Vec<u8> {
        let mut content = Vec::new();
        while let Some(piece) = opened.pieces.recv().await {
            content.extend_from_slice(&piece.unwrap());
        }
        content
    }

    #[tokio::test]
    async fn files_come_in_their_order_with_as_many_bytes_as_were_told() {
        let large: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        let files = vec![
            found("large", &large, large.len() as u64),
            found("empty", b"", 0),
            found("cut off", b"abc", 600_000),
            found("grown", b"abcdef", 3),
        ];
        let (readers, mut opened) = Readers::new(2);
        let reading = tokio::task::spawn_blocking(move || files.into_iter().all(|file| readers.read(file)));
        let mut next = async || {
            let opened = opened.recv().await.unwrap();
            (opened.member.path.clone(), content(opened).await)
        };
        assert!(next().await == (b"large".to_vec(), large));
        assert_eq!(next().await, (b"empty".to_vec(), Vec::new()));
        let (name, padded) = next().await;
        assert_eq!((name.as_slice(), padded.len(), &padded[..4]), (&b"cut off"[..], 600_000, &b"abc\0"[..]));
        assert_eq!(next().await, (b"grown".to_vec(), b"abc".to_vec()));
        assert!(reading.await.unwrap());
        assert!(opened.recv().await.is_none());
    }

    #[tokio::test]
    async fn nobody_reads_on_for_a_backup_that_has_ended() {
        let (readers, opened) = Readers::new(1);
        drop(opened);
        let reading = tokio::task::spawn_blocking(move || readers.read(found("x", b"abc", 3)));
        assert!(!reading.await.unwrap());
    }
}
