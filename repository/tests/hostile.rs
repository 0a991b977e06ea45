//! Bytes that somebody has made to do harm: they cost no more memory than what is honest, and end in an error.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::io::{BufReader, Cursor, Read};

use proto::SystemId;
use repository::manifest::Manifest;
use repository::sealed::{Encryption, HEADER_LENGTH, parse_header};
use repository::{
    Branch, BranchFacts, Error, Expected, Header, Key, Kind, Repository, SealWriter, Sealing, Store,
    UnsealReader, Unsealing, WriterId, unseal,
};

/// What memory may grow by. Each of these tests would take a gibibyte or more without a bound.
const BOUND: u64 = 200 << 20;

/// The most memory that this process has held so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn header() -> Header {
    Header {
        kind: Kind::Segment,
        name: "wal/x".into(),
        cluster: "main".parse().unwrap(),
        system_id: SystemId(7),
        timeline: None,
        from: None,
        to: None,
        server_time: None,
        ahead: 0,
        writer: WriterId::from_number(1),
        encryption: Encryption::None,
        recipients: None,
    }
}

fn expected(max_length: u64) -> Expected {
    Expected {
        key: Key::new("wal/x").unwrap(),
        kind: Kind::Segment,
        name: "wal/x".into(),
        cluster: "main".parse().unwrap(),
        system_id: SystemId(7),
        max_length,
    }
}

#[test]
fn a_decompression_bomb_is_given_up_at_the_bound() {
    let mut writer = SealWriter::new(Vec::new(), &header(), &Sealing::plain(1)).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        writer.write_raw(&zeros).unwrap();
    }
    let (bomb, sealed) = writer.finish().unwrap();
    assert!(sealed.raw_length == 1 << 30 && bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let before = peak();
    let error = unseal(&bomb, &expected(16 << 20), &Unsealing::none()).unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    assert!(peak() - before < BOUND, "{} bytes were taken", peak() - before);
}

#[test]
fn a_frame_that_asks_for_a_large_window_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, b"content").unwrap();
    let frame = encoder.finish().unwrap();
    let mut writer = SealWriter::new(Vec::new(), &header(), &Sealing::plain(1)).unwrap();
    writer.append_frame(&frame, b"content").unwrap();
    let (object, _) = writer.finish().unwrap();
    let before = peak();
    let mut content = Vec::new();
    let mut reader = UnsealReader::new(&object[..], &expected(100), &Unsealing::none()).unwrap();
    assert!(reader.read_to_end(&mut content).is_err());
    assert!(peak() - before < BOUND, "{} bytes were taken", peak() - before);
}

#[test]
fn json_without_a_bottom_overflows_nothing() {
    let deep = |length: usize| [br#"{"label":"#.as_slice(), &vec![b'['; length]].concat();
    // A header, which has no room for more.
    let mut front = [[0x57, 0x2a, 0x4d, 0x18, 0xf8, 3, 0, 0].as_slice(), &deep(1006)].concat();
    front.push(b'\n');
    assert_eq!(front.len(), HEADER_LENGTH);
    assert!(matches!(parse_header(&front, &expected(0)), Err(Error::Corrupt { .. })));
    // The first line of a manifest, which may have 16 MiB.
    let mut line = deep(15 << 20);
    line.push(b'\n');
    assert!(Manifest::read(Cursor::new(line)).is_err());
}

#[test]
fn a_manifest_that_never_ends_a_line_is_given_up() {
    let before = peak();
    for front in [&b""[..], b"{"] {
        let endless = front.chain(std::io::repeat(b'x').take(1 << 30));
        assert!(Manifest::read(BufReader::new(endless)).is_err());
    }
    assert!(peak() - before < BOUND, "{} bytes were taken", peak() - before);
}

async fn branch(folder: &std::path::Path, sealing: Sealing, unsealing: Unsealing) -> Branch {
    let url = format!("file://{}", folder.display());
    let store = Store::create(&url, &Default::default()).unwrap();
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, sealing, unsealing).await.unwrap();
    let facts = BranchFacts { segment_size: proto::wal::SegmentSize::DEFAULT, server_version: 150_018 };
    repository.begin_branch(&"main".parse().unwrap(), SystemId(7), facts).await.unwrap()
}

/// Whoever has a signing key may be hostile, too.
#[tokio::test]
async fn a_statement_without_a_bottom_is_told_and_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let signer = repository::Signer::generate().unwrap();
    let trusting = Unsealing::none().trusting(vec![signer.public_key()]);
    let branch = branch(folder.path(), Sealing::plain(1).signed_by(signer), trusting).await;
    let name = Key::root().child("statement").child("00000009-0000000000000000");
    let deep = vec![b'['; 1 << 20];
    branch.put_sealed(branch.header(Kind::Statement, &name), deep.into()).await.unwrap();
    let stated = branch.state(None).await.unwrap().unwrap();
    assert_eq!(stated.number, 2, "it is no statement");
    let inventory = repository::catalogue::Inventory::load(&branch).await.unwrap();
    let examined = branch.examine_statements(&inventory, jiff::Timestamp::now()).await.unwrap();
    let told = format!("{examined:?}");
    assert!(told.contains("Unusable"), "{told}");
}
