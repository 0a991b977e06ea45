//! What of a dump is meant. Pure.

use repository::dump::{Contents, Part, PartKind};

use super::line::narrowed;
use crate::plan::{Refusal, refuse};

/// Parts of a dump, by the names that were given for them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chosen {
    /// Databases.
    pub databases: Vec<String>,
    /// Roles and tablespaces.
    pub globals: bool,
}

/// How a dump fits what was named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// It has it all.
    Whole,
    /// It has the databases, but not all that is in them.
    Partial,
    /// It has not what was named.
    Absent,
}

impl Chosen {
    /// Whether nothing was named: then everything is meant.
    fn is_all(&self) -> bool {
        self.databases.is_empty() && !self.globals
    }

    fn includes(&self, part: &Part) -> bool {
        match (&part.database, part.kind) {
            (Some(database), _) => self.databases.contains(database),
            (None, PartKind::Globals) => self.globals,
            (None, _) => false,
        }
    }

    /// How the dump fits.
    pub fn fit(&self, dump: &Contents) -> Fit {
        if !self.is_in(dump) {
            return Fit::Absent;
        }
        // What is picked or left out concerns what is in databases.
        let within = |part: &Part| part.kind != PartKind::Globals && (self.is_all() || self.includes(part));
        match narrowed(&dump.selection).is_some() && dump.parts.iter().any(within) {
            true => Fit::Partial,
            false => Fit::Whole,
        }
    }

    /// Whether the dump has all that was named.
    fn is_in(&self, dump: &Contents) -> bool {
        let has = |name: &String| dump.parts.iter().any(|part| part.database.as_ref() == Some(name));
        let globals = dump.parts.iter().any(|part| part.kind == PartKind::Globals);
        self.databases.iter().all(has) && (globals || !self.globals)
    }
}

/// The parts that are meant.
///
/// # Errors
/// The dump has not what was named; the message says what it has.
pub fn choose(dump: &Contents, chosen: &Chosen) -> Result<Vec<Part>, Refusal> {
    if chosen.is_in(dump) {
        let parts = dump.parts.iter().filter(|part| chosen.is_all() || chosen.includes(part));
        return Ok(parts.cloned().collect());
    }
    let there: Vec<String> = dump.parts.iter().map(Part::title).collect();
    refuse(
        format!("dump {} has not what was named: it has {}", dump.label, there.join(", ")),
        "name another dump: `restore-cmd dump` lists them",
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proto::config::DumpFormat;
    use repository::dump::{DUMP_FORMAT, Selection};

    use super::*;

    fn dump(selection: Selection) -> Contents {
        let part = |kind, database: Option<&str>, format| Part {
            kind,
            database: database.map(str::to_owned),
            format,
            files: Vec::new(),
        };
        Contents {
            format: DUMP_FORMAT,
            label: "20261124T013015Z-dump-1a2b3c".parse().unwrap(),
            server_version: 150_018,
            tool_version: "15.18".into(),
            from_standby: false,
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
            note: None,
            selection,
            parts: vec![
                part(PartKind::Globals, None, DumpFormat::Plain),
                part(PartKind::Database, Some("shop"), DumpFormat::Custom),
            ],
        }
    }

    #[test]
    fn a_part_of_a_database_is_not_the_database() {
        let shop = Chosen { databases: vec!["shop".into()], globals: false };
        let other = Chosen { databases: vec!["other".into()], globals: false };
        let globals = Chosen { databases: Vec::new(), globals: true };
        let whole = Selection { globals: true, ..Selection::default() };
        assert_eq!(shop.fit(&dump(whole.clone())), Fit::Whole);
        assert_eq!(Chosen::default().fit(&dump(whole.clone())), Fit::Whole);
        assert_eq!(other.fit(&dump(whole.clone())), Fit::Absent);
        let some = || vec!["x".to_owned()];
        for narrow in [
            Selection { tables: some(), ..whole.clone() },
            Selection { schemas: some(), ..whole.clone() },
            Selection { exclude_tables: some(), ..whole.clone() },
            Selection { exclude_schemas: some(), ..whole.clone() },
            Selection { exclude_table_data: some(), ..whole.clone() },
            Selection { schema_only: true, ..whole.clone() },
            Selection { data_only: true, ..whole },
        ] {
            let dump = dump(narrow);
            assert_eq!((shop.fit(&dump), Chosen::default().fit(&dump)), (Fit::Partial, Fit::Partial));
            assert_eq!((globals.fit(&dump), other.fit(&dump)), (Fit::Whole, Fit::Absent));
            assert!(choose(&dump, &shop).is_ok(), "by its label it can be had");
        }
    }
}
