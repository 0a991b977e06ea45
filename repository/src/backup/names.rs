//! The names of a cluster's databases, schemas and relations at the time of a backup: WAL tells of them by numbers.
//!
//! `backup/<label>/names` is text, one record a line, fields separated by one tab, names percent-encoded as paths are:
//!
//! ```text
//! {"format":1}
//! D  <oid>  <tablespace>  <name>                                   a database; what follows is of it
//! S  <oid>  <name>                                                 a schema
//! R  <oid>  <file>  <tablespace>  <kind>  <schema>  <name>         a relation; file 0: it has none
//! E                                                                all of the database has been told
//! ```
//!
//! A restore does without it, and a backup may be without it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};

use bytes::Bytes;

use super::{BackupLabel, folder};
use crate::branch::off_thread;
use crate::error::OrAbsent;
use crate::manifest::{escape, unescape};
use crate::sealed::from_io;
use crate::store::SyncRead;
use crate::{Branch, Error, Key, Kind, Result, SealWriter, UnsealReader};

/// The object's name beside the manifest.
pub(super) const NAMES: &str = "names";

const FIRST_LINE: &str = "{\"format\":1}";

/// Longest text that is read: a hundred million relations.
const MAX_TEXT: u64 = 16 << 30;

/// Longest line: a name has 63 bytes, 3 characters each at most.
const MAX_LINE: u64 = 1024;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NameRecord {
    /// A database. What follows belongs to it, up to the next one.
    Database {
        /// Its oid.
        oid: u32,
        /// Where its relations are if they name no other tablespace.
        tablespace: u32,
        /// Its name.
        name: String,
    },
    /// A schema.
    Schema {
        /// Its oid.
        oid: u32,
        /// Its name.
        name: String,
    },
    /// A relation.
    Relation(RelationName),
    /// All of the database has been told.
    End,
}

/// A relation of a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelationName {
    /// Its oid.
    pub oid: u32,
    /// The number that is its file's name; 0: it has none.
    pub file: u32,
    /// The tablespace that the file is in; 1664: it is shared by all databases.
    pub tablespace: u32,
    /// As in `pg_class`: `r` for a table, `i` for an index and so on.
    pub kind: char,
    /// The schema's oid.
    pub schema: u32,
    /// Its name.
    pub name: String,
}

/// Gathers the names of a cluster. What it holds of them is compressed.
pub struct NamesWriter {
    writer: SealWriter<Vec<u8>>,
    key: Key,
    line: String,
}

impl NamesWriter {
    /// For a backup that is being taken.
    pub fn new(branch: &Branch, label: &BackupLabel) -> Result<Self> {
        let name = folder().child(label).child(NAMES);
        let mut writer = SealWriter::new(Vec::new(), &branch.header(Kind::Names, &name), branch.sealing()?)?;
        writer.write_raw(FIRST_LINE.as_bytes())?;
        writer.write_raw(b"\n")?;
        Ok(Self { writer, key: branch.key(&name), line: String::new() })
    }

    /// Adds a record.
    pub fn push(&mut self, record: &NameRecord) -> Result<()> {
        self.line.clear();
        write(&mut self.line, record);
        self.writer.write_raw(self.line.as_bytes())
    }

    /// Stores them. They are durable when this returns.
    pub async fn store(self, branch: &Branch) -> Result<()> {
        let object = Bytes::from(self.writer.finish()?.0);
        branch.store().put(&self.key, object).await
    }
}

fn write(line: &mut String, record: &NameRecord) {
    // Writing to a String cannot fail.
    let _ = match record {
        NameRecord::Database { oid, tablespace, name } => {
            writeln!(line, "D\t{oid}\t{tablespace}\t{}", escape(name.as_bytes()))
        }
        NameRecord::Schema { oid, name } => writeln!(line, "S\t{oid}\t{}", escape(name.as_bytes())),
        NameRecord::Relation(RelationName { oid, file, tablespace, kind, schema, name }) => {
            let name = escape(name.as_bytes());
            writeln!(line, "R\t{oid}\t{file}\t{tablespace}\t{kind}\t{schema}\t{name}")
        }
        NameRecord::End => writeln!(line, "E"),
    };
}

/// Reads what [`write`] writes, without the newline.
fn parse(line: &str) -> Option<NameRecord> {
    let mut fields = line.split('\t');
    let letter = fields.next()?;
    let mut next = || fields.next();
    let number = |text: Option<&str>| text?.parse::<u32>().ok();
    let name = |text: Option<&str>| String::from_utf8(unescape(text?)?).ok();
    let record = match letter {
        "D" => {
            NameRecord::Database { oid: number(next())?, tablespace: number(next())?, name: name(next())? }
        }
        "S" => NameRecord::Schema { oid: number(next())?, name: name(next())? },
        "R" => NameRecord::Relation(RelationName {
            oid: number(next())?,
            file: number(next())?,
            tablespace: number(next())?,
            kind: next()?.parse().ok()?,
            schema: number(next())?,
            name: name(next())?,
        }),
        "E" => NameRecord::End,
        _ => return None,
    };
    next().is_none().then_some(record)
}

impl Branch {
    /// Reads the names that a backup keeps, one after the other: `each` gets what it has gathered so far and the next
    /// record. What it has gathered is returned when all was proven to be what was written; `None` if the backup keeps
    /// no names.
    pub async fn read_names<T: Send + 'static>(
        &self,
        label: &BackupLabel,
        mut gathered: T,
        mut each: impl FnMut(&mut T, NameRecord) + Send + 'static,
    ) -> Result<Option<T>> {
        let expected = self.expected(Kind::Names, &folder().child(label).child(NAMES), MAX_TEXT);
        let Some(object) = self.store().get_stream(&expected.key, 0).await.or_absent()? else {
            return Ok(None);
        };
        let (input, unsealing) = (SyncRead::new(object), self.unsealing().clone());
        let key = expected.key.clone();
        off_thread(&key, move || {
            let mut text = BufReader::new(UnsealReader::new(input, &expected, &unsealing)?);
            let mut line = String::new();
            let mut first = true;
            loop {
                line.clear();
                let read = std::io::Read::take(&mut text, MAX_LINE).read_line(&mut line);
                if read.map_err(|error| from_io(&expected.key, error))? == 0 {
                    break;
                }
                let record = line.strip_suffix('\n');
                if std::mem::take(&mut first) {
                    if record != Some(FIRST_LINE) {
                        return Err(Error::invalid(&expected.key, "its names are of another format than 1"));
                    }
                    continue;
                }
                match record.and_then(parse) {
                    Some(record) => each(&mut gathered, record),
                    None => return Err(Error::corrupt(&expected.key, "a line is none of its format")),
                }
            }
            Ok(Some(gathered))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_record() -> impl Strategy<Value = NameRecord> {
        let name = "\\PC{1,20}|[\t\n\r%'\" a]{1,9}";
        prop_oneof![
            (any::<u32>(), any::<u32>(), name).prop_map(|(oid, tablespace, name)| NameRecord::Database {
                oid,
                tablespace,
                name
            }),
            (any::<u32>(), name).prop_map(|(oid, name)| NameRecord::Schema { oid, name }),
            (any::<[u32; 4]>(), prop::sample::select(vec!['r', 'i', 't', 'S']), name).prop_map(
                |([oid, file, tablespace, schema], kind, name)| {
                    NameRecord::Relation(RelationName { oid, file, tablespace, kind, schema, name })
                }
            ),
            Just(NameRecord::End),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in any_record()) {
            let mut line = String::new();
            write(&mut line, &record);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(parse(line.trim_end_matches('\n')), Some(record));
        }

        #[test]
        fn any_line_is_read_or_refused(line in "[DSRE]?(\t[0-9a-z%A-F]{0,6}){0,8}") {
            if let Some(record) = parse(&line) {
                let mut again = String::new();
                write(&mut again, &record);
                prop_assert_eq!(parse(again.trim_end()), Some(record));
            }
        }
    }

    /// The format as it is promised: never to be changed.
    #[test]
    fn the_lines_are_the_documented_ones() {
        let relation = RelationName {
            oid: 16384,
            file: 16390,
            tablespace: 1663,
            kind: 'r',
            schema: 2200,
            name: "odd\tname".into(),
        };
        let records = [
            NameRecord::Database { oid: 5, tablespace: 1663, name: "postgres".into() },
            NameRecord::Schema { oid: 2200, name: "public".into() },
            NameRecord::Relation(relation),
            NameRecord::End,
        ];
        let mut text = String::new();
        records.iter().for_each(|record| write(&mut text, record));
        assert_eq!(
            text,
            "D\t5\t1663\tpostgres\nS\t2200\tpublic\nR\t16384\t16390\t1663\tr\t2200\todd%09name\nE\n"
        );
    }
}
