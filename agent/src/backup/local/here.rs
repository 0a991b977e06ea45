//! Whether the server's data directory is what this process sees under its name.
//!
//! A path proves nothing: another machine's server, or one in a container, has its directory under the same path as one that
//! is here, and a standby of the same cluster even has the same files, at another moment. So the server makes something in
//! its directory that nobody can have guessed, and we look for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use proto::conninfo::ConnInfo;
use restore::conf::identifier;
use restore::program::failure;
use tokio::task::spawn_blocking;

use super::super::facts::{Facts, Sql};

/// The server's data directory, proven to be here and readable; the role may begin a backup.
///
/// # Errors
/// Why it cannot be read, with what to do about it.
pub async fn here(info: &ConnInfo, facts: &Facts, major: u32) -> anyhow::Result<PathBuf> {
    let role = identifier(&facts.role);
    let Some(data) = facts.data_directory() else {
        return Err(failure(
            format!("the role {role} may not see where the server's data directory is"),
            format!("as a superuser: GRANT pg_read_all_settings TO {role};"),
        ));
    };
    let sql = Sql::connect(info).await?;
    may_begin(&sql, &role, major).await?;
    // A slot of this session's only, for which no WAL is kept: what is left of it after a crash the server removes itself.
    let name = format!("walkeep_here_{:016x}", rand::random::<u64>());
    sql.rows(&format!("SELECT pg_create_physical_replication_slot('{name}', false, true)")).await.context(
        "cannot prove that the server's data directory is on this machine, for which a slot must be free",
    )?;
    let (directory, slot) = (data.clone(), name.clone());
    let looked = spawn_blocking(move || look(&directory, &slot)).await?;
    sql.rows(&format!("SELECT pg_drop_replication_slot('{name}')")).await?;
    looked.map_err(|why| {
        failure(
            format!("the server's data directory, {}, cannot be read from here: {why}", data.display()),
            "run `walkeep backup` beside the server and as its operating system user, or leave out `--source local`",
        )
    })?;
    Ok(data)
}

/// Whether the role may have the server begin and end a backup.
async fn may_begin(sql: &Sql, role: &str, major: u32) -> anyhow::Result<()> {
    let functions = match major {
        ..15 => ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"],
        15.. => ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"],
    };
    let [start, stop] = functions;
    let both = format!(
        "SELECT has_function_privilege('{start}', 'execute') AND has_function_privilege('{stop}', 'execute')"
    );
    let rows = sql.rows(&both).await?;
    if super::one(&rows, 0) == "t" {
        return Ok(());
    }
    Err(failure(
        format!("the role {role} may not have the server begin a backup of its files"),
        format!(
            "as a superuser, in the database of `postgres`: GRANT EXECUTE ON FUNCTION {start}, {stop} TO {role};"
        ),
    ))
}

fn look(data: &Path, slot: &str) -> io::Result<()> {
    match fs::metadata(data.join("pg_replslot").join(slot)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::other("it is another directory, or not on this machine"));
        }
        Err(error) => return Err(error),
    }
    fs::File::open(data.join("global/pg_control")).map(drop)
}
