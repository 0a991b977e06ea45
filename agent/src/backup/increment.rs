//! A file of which the server sends only the blocks that changed.

use bytes::Bytes;
use proto::incremental::{IncrementalError, IncrementalHeader};
use proto::page::BLOCK_SIZE;

use super::blocks::BlockCutter;

/// What such a file's name begins with.
const PREFIX: &[u8] = b"INCREMENTAL.";

/// The path of the file whose blocks are in `path`; `None` if that is an ordinary file. The server sends them below the
/// directories of databases only: a file of that name anywhere else is the user's.
pub fn original(path: &[u8]) -> Option<Vec<u8>> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let (directory, name) = path.split_at(slash + 1);
    let name = name.strip_prefix(PREFIX)?;
    let of_relations =
        [&b"base/"[..], b"global/", b"pg_tblspc/"].iter().any(|top| directory.starts_with(top));
    of_relations.then(|| [directory, name].concat())
}

/// The other way round: under which path the changed blocks of the file at `path` come.
pub fn sent_as(path: &[u8]) -> Vec<u8> {
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    [&path[..name], PREFIX, &path[name..]].concat()
}

/// Takes such a file apart while it comes.
#[derive(Debug)]
pub struct Increment {
    header: Header,
    cutter: BlockCutter,
    ready: Bytes,
    /// How many blocks were handed out.
    taken: usize,
}

#[derive(Debug)]
enum Header {
    Gathering(Vec<u8>),
    Known(IncrementalHeader),
}

/// Before its first byte.
impl Default for Increment {
    fn default() -> Self {
        let (header, cutter) = (Header::Gathering(Vec::new()), BlockCutter::default());
        Self { header, cutter, ready: Bytes::new(), taken: 0 }
    }
}

impl Increment {
    /// The next block and its number within the file. `None` once all of `bytes` was taken.
    pub fn take(&mut self, bytes: &mut Bytes) -> Result<Option<(u32, Bytes)>, IncrementalError> {
        if self.header(bytes)?.is_none() {
            return Ok(None);
        }
        if self.ready.is_empty() {
            match self.cutter.take(bytes) {
                Some(blocks) => self.ready = blocks,
                None => return Ok(None),
            }
        }
        let taken = self.taken;
        let number = self.header(bytes)?.and_then(|header| header.blocks.get(taken)).copied();
        let number = number.ok_or(IncrementalError::Field("it is longer than its blocks"))?;
        self.taken += 1;
        Ok(Some((number, self.ready.split_to(BLOCK_SIZE))))
    }

    fn header(&mut self, bytes: &mut Bytes) -> Result<Option<&IncrementalHeader>, IncrementalError> {
        while let Header::Gathering(gathered) = &mut self.header {
            match IncrementalHeader::parse(gathered) {
                Ok(header) => self.header = Header::Known(header),
                Err(IncrementalError::Short(length)) => {
                    let missing = length.saturating_sub(gathered.len());
                    let part = bytes.split_to(bytes.len().min(missing));
                    gathered.extend_from_slice(&part);
                    if part.len() < missing {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        match &self.header {
            Header::Known(header) => Ok(Some(header)),
            Header::Gathering(_) => Ok(None),
        }
    }

    /// The file has ended: which blocks it had, and how long the file is that they belong to.
    pub fn finish(mut self) -> Result<IncrementalHeader, IncrementalError> {
        // An unchanged file is a header and nothing else, which may be gathered and not yet looked at.
        self.header(&mut Bytes::new())?;
        let Header::Known(header) = self.header else { return Err(IncrementalError::Short(12)) };
        if self.taken != header.blocks.len() || self.cutter.rest().is_some() {
            return Err(IncrementalError::Field("it does not end with its last block"));
        }
        Ok(header)
    }
}

/// The length in blocks of the file that an increment belongs to.
pub fn length(header: &IncrementalHeader) -> u32 {
    let beyond = header.blocks.last().map_or(0, |last| last + 1);
    header.truncation_block_length.max(beyond)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Blocks = Vec<(u32, Bytes)>;

    fn read(file: &[u8], chunk: usize) -> Result<(Blocks, IncrementalHeader), IncrementalError> {
        let (mut increment, mut blocks) = (Increment::default(), Vec::new());
        for piece in file.chunks(chunk) {
            let mut bytes = Bytes::copy_from_slice(piece);
            while let Some(block) = increment.take(&mut bytes)? {
                blocks.push(block);
            }
        }
        Ok((blocks, increment.finish()?))
    }

    #[test]
    fn names_are_those_of_relations_only() {
        assert_eq!(original(b"base/5/INCREMENTAL.16384.1"), Some(b"base/5/16384.1".to_vec()));
        assert_eq!(original(b"global/INCREMENTAL.1262"), Some(b"global/1262".to_vec()));
        let moved = b"pg_tblspc/16400/PG_17_202406281/5/INCREMENTAL.16401_vm";
        assert_eq!(original(moved), Some(b"pg_tblspc/16400/PG_17_202406281/5/16401_vm".to_vec()));
        assert_eq!(sent_as(&original(moved).unwrap()), moved);
        for ordinary in
            [&b"INCREMENTAL.config"[..], b"base/5/16384", b"mine/INCREMENTAL.1", b"base/5/XINCREMENTAL.1"]
        {
            assert_eq!(original(ordinary), None);
        }
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused() {
        let header = IncrementalHeader { truncation_block_length: 9, blocks: vec![2, 7] };
        let file = [header.write(), vec![1; 2 * BLOCK_SIZE]].concat();
        assert!(read(&file, 1000).is_ok());
        for end in [0, 11, 12, 5000, file.len() - 1] {
            assert!(read(&file[..end], 1000).is_err(), "{end}");
        }
        assert!(read(&[file.clone(), vec![0]].concat(), 1000).is_err());
        assert!(read(&[file, vec![0; BLOCK_SIZE]].concat(), 1000).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_block_comes_out_with_its_number(
            numbers in prop::collection::btree_set(0u32..5000, 0..20), limit in 0u32..6000, chunk in 1usize..70_000,
        ) {
            let header = IncrementalHeader { truncation_block_length: limit, blocks: numbers.into_iter().collect() };
            let content = |number: u32| vec![number as u8; BLOCK_SIZE];
            let blocks = header.blocks.iter().flat_map(|number| content(*number));
            let file: Vec<u8> = header.write().into_iter().chain(blocks).collect();
            let (read, found) = read(&file, chunk).unwrap();
            prop_assert_eq!(read.iter().map(|(number, _)| *number).collect::<Vec<_>>(), header.blocks.clone());
            prop_assert!(read.iter().all(|(number, block)| *block == content(*number)));
            prop_assert_eq!(length(&found), limit.max(header.blocks.last().map_or(0, |last| last + 1)));
        }
    }
}
