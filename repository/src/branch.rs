//! A branch: one cluster under one system identifier.
//!
//! ```text
//! walkeep.json
//! <cluster>/<system identifier>/
//!     branch                                                              what it was begun with
//!     epoch/<number>-<writer>                                             who streams since when
//!     wal/<timeline>/<log>/<segment>-<digest>                             a whole segment
//!     wal/<timeline>/<log>/tail/<segment>/<epoch>-<from>-<to>-<digest>    a fragment of one
//!     wal/<file>-<digest>                                                 a history, partial or backup file
//!     backup/…  pack/…                                                    base backups
//!     dump/…                                                              logical backups
//!     drill/<time>-<verdict>-<writer>                                     proof of a restore
//!     statement/<number>-<nonce>                                          what there is, signed
//! ```
//!
//! Every object is immutable, and its name holds a digest or a writer: to write one twice is harmless, and
//! two writers cannot harm each other.

use std::sync::Arc;

use bytes::Bytes;
use proto::config::ClusterName;
use proto::wal::SegmentSize;
use proto::{Digest, SystemId};
use serde::{Deserialize, Serialize};

use crate::sealed::{
    ContentReader, Encryption, Expected, HEADER_LENGTH, Header, Kind, Sealed, Sealing, UNSIGNED, Unsealing,
    WriterId, parse_header, seal_with_digest, unseal_with_digest,
};
use crate::task::joined;
use crate::{Error, Key, Result, Store, chance};

/// The object that begins a branch.
pub(crate) const FACTS: &str = "branch";

/// Nothing under [`FACTS`] is longer.
const LONGEST_FACTS: u64 = 64 << 10;

/// What an unsigned branch object may mean, of which nothing here can tell one from the other.
const NEVER_SIGNED: &str = "its first object, `branch`: it is not signed, and [signing] is set here. Either the cluster was begun without \
     signatures: then take [signing] out, or begin another cluster name with it and take a full backup there. Or somebody \
     has replaced that object: then bring it back from a copy or an older version, and find out who may write there";

/// What a branch records of its cluster when it is begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BranchFacts {
    /// The cluster's segment size, in bytes.
    pub segment_size: SegmentSize,
    /// The server's version when the branch was begun, such as 150018.
    pub server_version: u32,
}

/// How a branch's objects are written, which is decided when it is begun: it is never mixed. Beside its [`BranchFacts`] in
/// the same object; unknown of a branch that was begun before this was written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Terms {
    encrypted: Option<bool>,
    signed: Option<bool>,
}

impl Terms {
    /// Those that `sealing` keeps.
    pub(crate) fn of(sealing: &Sealing) -> Self {
        Self { encrypted: Some(sealing.encrypts()), signed: Some(sealing.signer().is_some()) }
    }

    /// What speaks against writing with `sealing`.
    fn violation(self, sealing: &Sealing) -> Option<&'static str> {
        match (self.encrypted, sealing.encrypts()) {
            (Some(true), false) => {
                return Some(
                    "it is encrypted, and here no `recipients` are set in [encryption]: nothing is written in clear",
                );
            }
            (Some(false), true) => {
                return Some(
                    "it was begun in clear, and `recipients` are set in [encryption]: what lies there already would stay open",
                );
            }
            _ => {}
        }
        match (self.signed, sealing.signer().is_some()) {
            (Some(true), false) => Some(
                "it is signed, and here no `key_file` is set in [signing]: readers would refuse what is written",
            ),
            (Some(false), true) => Some(
                "it was begun without signatures, and `key_file` is set in [signing]: readers would refuse what lies there",
            ),
            _ => None,
        }
    }
}

/// Facts and terms, as they are written.
#[derive(Serialize, Deserialize)]
pub(crate) struct Begun {
    #[serde(flatten)]
    pub(crate) facts: BranchFacts,
    #[serde(flatten)]
    pub(crate) terms: Terms,
}

/// One cluster under one system identifier. Cheap to clone.
#[derive(Clone)]
pub struct Branch {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    cluster: ClusterName,
    system_id: SystemId,
    facts: BranchFacts,
    terms: Terms,
    sealing: Sealing,
    unsealing: Unsealing,
    writer: WriterId,
    root: Key,
}

impl Branch {
    pub(crate) fn assemble(
        store: Store,
        cluster: ClusterName,
        system_id: SystemId,
        begun: Begun,
        sealing: Sealing,
        unsealing: Unsealing,
    ) -> Self {
        let Begun { facts, terms } = begun;
        let root = Key::root().child(&cluster).child(system_id);
        let writer = WriterId::random();
        let inner = Inner { store, cluster, system_id, facts, terms, sealing, unsealing, writer, root };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) async fn read_facts(&self) -> Result<Begun> {
        let name = Key::root().child(FACTS);
        let (_, json) = match self.get_sealed(Kind::Branch, &name, LONGEST_FACTS).await {
            Err(Error::Corrupt { why, .. }) if why == UNSIGNED => {
                return Err(Error::Foreign {
                    what: format!("branch {} in {}", self.root(), self.store().description()),
                    why: NEVER_SIGNED.to_owned(),
                });
            }
            read => read?,
        };
        serde_json::from_slice(&json).map_err(|error| Error::corrupt(self.key(&name), error))
    }

    /// The store that it lies in.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The cluster's name in the repository.
    pub fn cluster(&self) -> &ClusterName {
        &self.inner.cluster
    }

    /// The cluster's system identifier.
    pub fn system_id(&self) -> SystemId {
        self.inner.system_id
    }

    /// What was recorded when the branch was begun.
    pub fn facts(&self) -> BranchFacts {
        self.inner.facts
    }

    /// The cluster's segment size.
    pub fn segment_size(&self) -> SegmentSize {
        self.inner.facts.segment_size
    }

    /// How objects are written.
    ///
    /// # Errors
    /// [`Error::Foreign`] if that is not how this branch was begun: nothing in clear is put beside what is encrypted, nothing
    /// unsigned beside what is signed, nor the other way round.
    pub fn sealing(&self) -> Result<&Sealing> {
        match self.inner.terms.violation(&self.inner.sealing) {
            None => Ok(&self.inner.sealing),
            Some(why) => Err(Error::Foreign {
                what: format!("branch {} in {}", self.root(), self.store().description()),
                why: why.to_owned(),
            }),
        }
    }

    /// The zstd level of what is written.
    pub(crate) fn level(&self) -> i32 {
        self.inner.sealing.level()
    }

    /// Whether whoever writes here signs.
    pub fn signs(&self) -> bool {
        self.inner.sealing.signer().is_some()
    }

    /// Whether its objects are signed, as far as it says so itself.
    pub fn is_signed(&self) -> bool {
        self.inner.terms.signed == Some(true)
    }

    /// Whether nothing is encrypted, and nothing signed.
    pub(crate) fn writes_in_clear(&self) -> bool {
        !self.inner.sealing.encrypts() && !self.signs()
    }

    /// What opens encrypted objects.
    pub fn unsealing(&self) -> &Unsealing {
        &self.inner.unsealing
    }

    /// This program's own random name as a writer; a new one each time that the branch is opened.
    pub fn writer(&self) -> WriterId {
        self.inner.writer
    }

    /// `<cluster>/<system identifier>`: where its objects lie.
    pub fn root(&self) -> &Key {
        &self.inner.root
    }

    /// The key in the store of what is `name` below the branch.
    pub fn key(&self, name: &Key) -> Key {
        self.inner.root.join(name)
    }

    /// A header for an object of this branch by this writer; the optional fields are empty.
    pub fn header(&self, kind: Kind, name: &Key) -> Header {
        Header {
            kind,
            name: name.to_string(),
            cluster: self.cluster().clone(),
            system_id: self.system_id(),
            timeline: None,
            from: None,
            to: None,
            server_time: None,
            ahead: 0,
            writer: self.writer(),
            encryption: Encryption::None,
            recipients: None,
        }
    }

    /// What to expect of an object of this branch.
    pub fn expected(&self, kind: Kind, name: &Key, max_length: u64) -> Expected {
        Expected {
            key: self.key(name),
            kind,
            name: name.to_string(),
            cluster: self.cluster().clone(),
            system_id: self.system_id(),
            max_length,
        }
    }

    /// Seals `content` and stores it durably under the header's name.
    pub async fn put_sealed(&self, header: Header, content: Bytes) -> Result<Sealed> {
        let key = self.key(&Key::new(&header.name)?);
        let sealing = self.sealing()?.clone();
        let (object, sealed) =
            off_thread(&key, move || seal_with_digest(&header, &content, &sealing)).await?;
        self.store().put(&key, object).await?;
        Ok(sealed)
    }

    /// Reads an object, opens and checks it. At most `max_length` bytes of content.
    pub async fn get_sealed(&self, kind: Kind, name: &Key, max_length: u64) -> Result<(Header, Bytes)> {
        let (header, content, _) = self.get_digested(kind, name, max_length).await?;
        Ok((header, content))
    }

    /// The same, with the digest of the content as it was read.
    pub(crate) async fn get_digested(
        &self,
        kind: Kind,
        name: &Key,
        max_length: u64,
    ) -> Result<(Header, Bytes, Digest)> {
        let expected = self.expected(kind, name, max_length);
        let object = self.store().get(&expected.key).await?;
        let unsealing = self.unsealing().clone();
        let key = expected.key.clone();
        let opened = off_thread(&key, move || unseal_with_digest(&object, &expected, &unsealing)).await;
        let (header, content, digest) = opened?;
        Ok((header, content.into(), digest))
    }

    /// Reads only the clear header at an object's front: quick, needs no key, proves nothing.
    pub async fn peek(&self, kind: Kind, name: &Key) -> Result<Header> {
        let expected = self.expected(kind, name, 0);
        let front = self.store().get_range(&expected.key, 0..HEADER_LENGTH as u64).await?;
        parse_header(&front, &expected)
    }

    /// Opens an object for reading ranges of its clear content.
    pub async fn content_reader(&self, kind: Kind, name: &Key) -> Result<ContentReader> {
        ContentReader::open(self.store(), &self.expected(kind, name, 0), self.unsealing()).await
    }
}

/// Runs what needs the processor for long apart from what must keep answering.
pub(crate) async fn off_thread<T: Send + 'static>(
    key: &Key,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if chance::is_seeded() {
        // Threads would take turns in another order each time.
        return work();
    }
    joined(key, tokio::task::spawn_blocking(work).await)
}
