//! Configuration files that lie outside of the data directory, as on Debian: a server cannot start without them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proto::conninfo::{Address, ConnInfo};

use super::facts::{Facts, Sql};

/// A configuration file is never longer; what is, is no configuration file.
const MAX_LENGTH: u64 = 4 << 20;

const TOO_LARGE: &str = "it is no ordinary file of at most 4 MiB";

/// One file that the server reads its configuration from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalFile {
    /// Where it was on the server.
    pub path: PathBuf,
    /// `config_file`, `hba_file`, `ident_file`, or `include` for a file that one of those includes.
    pub role: &'static str,
    /// Its content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
}

/// Which files there are: path and role, ordered by path. Pure.
pub fn outside(facts: &Facts, included: &[PathBuf]) -> Vec<(PathBuf, &'static str)> {
    let Some(data_directory) = facts.data_directory() else { return Vec::new() };
    let mut files = BTreeMap::new();
    for path in included {
        files.insert(path.clone(), "include");
    }
    for role in ["config_file", "hba_file", "ident_file"] {
        if let Some(path) = facts.setting(role) {
            files.insert(PathBuf::from(path), role);
        }
    }
    files.retain(|path, _| path.is_absolute() && !path.starts_with(&data_directory));
    files.into_iter().collect()
}

/// Reads them: through the server where the role may do that, since only then it is surely the server's file; from
/// the file system where the server is on this machine. Warns of each that could not be read: the backup is good
/// without it.
pub async fn gather(sql: &Sql, facts: &Facts, info: &ConnInfo) -> Vec<ExternalFile> {
    if facts.data_directory().is_none() {
        tracing::warn!(
            "the role \"{}\" may not see where the server's configuration files are: they are in the backup only if \
             they lie in the data directory (GRANT pg_read_all_settings TO the role)",
            facts.role
        );
        return Vec::new();
    }
    let included = sql.configuration_sources().await.unwrap_or_else(|error| {
        tracing::warn!(
            "files that the server's configuration includes are in the backup only if they lie in the data directory: \
             {error:#}"
        );
        Vec::new()
    });
    let local = info.hosts.iter().all(|host| matches!(host.address, Address::Unix(_)));
    let mut files = Vec::new();
    for (path, role) in outside(facts, &included) {
        let read = match path.to_str() {
            Some(text) if facts.may_read_files => read_remote(sql, text).await,
            _ if local => read_local(&path).await,
            _ => Err(anyhow::anyhow!("the role may not read files, and the server is on another machine")),
        };
        match read {
            Ok(Some((content, mode, mtime))) => files.push(ExternalFile { path, role, content, mode, mtime }),
            Ok(None) => {}
            Err(error) => tracing::warn!("{} is not in the backup: {error:#}", path.display()),
        }
    }
    files
}

async fn read_remote(sql: &Sql, path: &str) -> anyhow::Result<Option<(Vec<u8>, u32, i64)>> {
    // One byte more than there may be: a part of a file is not the file.
    let content = sql.read_file(path, 0, MAX_LENGTH + 1).await?;
    let fits = content.as_ref().is_none_or(|content| content.len() as u64 <= MAX_LENGTH);
    anyhow::ensure!(fits, "{TOO_LARGE}");
    Ok(content.map(|content| (content, 0o600, 0)))
}

async fn read_local(path: &Path) -> anyhow::Result<Option<(Vec<u8>, u32, i64)>> {
    let metadata = match tokio::fs::metadata(path).await {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    anyhow::ensure!(metadata.is_file() && metadata.len() <= MAX_LENGTH, "{TOO_LARGE}");
    Ok(Some((tokio::fs::read(path).await?, metadata.mode() & 0o7777, metadata.mtime())))
}
