//! The digest of a large file, by two threads.
//!
//! Digesting 16 MiB takes longer than starting this program and talking to the agent together, so it is what the two
//! share. Pieces of a power of two are subtrees of BLAKE3's tree: they can be digested in any order and merged. Each
//! thread takes the next piece when it has done one, so that a second thread that gets the processor late, or not at
//! all, costs nothing.
//!
//! The file is read, not mapped. Digesting what was copied into the processor's cache takes no longer than digesting
//! mapped pages from memory, and a mapped file that is cut short kills by a signal, which would stop PostgreSQL's archiver.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use proto::Digest;
use proto::wal::check::last_content;
use rustix::thread::{Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// What a thread takes at a time: a small part of a segment, so that both are done at about the same time.
const PIECE: u64 = 256 << 10;

/// Small enough to stay in the processor's cache between reading and digesting.
const BUFFER: usize = 64 << 10;

/// The digest of a file of `size` bytes, and the offset of its last byte that is not zero.
///
/// `size` is a power of two above [`PIECE`], as the sizes of all segments are.
pub(crate) fn of_segment(file: &File, size: u64) -> io::Result<(Digest, u64)> {
    let next = AtomicU64::new(0);
    let work = || work(file, size, &next);
    let (own, others) = std::thread::scope(|scope| {
        let second = std::thread::Builder::new().spawn_scoped(scope, work);
        run_elsewhere();
        let own = work();
        // Where no thread can be had, this one has done all of the work.
        let others = second.map_or_else(
            |_| Ok(Vec::new()),
            |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        );
        (own, others)
    });
    let mut pieces = own?;
    pieces.append(&mut others?);
    pieces.sort_unstable_by_key(|piece| piece.offset);
    let content = pieces.iter().map(|piece| piece.last_content).max().unwrap_or(0);
    let mut level: Vec<ChainingValue> = pieces.into_iter().map(|piece| piece.value).collect();
    while level.len() > 2 {
        level =
            level.as_chunks::<2>().0.iter().map(|[l, r]| merge_subtrees_non_root(l, r, Mode::Hash)).collect();
    }
    match level.as_slice() {
        [left, right] => Ok((merge_subtrees_root(left, right, Mode::Hash).into(), content)),
        _ => Err(io::Error::other(format!("{size} bytes are no size of a segment"))),
    }
}

/// A digested piece.
struct Piece {
    offset: u64,
    value: ChainingValue,
    /// Offset in the file of its last byte that is not zero; 0 if there is none.
    last_content: u64,
}

/// Digests pieces as long as there are any.
fn work(file: &File, size: u64, next: &AtomicU64) -> io::Result<Vec<Piece>> {
    let mut buffer = vec![0; BUFFER];
    let mut pieces = Vec::new();
    loop {
        let offset = next.fetch_add(PIECE, Ordering::Relaxed);
        if offset >= size {
            return Ok(pieces);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        let mut content = 0;
        for position in (offset..offset + PIECE).step_by(BUFFER) {
            file.read_exact_at(&mut buffer, position)?;
            hasher.update(&buffer);
            let last = last_content(&buffer);
            if last > 0 || buffer.first() != Some(&0) {
                content = position + last;
            }
        }
        pieces.push(Piece { offset, value: hasher.finalize_non_root(), last_content: content });
    }
}

/// Has the other threads of this program run on other processors than this one's, if there are any.
///
/// Linux starts a new thread on the processor of the one that made it, and an idle processor may take a millisecond to
/// come and get it: by then half of the work is done. Whatever goes wrong here costs only time.
fn run_elsewhere() -> Option<()> {
    let own = gettid();
    let mut elsewhere = sched_getaffinity(None).ok()?;
    elsewhere.unset(sched_getcpu());
    if elsewhere.count() == 0 {
        return None;
    }
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let id = Pid::from_raw(thread.ok()?.file_name().to_str()?.parse().ok()?)?;
        if id != own {
            sched_setaffinity(Some(id), &elsewhere).ok()?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_by_pieces_is_the_digest() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for size in [1 << 20, 8 << 20] {
            for end in [size, size / 2 + 5, 9] {
                let mut bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8 | 1).collect();
                bytes[end..].fill(0);
                std::fs::write(&path, &bytes).unwrap();
                let found = of_segment(&File::open(&path).unwrap(), size as u64).unwrap();
                assert_eq!(found, (Digest::of(&bytes), end as u64 - 1));
            }
        }
    }

    #[test]
    fn a_file_that_is_cut_short_is_an_error() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, vec![1; (2 << 20) - 1]).unwrap();
        assert!(of_segment(&File::open(&path).unwrap(), 2 << 20).is_err());
    }
}
