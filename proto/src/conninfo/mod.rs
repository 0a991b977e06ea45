//! How to reach a PostgreSQL server: libpq's words, its variables, its files.
//!
//! Users write the same text that they would give to `psql`: keywords (`host=db1 user=walkeep`) or a URI
//! (`postgresql://walkeep@db1/postgres`). What the text leaves open comes from a service file, then from the
//! `PG*` variables, then from libpq's defaults; passwords also from the password file.
//!
//! [`ConnInfo::parse`] is pure: all that it reads from the outside goes through [`Env`].

mod build;
mod env;
mod environment;
mod keywords;
mod passfile;
mod service;
mod settings;
mod types;
mod uri;
mod values;
mod words;

use std::path::PathBuf;
use std::time::Duration;

pub use env::{Env, FileError, ProcessEnv};
pub use passfile::{PassFile, PassFileError};
pub use types::{
    Address, AuthMethod, ChannelBinding, GssEncMode, Host, Keepalive, Password, RequireAuth, RootCert,
    SslMode, SslNegotiation, TargetSession, TlsVersion,
};

/// Where a server is, who we are to it, and what we demand of the connection.
///
/// `Debug` never shows the password.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The servers to try, in order. Never empty.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The database of plain SQL sessions. A physical replication session has none.
    pub dbname: String,
    /// The password that the text, the service file or `PGPASSWORD` gave.
    pub password: Option<Password>,
    /// The password file's lines: asked, host by host, when `password` is not set.
    pub passfile: PassFile,
    /// What the server lists the session as.
    pub application_name: Option<String>,
    /// The name to use when nobody else has one.
    pub fallback_application_name: Option<String>,
    /// Command-line options for the server's session, such as `-c statement_timeout=0`.
    pub options: Option<String>,
    /// Whether and how strictly TLS is used.
    pub sslmode: SslMode,
    /// How TLS begins.
    pub sslnegotiation: SslNegotiation,
    /// Whom to trust as issuer of the server's certificate.
    pub sslrootcert: Option<RootCert>,
    /// Our own certificate, PEM.
    pub sslcert: Option<PathBuf>,
    /// Its private key, PEM.
    pub sslkey: Option<PathBuf>,
    /// Whether the host's name is sent in clear at the start of TLS.
    pub sslsni: bool,
    /// The oldest TLS that is accepted.
    pub ssl_min_version: TlsVersion,
    /// The newest TLS that is used.
    pub ssl_max_version: TlsVersion,
    /// Whether SCRAM must be bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// Which ways to authenticate are accepted.
    pub require_auth: RequireAuth,
    /// Which kind of server is wanted.
    pub target_session_attrs: TargetSession,
    /// Whether the hosts are tried in random order.
    pub load_balance_hosts: bool,
    /// How long one host may take until it has accepted us; `None` waits for ever. 30 s if the text is silent:
    /// libpq would wait for ever, and an agent must not.
    pub connect_timeout: Option<Duration>,
    /// TCP keepalive; `None` switches it off.
    pub keepalive: Option<Keepalive>,
    /// How long sent bytes may stay unacknowledged; `None`: as long as [`Keepalive::patience`], or, without keepalive,
    /// as the system has it (a quarter of an hour).
    pub tcp_user_timeout: Option<Duration>,
}

impl ConnInfo {
    /// Reads keywords or a URI, completed from the process's environment and the files it names.
    pub fn resolve(text: &str) -> Result<Self, ConnInfoError> {
        Self::parse(text, &ProcessEnv)
    }

    /// Reads keywords or a URI, completed from `env`.
    pub fn parse(text: &str, env: &dyn Env) -> Result<Self, ConnInfoError> {
        build::build(text, env)
    }
}

/// Why a connection string cannot be used. No message repeats a value that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnInfoError {
    /// The text is not in the form of keywords, nor of a URI.
    #[error("the connection string is malformed at byte {at}: {why}")]
    Syntax {
        /// Counted from 0.
        at: usize,
        /// What was expected.
        why: &'static str,
    },
    /// The text is not a well-formed URI.
    #[error("the connection URI is malformed: {0}")]
    Uri(&'static str),
    /// A word that libpq does not know either.
    #[error("unknown connection keyword \"{word}\"{}", nearest.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default())]
    Unknown {
        /// As written, its first 40 characters.
        word: String,
        /// The known word that is most like it.
        nearest: Option<&'static str>,
    },
    /// A word of libpq's that is not for us.
    #[error("the connection keyword \"{word}\" cannot be used: {why}")]
    Unsupported {
        /// As written.
        word: &'static str,
        /// Why, and what to do.
        why: &'static str,
    },
    /// A value that its keyword does not take.
    #[error("{origin} is invalid for \"{word}\": {expected}")]
    Value {
        /// The keyword.
        word: &'static str,
        /// The value in quotes, or where it came from.
        origin: String,
        /// What is allowed.
        expected: String,
    },
    /// Values that contradict each other.
    #[error("{0}")]
    Conflict(String),
    /// A file that the text or the environment names.
    #[error("the {what} \"{}\" cannot be used: {why}", path.display())]
    File {
        /// What the file is.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}
