//! What can be wrong with a configuration file.

/// Why a configuration cannot be used. One sentence, with the line; never a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML at all.
    #[error("line {line}: this is not valid TOML: {why}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the TOML reader says.
        why: String,
    },
    /// A key that walkeep does not know.
    #[error("line {line}: unknown key \"{key}\"{}", nearest(suggestion.as_deref()))]
    UnknownKey {
        /// Counted from 1.
        line: usize,
        /// With its section: `stream.slott`.
        key: String,
        /// The known key that looks most like it.
        suggestion: Option<String>,
    },
    /// A known key with a value that it cannot have.
    #[error("line {line}: \"{key}\" cannot be {value}: {allowed}")]
    Value {
        /// Counted from 1.
        line: usize,
        /// With its section.
        key: String,
        /// The value as it was written, shortened; `what it is set to` where it may be secret.
        value: String,
        /// What would do.
        allowed: String,
    },
    /// Two keys that exclude each other.
    #[error("line {line}: \"{key}\" and \"{other}\" exclude each other: remove one of them")]
    Exclusive {
        /// Of the second one.
        line: usize,
        /// One.
        key: String,
        /// The other.
        other: String,
    },
}

fn nearest(suggestion: Option<&str>) -> String {
    suggestion.map(|key| format!("; did you mean \"{key}\"?")).unwrap_or_default()
}
