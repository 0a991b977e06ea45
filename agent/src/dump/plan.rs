//! Which tools are run with which arguments. Pure: no secret is among them, since none is known here.

use proto::config::DumpFormat;
use repository::dump::{PartKind, Selection};

/// So long does a tool wait for a table's lock, in milliseconds: ten minutes. Without an end a lock that somebody has forgotten
/// would hold up the schedule for ever.
const LOCK_TIMEOUT: &str = "--lock-wait-timeout=600000";

/// What is to be dumped, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What.
    pub selection: Selection,
    /// Of databases.
    pub format: DumpFormat,
    /// Tables at once, of [`DumpFormat::Directory`].
    pub jobs: u16,
    /// Whether roles come with the digests of their passwords.
    pub role_passwords: bool,
}

/// One run of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is of.
    pub kind: PartKind,
    /// The database, of [`PartKind::Database`].
    pub database: Option<String>,
    /// The form.
    pub format: DumpFormat,
    /// `pg_dump` or `pg_dumpall`.
    pub program: &'static str,
    /// Its arguments. Where the server is, its environment says.
    pub arguments: Vec<String>,
}

/// Why nothing is run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A database that is not there, or lets nobody in.
    #[error("the server has no database {0:?} that can be dumped")]
    NoDatabase(String),
    /// Tables are named, and nobody can tell in which database.
    #[error("tables and schemas are named, and there are {0} databases to look for them in")]
    WhichDatabase(usize),
    /// There is nothing to be dumped.
    #[error("there is nothing to dump: neither a database nor the globals")]
    Nothing,
}

impl PlanError {
    /// What an operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoDatabase(_) => "`psql -l` lists them; template databases are not dumped",
            Self::WhichDatabase(_) => "name one database with --database",
            Self::Nothing => "name a database with --database, or set `globals` in [dump]",
        }
    }
}

impl Wish {
    /// The runs, globals first: they must be loaded first. `databases`: those of the server that let somebody in, but
    /// templates.
    ///
    /// # Errors
    /// What is asked for cannot be had.
    pub fn steps(&self, databases: &[String]) -> Result<Vec<Step>, PlanError> {
        let selection = &self.selection;
        if selection.everything {
            let mut arguments = vec!["--no-password".to_owned(), LOCK_TIMEOUT.to_owned()];
            arguments.extend(self.content());
            return Ok(vec![self.dumpall(PartKind::Everything, arguments)]);
        }
        let mut wanted: Vec<&String> = Vec::new();
        for database in selection.databases.as_deref().unwrap_or(databases) {
            if !wanted.contains(&database) {
                wanted.push(database);
            }
        }
        if let Some(missing) = wanted.iter().find(|name| !databases.contains(name)) {
            return Err(PlanError::NoDatabase((*missing).clone()));
        }
        if wanted.len() != 1 && !(selection.tables.is_empty() && selection.schemas.is_empty()) {
            return Err(PlanError::WhichDatabase(wanted.len()));
        }
        let mut steps = Vec::new();
        if selection.globals {
            let arguments = ["--no-password", LOCK_TIMEOUT, "--globals-only"].map(str::to_owned);
            steps.push(self.dumpall(PartKind::Globals, arguments.into()));
        }
        steps.extend(wanted.into_iter().map(|database| self.dump(database)));
        match steps.is_empty() {
            true => Err(PlanError::Nothing),
            false => Ok(steps),
        }
    }

    fn dumpall(&self, kind: PartKind, mut arguments: Vec<String>) -> Step {
        arguments.extend((!self.role_passwords).then(|| "--no-role-passwords".to_owned()));
        Step { kind, database: None, format: DumpFormat::Plain, program: "pg_dumpall", arguments }
    }

    fn dump(&self, database: &str) -> Step {
        let (selection, format) = (&self.selection, self.format);
        let mut arguments = ["--no-password", LOCK_TIMEOUT].map(str::to_owned).to_vec();
        arguments.push(format!("--format={format}"));
        match format {
            // The repository compresses, better and on a core of its own.
            DumpFormat::Custom => arguments.push("--compress=0".to_owned()),
            DumpFormat::Directory => {
                // What makes it durable is that it is stored.
                let own =
                    ["--compress=0".to_owned(), "--no-sync".to_owned(), format!("--jobs={}", self.jobs)];
                arguments.extend(own);
            }
            DumpFormat::Plain | DumpFormat::Tar => {}
        }
        arguments.extend(self.content());
        if !(selection.tables.is_empty() && selection.schemas.is_empty()) {
            // Each of several must match: a misspelt one is a mistake that nobody should find out when it is needed.
            arguments.push("--strict-names".to_owned());
        }
        for (flag, patterns) in [
            ("--table", &selection.tables),
            ("--schema", &selection.schemas),
            ("--exclude-table", &selection.exclude_tables),
            ("--exclude-schema", &selection.exclude_schemas),
            ("--exclude-table-data", &selection.exclude_table_data),
        ] {
            arguments.extend(patterns.iter().map(|pattern| format!("{flag}={pattern}")));
        }
        Step {
            kind: PartKind::Database,
            database: Some(database.to_owned()),
            format,
            program: "pg_dump",
            arguments,
        }
    }

    fn content(&self) -> impl Iterator<Item = String> {
        let flags =
            [("--schema-only", self.selection.schema_only), ("--data-only", self.selection.data_only)];
        flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn wish(selection: Selection) -> Wish {
        Wish { selection, format: DumpFormat::Custom, jobs: 4, role_passwords: true }
    }

    #[test]
    fn without_a_word_all_databases_come_after_the_globals() {
        let all = wish(Selection { globals: true, ..Selection::default() });
        let steps = all.steps(&names(&["postgres", "shop"])).unwrap();
        let of: Vec<_> = steps.iter().map(|step| (step.program, step.database.as_deref())).collect();
        assert_eq!(of, [("pg_dumpall", None), ("pg_dump", Some("postgres")), ("pg_dump", Some("shop"))]);
        assert_eq!(steps[0].arguments, ["--no-password", LOCK_TIMEOUT, "--globals-only"]);
        assert_eq!(steps[1].arguments, ["--no-password", LOCK_TIMEOUT, "--format=custom", "--compress=0"]);
        let none = wish(Selection::default());
        assert_eq!(none.steps(&[]), Err(PlanError::Nothing));
    }

    #[test]
    fn selections_become_arguments_of_which_none_is_split() {
        let selection = Selection {
            databases: Some(names(&["shop", "shop"])),
            tables: names(&["public.orders", "a b; c"]),
            exclude_tables: names(&["*.log"]),
            schema_only: true,
            ..Selection::default()
        };
        let wish = Wish { format: DumpFormat::Directory, ..wish(selection) };
        let steps = wish.steps(&names(&["postgres", "shop"])).unwrap();
        assert_eq!(steps.len(), 1);
        assert_eq!(
            steps[0].arguments,
            [
                "--no-password",
                LOCK_TIMEOUT,
                "--format=directory",
                "--compress=0",
                "--no-sync",
                "--jobs=4",
                "--schema-only",
                "--strict-names",
                "--table=public.orders",
                "--table=a b; c",
                "--exclude-table=*.log",
            ]
        );
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        let missing = wish(Selection { databases: Some(names(&["shop"])), ..Selection::default() });
        assert_eq!(missing.steps(&names(&["postgres"])), Err(PlanError::NoDatabase("shop".into())));
        let anywhere = wish(Selection { tables: names(&["x"]), ..Selection::default() });
        assert_eq!(anywhere.steps(&names(&["a", "b"])), Err(PlanError::WhichDatabase(2)));
    }

    #[test]
    fn everything_is_one_script() {
        let selection = Selection { everything: true, ..Selection::default() };
        let wish = Wish { role_passwords: false, ..wish(selection) };
        let steps = wish.steps(&[]).unwrap();
        assert_eq!(
            (steps.len(), steps[0].kind, steps[0].format),
            (1, PartKind::Everything, DumpFormat::Plain)
        );
        assert_eq!(steps[0].arguments, ["--no-password", LOCK_TIMEOUT, "--no-role-passwords"]);
    }
}
