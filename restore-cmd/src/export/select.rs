//! What is to be exported: names are looked up as SQL does, in the copy, before anything is dumped.

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::program::failure;
use crate::scratch::{Server, sql_message};

/// What is wanted, in the user's words. Without tables and schemas it is the whole database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wish {
    /// The database.
    pub database: String,
    /// Names of tables as SQL writes them, best with their schemas.
    pub tables: Vec<String>,
    /// Names of schemas, likewise.
    pub schemas: Vec<String>,
    /// The schema under whose name it shall come out.
    pub rename: Option<String>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// The database.
    pub database: String,
    /// Tables and schemas by their full, quoted names; empty: the whole database. Under the new name, if there is one.
    pub names: Vec<String>,
    /// What tells `pg_dump` so.
    pub(super) arguments: Vec<String>,
}

/// A table, or one of its partitions or children.
struct Table {
    oid: u32,
    schema: String,
    name: String,
    kind: i8,
}

/// `pg_class.relkind` of what holds rows, defines them, or counts.
const KINDS: &[u8] = b"rpvmSf";

/// Finds what is wanted, with the partitions and children of tables, and gives it its new name.
///
/// # Errors
/// Something did not exist at that moment; `moment` names it.
pub async fn select(server: &Server, wish: &Wish, moment: &str) -> Result<Selection> {
    let databases = server.databases().await?;
    if !databases.contains(&wish.database) {
        return Err(failure(
            format!("there was no database {} {moment}", wish.database),
            format!("those that were there: {}; name one with --database", databases.join(", ")),
        ));
    }
    let client = server.connect(&wish.database).await?;
    let mut selection = Selection { database: wish.database.clone(), ..Selection::default() };
    let mut tables: Vec<Table> = Vec::new();
    for name in &wish.tables {
        for table in with_children(&client, name, &wish.database, moment).await? {
            if tables.iter().all(|known| known.oid != table.oid) {
                tables.push(table);
            }
        }
    }
    let mut schemas = Vec::new();
    for name in &wish.schemas {
        schemas.push(schema(&client, name, &wish.database, moment).await?);
    }
    if let Some(new) = &wish.rename {
        move_to(&client, &tables, &schemas, new).await?;
        schemas = vec![new.clone()];
        tables.clear();
    }
    for table in &tables {
        let name = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
        selection.arguments.push(format!("--table={name}"));
        selection.names.push(name);
    }
    for schema in &schemas {
        selection.arguments.push(format!("--schema={}", quoted(schema)));
        selection.names.push(quoted(schema));
    }
    Ok(selection)
}

/// The table of that name, and all that inherit from it or are its partitions: their rows are its own.
async fn with_children(client: &Client, name: &str, database: &str, moment: &str) -> Result<Vec<Table>> {
    let found = client.query_one("SELECT to_regclass($1)::oid", &[&name]).await;
    let found = found.map_err(|error| failure(sql_message(&error), NAMES))?;
    let Some(oid) = found.try_get::<_, Option<u32>>(0)? else {
        return Err(failure(
            format!("there was no table {name} in database {database} {moment}"),
            format!("name a moment at which it was there. {NAMES}"),
        ));
    };
    let query = "WITH RECURSIVE family (oid) AS (SELECT $1::oid UNION \
                 SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid) \
                 SELECT c.oid, n.nspname::text, c.relname::text, c.relkind FROM family f \
                 JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY c.oid = $1 DESC, 2, 3";
    let rows = client.query(query, &[&oid]).await.map_err(|error| anyhow::anyhow!(sql_message(&error)))?;
    let table = |row: &tokio_postgres::Row| -> Result<Table> {
        Ok(Table {
            oid: row.try_get(0)?,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            kind: row.try_get(3)?,
        })
    };
    let tables = rows
        .iter()
        .map(table)
        .collect::<Result<Vec<_>>>()
        .context("the server answered in an unknown way")?;
    match tables.iter().find(|table| !KINDS.contains(&table.kind.cast_unsigned())) {
        Some(other) => Err(failure(format!("{}.{} was no table {moment}", other.schema, other.name), NAMES)),
        None => Ok(tables),
    }
}

const NAMES: &str = "Names are written as in SQL: schema.table, and in double quotes if they have capital letters or odd ones";

async fn schema(client: &Client, name: &str, database: &str, moment: &str) -> Result<String> {
    let query = "SELECT nspname::text FROM pg_namespace WHERE oid = to_regnamespace($1)::oid";
    let found = client.query_opt(query, &[&name]).await;
    let found = found.map_err(|error| failure(sql_message(&error), NAMES))?;
    let Some(found) = found else {
        return Err(failure(
            format!("there was no schema {name} in database {database} {moment}"),
            format!("name a moment at which it was there. {NAMES}"),
        ));
    };
    Ok(found.try_get(0)?)
}

/// Puts it under another name in the copy itself, where the server sees to all that depends on a name: defaults, indexes,
/// sequences. `pg_restore` could not.
async fn move_to(client: &Client, tables: &[Table], schemas: &[String], new: &str) -> Result<()> {
    let statements = match (tables, schemas) {
        ([], [schema]) => vec![format!("ALTER SCHEMA {} RENAME TO {}", quoted(schema), quoted(new))],
        ([_, ..], []) => moving(client, tables, new).await?,
        _ => {
            return Err(failure(
                "only tables, or one schema, can come out under another schema's name",
                "leave out --as, or name either tables or one schema",
            ));
        }
    };
    for statement in statements {
        client.batch_execute(&statement).await.map_err(|error| {
            failure(
                format!("it cannot be put under the name {new}: {}", sql_message(&error)),
                "choose another name with --as",
            )
        })?;
    }
    Ok(())
}

async fn moving(client: &Client, tables: &[Table], new: &str) -> Result<Vec<String>> {
    let mut statements = vec![format!("CREATE SCHEMA {}", quoted(new))];
    for table in tables {
        let name = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
        // Rows that lie beside the living ones need not fit to these.
        let query = "SELECT conname::text FROM pg_constraint WHERE conrelid = $1 AND contype = 'f' AND conparentid = 0";
        let foreign = client.query(query, &[&table.oid]).await;
        for row in foreign.map_err(|error| anyhow::anyhow!(sql_message(&error)))? {
            let constraint: String = row.try_get(0)?;
            statements.push(format!("ALTER TABLE {name} DROP CONSTRAINT {}", quoted(&constraint)));
        }
        statements.push(format!("ALTER TABLE {name} SET SCHEMA {}", quoted(new)));
    }
    Ok(statements)
}

/// A name in double quotes: neither SQL nor a pattern of `pg_dump` sees anything special in it then.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
