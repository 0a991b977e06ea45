//! `[dump]`: logical backups, by `walkeep dump`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::values::{CENTURY, MINUTE, Reader};

/// `[dump]`: what `walkeep dump` takes unless its flags say otherwise, and how long `walkeep expire` keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct DumpConfig {
    /// `postgres`: how dumps reach the server, with a role that may read what is to be dumped. May hold a password, so it is
    /// never shown. Default: `postgres` at the top level.
    pub postgres: Option<String>,
    /// `databases`: which ones, at most 100. Default: all that can be connected to.
    pub databases: Vec<String>,
    /// `globals`: whether roles and tablespaces are dumped beside the databases. Default `true`.
    pub globals: bool,
    /// `role_passwords`: whether the globals have the digests of the roles' passwords, which only a superuser may read.
    /// Default `true`.
    pub role_passwords: bool,
    /// `format`: `"custom"`, `"directory"`, `"plain"` or `"tar"`. Default `"custom"`.
    pub format: DumpFormat,
    /// `jobs`: tables of one database that are dumped at once, of the format `directory`. Default 1; 1 to 256.
    pub jobs: u16,
    /// `exclude_tables`: patterns of `pg_dump` for tables that are left out, at most 100.
    pub exclude_tables: Vec<String>,
    /// `scratch`: where the files of the format `directory` wait until they are stored. Default: that of `[drill]`.
    pub scratch: Option<PathBuf>,
    /// `bindir`: the folder with `pg_dump`. Default: looked for in the usual places.
    pub bindir: Option<PathBuf>,
    /// What is kept.
    pub retention: DumpRetention,
}

impl Default for DumpConfig {
    fn default() -> Self {
        Self {
            postgres: None,
            databases: Vec::new(),
            globals: true,
            role_passwords: true,
            format: DumpFormat::Custom,
            jobs: 1,
            exclude_tables: Vec::new(),
            scratch: None,
            bindir: None,
            retention: DumpRetention::default(),
        }
    }
}

/// `postgres` may hold a secret: it is left out.
impl fmt::Debug for DumpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DumpConfig")
            .field("postgres", &self.postgres.as_ref().map(|_| "…"))
            .field("databases", &self.databases)
            .field("globals", &self.globals)
            .field("role_passwords", &self.role_passwords)
            .field("format", &self.format)
            .field("jobs", &self.jobs)
            .field("exclude_tables", &self.exclude_tables)
            .field("scratch", &self.scratch)
            .field("bindir", &self.bindir)
            .field("retention", &self.retention)
            .finish()
    }
}

/// Which dumps stay: those that either key keeps, and always the newest. With neither key: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DumpRetention {
    /// `keep`: so many of the newest; at least 1.
    pub keep: Option<u32>,
    /// `window`: those that are younger; at least 1 minute.
    pub window: Option<Duration>,
}

/// The forms that `pg_dump` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DumpFormat {
    /// One file for `pg_restore`.
    #[default]
    Custom,
    /// A directory for `pg_restore`, written by several processes at once.
    Directory,
    /// A script of SQL.
    Plain,
    /// A tar file for `pg_restore`.
    Tar,
}

impl DumpFormat {
    /// The word of `pg_dump`, of the configuration and of JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::Directory => "directory",
            Self::Plain => "plain",
            Self::Tar => "tar",
        }
    }
}

impl fmt::Display for DumpFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DumpFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Custom, Self::Directory, Self::Plain, Self::Tar];
        all.into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| "\"custom\", \"directory\", \"plain\" or \"tar\" is expected".into())
    }
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<DumpConfig, ConfigError> {
    let default = DumpConfig::default();
    Ok(DumpConfig {
        postgres: reader.text("dump.postgres")?,
        databases: reader.names("dump.databases")?,
        globals: reader.switch("dump.globals")?.unwrap_or(default.globals),
        role_passwords: reader.switch("dump.role_passwords")?.unwrap_or(default.role_passwords),
        format: reader.parsed("dump.format")?.unwrap_or_default(),
        jobs: reader.number("dump.jobs", 1..=256)?.unwrap_or(default.jobs),
        exclude_tables: reader.names("dump.exclude_tables")?,
        scratch: reader.path("dump.scratch")?,
        bindir: reader.path("dump.bindir")?,
        retention: DumpRetention {
            keep: reader.number("dump.keep", 1..=u32::MAX)?,
            window: reader.duration("dump.window", MINUTE..=CENTURY)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_dump_s_connection_is_never_shown() {
        let config = Config::parse("[dump]\npostgres = \"host=db1 password=hidden\"\nkeep = 3\n").unwrap();
        let shown = format!("{:?} {config:?}", config.dump);
        assert!(!shown.contains("hidden") && shown.contains("keep: Some(3)"), "{shown}");
    }

    #[test]
    fn what_is_wrong_is_told_with_what_is_expected() {
        for (text, expected) in [
            ("format = \"zip\"", "\"directory\""),
            ("keep = 0", "a whole number from 1"),
            ("jobs = 300", "from 1 to 256"),
            ("window = \"1s\"", "at least 1m"),
        ] {
            let error = Config::parse(&format!("[dump]\n{text}\n")).unwrap_err().to_string();
            assert!(error.contains(expected) && error.starts_with("line 2"), "{error}");
        }
    }
}
