//! Data pages: their checksums, and which files consist of them.

use crate::Lsn;
use crate::bytes::{u16_at, u32_at};

/// Bytes in a data page. Another size needs another build of PostgreSQL; pg_control tells.
pub const BLOCK_SIZE: usize = 8192;

/// What a look at one page found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageVerdict {
    /// As its writer left it.
    Ok,
    /// All zeros: added to the relation, never used. Valid.
    New,
    /// Written after the backup's start, perhaps torn: replay mends it, its checksum tells nothing.
    NewerThanStart,
    /// Damaged.
    BadChecksum {
        /// Computed from the content.
        expected: u16,
        /// In the page.
        found: u16,
    },
    /// Damaged in a way that shows without a checksum.
    BadHeader,
}

/// Sums that are computed side by side, each over every 32nd word: one instruction does several of them.
const SUMS: usize = 32;
/// Multiplier of the FNV-1a hash.
const PRIME: u32 = 16_777_619;
/// Where each sum begins: numbers that PostgreSQL once drew at random.
const SEEDS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];
/// Where the checksum itself lies; it counts as zero.
const CHECKSUM_AT: usize = 8;

/// The checksum of `page` as block `block` of its relation (counted through all its segments).
///
/// PostgreSQL's variant of FNV-1a: each word is mixed into one of 32 sums as `x = sum ^ word`,
/// `sum = (x * prime) ^ (x >> 17)`; two rounds of zeros follow; the sums and the block's number are xored and
/// folded to 1…65535.
///
/// Never panics; a page of another length than [`BLOCK_SIZE`] gives a meaningless number.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    const ROW: usize = 4 * SUMS;
    let mix = |sum: u32, word: u32| {
        let mixed = sum ^ word;
        mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
    };
    let mut sums = SEEDS;
    let mut add_row = |row: &[u8; ROW]| {
        for (sum, word) in sums.iter_mut().zip(row.as_chunks::<4>().0) {
            *sum = mix(*sum, u32::from_le_bytes(*word));
        }
    };
    let (rows, _) = page.as_chunks::<ROW>();
    if let Some((first, rest)) = rows.split_first() {
        let mut first = *first;
        first[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
        add_row(&first);
        rest.iter().for_each(&mut add_row);
    }
    add_row(&[0; ROW]);
    add_row(&[0; ROW]);
    let folded = sums.iter().fold(block, |all, sum| all ^ sum);
    // 0 would mean that there is none. The remainder is below 65535.
    (folded % 65_535) as u16 + 1
}

/// Judges one page. `start`: the backup's start, from which on replay mends torn pages.
///
/// `checksums`: whether the cluster has them. Without them only the header's own consistency is looked at.
pub fn check(page: &[u8], block: u32, checksums: bool, start: Lsn) -> PageVerdict {
    let Some(header) = Header::of(page) else { return PageVerdict::BadHeader };
    // A used page always has an upper bound; the rest of the zeros need no look then.
    if header.upper == 0 && page.iter().all(|byte| *byte == 0) {
        return PageVerdict::New;
    }
    if header.lsn >= start {
        return PageVerdict::NewerThanStart;
    }
    if checksums {
        let expected = checksum(page, block);
        if expected != header.checksum {
            return PageVerdict::BadChecksum { expected, found: header.checksum };
        }
    }
    if header.is_consistent() { PageVerdict::Ok } else { PageVerdict::BadHeader }
}

/// Judges a page out of a backup that began at `start` and ended at `stop`, of a cluster with checksums.
///
/// A page between the two may be torn. None can be newer than `stop`, so what claims to be must bear its checksum: a page
/// that was overwritten with something else mostly claims that.
pub fn check_within(page: &[u8], block: u32, start: Lsn, stop: Lsn) -> PageVerdict {
    match check(page, block, true, start) {
        PageVerdict::NewerThanStart if lsn(page).is_none_or(|lsn| lsn > stop) => check_sum(page, block),
        verdict => verdict,
    }
}

/// Judges a page by its checksum, however new it claims to be.
pub fn check_sum(page: &[u8], block: u32) -> PageVerdict {
    const NO_START: Lsn = Lsn(u64::MAX);
    match check(page, block, true, NO_START) {
        // No WAL ever gets there.
        PageVerdict::NewerThanStart => PageVerdict::BadHeader,
        verdict => verdict,
    }
}

/// The position of the last change that a page claims to have in it. `None` if it is no page.
pub fn lsn(page: &[u8]) -> Option<Lsn> {
    Header::of(page).map(|header| header.lsn)
}

/// The beginning of a data page.
struct Header {
    lsn: Lsn,
    checksum: u16,
    flags: u16,
    lower: u16,
    upper: u16,
    special: u16,
}

impl Header {
    fn of(page: &[u8]) -> Option<Header> {
        // Each half of the LSN is in the host's order, the high one first.
        let lsn = Lsn(u64::from(u32_at(page, 0)?) << 32 | u64::from(u32_at(page, 4)?));
        (page.len() == BLOCK_SIZE).then_some(Header {
            lsn,
            checksum: u16_at(page, CHECKSUM_AT)?,
            flags: u16_at(page, 10)?,
            lower: u16_at(page, 12)?,
            upper: u16_at(page, 14)?,
            special: u16_at(page, 16)?,
        })
    }

    /// What the server itself asks of a page that it reads.
    fn is_consistent(&self) -> bool {
        const ALL_FLAGS: u16 = 7;
        self.flags & !ALL_FLAGS == 0
            && self.lower <= self.upper
            && self.upper <= self.special
            && usize::from(self.special) <= BLOCK_SIZE
            && self.special.is_multiple_of(8)
    }
}

/// The parts of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fork {
    /// The rows.
    Main,
    /// `_fsm`
    FreeSpaceMap,
    /// `_vm`
    VisibilityMap,
    /// `_init`
    Init,
}

/// A file that consists of data pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile {
    /// `relfilenode`
    pub number: u32,
    /// Which part of the relation.
    pub fork: Fork,
    /// Which gigabyte of it.
    pub segment_no: u32,
}

/// Whether a path within the data directory is a relation's file: `base/<database>/<name>`, `global/<name>` or
/// `pg_tblspc/<tablespace>/PG_<version>/<database>/<name>`, where the name is `<number>[_<fork>][.<segment>]`.
///
/// Temporary relations (`t3_16384`) are none: no backup has them.
pub fn is_relation_file(path: &str) -> Option<RelationFile> {
    let parts: Vec<&str> = path.splitn(6, '/').collect();
    match parts.as_slice() {
        ["global", name] => relation_file(name),
        ["base", database, name] => number(database).and_then(|_| relation_file(name)),
        ["pg_tblspc", tablespace, version, database, name] if version.starts_with("PG_") => {
            number(tablespace).and(number(database)).and_then(|_| relation_file(name))
        }
        _ => None,
    }
}

/// The same for the name alone, which must lie in a directory of relations.
pub fn relation_file(name: &str) -> Option<RelationFile> {
    let (name, segment_no) = match name.split_once('.') {
        Some((name, segment)) => (name, number(segment)?),
        None => (name, 0),
    };
    let (relation, fork) = match name.split_once('_') {
        None => (name, Fork::Main),
        Some((relation, "fsm")) => (relation, Fork::FreeSpaceMap),
        Some((relation, "vm")) => (relation, Fork::VisibilityMap),
        Some((relation, "init")) => (relation, Fork::Init),
        Some(_) => return None,
    };
    Some(RelationFile { number: number(relation)?, fork, segment_no })
}

/// An object's number as servers write it: decimal, above 0, no leading zero.
fn number(text: &str) -> Option<u32> {
    let valid = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    valid.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_the_files_of_relations() {
        let file = |number, fork, segment_no| Some(RelationFile { number, fork, segment_no });
        assert_eq!(is_relation_file("base/5/16384"), file(16384, Fork::Main, 0));
        assert_eq!(is_relation_file("base/5/16384.12"), file(16384, Fork::Main, 12));
        assert_eq!(is_relation_file("base/5/16384_fsm"), file(16384, Fork::FreeSpaceMap, 0));
        assert_eq!(is_relation_file("base/5/16384_vm.1"), file(16384, Fork::VisibilityMap, 1));
        assert_eq!(is_relation_file("global/1262"), file(1262, Fork::Main, 0));
        let in_tablespace = "pg_tblspc/16500/PG_15_202209061/5/16501_init";
        assert_eq!(is_relation_file(in_tablespace), file(16501, Fork::Init, 0));
        for path in [
            "",
            "PG_VERSION",
            "global/pg_control",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/t3_16384",
            "base/5/16384_old",
            "base/5/16384.0",
            "base/5/016384",
            "base/5/16384/1",
            "base/x/16384",
            "base/pgsql_tmp/1",
            "pg_xact/0000",
            "pg_tblspc/16500/16501",
            "pg_tblspc/16500/PG_15_202209061/5/16501/1",
            "base/5/99999999999",
        ] {
            assert_eq!(is_relation_file(path), None, "{path}");
        }
    }

    /// A page as a server would write it.
    fn page(lsn: u64) -> Vec<u8> {
        let mut page = vec![0xA5; BLOCK_SIZE];
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[10..18].copy_from_slice(&[0, 0, 24, 0, 0, 32, 0, 32]);
        let sum = checksum(&page, 3);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn judges_pages() {
        let start = Lsn(0x1_0000_0000);
        let good = page(0xFFFF_FFFF);
        assert_eq!(check(&good, 3, true, start), PageVerdict::Ok);
        assert!(matches!(check(&good, 4, true, start), PageVerdict::BadChecksum { .. }), "at another place");
        assert_eq!(check(&good, 4, false, start), PageVerdict::Ok);
        let mut torn = page(0x1_0000_0000);
        torn[5000] ^= 1;
        assert_eq!(check(&torn, 3, true, start), PageVerdict::NewerThanStart);
        assert_eq!(check(&[0; BLOCK_SIZE], 3, true, start), PageVerdict::New);
        let mut stray = vec![0; BLOCK_SIZE];
        stray[8000] = 1;
        assert!(matches!(check(&stray, 3, true, start), PageVerdict::BadChecksum { .. }));
        let mut bounds = good.clone();
        bounds[13] = 0xFF;
        assert_eq!(check(&bounds, 3, false, start), PageVerdict::BadHeader);
        assert_eq!(check(&good[1..], 3, true, start), PageVerdict::BadHeader);
    }

    #[test]
    fn no_page_of_a_backup_is_newer_than_its_end() {
        let (start, stop) = (Lsn(0x1_0000_0000), Lsn(0x2_0000_0000));
        let judge = |page: &[u8]| check_within(page, 3, start, stop);
        let text: Vec<u8> = b"this is no page at all. ".iter().copied().cycle().take(BLOCK_SIZE).collect();
        assert_eq!(check(&text, 3, true, start), PageVerdict::NewerThanStart);
        assert!(matches!(judge(&text), PageVerdict::BadChecksum { .. }));
        assert_eq!(judge(&[0xFF; BLOCK_SIZE]), PageVerdict::BadHeader);
        let mut torn = page(stop.0);
        torn[5000] ^= 1;
        assert_eq!(judge(&torn), PageVerdict::NewerThanStart);
        assert_eq!(judge(&page(stop.0 + 1)), PageVerdict::Ok);
        assert_eq!(judge(&page(1)), PageVerdict::Ok);
        assert_eq!(judge(&[0; BLOCK_SIZE]), PageVerdict::New);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_of_a_page_shows(byte in 8..BLOCK_SIZE, bit in 0..8u8) {
            let mut damaged = page(1);
            damaged[byte] ^= 1 << bit;
            prop_assert_ne!(check(&damaged, 3, true, Lsn(2)), PageVerdict::Ok);
        }

        #[test]
        fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), path: String) {
            let _ = checksum(&bytes, 0);
            let _ = check(&bytes, 0, true, Lsn(0));
            let _ = is_relation_file(&path);
        }
    }
}
