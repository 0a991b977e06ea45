use proptest::prelude::*;

use super::super::fixture::{Kind, SEGMENT, START, Wal, main_data, pages};
use super::*;

/// What is told of one record.
type Told = (Lsn, Lsn, u32, u8, Vec<u8>);

fn tell(record: Record<'_>) -> Told {
    (record.start, record.previous, record.xid, record.rmgr.0, record.content.to_vec())
}

/// All records, and the first error.
fn read(bytes: &[u8]) -> (Vec<Told>, Result<(), WalError>) {
    let (mut records, mut told) = (Records::default(), Vec::new());
    let all =
        pages(bytes).try_for_each(|(at, page)| records.read(page, at, |record| told.push(tell(record))));
    (told, all)
}

const HEAP: Kind = Kind { rmgr: 10, info: 0, xid: 700 };

fn put(wal: &mut Wal, kind: Kind, content: &[u8]) -> Told {
    let previous = wal.last;
    let start = wal.put(kind, content);
    (start, previous, kind.xid, kind.rmgr, content.to_vec())
}

proptest! {
    #[test]
    fn every_record_comes_as_it_was_written_wherever_pages_cut_it(
        records in proptest::collection::vec((0u8..22, any::<u32>(), 0usize..20_000, any::<u8>()), 0..12),
        keep in 0usize..40_000,
    ) {
        let mut wal = Wal::new();
        let mut expected = Vec::new();
        for (rmgr, xid, length, byte) in records {
            let info = if rmgr == 0 { 0x20 } else { 0 };
            expected.push(put(&mut wal, Kind { rmgr, info, xid }, &main_data(&vec![byte; length])));
        }
        prop_assert_eq!(read(&wal.bytes), (expected.clone(), Ok(())));
        // What is kept is a beginning of it.
        let (mut records, mut at) = (Records::new(keep), 0);
        for (address, page) in wal.pages() {
            let done = records.read(page, address, |record| {
                let (start, .., content) = &expected[at];
                assert_eq!(record.start, *start);
                assert!(content.starts_with(record.content));
                assert!(record.content.len() == content.len() || record.content.len() + RECORD_HEADER >= keep);
                at += 1;
            });
            prop_assert_eq!(done, Ok(()));
            prop_assert!(records.open.front.capacity() <= (keep.max(PAGE_SIZE) * 2).max(64));
        }
        prop_assert_eq!(at, expected.len());
    }

    #[test]
    fn a_changed_bit_is_told_and_later_records_are_found(
        lengths in proptest::collection::vec(1usize..9_000, 4..12), at: prop::sample::Index, bit in 0u8..8,
    ) {
        let mut wal = Wal::new();
        let expected: Vec<_> = lengths.iter().map(|length| put(&mut wal, HEAP, &main_data(&vec![7; *length]))).collect();
        let at = at.index(wal.bytes.len());
        wal.bytes[at] ^= 1 << bit;
        let (mut records, mut told, mut errors) = (Records::default(), Vec::new(), 0);
        for (address, page) in wal.pages() {
            let mut once = || records.read(page, address, |record| told.push(tell(record)));
            if once().is_err() {
                errors += 1;
                let _ = once();
            }
        }
        // Bytes that mean nothing can change unseen: what fills up to the next record, and parts of pages' headers.
        prop_assert!(told.iter().all(|record| expected.contains(record)));
        if errors == 0 {
            prop_assert_eq!(&told, &expected);
        }
        let page_of_damage = START + (at / PAGE_SIZE * PAGE_SIZE) as u64;
        // Whatever begins two pages behind it has nothing to do with it.
        let far = expected.iter().filter(|record| record.0 >= page_of_damage + 2 * PAGE_SIZE as u64);
        // But for the record that the damage itself lies in.
        let within = expected.iter().rfind(|record| record.0 <= START + at as u64).map(|record| record.0);
        for record in far.filter(|record| Some(record.0) != within) {
            prop_assert!(told.contains(record), "{} after damage at {}", record.0, START + at as u64);
        }
    }

    #[test]
    fn never_panics_on_any_bytes(mut page in proptest::collection::vec(any::<u8>(), 24..9000), fixed: bool) {
        if fixed {
            page[..2].copy_from_slice(&0xD118u16.to_le_bytes());
            page[2..16].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
            page[16..20].fill(0);
        }
        let _ = Records::default().read(&page, START, |record| drop(record.parts()));
    }
}

/// Every offset of a record relative to the end of a page, its header over two pages included.
#[test]
fn a_record_is_read_wherever_it_begins_on_a_page() {
    for room in (8..200).step_by(8) {
        for length in [0, 1, 60, 200, 8_192, 30_000] {
            let mut wal = Wal::new();
            let filler = PAGE_SIZE - wal.bytes.len() - RECORD_HEADER - 5 - room;
            let mut expected = vec![put(&mut wal, HEAP, &main_data(&vec![1; filler]))];
            assert_eq!(wal.bytes.len().next_multiple_of(8) % PAGE_SIZE, (PAGE_SIZE - room) / 8 * 8);
            expected.push(put(&mut wal, HEAP, &main_data(&vec![2; length])));
            expected.push(put(&mut wal, HEAP, &[]));
            assert_eq!(read(&wal.bytes), (expected, Ok(())), "{room} {length}");
        }
    }
}

#[test]
fn a_switch_ends_the_segment_and_the_next_one_goes_on() {
    let mut wal = Wal::new();
    let mut expected = vec![put(&mut wal, HEAP, &main_data(&[1; 100]))];
    let previous = wal.last;
    let switch = wal.switch();
    expected.push((switch, previous, 0, 0, Vec::new()));
    assert_eq!(wal.bytes.len(), SEGMENT);
    expected.push(put(&mut wal, HEAP, &main_data(&[2; 20_000])));
    assert_eq!(read(&wal.bytes), (expected, Ok(())));
    // Anything behind the switch is none of it.
    let behind = (switch.0 - START.0) as usize + RECORD_HEADER;
    let mut soon = wal.bytes.clone();
    soon[behind + 80] = 1;
    assert!(matches!(read(&soon).1, Err(WalError::Damaged { .. })));
    let mut page = wal.bytes.clone();
    page.copy_within(SEGMENT + PAGE_SIZE..SEGMENT + PAGE_SIZE + 100, PAGE_SIZE);
    page[PAGE_SIZE + 8..PAGE_SIZE + 16].copy_from_slice(&(START + PAGE_SIZE as u64).0.to_le_bytes());
    assert!(matches!(read(&page).1, Err(WalError::Damaged { .. })));
}

#[test]
fn a_record_that_a_crash_tore_is_given_up_where_the_page_says_so() {
    for pages in 0..3 {
        for said in [false, true] {
            let mut wal = Wal::new();
            let before = put(&mut wal, HEAP, &main_data(&[1; 100]));
            let torn = wal.put_until(HEAP, &main_data(&[2; 40_000]), pages);
            assert!(wal.bytes.len().is_multiple_of(PAGE_SIZE));
            wal.header(0, if said { 8 } else { 0 });
            // The server says so in the record, too; here any does.
            let after = put(&mut wal, HEAP, &main_data(&[3; 100]));
            let (told, all) = read(&wal.bytes);
            if said {
                assert_eq!((told, all), (vec![before, after], Ok(())));
            } else {
                assert_eq!(told, [before]);
                assert!(matches!(all, Err(WalError::Damaged { at, .. }) if at == torn), "{all:?}");
            }
        }
    }
}

#[test]
fn wal_that_ends_goes_on_nowhere() {
    let mut wal = Wal::new();
    let told = put(&mut wal, HEAP, &main_data(&[1; 100]));
    let end = wal.bytes.len();
    wal.bytes.resize(3 * PAGE_SIZE, 0);
    assert_eq!(read(&wal.bytes), (vec![told.clone()], Ok(())));
    wal.header(0, 0);
    let (found, all) = read(&wal.bytes);
    assert_eq!(found, [told]);
    let at = START + end.next_multiple_of(8) as u64;
    assert_eq!(all, Err(WalError::Damaged { at, why: "WAL ends there and goes on later" }));
}

#[test]
fn a_record_of_an_earlier_use_of_the_file_is_told() {
    let mut wal = Wal::new();
    put(&mut wal, HEAP, &main_data(&[1; 100]));
    wal.last = wal.last + 8;
    put(&mut wal, HEAP, &main_data(&[2; 100]));
    assert!(matches!(read(&wal.bytes).1, Err(WalError::Damaged { .. })));
}

#[test]
fn what_is_left_out_is_forgotten() {
    let mut wal = Wal::new();
    let mut expected = vec![put(&mut wal, HEAP, &main_data(&[1; 30_000]))];
    expected.push(put(&mut wal, HEAP, &main_data(&[2; 100])));
    let (mut records, mut told) = (Records::default(), Vec::new());
    for (at, page) in wal.pages().filter(|(at, _)| *at != START + 2 * PAGE_SIZE as u64) {
        records.read(page, at, |record| told.push(tell(record))).unwrap();
    }
    assert_eq!(told, expected[1..]);
}
