//! Which tool loads a part, with which arguments, and whether it may read while its input is still being verified. Pure.

use proto::config::DumpFormat;
use repository::dump::{Part, PartKind};

use crate::plan::{Refusal, refuse};

/// What of a part is loaded, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Picks {
    /// Tables, as `name` or `schema.name`.
    pub tables: Vec<String>,
    /// Schemas.
    pub schemas: Vec<String>,
    /// What is there of these names is dropped before.
    pub clean: bool,
    /// Definitions, no rows.
    pub schema_only: bool,
    /// Rows, no definitions.
    pub data_only: bool,
    /// Without the owners.
    pub no_owner: bool,
    /// Without privileges.
    pub no_privileges: bool,
    /// Tables at once; more than one: not all or nothing any more.
    pub jobs: u16,
}

/// How a part is loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// `pg_restore` or `psql`.
    pub program: &'static str,
    /// Its arguments, but for the database and the input.
    pub arguments: Vec<String>,
    /// Schemas that must be there: those that are named.
    pub schemas: Vec<String>,
    /// Whether it reads what comes out of the repository as it comes. It loads in one transaction then, and cannot end that
    /// before it has the last byte, which it gets when all are verified. Else a verified copy on disk comes first.
    pub pipes: bool,
    /// What it is of if it is a script of SQL.
    pub script: Option<Script>,
}

/// What a script of SQL makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Script {
    /// What one database holds.
    Database,
    /// Roles and tablespaces. Some are there already, as the role is as which it runs.
    Globals,
    /// These, and then databases, none of which may be there.
    Everything,
}

/// Makes `psql` stop at the first statement that fails.
pub(super) const STOP: &str = "--set=ON_ERROR_STOP=1";

impl Picks {
    /// Whether less than all of it is loaded.
    fn is_narrow(&self) -> bool {
        !(self.tables.is_empty() && self.schemas.is_empty()) || self.schema_only || self.data_only
    }
}

/// Decides.
///
/// # Errors
/// The part's form does not allow what is asked for.
pub fn way(part: &Part, picks: &Picks) -> Result<Way, Refusal> {
    match part.format {
        DumpFormat::Plain => script(part, picks),
        _ => archive(part, picks),
    }
}

/// A script of SQL can be run, and nothing else.
fn script(part: &Part, picks: &Picks) -> Result<Way, Refusal> {
    if picks.is_narrow() || picks.clean || picks.no_owner || picks.no_privileges || picks.jobs > 1 {
        return refuse(
            format!("{} is a script of SQL, of which nothing can be picked or left out", part.title()),
            "load all of it, or bring it to a file with --output and edit that",
        );
    }
    let mut arguments = ["--no-psqlrc", "--quiet", "--no-password"].map(str::to_owned).to_vec();
    // One that makes databases cannot be one transaction, and one that makes roles meets those that are there: of these the
    // codes are told.
    let script = match part.kind {
        PartKind::Database => Script::Database,
        PartKind::Globals => Script::Globals,
        PartKind::Everything => Script::Everything,
    };
    arguments.extend(match script {
        Script::Database => vec!["--single-transaction".to_owned(), STOP.to_owned()],
        Script::Globals | Script::Everything => vec!["--set=VERBOSITY=verbose".to_owned()],
    });
    // Never piped: a script ends the transaction by itself, at each of its large objects.
    Ok(Way { program: "psql", arguments, schemas: Vec::new(), pipes: false, script: Some(script) })
}

fn archive(part: &Part, picks: &Picks) -> Result<Way, Refusal> {
    let mut arguments = ["--no-password", "--exit-on-error"].map(str::to_owned).to_vec();
    if picks.jobs > 1 {
        if part.format == DumpFormat::Tar {
            return refuse(
                format!("{} is a tar file, which is loaded by one session only", part.title()),
                "leave out --jobs",
            );
        }
        arguments.push(format!("--jobs={}", picks.jobs));
    } else {
        arguments.push("--single-transaction".to_owned());
    }
    let flags = [
        ("--clean", picks.clean),
        ("--if-exists", picks.clean),
        ("--schema-only", picks.schema_only),
        ("--data-only", picks.data_only),
        ("--no-owner", picks.no_owner),
        ("--no-privileges", picks.no_privileges),
    ];
    arguments.extend(flags.iter().filter(|(_, given)| *given).map(|(flag, _)| (*flag).to_owned()));
    let (schemas, tables) = named(picks)?;
    if !(schemas.is_empty() && tables.is_empty()) {
        // A name that nothing has is a mistake, and no empty selection.
        arguments.push("--strict-names".to_owned());
    }
    arguments.extend(schemas.iter().map(|name| format!("--schema={name}")));
    arguments.extend(tables.iter().map(|name| format!("--table={name}")));
    // Of a custom archive that is loaded whole the last byte is needed for the last table. A tar file has an end that nobody
    // needs, and whoever picks may be done before the end.
    let pipes = part.format == DumpFormat::Custom && !picks.is_narrow() && picks.jobs <= 1;
    Ok(Way { program: "pg_restore", arguments, schemas, pipes, script: None })
}

/// `pg_restore` knows names of tables, and apart from that names of schemas.
fn named(picks: &Picks) -> Result<(Vec<String>, Vec<String>), Refusal> {
    let mut schemas = picks.schemas.clone();
    let mut tables = Vec::new();
    for name in &picks.tables {
        match name.split_once('.') {
            Some((schema, table)) => {
                schemas.push(schema.to_owned());
                tables.push(table.to_owned());
            }
            None => tables.push(name.clone()),
        }
    }
    schemas.sort_unstable();
    schemas.dedup();
    if schemas.len() > 1 && !tables.is_empty() {
        return refuse(
            format!("tables of several schemas are named: {}", schemas.join(", ")),
            "load those of one schema at a time: pg_restore cannot tell which of the tables is meant in which of them",
        );
    }
    Ok((schemas, tables))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: PartKind, format: DumpFormat) -> Part {
        let database = (kind == PartKind::Database).then(|| "shop".to_owned());
        Part { kind, database, format, files: Vec::new() }
    }

    fn database(format: DumpFormat) -> Part {
        part(PartKind::Database, format)
    }

    #[test]
    fn only_what_cannot_end_before_its_last_byte_is_piped() {
        let whole = Picks { jobs: 1, clean: true, ..Picks::default() };
        for (format, pipes) in
            [(DumpFormat::Custom, true), (DumpFormat::Tar, false), (DumpFormat::Directory, false)]
        {
            let way = way(&database(format), &whole).unwrap();
            assert_eq!((way.program, way.pipes), ("pg_restore", pipes), "{format}");
            assert!(way.arguments.contains(&"--single-transaction".to_owned()));
        }
        for narrow in [
            Picks { tables: vec!["orders".into()], ..Picks::default() },
            Picks { schema_only: true, ..Picks::default() },
            Picks { jobs: 4, ..Picks::default() },
        ] {
            assert!(!way(&database(DumpFormat::Custom), &narrow).unwrap().pipes, "{narrow:?}");
        }
        let script = way(&database(DumpFormat::Plain), &Picks::default()).unwrap();
        assert_eq!((script.pipes, script.script, script.program), (false, Some(Script::Database), "psql"));
        assert!(script.arguments.contains(&"--single-transaction".to_owned()));
    }

    #[test]
    fn globals_meet_what_is_there() {
        for kind in [PartKind::Globals, PartKind::Everything] {
            let way = way(&part(kind, DumpFormat::Plain), &Picks::default()).unwrap();
            assert!(!way.pipes && way.arguments.contains(&"--set=VERBOSITY=verbose".to_owned()));
            assert!(
                !way.arguments.iter().any(|argument| argument == "--single-transaction" || argument == STOP)
            );
        }
    }

    #[test]
    fn what_a_form_does_not_allow_is_refused() {
        let jobs = Picks { jobs: 2, ..Picks::default() };
        assert!(way(&database(DumpFormat::Tar), &jobs).unwrap_err().message.contains("tar file"));
        let tables = |names: &[&str]| Picks {
            tables: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Picks::default()
        };
        assert!(way(&database(DumpFormat::Plain), &tables(&["x"])).is_err());
        assert!(way(&database(DumpFormat::Custom), &tables(&["a.x", "b.y"])).is_err());
        let both = way(&database(DumpFormat::Custom), &tables(&["a.x", "a.y"])).unwrap();
        assert_eq!(&both.arguments[3..], ["--strict-names", "--schema=a", "--table=x", "--table=y"]);
    }

    #[test]
    fn several_sessions_are_not_one_transaction() {
        let jobs = Picks { jobs: 3, ..Picks::default() };
        let way = way(&database(DumpFormat::Directory), &jobs).unwrap();
        assert!(way.arguments.contains(&"--jobs=3".to_owned()));
        assert!(!way.arguments.contains(&"--single-transaction".to_owned()));
    }
}
