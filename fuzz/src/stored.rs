//! The targets beyond `proto`: what walkeep itself has stored, and the archives of a base backup.
//!
//! The ordinary tests include this file too (`agent/tests/corpus.rs`) and run it over the corpus.

use std::sync::Arc;

use agent::backup::tar::{MemberKind, TarEvent, TarParser};
use bytes::Bytes;
use object_store::memory::InMemory;
use proto::wal::{SegmentName, SegmentSize};
use proto::{SystemId, TimelineId};
use repository::backup::BackupLabel;
use repository::manifest::{Entry, Manifest, escape, unescape};
use repository::sealed::{Encryption, HEADER_LENGTH, parse_header};
use repository::{
    Branch, BranchFacts, Epoch, Expected, Header, JournalName, Key, Kind, Repository, Sealing, Store,
    Unsealing, WriterId, chance, seal, unseal,
};
use tokio::runtime::{Builder, Runtime};

use crate::targets::Target;

/// All targets, by the names of their folders in the corpus.
pub const STORED: &[(&str, Target)] = &[
    ("journal", journal),
    ("manifest", manifest),
    ("object_names", object_names),
    ("sealed_object", sealed_object),
    ("tar", tar),
];

/// The most content that a sealed object may have here.
const MOST: u64 = 64 << 10;

/// The records of a journal, as a crash, a disk or an older file may have left them: a reader gets what the listing promises, or
/// an error; and what is behind the records, or changed in one, leads to no other bytes.
pub fn journal(data: &[u8]) {
    let Some(whole) = BRANCH.with(|branch| read_journal(branch, data)) else { return };
    let mut changed = data.to_vec();
    if let Some(at) = (bit(data) / 8).checked_rem(data.len()) {
        changed[at] ^= 1 << (bit(data) % 8);
    }
    for other in [changed, [data, &[0; 100]].concat()] {
        if let Some(read) = BRANCH.with(|branch| read_journal(branch, &other)) {
            assert!(whole.starts_with(&read) || read.starts_with(&whole), "other bytes");
        }
    }
}

thread_local! {
    /// A repository in memory.
    static BRANCH: (Runtime, Branch) = {
        // In place, not in other threads.
        chance::seed(0);
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let branch = runtime.block_on(async {
            let store = Store::over(Arc::new(InMemory::new()), "memory");
            Repository::create(store.clone()).await?;
            let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await?;
            let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
            repository.begin_branch(&"main".parse().expect("a name"), SystemId(7), facts).await
        });
        (runtime, branch.expect("it is in memory"))
    };
}

/// What a journal with these records holds; `None` if it is found to be damaged.
fn read_journal((runtime, branch): &(Runtime, Branch), records: &[u8]) -> Option<Bytes> {
    let segment = SegmentName { timeline: TimelineId::FIRST, log: 0, seg: 1 };
    let epoch = Epoch { number: 1, writer: WriterId::from_number(1) };
    let name = JournalName { segment, epoch, from: 0, nonce: 1 };
    let front =
        seal(&branch.header(Kind::Journal, &name.key()), b"", &Sealing::plain(1)).expect("it can be sealed");
    runtime.block_on(async {
        let object = [&front[..HEADER_LENGTH], records].concat();
        branch.store().put(&branch.key(&name.key()), object.into()).await.expect("memory takes it");
        match branch.fragments(segment).await.ok()?[..] {
            [] => Some(Bytes::new()),
            [fragment] => {
                assert!(fragment.to > fragment.from);
                let bytes = branch.read_fragment(&fragment).await.ok()?;
                assert_eq!(bytes.len(), fragment.to as usize);
                Some(bytes)
            }
            _ => panic!("one journal is two fragments"),
        }
    })
}

/// Manifests' text: what is read is written the same.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::read(data) else { return };
    for entry in &manifest.entries {
        if let Entry::File { size, extents, .. } = entry {
            assert!(extents.iter().all(|extent| extent.length <= *size));
        }
    }
    let written = manifest.write(Vec::new()).expect("what was read can be written");
    assert_eq!(Manifest::read(written.as_slice()).ok(), Some(manifest));
}

/// Keys, labels and the like: what is read is written the same.
pub fn object_names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = Key::new(text) {
        assert_eq!(key.as_str(), text);
        assert!(key.parts().all(|part| !part.is_empty() && part != "." && part != ".."));
    }
    macro_rules! same {
        ($($kind:ty),*) => {$(
            if let Ok(name) = text.parse::<$kind>() {
                assert_eq!(name.to_string(), text);
            }
        )*};
    }
    same!(BackupLabel, Epoch, WriterId);
    if let Some(bytes) = unescape(text) {
        assert_eq!(escape(&bytes), text);
    }
}

/// Sealed objects: whatever the header promises, no more than the bound is in memory.
pub fn sealed_object(data: &[u8]) {
    const NAME: &str = "wal/00000001/00000000/any";
    let cluster = || "main".parse().expect("a cluster's name");
    for kind in [Kind::Segment, Kind::Manifest] {
        let expected = Expected {
            key: Key::new(NAME).expect("a key"),
            kind,
            name: NAME.to_owned(),
            cluster: cluster(),
            system_id: SystemId(7),
            max_length: MOST,
        };
        let header = parse_header(data, &expected);
        if let Ok((proven, content)) = unseal(data, &expected, &Unsealing::none()) {
            assert!(content.len() as u64 <= MOST);
            assert_eq!(header.ok(), Some(proven), "the clear header is the proven one");
        }
        if data.len() as u64 <= MOST {
            let header = Header {
                kind,
                name: NAME.to_owned(),
                cluster: cluster(),
                system_id: SystemId(7),
                timeline: None,
                from: None,
                to: None,
                server_time: None,
                ahead: 0,
                writer: WriterId::from_number(1),
                encryption: Encryption::None,
                recipients: None,
            };
            changed(&header, data, &expected);
        }
    }
}

/// A number that follows from all of the input.
fn bit(data: &[u8]) -> usize {
    data.iter().fold(data.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)))
}

/// Sealed, and with a bit changed that the content chooses: it comes back as it was, or not at all.
fn changed(header: &Header, content: &[u8], expected: &Expected) {
    let object = seal(header, content, &Sealing::plain(1)).expect("it can be sealed");
    let opened = |object: &[u8]| unseal(object, expected, &Unsealing::none()).map(|(_, content)| content);
    assert_eq!(opened(&object).ok().as_deref(), Some(content));
    let bit = bit(content);
    let mut object = object.to_vec();
    let at = bit / 8 % object.len();
    object[at] ^= 1 << (bit % 8);
    assert!(opened(&object).is_ok_and(|opened| opened == content) || opened(&object).is_err(), "byte {at}");
}

/// The archives of a base backup: the same events, however they are cut.
pub fn tar(data: &[u8]) {
    let whole = events(data, data.len().max(1));
    for size in [1, 511, 1000] {
        assert_eq!(events(data, size), whole, "in pieces of {size}");
    }
}

/// The members of an archive with the bytes that came of each, and whether it was sound so far.
fn events(data: &[u8], size: usize) -> (Vec<(Vec<u8>, u64)>, bool) {
    let (mut parser, mut members) = (TarParser::default(), Vec::new());
    for chunk in data.chunks(size) {
        parser.push(Bytes::copy_from_slice(chunk));
        loop {
            match parser.next_event() {
                Ok(Some(TarEvent::Member(member))) => {
                    let inside = !member.path.starts_with(b"/")
                        && !member.path.split(|byte| *byte == b'/').any(|part| part == b"..");
                    assert!(inside, "{member:?} leads out");
                    assert!(member.kind == MemberKind::File || member.size == 0);
                    members.push((member.path, 0));
                }
                Ok(Some(TarEvent::Data(bytes))) => {
                    assert!(!bytes.is_empty());
                    members.last_mut().expect("a member has begun").1 += bytes.len() as u64;
                }
                Ok(Some(TarEvent::FileEnd)) => {}
                Ok(None) => break,
                Err(_) => return (members, false),
            }
        }
    }
    (members, true)
}
