//! `[notify]`: who is told of events.

use std::time::Duration;

use super::ConfigError;
use super::values::{DAY, MINUTE, Reader, SECOND};

/// `[notify]`: what `walkeep run` does when something happens that people should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyConfig {
    /// `command`: a program and its arguments. It gets each event as one line of JSON on its standard input, and an
    /// environment without secrets. No shell is between. Default: none.
    pub command: Vec<String>,
    /// `webhook`: an `https://` or `http://` URL to which each event is posted as JSON. May hold a secret, so it is never
    /// shown. Default: none.
    pub webhook: Option<String>,
    /// `timeout`: how long the command, and one call of the webhook, may take. Default `"10s"`; 1 second to 10 minutes.
    pub timeout: Duration,
    /// `after`: how long the stream must be down, or `archive_command` fail, before that is told. Default `"5m"`; at most
    /// a day.
    pub after: Duration,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self { command: Vec::new(), webhook: None, timeout: 10 * SECOND, after: 5 * MINUTE }
    }
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<NotifyConfig, ConfigError> {
    let default = NotifyConfig::default();
    Ok(NotifyConfig {
        command: reader.command("notify.command")?,
        webhook: reader.webhook("notify.webhook")?,
        timeout: reader.duration("notify.timeout", SECOND..=10 * MINUTE)?.unwrap_or(default.timeout),
        after: reader.duration("notify.after", Duration::ZERO..=DAY)?.unwrap_or(default.after),
    })
}
