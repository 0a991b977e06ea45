//! `[log]`: how much the agent says.

use std::str::FromStr;

use super::ConfigError;
use super::values::Reader;

/// `[log]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// `level`: how much `walkeep run` logs: `"error"`, `"warn"`, `"info"`, `"debug"` or `"trace"`. Default `"info"`. `-v`,
    /// `-q` and `RUST_LOG` win.
    pub level: LogLevel,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// What has failed.
    Error,
    /// What somebody should look at, too.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// How it happens.
    Debug,
    /// Everything.
    Trace,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return Err("\"error\", \"warn\", \"info\", \"debug\" or \"trace\" is expected".into()),
        })
    }
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<LogConfig, ConfigError> {
    Ok(LogConfig { level: reader.parsed("log.level")?.unwrap_or_default() })
}
