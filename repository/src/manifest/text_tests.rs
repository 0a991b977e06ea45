use std::io::BufReader;

use proptest::prelude::*;
use proto::wal::SegmentSize;
use proto::{Digest, Lsn, SystemId, TimelineId};

use super::*;
use crate::backup::{BackupKind, BackupLabel};
use crate::pack::PackName;

pub(crate) fn head() -> ManifestHead {
    let label: BackupLabel = "20261124T013015Z-full-1a2b3c".parse().unwrap();
    ManifestHead {
        format: MANIFEST_FORMAT,
        started_at: label.started(),
        finished_at: label.started(),
        label,
        kind: BackupKind::Full,
        parent: None,
        cluster: "main".parse().unwrap(),
        system_id: SystemId(7_123_456_789_012_345_678),
        server_version: 150_018,
        segment_size: SegmentSize::DEFAULT,
        data_checksums: true,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(0x200_0028),
        checkpoint_lsn: Lsn(0x200_0060),
        stop_timeline: TimelineId::FIRST,
        stop_lsn: Lsn(0x200_0100),
        from_standby: false,
        label_note: Some("before\tthe \"upgrade\"\n".into()),
        size_bytes: 3,
        stored_bytes: 1200,
        tablespaces: vec![Tablespace { oid: 16384, location: RawBytes(b"/srv/a b\xFF".to_vec()) }],
        wal_ranges: vec![WalRange {
            timeline: TimelineId::FIRST,
            start_lsn: Lsn(0x200_0028),
            end_lsn: Lsn(0x200_0100),
        }],
        server_manifest: None,
        damaged_page_count: 0,
        damaged_pages: Vec::new(),
        external_config: Vec::new(),
        controls: Controls::default(),
    }
}

pub(crate) fn pack(number: u32, raw_length: u64) -> PackEntry {
    PackEntry {
        name: PackName::new("20261124T013015Z-full-1a2b3c".parse().unwrap(), number, 0xFEED),
        stored_length: 5000,
        raw_length,
        index_offset: 4000,
        index_digest: Digest::of(&number.to_le_bytes()),
    }
}

fn file(path: &[u8], size: u64, extents: Vec<Extent>) -> Entry {
    let path = SafePath::new(path).unwrap();
    Entry::File { path, size, mode: 0o600, mtime: -1, crc32c: Some(0xABCD), extents }
}

fn run(file_offset: u64, length: u64, pack: u32, pack_offset: u64) -> Extent {
    Extent { file_offset, length, pack, pack_offset }
}

fn read(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::read(text.as_bytes())
}

/// A head, one pack of 1,000 raw bytes, and these lines.
fn with_lines(lines: &str) -> Result<Manifest, ManifestError> {
    let manifest = Manifest { head: head(), packs: vec![pack(0, 1000)], entries: vec![] };
    let text = String::from_utf8(manifest.write(Vec::new()).unwrap()).unwrap();
    read(&(text + lines))
}

#[test]
fn reads_like_the_manual() {
    let manifest = Manifest {
        head: head(),
        packs: vec![pack(0, 1000), pack(1, 70)],
        entries: vec![
            file(b"base/5/1 \xFF", 9000, vec![run(0, 1000, 0, 0), run(8192, 50, 1, 20)]),
            Entry::Directory { path: SafePath::new("base").unwrap(), mode: 0o2700 },
            Entry::File {
                path: SafePath::new("PG_VERSION").unwrap(),
                size: 0,
                mode: 0o640,
                mtime: 1_795_483_815,
                crc32c: None,
                extents: vec![],
            },
        ],
    };
    let text = String::from_utf8(manifest.write(Vec::new()).unwrap()).unwrap();
    let (head_line, rest) = text.split_once('\n').unwrap();
    assert!(head_line.starts_with(r#"{"format":1,"label":"20261124T013015Z-full-1a2b3c","kind":"full""#));
    let expected = "\
P\t20261124T013015Z-full-1a2b3c/00000000-000000000000feed\t5000\t1000\t4000\tDIGEST0
P\t20261124T013015Z-full-1a2b3c/00000001-000000000000feed\t5000\t70\t4000\tDIGEST1
F\tPG_VERSION\t0\t0640\t1795483815\t-
D\tbase\t2700
F\tbase/5/1%20%FF\t9000\t0600\t-1\t0000abcd
E\t0\t1000\t0\t0
E\t8192\t50\t1\t20
"
    .replace("DIGEST0", &pack(0, 0).index_digest.to_string())
    .replace("DIGEST1", &pack(1, 0).index_digest.to_string());
    assert_eq!(rest, expected);

    let mut sorted = manifest;
    sorted.entries.sort_by(|a, b| a.path().cmp(b.path()));
    assert_eq!(read(&text).unwrap(), sorted);
    assert_eq!(ManifestReader::head_only(text.as_bytes()).unwrap(), sorted.head);
}

#[test]
fn refuses_what_deviates() {
    let fine = "F\ta\t10\t0600\t0\t-\nE\t0\t10\t0\t990\n";
    assert!(with_lines(fine).is_ok());
    for (lines, why) in [
        ("F\t../a\t0\t0600\t0\t-\n", "below the data directory"),
        ("F\t/etc/passwd\t0\t0600\t0\t-\n", "absolute"),
        ("F\ta%2Fb\t0\t0600\t0\t-\n", "percent-encoded"),
        ("D\ta//b\t0700\n", "empty part"),
        ("F\tb\t0\t0600\t0\t-\nF\ta\t0\t0600\t0\t-\n", "order of bytes"),
        ("F\ta\t0\t0600\t0\t-\nD\ta\t0700\n", "order of bytes"),
        ("F\ta\t0\t0600\t0\n", "missing"),
        ("F\ta\t0\t0600\t0\t-\tx\n", "more fields"),
        ("F\ta\t00\t0600\t0\t-\n", "not a number"),
        ("F\ta\t+1\t0600\t0\t-\n", "not a number"),
        ("F\ta\t18446744073709551616\t0600\t0\t-\n", "not a number"),
        ("F\ta\t0\t600\t0\t-\n", "octal"),
        ("F\ta\t0\t10000\t0\t-\n", "permission bits"),
        ("F\ta\t0\t0600\t0\tABCDEF01\n", "checksum"),
        ("F\ta\t10\t0600\t0\t-\nE\t0\t11\t0\t0\n", "end of the file"),
        ("F\ta\t10\t0600\t0\t-\nE\t0\t10\t0\t991\n", "end of its pack"),
        ("F\ta\t10\t0600\t0\t-\nE\t0\t10\t1\t0\n", "does not name"),
        ("F\ta\t10\t0600\t0\t-\nE\t0\t0\t0\t0\n", "is empty"),
        ("F\ta\t10\t0600\t0\t-\nE\t0\t6\t0\t0\nE\t5\t5\t0\t0\n", "end of the one before"),
        ("F\ta\t10\t0600\t0\t-\nE\t18446744073709551615\t5\t0\t0\n", "end of the file"),
        ("F\ta\t10\t0600\t0\t-\nE\t0\t5\t0\t18446744073709551615\n", "end of its pack"),
        ("D\ta\t0700\nE\t0\t1\t0\t0\n", "does not follow a file"),
        ("D\ta\t0700\nP\tx\n", "after the first"),
        ("X\ta\n", "newer walkeep"),
        ("\n", "newer walkeep"),
        ("D\ta\t0700", "cut off"),
        ("D\ta\t0700\r\n", "octal"),
    ] {
        let error = with_lines(lines).expect_err(lines).to_string();
        assert!(error.contains(why), "{lines:?}: {error}");
    }
}

#[test]
fn refuses_endless_lines_without_reading_them() {
    let endless = BufReader::new(std::io::repeat(b'x'));
    assert!(Manifest::read(endless).unwrap_err().to_string().contains("too long"));
}

#[test]
fn a_newer_format_is_told_as_such() {
    let error = read("{\"format\":2,\"everything\":\"else is new\"}\n").unwrap_err();
    assert!(matches!(error, ManifestError::Format { found: 2 }), "{error}");
    assert!(matches!(read("{}\n").unwrap_err(), ManifestError::Line { line: 1, .. }));
    assert!(matches!(read("").unwrap_err(), ManifestError::Line { line: 1, .. }));
}

#[test]
fn unknown_keys_of_the_head_are_ignored() {
    let text = serde_json::to_string(&head()).unwrap().replacen('{', r#"{"hue":"blue","#, 1);
    assert_eq!(read(&(text + "\n")).unwrap().head, head());
}

#[test]
fn writes_nothing_that_it_would_not_read() {
    let write = |entries: Vec<Entry>| {
        Manifest { head: head(), packs: vec![pack(0, 1000)], entries }.write(Vec::new())
    };
    assert!(write(vec![file(b"a", 5, vec![run(0, 5, 0, 995)])]).is_ok());
    assert!(write(vec![file(b"a", 5, vec![run(0, 5, 0, 996)])]).is_err());
    assert!(write(vec![file(b"a", 5, vec![run(0, 5, 1, 0)])]).is_err());
    assert!(write(vec![file(b"a", 0, vec![]), file(b"a", 0, vec![])]).is_err());
}

#[test]
fn damage_is_listed_up_to_a_bound_and_counted_beyond() {
    let mut head = head();
    let paths = [SafePath::new("base/5/1").unwrap(), SafePath::new("base/5/2").unwrap()];
    for block in 0..1500 {
        head.record_damage(&paths[usize::from(block >= 700)], block);
    }
    let listed: Vec<usize> = head.damaged_pages.iter().map(|file| file.blocks.len()).collect();
    assert_eq!((head.damaged_page_count, listed), (1500, vec![700, 300]));
}

prop_compose! {
    fn any_path()(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..8), 1..4)) -> Option<SafePath> {
        SafePath::new(parts.join(&b'/')).ok()
    }
}

fn any_extents() -> impl Strategy<Value = Vec<Extent>> {
    proptest::collection::vec((0u64..1 << 40, 1u64..1 << 20, 0u32..2, 0u64..1 << 20), 0..5).prop_map(|runs| {
        let mut end = 0;
        runs.into_iter()
            .map(|(hole, length, pack, pack_offset)| {
                let extent = run(end + hole, length, pack, pack_offset);
                end += hole + length;
                extent
            })
            .collect()
    })
}

prop_compose! {
    fn any_entry()(
        path in any_path(), extents in any_extents(), more in 0u64..1000, mode in 0u32..0o10000, mtime: i64,
        crc32c: Option<u32>, directory: bool,
    ) -> Option<Entry> {
        let size = extents.last().and_then(Extent::file_end).unwrap_or(0) + more;
        path.map(|path| match directory {
            true => Entry::Directory { path, mode },
            false => Entry::File { path, size, mode, mtime, crc32c, extents },
        })
    }
}

/// In the order of their paths, each of which comes once.
pub(crate) fn entries() -> impl Strategy<Value = Vec<Entry>> {
    proptest::collection::vec(any_entry(), 0..8).prop_map(|entries| {
        let mut entries: Vec<Entry> = entries.into_iter().flatten().collect();
        entries.sort_by(|a, b| a.path().cmp(b.path()));
        entries.dedup_by(|a, b| a.path() == b.path());
        entries
    })
}

proptest! {
    #[test]
    fn survives_a_round_trip(entries in entries(), note: Option<String>) {
        let head = ManifestHead { label_note: note, ..head() };
        let manifest = Manifest { head, packs: vec![pack(0, 1 << 30), pack(1, 1 << 30)], entries };
        let text = manifest.write(Vec::new()).unwrap();
        prop_assert_eq!(Manifest::read(text.as_slice()).unwrap(), manifest);
    }

    #[test]
    fn never_panics_on_odd_lines(lines in "([PDFEX]\t([a-z%/.]{0,4}|-?[0-9]{0,21})(\t[0-9-]{0,21}){0,5}\n){0,6}") {
        if let Ok(manifest) = with_lines(&lines) {
            let text = manifest.write(Vec::new()).unwrap();
            prop_assert!(text.ends_with(lines.as_bytes()));
        }
    }

    #[test]
    fn never_panics_on_any_bytes(bytes: Vec<u8>) {
        let _ = Manifest::read(bytes.as_slice());
    }
}

#[test]
fn packs_that_nothing_refers_to_leave_the_list() {
    let entries = vec![
        file(b"a", 30, vec![run(0, 10, 3, 5), run(10, 10, 1, 0)]),
        file(b"b", 10, vec![run(0, 10, 1, 10)]),
        file(b"c", 10, vec![]),
    ];
    let packs: Vec<PackEntry> = (0..5).map(|number| pack(number, 1000)).collect();
    let mut manifest = Manifest { head: head(), packs, entries };
    manifest.drop_unused_packs();
    assert_eq!(manifest.packs, [pack(1, 1000), pack(3, 1000)]);
    let numbers: Vec<u32> = extents(&mut manifest.entries).map(|extent| extent.pack).collect();
    assert_eq!(numbers, [1, 0, 0]);
    manifest.drop_unused_packs();
    assert_eq!(manifest.packs.len(), 2);
}
