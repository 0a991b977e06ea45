//! Rows of the catalogues, as far as they tell names.

use crate::bytes::u32_at;

/// Bytes of a name, with the zeros that fill it.
const NAME: usize = 64;

/// What replay makes of a database whose `DROP` has begun: nobody connects to it any more.
const INVALID: u32 = -2_i32 as u32;

/// A row of `pg_class`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassRow<'a> {
    /// The relation's oid.
    pub oid: u32,
    /// Its name, in the database's encoding.
    pub name: &'a [u8],
    /// The schema's oid.
    pub schema: u32,
    /// The number of its file; 0: it has none, or it is mapped.
    pub file: u32,
    /// `r` for a table, `i` for an index and so on; 0 if the row is cut off.
    pub kind: u8,
}

/// A row of `pg_database`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatabaseRow<'a> {
    /// The database's oid.
    pub oid: u32,
    /// Its name.
    pub name: &'a [u8],
    /// Whether its `DROP` has begun.
    pub invalid: bool,
}

impl<'a> ClassRow<'a> {
    /// Reads the columns of a row of `pg_class`, of a server of that major version.
    pub fn parse(row: &'a [u8], version: u16) -> Option<Self> {
        let kind = if version >= 18 { 119 } else { 115 };
        Some(Self {
            oid: u32_at(row, 0)?,
            name: name(row)?,
            schema: u32_at(row, 68)?,
            file: u32_at(row, 88)?,
            kind: row.get(kind).copied().unwrap_or_default(),
        })
    }

    /// The relation of which this one is the new copy, while `VACUUM FULL`, `CLUSTER`, `REFRESH` or `ALTER TABLE`
    /// rewrites it.
    pub fn rewrites(&self) -> Option<u32> {
        let digits = self.name.strip_prefix(b"pg_temp_")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

impl<'a> DatabaseRow<'a> {
    /// Reads the columns of a row of `pg_database`, of a server of that major version.
    pub fn parse(row: &'a [u8], version: u16) -> Option<Self> {
        // 15 made texts of two names that stood before it.
        let limit = if version >= 15 { 80 } else { 208 };
        let invalid = u32_at(row, limit) == Some(INVALID);
        Some(Self { oid: u32_at(row, 0)?, name: name(row)?, invalid })
    }
}

/// The second column of both.
fn name(row: &[u8]) -> Option<&[u8]> {
    let name = row.get(4..4 + NAME)?;
    let length = name.iter().position(|byte| *byte == 0)?;
    (length > 0).then_some(&name[..length])
}
