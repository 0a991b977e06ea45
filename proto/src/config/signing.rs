//! `[signing]`: who vouches for what is in the repository.

use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::values::{DAY, HOUR, Reader, SECOND};

/// `[signing]`: Ed25519 signatures under every object, and statements of what there is. Without a key nothing is signed,
/// and without keys to trust no signature is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningConfig {
    /// `key_file`: the secret key of whoever writes, as `openssl genpkey -algorithm ed25519` makes it (PKCS#8, PEM). Nobody
    /// but its owner and its group may be able to read the file. Its public half is trusted, too.
    pub key_file: Option<PathBuf>,
    /// `trusted_keys`: the public keys of all who may write: the line between the first and the last of what
    /// `openssl pkey -pubout` prints. What none of them has signed is refused.
    pub trusted_keys: Vec<String>,
    /// `statement_interval`: how often the agent states what there is, and promises to do so again. Default `"1h"`; 1 second to
    /// 1 day.
    pub statement_interval: Duration,
}

impl Default for SigningConfig {
    fn default() -> Self {
        Self { key_file: None, trusted_keys: Vec::new(), statement_interval: HOUR }
    }
}

/// Reads the section.
pub(super) fn read(reader: &Reader<'_>) -> Result<SigningConfig, ConfigError> {
    let default = SigningConfig::default();
    Ok(SigningConfig {
        key_file: reader.path("signing.key_file")?,
        trusted_keys: reader.public_keys("signing.trusted_keys")?,
        statement_interval: reader
            .duration("signing.statement_interval", SECOND..=DAY)?
            .unwrap_or(default.statement_interval),
    })
}
