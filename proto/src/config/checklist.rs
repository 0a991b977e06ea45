//! `[checklist]`: where reports go.

use std::path::PathBuf;

use super::ConfigError;
use super::values::Reader;

/// `[checklist]`: what `walkeep checklist` does besides printing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChecklistConfig {
    /// `folder`: the folder into which each checklist writes its report, `<cluster>-<kind>.html`, over the one before.
    /// Default: none is written, unless `--html` asks for one.
    pub folder: Option<PathBuf>,
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<ChecklistConfig, ConfigError> {
    Ok(ChecklistConfig { folder: reader.path("checklist.folder")? })
}
