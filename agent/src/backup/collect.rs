//! From the server's archives to a manifest's entries: each byte is seen once, on its way to the packs.

use std::future::Future;
use std::io;

use bytes::Bytes;
use proto::Lsn;
use proto::incremental::IncrementalError;
use repository::manifest::{Entry, EntrySorter, PathError, SafePath};
use repository::pack::{BlockDigest, Extent, PackEntry, PackWriter};

use super::compare::Receipts;
use super::damage::DamagedPage;
use super::file::{Done, OpenFile, Packs, Sent};
use super::increment;
use super::native::Limits;
use super::pages::Suspects;
use super::parent::Parent;
use super::tar::{Member, MemberKind, TarError, TarEvent, TarParser};

/// Where the files' bytes go.
pub trait Sink {
    /// Takes the next bytes, and says where they went, counted from the first of them.
    fn append(&mut self, bytes: Bytes) -> impl Future<Output = repository::Result<Vec<Extent>>> + Send;

    /// Tells the digest of a file's next block, whose `length` bytes are appended next.
    fn begin_block(&mut self, length: usize, digest: BlockDigest);
}

impl Sink for PackWriter {
    async fn append(&mut self, bytes: Bytes) -> repository::Result<Vec<Extent>> {
        PackWriter::append(self, bytes).await
    }

    fn begin_block(&mut self, length: usize, digest: BlockDigest) {
        PackWriter::begin_block(self, length, digest);
    }
}

/// Why the archives could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The server sent what no PostgreSQL sends.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// With TABLESPACE_MAP there are no links in a backup.
    #[error("the server sent a symbolic link within a backup, {0:?}, which PostgreSQL does not do")]
    Link(String),
    /// What the server sends as changed is not there to be changed.
    #[error("the server sent the changes of {0}, which the parent backup does not have")]
    Orphan(String),
    /// The changed blocks of a file cannot be used.
    #[error("the server sent changes that cannot be used: {0}")]
    Increment(#[from] IncrementalError),
    /// A name that no file of a data directory can have.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The list of files is kept in a temporary file, if it is long.
    #[error("the temporary file for the manifest cannot be used (in the folder that TMPDIR names): {0}")]
    Temporary(#[from] io::Error),
    /// The packs could not be written.
    #[error(transparent)]
    Repository(#[from] repository::Error),
}

/// A file with pages that do not bear their checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuspectFile {
    /// Relative to the data directory.
    pub path: SafePath,
    /// Which pages.
    pub suspects: Suspects,
}

/// What came out of all archives of a backup.
#[derive(Debug, Default)]
pub struct Collected {
    /// Files and directories.
    pub entries: EntrySorter,
    /// How the files came, to be held against the server's own manifest.
    pub receipts: Receipts,
    /// Files with damaged pages.
    pub suspects: Vec<SuspectFile>,
    /// Bytes of all files together.
    pub size_bytes: u64,
    /// Damaged pages that are the parent's, and were not sent again.
    pub inherited_damage: Vec<DamagedPage>,
    /// The content of `backup_label`, as it was sent.
    pub backup_label: Vec<u8>,
    /// The content of `global/pg_control`.
    pub control: Vec<u8>,
}

/// `backup_label` and `pg_control` are kept in memory too, up to so many bytes.
const CAPTURE_LIMIT: usize = 64 << 10;

/// Takes one archive after another.
pub struct Collector<S> {
    packs: Packs<S>,
    base: Base,
    start: Lsn,
    data_checksums: bool,
    /// `pg_tblspc/<oid>/` for a tablespace's archive, else empty.
    prefix: Vec<u8>,
    parser: TarParser,
    file: Option<OpenFile>,
    collected: Collected,
}

/// What the server's files are held against.
pub enum Base {
    /// Nothing: all is stored.
    Nothing,
    /// Whole files, against the parent's by content.
    Content(Parent),
    /// The server sends what has changed since this parent; its other blocks count below the limits.
    Native(Parent, Limits),
}

impl Base {
    fn parent(&self) -> Option<&Parent> {
        match self {
            Self::Nothing => None,
            Self::Content(parent) | Self::Native(parent, _) => Some(parent),
        }
    }

    fn parent_mut(&mut self) -> Option<&mut Parent> {
        match self {
            Self::Nothing => None,
            Self::Content(parent) | Self::Native(parent, _) => Some(parent),
        }
    }

    /// The parent's packs.
    pub fn into_packs(self) -> Vec<PackEntry> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Content(parent) | Self::Native(parent, _) => parent.into_packs(),
        }
    }
}

impl<S: Sink> Collector<S> {
    /// For a backup that starts at `start`. `data_checksums`: whether the cluster's pages have them. What `base` does
    /// not have goes to `sink`.
    pub fn new(sink: S, base: Base, start: Lsn, data_checksums: bool) -> Self {
        let first = base.parent().map_or(0, |parent| parent.packs().len() as u32);
        Self {
            packs: Packs { sink, first },
            base,
            start,
            data_checksums,
            prefix: Vec::new(),
            parser: TarParser::default(),
            file: None,
            collected: Collected::default(),
        }
    }

    /// An archive begins: the main one, or that of the tablespace with this oid.
    pub fn begin(&mut self, tablespace: Option<u32>) {
        self.prefix = tablespace.map(|oid| format!("pg_tblspc/{oid}/").into_bytes()).unwrap_or_default();
        self.parser = TarParser::default();
    }

    /// The next bytes of the archive.
    pub async fn push(&mut self, chunk: Bytes) -> Result<(), CollectError> {
        self.parser.push(chunk);
        while let Some(event) = self.parser.next_event()? {
            match event {
                TarEvent::Member(member) => self.member(member).await?,
                TarEvent::Data(bytes) => self.data(bytes).await?,
                TarEvent::FileEnd => self.file_end().await?,
            }
        }
        Ok(())
    }

    /// The archive ended: an error unless it is whole.
    pub fn end(&mut self) -> Result<(), CollectError> {
        Ok(std::mem::take(&mut self.parser).finish()?)
    }

    /// What has been taken so far.
    pub fn collected(&self) -> &Collected {
        &self.collected
    }

    /// How the files came. To be asked once, when all archives were taken.
    pub fn take_receipts(&mut self) -> Receipts {
        std::mem::take(&mut self.collected.receipts)
    }

    /// Stores a file that no archive has.
    pub async fn add_file(&mut self, member: Member, content: Bytes) -> Result<(), CollectError> {
        self.prefix.clear();
        self.member(member).await?;
        if !content.is_empty() {
            self.data(content).await?;
        }
        self.file_end().await
    }

    /// All archives were taken. The entries' extents number the packs of the base first, then the sink's.
    pub fn finish(self) -> (S, Base, Collected) {
        (self.packs.sink, self.base, self.collected)
    }

    /// A member begins: what follows, up to [`Self::file_end`], is a file's content.
    pub(super) async fn member(&mut self, member: Member) -> Result<(), CollectError> {
        let mut path = self.prefix.clone();
        path.extend_from_slice(&member.path);
        // The root of an archive: the data directory itself, or a tablespace, which restore makes anyway.
        if member.path.is_empty() && member.kind == MemberKind::Directory {
            return Ok(());
        }
        match member.kind {
            MemberKind::Link(_) => return Err(CollectError::Link(SafePath::new(path)?.to_string())),
            MemberKind::Directory => {
                let path = SafePath::new(path)?;
                self.collected.entries.push(&Entry::Directory { path, mode: member.mode })?;
                return Ok(());
            }
            MemberKind::File => {}
        }
        let mut file = self.open(path, member).await?;
        if self.data_checksums {
            file.check_pages(self.start);
        }
        self.file = Some(file);
        Ok(())
    }

    async fn open(&mut self, path: Vec<u8>, member: Member) -> Result<OpenFile, CollectError> {
        if let Base::Native(parent, limits) = &mut self.base {
            if path == b"backup_label" {
                return Ok(OpenFile::label(SafePath::new(path)?, member));
            }
            if let Some(path) = increment::original(&path) {
                let path = SafePath::new(path)?;
                let limit = std::str::from_utf8(path.as_bytes()).map_or(0, |path| limits.of(path));
                let of = parent.find(&path)?.ok_or_else(|| CollectError::Orphan(path.to_string()))?;
                return Ok(OpenFile::changed(path, member, of, limit));
            }
        }
        let path = SafePath::new(path)?;
        let parent = match self.base.parent_mut() {
            Some(parent) => parent.open(&path).await?,
            None => None,
        };
        Ok(OpenFile::whole(path, member, parent))
    }

    /// The next bytes of the file.
    pub(super) async fn data(&mut self, bytes: Bytes) -> Result<(), CollectError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let captured = match file.path().as_bytes() {
            b"backup_label" => Some(&mut self.collected.backup_label),
            b"global/pg_control" => Some(&mut self.collected.control),
            _ => None,
        };
        if let Some(captured) = captured {
            let room = CAPTURE_LIMIT.saturating_sub(captured.len());
            captured.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        file.data(bytes, &mut self.packs).await
    }

    /// The file has had all its bytes.
    pub(super) async fn file_end(&mut self) -> Result<(), CollectError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let Done { entry, suspects, sent, damaged } = file.finish(&mut self.packs).await?;
        let Entry::File { path, size, crc32c, .. } = &entry else { return Ok(()) };
        self.collected.size_bytes += size;
        if let Some(suspects) = suspects {
            self.collected.suspects.push(SuspectFile { path: path.clone(), suspects });
        }
        match sent {
            Some(Sent { path, size, crc32c }) => self.collected.receipts.add(&path, size, Some(crc32c)),
            None => self.collected.receipts.add(path.as_bytes(), *size, *crc32c),
        }
        let damaged = damaged.into_iter().map(|block| DamagedPage { path: path.clone(), block });
        self.collected.inherited_damage.extend(damaged);
        self.collected.entries.push(&entry)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crc_fast::CrcAlgorithm;
    use proptest::prelude::*;
    use proto::page::{self, BLOCK_SIZE};

    use super::super::tar::tests::{ended, file, header};
    use super::*;

    /// Packs of 10,000 bytes in memory.
    #[derive(Default)]
    struct Memory(Vec<u8>);

    const PACK: usize = 10_000;

    impl Sink for Memory {
        async fn append(&mut self, bytes: Bytes) -> repository::Result<Vec<Extent>> {
            let mut extents = Vec::new();
            let mut offset = 0;
            while offset < bytes.len() {
                let at = self.0.len();
                let length = (PACK - at % PACK).min(bytes.len() - offset);
                extents.push(Extent {
                    file_offset: offset as u64,
                    length: length as u64,
                    pack: (at / PACK) as u32,
                    pack_offset: (at % PACK) as u64,
                });
                self.0.extend_from_slice(&bytes[offset..offset + length]);
                offset += length;
            }
            Ok(extents)
        }

        fn begin_block(&mut self, length: usize, _: BlockDigest) {
            assert!((1..=BLOCK_SIZE).contains(&length));
        }
    }

    async fn collect(
        archives: &[(Option<u32>, Vec<u8>)],
        chunk: usize,
    ) -> Result<(Memory, Collected), CollectError> {
        let mut collector = Collector::new(Memory::default(), Base::Nothing, Lsn(0x1000), true);
        for (tablespace, archive) in archives {
            collector.begin(*tablespace);
            for piece in archive.chunks(chunk) {
                collector.push(Bytes::copy_from_slice(piece)).await?;
            }
            collector.end()?;
        }
        let (packs, _, collected) = collector.finish();
        Ok((packs, collected))
    }

    fn entries(collected: Collected) -> Vec<Entry> {
        collected.entries.sorted().unwrap().iter().unwrap().collect::<io::Result<_>>().unwrap()
    }

    fn content(packs: &Memory, extents: &[Extent]) -> Vec<u8> {
        let of = |e: &Extent| e.pack as usize * PACK + e.pack_offset as usize;
        extents.iter().flat_map(|e| packs.0[of(e)..][..e.length as usize].to_vec()).collect()
    }

    #[tokio::test]
    async fn paths_of_tablespaces_are_those_of_the_data_directory() {
        let mut space = header(b"PG_15_202209061/", b'5', b"", 0).to_vec();
        space.extend(file(b"PG_15_202209061/5/16400", b"rows"));
        let archives = [(Some(16385), ended(space)), (None, ended(file(b"backup_label", b"START WAL")))];
        let (_, collected) = collect(&archives, 700).await.unwrap();
        assert_eq!(collected.backup_label, b"START WAL");
        assert_eq!(collected.size_bytes, 13);
        let paths: Vec<String> = entries(collected).iter().map(|entry| entry.path().to_string()).collect();
        assert_eq!(
            paths,
            ["backup_label", "pg_tblspc/16385/PG_15_202209061", "pg_tblspc/16385/PG_15_202209061/5/16400"]
        );
    }

    #[tokio::test]
    async fn links_are_refused() {
        let archive = ended(header(b"pg_tblspc/16385", b'2', b"/srv", 0).to_vec());
        assert!(matches!(collect(&[(None, archive)], 512).await, Err(CollectError::Link(_))));
    }

    #[tokio::test]
    async fn a_broken_off_archive_is_an_error() {
        let mut archive = ended(file(b"PG_VERSION", b"15\n"));
        archive.truncate(archive.len() - 1);
        assert!(matches!(collect(&[(None, archive)], 512).await, Err(CollectError::Tar(_))));
    }

    #[tokio::test]
    async fn damaged_pages_of_relations_are_suspects() {
        // No checksum fits these bytes; their LSN is 0/1.
        let mut page = vec![7; page::BLOCK_SIZE];
        page[..8].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        let zeros = vec![0; page::BLOCK_SIZE];
        let relation = [zeros.clone(), page.clone(), zeros].concat();
        let mut archive = file(b"base/5/16384.1", &relation);
        archive.extend(file(b"base/5/PG_VERSION", &page));
        for chunk in [1, 600, 8192, 100_000] {
            let (_, collected) = collect(&[(None, ended(archive.clone()))], chunk).await.unwrap();
            assert_eq!(collected.suspects.len(), 1);
            assert_eq!(collected.suspects[0].path.to_string(), "base/5/16384.1");
            let suspects = Suspects { blocks: vec![1], count: 1, ..Suspects::default() };
            assert_eq!(collected.suspects[0].suspects, suspects);
        }
    }

    /// Text in place of a page claims to be newer than anything.
    #[tokio::test]
    async fn pages_that_were_overwritten_are_suspects_once_the_end_is_known() {
        let text: Vec<u8> = b"no page at all. ".iter().copied().cycle().take(page::BLOCK_SIZE).collect();
        let mut torn = vec![7; page::BLOCK_SIZE];
        torn[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0x20, 0, 0]);
        let relation = [torn, text].concat();
        let archive = ended(file(b"base/5/16384", &relation));
        let (_, collected) = collect(&[(None, archive)], 600).await.unwrap();
        let suspects = &collected.suspects[0].suspects;
        assert_eq!((suspects.count, suspects.newer.len()), (0, 2));
        assert_eq!(suspects.impossible(Lsn(0x3000)), (vec![1], 1));
        assert_eq!(suspects.impossible(Lsn(0x1FFF)), (vec![0, 1], 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn extents_lead_back_to_each_file(
            sizes in prop::collection::vec(prop_oneof![Just(0usize), 1..2000usize, 9_000..25_000usize], 1..8),
            chunk in 1usize..40_000,
        ) {
            let contents: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(n, size)| (0..*size).map(|i| (i * 7 + n) as u8).collect()).collect();
            let archive = contents.iter().enumerate()
                .flat_map(|(n, content)| file(format!("pg_xact/{n}").as_bytes(), content)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (packs, collected) = runtime.block_on(collect(&[(None, ended(archive))], chunk)).unwrap();
            prop_assert_eq!(collected.entries.len(), contents.len());
            for (entry, expected) in entries(collected).iter().zip(&contents) {
                let Entry::File { size, crc32c, extents, .. } = entry else { panic!("no file") };
                prop_assert_eq!(*size, expected.len() as u64);
                prop_assert_eq!(&content(&packs, extents), expected);
                prop_assert_eq!(*crc32c, Some(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, expected) as u32));
            }
        }
    }
}
