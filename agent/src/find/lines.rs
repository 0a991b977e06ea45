//! The lines that bring a moment back, ready for a shell.

use proto::{Lsn, TimelineId};

use super::names::Name;

/// More tables than these are not named in one line.
const MOST: usize = 20;

/// What every line has in it.
#[derive(Debug, Clone)]
pub struct Lines {
    /// What says where the repository is, each with a blank before it, for a shell.
    pub flags: String,
    /// The directory to restore into.
    pub pgdata: String,
}

impl Lines {
    /// Restores all of it, up to the last record before `lsn`.
    pub(super) fn restore(&self, timeline: TimelineId, lsn: Lsn) -> String {
        let pgdata = quoted(&self.pgdata);
        format!("restore-cmd restore{} --pgdata {pgdata} {}", self.flags, target(timeline, lsn))
    }

    /// Dumps these tables alone, as they were then. `None` if they are none, too many, or not all of one database.
    pub(super) fn export(&self, timeline: TimelineId, lsn: Lsn, tables: &[&Name]) -> Option<String> {
        let database = &tables.first()?.database;
        if tables.len() > MOST
            || database.is_empty()
            || tables.iter().any(|table| table.database != *database)
        {
            return None;
        }
        let mut line = format!("restore-cmd export{} --database {}", self.flags, quoted(database));
        for table in tables {
            let name = format!("{}.{}", identifier(table.schema.as_ref()?), identifier(&table.name));
            line += &format!(" --table {}", quoted(&name));
        }
        Some(format!("{line} --output FILE {}", target(timeline, lsn)))
    }
}

fn target(timeline: TimelineId, lsn: Lsn) -> String {
    format!("--target-timeline {timeline} --target-lsn {lsn} --target-exclusive")
}

/// For a shell.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@%+,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// For SQL, as `to_regclass` reads names: words of the language need no quotes there.
fn identifier(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    match begins && name.chars().all(plain) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(database: &str, schema: Option<&str>, name: &str) -> Name {
        let (database, schema) = (database.to_owned(), schema.map(str::to_owned));
        Name { database, schema, name: name.to_owned(), kind: 'r', oid: 16_384 }
    }

    #[test]
    fn the_lines_have_what_the_shell_and_sql_need() {
        let lines = Lines { flags: " --cluster main".into(), pgdata: "/our db".into() };
        assert_eq!(
            lines.restore(TimelineId::FIRST, Lsn(0x400_0000)),
            "restore-cmd restore --cluster main --pgdata '/our db' --target-timeline 1 --target-lsn 0/4000000 \
             --target-exclusive"
        );
        let (plain, odd) =
            (name("shop", Some("public"), "orders"), name("shop", Some("it's"), "Of \"2026\""));
        assert_eq!(
            lines.export(TimelineId::FIRST, Lsn(0x400_0000), &[&plain, &odd]).unwrap(),
            "restore-cmd export --cluster main --database shop --table public.orders --table \
             '\"it'\\''s\".\"Of \"\"2026\"\"\"' --output FILE --target-timeline 1 --target-lsn 0/4000000 --target-exclusive"
        );
        let export = |tables: &[&Name]| lines.export(TimelineId::FIRST, Lsn(1), tables);
        assert_eq!(export(&[]), None);
        assert_eq!(export(&[&plain, &name("other", Some("public"), "orders")]), None);
        assert_eq!(export(&[&name("shop", None, "orders")]), None);
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
