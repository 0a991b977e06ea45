//! What of a dump is meant. Pure.

use repository::dump::{Contents, Part, PartKind};

use crate::plan::{Refusal, refuse};

/// Parts of a dump, by the names that were given for them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chosen {
    /// Databases.
    pub databases: Vec<String>,
    /// Roles and tablespaces.
    pub globals: bool,
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

    /// Whether the dump has all that was named.
    pub fn is_in(&self, dump: &Contents) -> bool {
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
