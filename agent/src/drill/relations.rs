//! Every relation of every database can be read: each row, each value, in the words that `pg_dump` would write.
//!
//! `COPY … TO '/dev/null'` makes the server itself read the table and what lies in its TOAST table, and has every type's
//! output function look at each value. Nothing of it comes to us.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use indicatif::HumanBytes;
use repository::drill::Check;
use restore::program::Progress;
use restore::scratch::{Server, rows, sql_message};
use tokio_postgres::Client;

use super::check;

/// What has content of its own. Temporary tables of the lost server's sessions have nobody who could read them.
const RELATIONS: &str = "SELECT format('%I.%I', n.nspname, c.relname), c.relkind, pg_table_size(c.oid) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'm', 'S') AND c.relpersistence <> 't' AND (c.relkind <> 'm' OR c.relispopulated) \
    ORDER BY 3 DESC, 1";

struct Relation {
    /// Quoted.
    name: String,
    kind: Kind,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Table,
    MaterialisedView,
    Sequence,
}

#[derive(Default)]
struct Found {
    relations: u64,
    bytes: u64,
    /// Tables whose values could not be looked at, since a library is not here.
    rows_only: u64,
    problems: usize,
    first: Vec<String>,
}

impl Found {
    fn problem(&mut self, text: String) {
        self.problems += 1;
        if self.first.len() < super::MOST_PROBLEMS {
            self.first.push(text);
        }
    }
}

/// Reads all of them, the largest first, by `jobs` sessions.
pub(super) async fn read_all(server: &Server, jobs: usize, quiet: bool) -> Result<Check> {
    let begun = Instant::now();
    let databases = server.databases().await?;
    let mut work = Vec::new();
    let mut found = Found::default();
    for database in &databases {
        match relations(server, database).await {
            Ok(relations) => work.push((database.as_str(), relations)),
            Err(error) => found.problem(format!("database {database}: {error:#}")),
        }
    }
    let total: u64 = work.iter().flat_map(|(_, relations)| relations).map(|relation| relation.bytes).sum();
    let progress = if quiet { Progress::hidden() } else { Progress::new("read", Some(total)) };
    let found = Mutex::new(found);
    for (database, relations) in work {
        let sessions = jobs.clamp(1, relations.len().max(1));
        let queue = Mutex::new(relations.into_iter());
        let mut readers = Vec::new();
        for _ in 0..sessions {
            readers.push(Box::pin(read_some(server, database, &queue, &found, &progress)));
        }
        futures::future::join_all(readers).await;
    }
    progress.finish();
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut summary = format!(
        "{} relations of {} databases, {}",
        found.relations,
        databases.len(),
        HumanBytes(found.bytes)
    );
    if found.rows_only > 0 {
        summary += &format!(
            "; of {} tables only whether each row is there: libraries of their types are not on this computer",
            found.rows_only
        );
    }
    Ok(check("relations", summary, (found.problems, found.first), begun))
}

async fn relations(server: &Server, database: &str) -> Result<Vec<Relation>> {
    let client = server.connect(database).await?;
    let relation = |row: Vec<Option<String>>| {
        let mut fields = row.into_iter().flatten();
        let (name, kind, bytes) = (fields.next()?, fields.next()?, fields.next()?);
        let kind = match kind.as_str() {
            "m" => Kind::MaterialisedView,
            "S" => Kind::Sequence,
            _ => Kind::Table,
        };
        Some(Relation { name, kind, bytes: bytes.parse().ok()? })
    };
    Ok(rows(&client, RELATIONS).await?.into_iter().filter_map(relation).collect())
}

/// One session that reads until nothing is left.
async fn read_some(
    server: &Server,
    database: &str,
    queue: &Mutex<std::vec::IntoIter<Relation>>,
    found: &Mutex<Found>,
    progress: &Progress,
) {
    let found = || found.lock().unwrap_or_else(PoisonError::into_inner);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let client = match server.connect(database).await {
        Ok(client) => client,
        Err(error) => return found().problem(format!("{error:#}")),
    };
    while let Some(relation) = next() {
        progress.step(&relation.name);
        let read = read(&client, &relation).await;
        progress.add(relation.bytes);
        {
            let mut found = found();
            found.relations += 1;
            found.bytes += relation.bytes;
            match read {
                Ok(Read::Whole) => {}
                Ok(Read::RowsOnly) => found.rows_only += 1,
                Err(why) => found.problem(format!("database {database}, {}: {why}", relation.name)),
            }
        }
        if client.is_closed() {
            // What is left could not be read by anybody.
            return;
        }
    }
}

enum Read {
    Whole,
    RowsOnly,
}

async fn read(client: &Client, relation: &Relation) -> Result<Read, String> {
    let name = &relation.name;
    let query = match relation.kind {
        Kind::Table => format!("COPY {name} TO '/dev/null'"),
        Kind::MaterialisedView => format!("COPY (SELECT * FROM {name}) TO '/dev/null'"),
        Kind::Sequence => format!("SELECT * FROM {name}"),
    };
    let Err(error) = client.simple_query(&query).await else { return Ok(Read::Whole) };
    let why = sql_message(&error);
    // A file is missing: perhaps the relation's own, perhaps only the library of a type.
    let file_is_missing = error.code().is_some_and(|code| code.code() == "58P01");
    if file_is_missing && client.simple_query(&format!("SELECT count(*) FROM ONLY {name}")).await.is_ok() {
        return Ok(Read::RowsOnly);
    }
    Err(why)
}
