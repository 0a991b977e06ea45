//! Rows of tables: what was inserted, deleted, and changed in place.

use super::{Block, Numbers, Parts, Record, Rmgr};
use crate::bytes::{u16_at, u32_at};

const KIND: u8 = 0x70;
const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const TRUNCATE: u8 = 0x30;
const IN_PLACE: u8 = 0x70;
/// Of the second resource manager.
const MULTI_INSERT: u8 = 0x50;

/// Of a delete: an insertion was taken back that had met a conflict.
const DELETED_TENTATIVE: u8 = 1 << 3;
/// Of a delete: the row lives on in another partition.
const DELETED_TO_MOVE: u8 = 1 << 4;

/// Bytes of a row's header that a record leaves out, since replay knows them.
const ROW_HEADER: usize = 23;
/// Bytes that a record has in their place.
const SHORT_ROW_HEADER: usize = 5;
/// Bytes of a page's header; then come the pointers to its rows.
const PAGE_HEADER: usize = 24;

/// A change of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowChange<'a> {
    /// Rows came.
    Inserted(u32),
    /// One row went: not one that only moved to another partition.
    Deleted,
    /// One row of a catalogue was overwritten, whatever becomes of the transaction.
    InPlace,
    /// Relations were truncated. Only written for those that are decoded logically.
    Truncated {
        /// In which database.
        database: u32,
        /// Their oids.
        relations: Numbers<'a>,
    },
}

/// What the record did to rows, if it is one of these kinds. `None` also where it does not hold what it announces.
pub fn change<'a>(record: &Record<'a>, parts: &Parts<'a>) -> Option<RowChange<'a>> {
    let main = parts.main;
    match (record.rmgr, record.info & KIND) {
        (Rmgr::HEAP, INSERT) => Some(RowChange::Inserted(1)),
        (Rmgr::HEAP, DELETE) => {
            let flags = *main.get(7)?;
            (flags & (DELETED_TENTATIVE | DELETED_TO_MOVE) == 0).then_some(RowChange::Deleted)
        }
        (Rmgr::HEAP, IN_PLACE) => Some(RowChange::InPlace),
        (Rmgr::HEAP, TRUNCATE) => {
            let end = (u32_at(main, 4)? as usize).checked_mul(4)?.checked_add(12)?;
            let relations = Numbers(main.get(12..end)?);
            Some(RowChange::Truncated { database: u32_at(main, 0)?, relations })
        }
        (Rmgr::HEAP2, MULTI_INSERT) => Some(RowChange::Inserted(u16_at(main, 2)?.into())),
        _ => None,
    }
}

/// The columns of the row that the record inserted or changed in place; `None` if they are not in it: its page may be
/// there instead, and be compressed.
pub fn row<'a>(record: &Record<'a>, parts: &Parts<'a>) -> Option<&'a [u8]> {
    let kind = record.info & KIND;
    if record.rmgr != Rmgr::HEAP || !matches!(kind, INSERT | IN_PLACE) {
        return None;
    }
    let block = parts.blocks().next()?;
    if block.data.is_empty() {
        return row_of_page(&block, u16_at(parts.main, 0)?);
    }
    if kind == IN_PLACE {
        return Some(block.data);
    }
    let columns = usize::from(*block.data.get(4)?);
    block.data.get(SHORT_ROW_HEADER + columns.checked_sub(ROW_HEADER)?..)
}

/// The columns of a row by its number on the page.
fn row_of_page<'a>(block: &Block<'a>, number: u16) -> Option<&'a [u8]> {
    let image = block.image?;
    let at = PAGE_HEADER + 4 * usize::from(number.checked_sub(1)?);
    let pointer = u32_at(image.slice(at, 4)?, 0)?;
    let (offset, length) = ((pointer & 0x7FFF) as usize, (pointer >> 17) as usize);
    let row = image.slice(offset, length)?;
    row.get(usize::from(*row.get(ROW_HEADER - 1)?)..)
}
