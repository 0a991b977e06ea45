//! What can go wrong with a repository, told so that nothing is mistaken for something else.

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a repository did not do what was asked.
///
/// The variants are what callers decide by. Above all: [`Error::Absent`] is only ever said when the store has
/// answered that the object does not exist. Whatever leaves that open is another variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store answered: this does not exist.
    #[error("{what} does not exist")]
    Absent {
        /// Usually a key.
        what: String,
    },
    /// There is no repository, or nothing of this cluster in it: `walkeep init` was not run, or a disk is not mounted.
    #[error("{what} {why}")]
    NotBegun {
        /// The store, or the cluster in it.
        what: String,
        /// How that was seen.
        why: String,
    },
    /// The store did not answer, or not in a usable way, although it was asked several times.
    #[error("cannot reach {what}: {why}")]
    Unreachable {
        /// The store, and the key if one was asked for.
        what: String,
        /// What happened instead of an answer.
        why: String,
    },
    /// The store answered, and will not do it: credentials, permissions, a missing bucket, a full disk.
    #[error("{what}: {why}")]
    Refused {
        /// The store, and the key if one was asked for.
        what: String,
        /// What the store said.
        why: String,
    },
    /// Two contents claim the same place. Both are kept; an operator has to decide.
    #[error("{what} is stored with different contents: {}", .found.join(", "))]
    Conflict {
        /// What is stored twice.
        what: String,
        /// The keys, or the keys' distinguishing parts.
        found: Vec<String>,
    },
    /// An object is not what it was when it was written.
    #[error("object {key} is damaged: {why}")]
    Corrupt {
        /// The object's key.
        key: String,
        /// What does not agree.
        why: String,
    },
    /// What is there belongs to another cluster, or is no repository of ours.
    #[error("{what}: {why}")]
    Foreign {
        /// What was looked at.
        what: String,
        /// Whose it is instead.
        why: String,
    },
    /// The request itself makes no sense: a URL, a key, a length, a setting.
    #[error("{what}: {why}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The object is encrypted, and no identity that opens it is at hand.
    #[error("{what} is encrypted, and {why}")]
    Locked {
        /// The object's key.
        what: String,
        /// Which identities were tried.
        why: String,
    },
}

impl Error {
    pub(crate) fn invalid(what: impl ToString, why: impl ToString) -> Self {
        Self::Invalid { what: what.to_string(), why: why.to_string() }
    }

    pub(crate) fn corrupt(key: impl ToString, why: impl ToString) -> Self {
        Self::Corrupt { key: key.to_string(), why: why.to_string() }
    }

    /// Whether the store has answered that the thing does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Whether trying again later may help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// What an operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Absent { .. } => None,
            Self::NotBegun { .. } => Some(
                "run `walkeep init` first; if that was done, check `repository` and `cluster`: is its disk mounted?",
            ),
            Self::Unreachable { .. } => {
                Some("check the repository's address, the network, and that the store is up; nothing is lost")
            }
            Self::Refused { .. } => Some(
                "check the credentials, the rights on the bucket or directory, that it exists, and that it \
                 is not full",
            ),
            Self::Conflict { .. } => Some(
                "two servers have written under one name, and nothing was overwritten. Find out which one is right, \
                 and move the other one's object out of the repository by hand: walkeep never does",
            ),
            Self::Corrupt { .. } => {
                Some("keep the object for examination; `walkeep verify` tells what else is affected")
            }
            Self::Foreign { .. } => {
                Some("check `repository` and `cluster`, or run `walkeep init` for a new cluster")
            }
            Self::Invalid { .. } => None,
            Self::Locked { .. } => {
                Some("set `identity_file` in [encryption] to a file with an identity that may read it")
            }
        }
    }
}

impl<T> OrAbsent<T> for Result<T> {
    fn or_absent(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(Error::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Turns "it does not exist" into a value, and leaves every other error one.
pub trait OrAbsent<T> {
    /// `None` only if the store answered that the thing does not exist.
    fn or_absent(self) -> Result<Option<T>>;
}
