//! Sealed objects: what goes in comes out, by our reader and by the programs `zstd` and `age`.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use object_store::memory::InMemory;
use proptest::prelude::*;
use proto::{Lsn, ServerTime, SystemId, TimelineId};
use repository::sealed::{Audience, Encryption, HEADER_LENGTH, from_io};
use repository::{
    ContentReader, Error, Expected, Header, Key, Kind, SealWriter, Sealing, Store, UnsealReader, Unsealing,
    WriterId, seal, unseal,
};

const NAME: &str = "wal/00000001/00000000/000000010000000000000003-0123";

/// The secret half of the golden files' recipient. It guards nothing.
const IDENTITY: &str = "AGE-SECRET-KEY-1GZQSKXAT0GDK92QDLXPP6TH80QZ3EPRDJKU6HXKQ92905J2EZX6QMYU6YA";

fn header(kind: Kind) -> Header {
    Header {
        kind,
        name: NAME.into(),
        cluster: "main".parse().unwrap(),
        system_id: SystemId(7_312_345_678_901_234_567),
        timeline: Some(TimelineId::FIRST),
        from: Some(Lsn(0x300_0000)),
        to: Some(Lsn(0x400_0000)),
        server_time: Some(ServerTime::from_unix_micros(1_800_000_000_000_001)),
        ahead: 0,
        writer: WriterId::from_number(0x00c0_ffee_00c0_ffee),
        encryption: Encryption::None,
        recipients: None,
    }
}

fn expected(kind: Kind, max_length: u64) -> Expected {
    let header = header(kind);
    Expected {
        key: Key::new("main/7312345678901234567").unwrap().join(&Key::new(NAME).unwrap()),
        kind,
        name: header.name,
        cluster: header.cluster,
        system_id: header.system_id,
        max_length,
    }
}

fn both() -> [(Sealing, Unsealing); 2] {
    [(Sealing::plain(1), Unsealing::none()), repository::conformance::encrypted()]
}

/// Some of it compresses, some does not.
fn content(length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"content");
    hasher.finalize_xof().fill(&mut content[length / 3..]);
    content
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_goes_in_comes_out(
        content: Vec<u8>,
        repeat in 0..2000usize,
        level in 1..=9,
        piece in 1..100_000usize,
    ) {
        let content = content.repeat(repeat);
        for (plain, (sealing, unsealing)) in both().into_iter().enumerate() {
            let sealing = if plain == 0 { Sealing::plain(level) } else { sealing };
            let mut writer = SealWriter::new(Vec::new(), &header(Kind::Segment), &sealing).unwrap();
            content.chunks(piece).for_each(|piece| writer.write_raw(piece).unwrap());
            let (object, sealed) = writer.finish().unwrap();
            prop_assert_eq!(sealed.raw_length, content.len() as u64);
            let expected = expected(Kind::Segment, content.len() as u64);
            let (read, back) = unseal(&object, &expected, &unsealing).unwrap();
            prop_assert!(back == content);
            let read = Header { encryption: Encryption::None, recipients: None, ..read };
            prop_assert_eq!(read, header(Kind::Segment));
        }
    }

    #[test]
    fn nothing_makes_the_reader_panic(
        noise: Vec<u8>,
        cut in 0..3000usize,
        flip in 0..3000usize,
        bit in 0..8u32,
    ) {
        for (sealing, unsealing) in both() {
            let content = content(2000);
            let object = seal(&header(Kind::Segment), &content, &sealing).unwrap();
            let mut damaged = object[..cut.min(object.len())].to_vec();
            if let Some(byte) = damaged.get_mut(flip) {
                *byte ^= 1 << bit;
            }
            damaged.extend_from_slice(&noise);
            let _ = unseal(&noise, &expected(Kind::Segment, 5000), &unsealing);
            if let Ok((_, read)) = unseal(&damaged, &expected(Kind::Segment, 5000), &unsealing) {
                prop_assert!(read == content);
            }
        }
    }
}

#[test]
fn frames_that_were_made_elsewhere_are_one_content() {
    for (sealing, unsealing) in both() {
        let content = content(300_000);
        let mut writer = SealWriter::new(Vec::new(), &header(Kind::Pack), &sealing).unwrap();
        let mut offsets = Vec::new();
        for frame in content.chunks(100_000) {
            offsets.push(writer.position().unwrap());
            writer.append_frame(&zstd::bulk::compress(frame, 1).unwrap(), frame).unwrap();
        }
        offsets.push(writer.position().unwrap());
        writer.append_index(b"where is what").unwrap();
        let (object, sealed) = writer.finish().unwrap();
        assert_eq!(offsets[0], 0);
        assert_eq!(sealed.clear_length, offsets[3] + 8 + 13 + HEADER_LENGTH as u64);
        let (_, read) = unseal(&object, &expected(Kind::Pack, 300_000), &unsealing).unwrap();
        assert!(read == content);
    }
}

#[test]
fn a_content_longer_than_expected_never_gets_into_memory() {
    for (sealing, unsealing) in both() {
        let object = seal(&header(Kind::Manifest), &vec![0; 50 << 20], &sealing).unwrap();
        assert!(object.len() < 100_000);
        let mut reader =
            UnsealReader::new(&object[..], &expected(Kind::Manifest, 1 << 20), &unsealing).unwrap();
        let mut read = Vec::new();
        let error = from_io("x", reader.read_to_end(&mut read).unwrap_err());
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(read.len() <= (1 << 20) + (256 << 10), "{} bytes were read", read.len());
    }
}

#[test]
fn an_object_in_another_s_place_is_refused() {
    let object = seal(&header(Kind::Segment), b"content", &Sealing::plain(1)).unwrap();
    let right = expected(Kind::Segment, 7);
    let wrong = [
        Expected { kind: Kind::Fragment, ..right.clone() },
        Expected { name: "wal/other".into(), ..right.clone() },
        Expected { cluster: "other".parse().unwrap(), ..right.clone() },
        Expected { system_id: SystemId(1), ..right.clone() },
    ];
    unseal(&object, &right, &Unsealing::none()).unwrap();
    for wrong in wrong {
        let error = unseal(&object, &wrong, &Unsealing::none()).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { key, .. } if *key == right.key.as_str()), "{error}");
    }
}

#[test]
fn a_forged_clear_header_is_noticed() {
    let (sealing, unsealing) = repository::conformance::encrypted();
    let object = seal(&header(Kind::Segment), b"content", &sealing).unwrap();
    let front = String::from_utf8_lossy(&object[8..HEADER_LENGTH]).replace("0/3000000", "0/5000000");
    let forged = [&object[..8], front.as_bytes(), &object[HEADER_LENGTH..]].concat();
    let error = unseal(&forged, &expected(Kind::Segment, 7), &unsealing).unwrap_err();
    assert!(error.to_string().contains("contradicts"), "{error}");
}

#[test]
fn each_kind_is_readable_by_its_audience_alone() {
    let [owner, metadata] = [Identity::generate(), Identity::generate()];
    let sealing = Sealing::to(1, &[owner.to_public()], &[metadata.to_public()]);
    let (owner, metadata) = (Unsealing::with(vec![owner]), Unsealing::with(vec![metadata]));
    for kind in [Kind::Branch, Kind::History, Kind::Manifest, Kind::Intent, Kind::Segment, Kind::Pack] {
        let object = seal(&header(kind), b"the content in clear", &sealing).unwrap();
        let open = |unsealing| unseal(&object, &expected(kind, 20), unsealing);
        let hidden = !object.windows(20).any(|window| window == b"the content in clear");
        assert!(open(&owner).is_ok());
        assert_eq!(open(&metadata).is_ok(), kind.audience() != Audience::Content, "{kind}");
        assert_eq!(open(&Unsealing::none()).is_ok(), kind.audience() == Audience::Everyone, "{kind}");
        assert_eq!(hidden, kind.audience() != Audience::Everyone, "{kind}");
    }
}

#[tokio::test]
async fn ranges_are_those_of_the_clear_content() {
    const CHUNK: usize = 64 << 10;
    let store = Store::over(Arc::new(InMemory::new()), "memory://");
    for (sealing, unsealing) in both() {
        // The last chunk full, one byte, all but one byte; a single chunk; many recipients' worth of header.
        for clear_length in [4 * CHUNK, 4 * CHUNK + 1, 4 * CHUNK - 1, 5000, CHUNK] {
            let payload = content(clear_length - HEADER_LENGTH - 8);
            let mut writer = SealWriter::new(Vec::new(), &header(Kind::Pack), &sealing).unwrap();
            writer.append_index(&payload).unwrap();
            let (object, sealed) = writer.finish().unwrap();
            assert_eq!(sealed.clear_length, clear_length as u64);
            let expected = expected(Kind::Pack, 0);
            store.put(&expected.key, object.into()).await.unwrap();
            let reader = ContentReader::open(&store, &expected, &unsealing).await.unwrap();
            assert_eq!(reader.header().name, NAME);
            let whole = reader.read(0..clear_length as u64).await.unwrap();
            assert!(whole[8..8 + payload.len()] == payload);
            let edges =
                [0, 1, 4999, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 4 * CHUNK - 1, 4 * CHUNK, clear_length];
            for from in edges {
                for to in edges.into_iter().filter(|to| (from..=clear_length).contains(to)) {
                    let read = reader.read(from as u64..to as u64).await.unwrap();
                    assert!(read == whole[from..to], "{from}..{to} of {clear_length}");
                }
            }
            for range in [0..clear_length as u64 + 1, 1 << 40..(1 << 40) + 1, u64::MAX - 5..u64::MAX] {
                assert!(matches!(reader.read(range).await, Err(Error::Corrupt { .. })));
            }
        }
    }
}

#[tokio::test]
async fn ranges_are_authenticated_and_locked() {
    let store = Store::over(Arc::new(InMemory::new()), "memory://");
    let identities: Vec<Identity> = (0..60).map(|_| Identity::generate()).collect();
    let recipients: Vec<_> = identities.iter().map(Identity::to_public).collect();
    let sealing = Sealing::to(1, &recipients, &[]);
    let object = seal(&header(Kind::Pack), &content(500_000), &sealing).unwrap();
    let expected = expected(Kind::Pack, 0);
    store.put(&expected.key, object.clone()).await.unwrap();
    let unsealing = Unsealing::with(vec![identities[50].clone()]);
    let reader = ContentReader::open(&store, &expected, &unsealing).await.unwrap();
    reader.read(100_000..200_000).await.unwrap();
    for closed in [Unsealing::none(), repository::conformance::encrypted().1] {
        let error = ContentReader::open(&store, &expected, &closed).await.err().unwrap();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
    }
    let mut damaged = object.to_vec();
    let place = damaged.len() - 150_000;
    damaged[place] ^= 1;
    store.put(&expected.key, damaged.into()).await.unwrap();
    let error = reader.read(0..300_000).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sealed").join(name)
}

/// The format is a promise: what was written once is read for ever. The files are made anew by
/// `WALKEEP_GOLDEN=write`, and that only with a new version of the format.
#[test]
fn the_golden_files_are_read_as_ever() {
    let identity: Identity = IDENTITY.parse().unwrap();
    let sealing = Sealing::to(1, &[identity.to_public()], &[]);
    let content = content(5000);
    let plain = seal(&header(Kind::Segment), &content, &Sealing::plain(1)).unwrap();
    if std::env::var("WALKEEP_GOLDEN").is_ok_and(|value| value == "write") {
        fs::create_dir_all(golden("")).unwrap();
        let encrypted = seal(&header(Kind::Segment), &content, &sealing).unwrap();
        fs::write(golden("segment.zst"), &plain).unwrap();
        fs::write(golden("segment.zst.age"), encrypted).unwrap();
        fs::write(golden("segment.content"), &content).unwrap();
    }
    assert!(fs::read(golden("segment.content")).unwrap() == content);
    let unsealing = Unsealing::with(vec![identity]);
    for (name, encryption) in [("segment.zst", Encryption::None), ("segment.zst.age", Encryption::Age)] {
        let object = fs::read(golden(name)).unwrap();
        let (read, back) = unseal(&object, &expected(Kind::Segment, 5000), &unsealing).unwrap();
        // Who reads it was not written down at first.
        assert_eq!(read, Header { encryption, ..header(Kind::Segment) }, "{name}");
        assert!(back == content, "{name}");
    }
    // Compressed bytes may differ between versions of zstd; the headers may not.
    let stored = fs::read(golden("segment.zst")).unwrap();
    assert_eq!(stored[..HEADER_LENGTH], plain[..HEADER_LENGTH]);
    assert_eq!(stored[stored.len() - HEADER_LENGTH..], plain[plain.len() - HEADER_LENGTH..]);
}

/// Runs a program on `input` and returns what it prints; `None` where it is not installed.
fn pipe(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let spawned = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: the program {program} is not installed");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", output.status);
    Some(output.stdout)
}

#[test]
fn the_program_zstd_opens_a_plain_object() {
    let mut writer = SealWriter::new(Vec::new(), &header(Kind::Pack), &Sealing::plain(3)).unwrap();
    let content = content(3_000_000);
    for frame in content.chunks(1 << 20) {
        writer.append_frame(&zstd::bulk::compress(frame, 1).unwrap(), frame).unwrap();
    }
    writer.append_index(&[7; 1000]).unwrap();
    let pack = writer.finish().unwrap().0;
    let golden = fs::read(golden("segment.zst")).unwrap();
    let empty = seal(&header(Kind::Segment), b"", &Sealing::plain(1)).unwrap();
    for (object, content) in [(pack, &content[..]), (golden, &self::content(5000)), (empty.to_vec(), b"")] {
        let Some(printed) = pipe("zstd", &["-d", "-c"], &object) else { return };
        assert!(printed == content);
    }
}

#[test]
fn the_programs_age_and_zstd_open_an_encrypted_object() {
    let folder = tempfile::tempdir().unwrap();
    let identity_file = folder.path().join("identity.txt");
    let identity: Identity = IDENTITY.parse().unwrap();
    fs::write(&identity_file, format!("{}\n", identity.to_string().expose_secret())).unwrap();
    let content = content(3_000_000);
    let fresh =
        seal(&header(Kind::Segment), &content, &Sealing::to(1, &[identity.to_public()], &[])).unwrap();
    let golden = fs::read(golden("segment.zst.age")).unwrap();
    for (object, content) in [(fresh.to_vec(), &content[..]), (golden, &self::content(5000))] {
        // What `tail -c +1025` leaves.
        let identity_file = identity_file.to_str().unwrap();
        let Some(opened) = pipe("age", &["-d", "-i", identity_file], &object[HEADER_LENGTH..]) else {
            return;
        };
        let Some(printed) = pipe("zstd", &["-d", "-c"], &opened) else { return };
        assert!(printed == content);
    }
}
