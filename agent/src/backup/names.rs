//! The names of the cluster's relations, kept with a backup so that `walkeep find` can call them by their names.

use anyhow::Context;
use proto::conninfo::ConnInfo;
use repository::Branch;
use repository::backup::{BackupLabel, NameRecord, NamesWriter, RelationName};

use super::facts::Sql;

/// So many rows are asked for at once.
const ROWS: usize = 10_000;

const DATABASES: &str = "SELECT oid, dattablespace, datname, datallowconn FROM pg_database ORDER BY oid";

const SCHEMAS: &str = "SELECT oid, nspname FROM pg_namespace ORDER BY oid";

/// What has a file, and what partitions have in common; nothing of a session's own.
const RELATIONS: &str = "SELECT c.oid, coalesce(pg_relation_filenode(c.oid), 0), \
    CASE WHEN c.relisshared THEN 1664 WHEN c.reltablespace <> 0 THEN c.reltablespace ELSE d.dattablespace END, \
    c.relkind, c.relnamespace, c.relname FROM pg_class c, pg_database d \
    WHERE d.datname = current_database() AND c.relpersistence <> 't' \
    AND c.relkind IN ('r', 'i', 't', 'm', 'S', 'p', 'I')";

/// Nobody waits for us, and we wait for nobody: a catalogue that is being rewritten is left out.
const SESSION: &str = "SET statement_timeout = '600s'; SET lock_timeout = '10s'; BEGIN READ ONLY";

/// Stores the names, where a failure is a warning: a backup is complete without names.
pub async fn keep(info: ConnInfo, branch: Branch, label: BackupLabel) {
    if let Err(error) = store(&info, &branch, &label).await {
        tracing::warn!(
            "the names of relations are not kept with the backup, and `walkeep find` will show numbers: {error:#}"
        );
    }
}

/// Asks every database for its relations and stores what they tell. A database that cannot be read is left out with a
/// warning. Of many relations only some are in memory, and those gathered, compressed.
async fn store(info: &ConnInfo, branch: &Branch, label: &BackupLabel) -> anyhow::Result<()> {
    let mut names = NamesWriter::new(branch, label)?;
    let databases = Sql::connect(info).await?.rows(DATABASES).await?;
    for row in databases {
        let fields = Fields(&row);
        let (oid, name) = (fields.number(0)?, fields.text(2)?.to_owned());
        let tablespace = fields.number(1)?;
        names.push(&NameRecord::Database { oid, tablespace, name: name.clone() })?;
        // Nobody can connect to a template that is closed, and nobody changes it.
        if fields.text(3)? != "t" {
            continue;
        }
        let info = ConnInfo { dbname: name.clone(), ..info.clone() };
        match database(&info, &mut names).await {
            Ok(()) => names.push(&NameRecord::End)?,
            Err(error) => tracing::warn!(
                "the names of database \"{name}\" are not kept with the backup, which is complete without them: {error:#}"
            ),
        }
    }
    names.store(branch).await.context("cannot store the names of relations")
}

async fn database(info: &ConnInfo, names: &mut NamesWriter) -> anyhow::Result<()> {
    let sql = Sql::connect(info).await?;
    sql.rows(SESSION).await?;
    for row in sql.rows(SCHEMAS).await? {
        let fields = Fields(&row);
        names.push(&NameRecord::Schema { oid: fields.number(0)?, name: fields.text(1)?.to_owned() })?;
    }
    sql.rows(&format!("DECLARE walkeep_names NO SCROLL CURSOR FOR {RELATIONS}")).await?;
    loop {
        let rows = sql.rows(&format!("FETCH {ROWS} FROM walkeep_names")).await?;
        for row in &rows {
            names.push(&NameRecord::Relation(relation(&Fields(row))?))?;
        }
        if rows.len() < ROWS {
            return Ok(());
        }
    }
}

fn relation(fields: &Fields<'_>) -> anyhow::Result<RelationName> {
    Ok(RelationName {
        oid: fields.number(0)?,
        file: fields.number(1)?,
        tablespace: fields.number(2)?,
        kind: fields.text(3)?.parse().context("the server told of a relation of no kind")?,
        schema: fields.number(4)?,
        name: fields.text(5)?.to_owned(),
    })
}

struct Fields<'a>(&'a [Option<String>]);

impl Fields<'_> {
    fn text(&self, at: usize) -> anyhow::Result<&str> {
        self.0.get(at).and_then(Option::as_deref).context("the server left out a field of its catalogue")
    }

    fn number(&self, at: usize) -> anyhow::Result<u32> {
        self.text(at)?.parse().context("the server's catalogue has a number that is none")
    }
}
