//! The tar archives that BASE_BACKUP sends, parsed as they arrive.
//!
//! A parser that is *pushed* chunks and answers with events, so that a file's bytes are handed on as slices of the
//! received buffers: no copy, no thread of its own, no channel between. The dialect (ustar
//! with types `0`, `5` and `2`, no extensions, numbers in octal or base-256) is small enough that a general reader
//! would mostly have features that must be refused here.

use bytes::{Buf, Bytes};

/// Header, padding and end marker come in units of this.
const BLOCK: usize = 512;

/// What the archive says, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEvent {
    /// A member begins. A [`MemberKind::File`] is followed by its data and by [`TarEvent::FileEnd`].
    Member(Member),
    /// The next bytes of the current file; never empty.
    Data(Bytes),
    /// The current file had all the bytes that its header promised.
    FileEnd,
}

/// A member's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name in raw bytes: relative, without `./` in front or `/` at the end, and free of `..`.
    /// Empty for the directory that the archive is rooted in.
    pub path: Vec<u8>,
    /// File, directory or link.
    pub kind: MemberKind,
    /// Bytes of a file; 0 otherwise.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
}

/// The three types that the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Link(Vec<u8>),
}

/// The archive is not what PostgreSQL sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header that cannot be read.
    #[error("the archive has a damaged header at byte {at}: {why}")]
    Header {
        /// Offset of the header in the archive.
        at: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name that would leave the data directory.
    #[error("the archive names a file that lies outside of the data directory: {0:?}")]
    Path(String),
    /// The archive ended before its end.
    #[error("the archive broke off at byte {at}: {why}")]
    Truncated {
        /// Bytes received.
        at: u64,
        /// Where it broke off.
        why: &'static str,
    },
    /// Something follows the end marker.
    #[error("the archive goes on after its end, at byte {at}")]
    Trailing {
        /// Offset of the first such byte.
        at: u64,
    },
}

enum State {
    /// Collecting a header; `have` bytes of it are there.
    Header { have: usize },
    /// In a file: `left` bytes of content, then `padding`.
    Data { left: u64, padding: usize },
    /// Between a file and the next header.
    Padding { left: usize },
    /// One block of the end marker was read.
    Ending { have: usize },
    /// Both were.
    Ended,
}

/// Turns chunks of one archive into events. Memory: one block, and the chunk that is being read.
pub struct TarParser {
    input: Bytes,
    block: [u8; BLOCK],
    state: State,
    /// Bytes consumed.
    at: u64,
}

impl Default for TarParser {
    fn default() -> Self {
        Self { input: Bytes::new(), block: [0; BLOCK], state: State::Header { have: 0 }, at: 0 }
    }
}

impl TarParser {
    /// Gives the next chunk, of any size. All events of the one before must have been taken.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.input.is_empty(), "events of the last chunk were left");
        self.input = chunk;
    }

    /// The next event; `None` when the chunk is used up.
    pub fn next_event(&mut self) -> Result<Option<TarEvent>, TarError> {
        loop {
            match self.state {
                State::Data { left: 0, padding } => {
                    self.state = State::Padding { left: padding };
                    return Ok(Some(TarEvent::FileEnd));
                }
                _ if self.input.is_empty() => return Ok(None),
                State::Data { left, padding } => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
                    self.at += take as u64;
                    self.state = State::Data { left: left - take as u64, padding };
                    return Ok(Some(TarEvent::Data(self.input.split_to(take))));
                }
                State::Padding { left } => {
                    let take = left.min(self.input.len());
                    self.input.advance(take);
                    self.at += take as u64;
                    self.state = match left - take {
                        0 => State::Header { have: 0 },
                        left => State::Padding { left },
                    };
                }
                State::Header { have } => {
                    let have = self.fill(have);
                    self.state = State::Header { have };
                    if have < BLOCK {
                        continue;
                    }
                    if self.block.iter().all(|b| *b == 0) {
                        self.state = State::Ending { have: 0 };
                        continue;
                    }
                    let member = self.member()?;
                    self.state = match member.kind {
                        MemberKind::File => State::Data { left: member.size, padding: padding(member.size) },
                        _ => State::Header { have: 0 },
                    };
                    return Ok(Some(TarEvent::Member(member)));
                }
                State::Ending { have } => {
                    let have = self.fill(have);
                    self.state = State::Ending { have };
                    if self.block[..have].iter().any(|b| *b != 0) {
                        return Err(TarError::Trailing { at: self.at - have as u64 });
                    }
                    if have == BLOCK {
                        self.state = State::Ended;
                    }
                }
                State::Ended => {
                    if self.input.iter().any(|b| *b != 0) {
                        return Err(TarError::Trailing { at: self.at });
                    }
                    self.at += self.input.len() as u64;
                    self.input.clear();
                }
            }
        }
    }

    /// Says that no chunk follows: an error unless the archive came to its end marker.
    pub fn finish(self) -> Result<(), TarError> {
        let why = match self.state {
            State::Ended => return Ok(()),
            State::Header { have: 0 } | State::Ending { .. } => "its end marker is missing",
            State::Header { .. } => "within a header",
            State::Data { .. } => "within a file",
            State::Padding { .. } => "after a file",
        };
        Err(TarError::Truncated { at: self.at, why })
    }

    fn fill(&mut self, have: usize) -> usize {
        let take = (BLOCK - have).min(self.input.len());
        self.input.copy_to_slice(&mut self.block[have..have + take]);
        self.at += take as u64;
        have + take
    }

    fn member(&self) -> Result<Member, TarError> {
        let at = self.at - BLOCK as u64;
        let bad = |why| TarError::Header { at, why };
        let block = &self.block;
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        let own: u64 = block[148..156].iter().map(|b| u64::from(*b)).sum();
        let expected = number(&block[148..156]).ok_or_else(|| bad("its checksum is no number"))?;
        // The checksum counts its own eight bytes as spaces.
        if sum - own + 8 * u64::from(b' ') != expected {
            return Err(bad("its checksum is wrong"));
        }
        if &block[257..263] != b"ustar\0" {
            return Err(bad("it is not of the ustar format"));
        }
        if block[345] != 0 {
            return Err(bad("it uses a name prefix, which PostgreSQL never does"));
        }
        let field = |range: std::ops::Range<usize>, why| number(&block[range]).ok_or_else(|| bad(why));
        let size = field(124..136, "its size is no number")?;
        let kind = match block[156] {
            b'0' => MemberKind::File,
            b'5' => MemberKind::Directory,
            b'2' => MemberKind::Link(text(&block[157..257]).to_vec()),
            _ => return Err(bad("its type is neither file, directory nor link")),
        };
        if size > MAX_SIZE {
            return Err(bad("its size is impossible"));
        }
        Ok(Member {
            path: clean(text(&block[0..100]))?,
            size: if kind == MemberKind::File { size } else { 0 },
            kind,
            mode: (field(100..108, "its mode is no number")? & 0o7777) as u32,
            mtime: field(136..148, "its time is no number")?
                .try_into()
                .map_err(|_| bad("its time is impossible"))?,
        })
    }
}

/// No file is larger than what PostgreSQL's file offsets can say.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Zero bytes after a file's content, up to the next block.
fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// Up to the first NUL, or the whole field.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits with spaces or NULs around, or base-256 behind a byte with its high bit set.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first() {
        Some((0x80, rest)) => rest
            .iter()
            .try_fold(0u64, |value, byte| value.checked_mul(256).map(|value| value | u64::from(*byte))),
        _ => {
            let digits = text(field).trim_ascii();
            if digits.is_empty() {
                return None;
            }
            digits.iter().try_fold(0u64, |value, byte| match byte {
                b'0'..=b'7' => value.checked_mul(8).map(|value| value | u64::from(byte - b'0')),
                _ => None,
            })
        }
    }
}

/// The name without decoration; an error if it points out of the directory that it is relative to.
fn clean(name: &[u8]) -> Result<Vec<u8>, TarError> {
    let outside = || TarError::Path(String::from_utf8_lossy(name).into_owned());
    if name.first() == Some(&b'/') || name.is_empty() {
        return Err(outside());
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(outside()),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header in the server's own way of writing.
    pub(crate) fn header(name: &[u8], kind: u8, link: &[u8], size: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        let mut put = |range: std::ops::Range<usize>, value: u64| {
            let width = range.len() - 1;
            if value < 1 << (3 * width) {
                block[range].copy_from_slice(format!("{value:0width$o} ").as_bytes());
            } else {
                let bytes = value.to_be_bytes();
                let end = range.end;
                block[range.start] = 0x80;
                block[end - 8..end].copy_from_slice(&bytes);
            }
        };
        put(100..108, 0o600);
        put(108..116, 26);
        put(116..124, 26);
        put(124..136, size);
        put(136..148, 1_700_000_000);
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..263].copy_from_slice(b"ustar\0");
        block[263..265].copy_from_slice(b"00");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    pub(crate) fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
        let mut archive = header(name, b'0', b"", content.len() as u64).to_vec();
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        archive
    }

    pub(crate) fn ended(mut archive: Vec<u8>) -> Vec<u8> {
        archive.resize(archive.len() + 2 * BLOCK, 0);
        archive
    }

    /// What each member is, with a file's whole content, however the archive was cut.
    fn read(archive: &[u8], cuts: &[usize]) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
        let mut parser = TarParser::default();
        let mut found: Vec<(Member, Vec<u8>)> = Vec::new();
        let mut open = false;
        let archive = Bytes::copy_from_slice(archive);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (archive.len() + 1)).collect();
        cuts.extend([0, archive.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            parser.push(archive.slice(pair[0]..pair[1]));
            while let Some(event) = parser.next_event()? {
                match event {
                    TarEvent::Member(member) => {
                        assert!(!open);
                        open = member.kind == MemberKind::File;
                        found.push((member, Vec::new()));
                    }
                    TarEvent::Data(bytes) => {
                        assert!(open && !bytes.is_empty());
                        found.last_mut().unwrap().1.extend_from_slice(&bytes);
                    }
                    TarEvent::FileEnd => {
                        let (member, content) = found.last().unwrap();
                        assert!(open && member.size == content.len() as u64);
                        open = false;
                    }
                }
            }
        }
        parser.finish().map(|()| found)
    }

    #[test]
    fn names_fill_the_field() {
        for length in [1, 98, 99, 100] {
            let name = vec![b'x'; length];
            let found = read(&ended(file(&name, b"content")), &[]).unwrap();
            assert_eq!((&found[0].0.path, &found[0].1[..]), (&name, &b"content"[..]));
        }
    }

    #[test]
    fn sizes_from_eight_gibibytes_are_in_base_256() {
        for size in [(8 << 30) - 1, 8 << 30, 1 << 45] {
            let mut parser = TarParser::default();
            parser.push(Bytes::copy_from_slice(&header(b"base/5/16384", b'0', b"", size)));
            let Ok(Some(TarEvent::Member(member))) = parser.next_event() else { panic!("no member") };
            assert_eq!(member.size, size);
        }
    }

    #[test]
    fn directories_and_links_lose_their_slash() {
        let mut archive = header(b"./pg_wal/archive_status/", b'5', b"", 0).to_vec();
        archive.extend_from_slice(&header(b"pg_tblspc/16385/", b'2', b"/srv/fast/", 0));
        let found = read(&ended(archive), &[]).unwrap();
        assert_eq!(found[0].0.path, b"pg_wal/archive_status");
        assert_eq!(found[0].0.kind, MemberKind::Directory);
        assert_eq!(found[1].0.path, b"pg_tblspc/16385");
        assert_eq!(found[1].0.kind, MemberKind::Link(b"/srv/fast/".to_vec()));
    }

    #[test]
    fn an_archive_without_its_end_is_refused() {
        let whole = ended(file(b"PG_VERSION", b"15\n"));
        for length in 0..whole.len() {
            assert!(matches!(read(&whole[..length], &[]), Err(TarError::Truncated { .. })), "{length}");
        }
    }

    #[test]
    fn nothing_may_follow_the_end_but_zeros() {
        let mut archive = ended(file(b"PG_VERSION", b"15\n"));
        archive.resize(archive.len() + 3 * BLOCK, 0);
        assert!(read(&archive, &[]).is_ok());
        archive.push(1);
        assert!(matches!(read(&archive, &[]), Err(TarError::Trailing { .. })));
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in [&b"/etc/passwd"[..], b"../x", b"base/../../x", b".."] {
            assert!(matches!(read(&ended(file(name, b"")), &[]), Err(TarError::Path(_))));
        }
    }

    #[test]
    fn a_flipped_bit_in_a_header_is_noticed() {
        let archive = ended(file(b"PG_VERSION", b"15\n"));
        for at in (0..BLOCK).filter(|at| !(148..156).contains(at)) {
            let mut damaged = archive.clone();
            damaged[at] ^= 1;
            assert!(read(&damaged, &[]).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_however_it_is_cut(
            files in prop::collection::vec(
                ("[a-z0-9_./]{0,40}[a-z0-9]", prop::collection::vec(any::<u8>(), 0..3000)), 0..6),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let files: Vec<_> = files.into_iter().filter(|(name, _)| clean(name.as_bytes()).is_ok()).collect();
            let archive: Vec<u8> = files.iter().flat_map(|(name, content)| file(name.as_bytes(), content)).collect();
            let found = read(&ended(archive), &cuts).unwrap();
            prop_assert_eq!(found.len(), files.len());
            for ((member, content), (name, expected)) in found.iter().zip(&files) {
                prop_assert_eq!(&member.path, &clean(name.as_bytes()).unwrap());
                prop_assert_eq!(content, expected);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..2048), repair: bool, kind in 0..8u8,
        ) {
            // With a right checksum and magic, so that the deeper fields are reached.
            if repair && bytes.len() >= BLOCK {
                bytes[257..263].copy_from_slice(b"ustar\0");
                bytes[156] = b'0' + kind;
                bytes[148..156].fill(b' ');
                let sum: u64 = bytes[..BLOCK].iter().map(|b| u64::from(*b)).sum();
                bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = read(&bytes, &[700]);
        }
    }
}
