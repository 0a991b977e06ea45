//! What can go wrong between us and a server.

use std::io;
use std::time::Duration;

/// What the client's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a connection or a command failed. No message holds a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server said no.
    #[error("the server reports: {severity} {code}: {message}{}", detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Server {
        /// `ERROR`, `FATAL`, `PANIC`.
        severity: String,
        /// SQLSTATE: five letters and digits.
        code: String,
        /// In the server's language.
        message: String,
        /// More of it.
        detail: Option<String>,
        /// What to do: the server's own words, or ours where we know better.
        hint: Option<String>,
    },
    /// We could not, or would not, prove who we are.
    #[error("cannot authenticate to {host}: {why}")]
    Authentication {
        /// Host and port, or the socket's path.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// No TLS, or not such as is demanded.
    #[error("cannot set up TLS with {host}: {why}")]
    Tls {
        /// Host and port.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// Nobody answers there.
    #[error("cannot reach {host}: {source}")]
    Unreachable {
        /// Host and port, or the socket's path.
        host: String,
        /// What the system says.
        source: io::Error,
    },
    /// The connection was lost in the middle.
    #[error("lost the connection to {host}: {source}")]
    Lost {
        /// Host and port, or the socket's path.
        host: String,
        /// What the system says.
        source: io::Error,
    },
    /// The server did not speak the protocol as we know it.
    #[error("unexpected answer from {host}: {what}")]
    Protocol {
        /// Host and port, or the socket's path.
        host: String,
        /// What was unexpected.
        what: String,
    },
    /// It took too long.
    #[error("{host} has not accepted the connection within {} s", after.as_secs())]
    Timeout {
        /// Host and port, or the socket's path.
        host: String,
        /// The limit.
        after: Duration,
    },
    /// The connection string or an argument cannot be used.
    #[error("{0}")]
    Config(String),
    /// The prior backup's manifest, which was to be sent to the server, cannot be read.
    #[error("cannot read the prior backup's manifest: {0}")]
    Manifest(io::Error),
    /// None of several hosts will do; each one's reason.
    #[error("none of the {} hosts can be used: {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    AllHosts(Vec<Error>),
    /// The server is not of the kind that `target_session_attrs` asks for.
    #[error("{host} is not what target_session_attrs asks for: {found}")]
    WrongKind {
        /// Host and port, or the socket's path.
        host: String,
        /// What it is.
        found: &'static str,
    },
}

impl From<crate::conninfo::ConnInfoError> for Error {
    fn from(error: crate::conninfo::ConnInfoError) -> Self {
        Self::Config(error.to_string())
    }
}

impl Error {
    /// The server's SQLSTATE, where it was the server that failed.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            _ => None,
        }
    }

    /// What an operator can do about it.
    pub fn hint(&self) -> Option<String> {
        let words = match self {
            Self::Server { hint: Some(hint), .. } => return Some(hint.clone()),
            Self::Server { code, .. } => code_hint(code)?,
            Self::Authentication { .. } => {
                "give the password in the password file (~/.pgpass), in PGPASSWORD or in the connection string, \
                 and check the method in pg_hba.conf"
            }
            Self::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "is the server running, and is this the directory of its socket (unix_socket_directories)?"
                }
                io::ErrorKind::ConnectionRefused => {
                    "is the server running, and does it listen there (listen_addresses, port)?"
                }
                io::ErrorKind::PermissionDenied => "may this user enter the socket's directory?",
                _ => "check host, port and the network between",
            },
            Self::Timeout { .. } => "check host, port and firewall, or raise connect_timeout",
            Self::AllHosts(errors) => return errors.iter().find_map(Self::hint),
            Self::WrongKind { .. } => "list more hosts, or relax target_session_attrs",
            Self::Tls { .. }
            | Self::Lost { .. }
            | Self::Protocol { .. }
            | Self::Config(_)
            | Self::Manifest(_) => {
                return None;
            }
        };
        Some(words.to_owned())
    }

    /// Whether another try, unchanged, may well succeed: the server is starting, full, or gone for the moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Timeout { .. } | Self::WrongKind { .. } => {
                true
            }
            // Connection exceptions; too many connections; shutting down, crashed, starting; slot still in use.
            Self::Server { code, .. } => {
                code.starts_with("08")
                    || matches!(code.as_str(), "53300" | "57P01" | "57P02" | "57P03" | "55006")
            }
            Self::AllHosts(errors) => errors.iter().any(Self::is_transient),
            Self::Authentication { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Config(_)
            | Self::Manifest(_) => false,
        }
    }
}

fn code_hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" => "the password is wrong, or the role has none: set it with ALTER ROLE … PASSWORD",
        "28000" => "the role does not exist, may not log in, or no line of pg_hba.conf lets it in",
        "42501" => "give the role what it needs: ALTER ROLE … REPLICATION, and GRANT pg_monitor",
        "53300" => "raise max_wal_senders or max_connections, or end sessions that are not needed",
        "57P03" => "the server is starting up or shutting down: try again in a moment",
        "55006" => {
            "another session uses the slot: is a second agent running? After a crash it is free in a moment"
        }
        "55000" => "check wal_level (replica or logical) and the slot's state in pg_replication_slots",
        "53400" => "raise max_replication_slots, or drop slots that nobody uses",
        "42710" => "the slot is there already",
        "42704" => "the slot does not exist: create it with walkeep init",
        "58P01" => {
            "the server has removed that WAL: take a new backup, and keep a slot so that it waits for us"
        }
        _ => return None,
    })
}
