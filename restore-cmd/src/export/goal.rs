//! Where an export goes. Looked at before anything is restored: a copy may take hours.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::conninfo::ConnInfo;

use super::Wish;
use crate::program::{failure, no_password};
use crate::scratch::sql_message;

/// Where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Into a file, or a directory, that is not there yet.
    File(PathBuf),
    /// Into a running server, reached so.
    Server(String),
}

impl Goal {
    /// Looks whether it can be reached, and whether what is wanted is there already.
    ///
    /// # Errors
    /// It could only fail later.
    pub async fn check(&self, wish: &Wish, data_only: bool) -> Result<()> {
        match self {
            Self::File(path) => check_file(path),
            Self::Server(conninfo) => {
                no_password(conninfo, "--to-connection")?;
                check_server(conninfo, wish, data_only).await
            }
        }
    }
}

fn check_file(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        let hint = "name another file with --output: nothing is overwritten";
        return Err(failure(format!("{} is there already", path.display()), hint));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let may = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    may.map_err(|error| {
        failure(
            format!("cannot write into {}: {error}", folder.display()),
            "name a file in a directory that this user may write to with --output",
        )
    })
}

async fn check_server(conninfo: &str, wish: &Wish, data_only: bool) -> Result<()> {
    let info = ConnInfo::resolve(conninfo).context("--to-connection cannot be used")?;
    let client = proto::client::sql(&info, "restore-cmd").await;
    let client = client.context("cannot connect to the server of --to-connection")?;
    let told = |error: tokio_postgres::Error| anyhow::anyhow!(sql_message(&error));
    if let Some(new) = &wish.rename {
        let query = "SELECT count(*) FROM pg_namespace WHERE nspname = $1";
        let there: i64 = client.query_one(query, &[new]).await.map_err(told)?.try_get(0)?;
        if there > 0 {
            return Err(failure(
                format!("the server of --to-connection has a schema {new} already"),
                "choose another name with --as",
            ));
        }
        return Ok(());
    }
    for name in wish.tables.iter().filter(|_| !data_only) {
        let there = client.query_one("SELECT to_regclass($1)::oid", &[name]).await.map_err(told)?;
        if there.try_get::<_, Option<u32>>(0)?.is_some() {
            return Err(failure(
                format!("the server of --to-connection has a table {name} already"),
                "load it under another schema's name with --as NAME, or only its rows into that table with --data-only",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x");
        assert!(check_file(&path).is_ok());
        std::fs::write(&path, "").unwrap();
        assert!(check_file(&path).unwrap_err().to_string().contains("is there already"));
        assert!(check_file(&home.path().join("no/such")).is_err());
    }
}
