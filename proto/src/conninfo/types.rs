//! The values that connection keywords take.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where it listens.
    pub address: Address,
    /// 1–65535; also part of a Unix socket's name.
    pub port: u16,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The directory of a Unix socket; one that starts with `@` is abstract.
    Unix(PathBuf),
    /// A name to look up (or an address as text).
    Name(String),
    /// `hostaddr`: connect there. The name, if any, is for certificates and the password file only.
    Numeric {
        /// The server's name.
        name: Option<String>,
        /// Its address.
        addr: IpAddr,
    },
}

impl Host {
    /// The Unix socket's path, where it is one.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.address {
            Address::Unix(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
            Address::Name(_) | Address::Numeric { .. } => None,
        }
    }

    /// The name that a certificate must carry; `None` for Unix sockets.
    pub fn name(&self) -> Option<String> {
        match &self.address {
            Address::Unix(_) => None,
            Address::Name(name) => Some(name.clone()),
            Address::Numeric { name, addr } => Some(name.clone().unwrap_or_else(|| addr.to_string())),
        }
    }

    /// What the password file's first field is compared with.
    pub(super) fn passfile_name(&self) -> String {
        match &self.address {
            Address::Unix(directory) if directory == Path::new(super::build::DEFAULT_SOCKET_DIRECTORY) => {
                "localhost".to_owned()
            }
            Address::Unix(directory) => directory.display().to_string(),
            Address::Name(_) | Address::Numeric { .. } => self.name().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(directory) => write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port),
            Address::Name(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Address::Name(name) => write!(f, "{name}:{}", self.port),
            Address::Numeric { name: Some(name), addr } => write!(f, "{name}:{} ({addr})", self.port),
            Address::Numeric { name: None, addr: IpAddr::V6(addr) } => write!(f, "[{addr}]:{}", self.port),
            Address::Numeric { name: None, addr } => write!(f, "{addr}:{}", self.port),
        }
    }
}

/// A password: wiped from memory when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be sent to a server and nowhere else.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A value with a fixed set of words.
pub(super) trait Words: Sized + Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
    }

    fn allowed() -> String {
        let words: Vec<_> = Self::WORDS.iter().map(|(word, _)| *word).collect();
        format!("allowed are {}", words.join(", "))
    }
}

/// Whether and how strictly TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// In clear if the server lets us in so, else with TLS.
    Allow,
    /// With TLS if the server offers it, else in clear.
    Prefer,
    /// Always, with any certificate; if a root certificate is there, as [`SslMode::VerifyCa`].
    Require,
    /// Always, and the certificate's issuer must be trusted.
    VerifyCa,
    /// Always, and the certificate must also carry the server's name.
    VerifyFull,
}

impl Words for SslMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

/// How TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslNegotiation {
    /// PostgreSQL's own request comes first: works with every version.
    Postgres,
    /// TLS from the first byte on: PostgreSQL 17 and later.
    Direct,
}

impl Words for SslNegotiation {
    const WORDS: &'static [(&'static str, Self)] = &[("postgres", Self::Postgres), ("direct", Self::Direct)];
}

/// Whom to trust as issuer of the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The system's trusted authorities.
    System,
    /// A file of certificates, PEM.
    File(PathBuf),
}

/// A version of TLS. Older ones are not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Whether SCRAM must be bound to the TLS channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never bind.
    Disable,
    /// Bind where both sides can.
    Prefer,
    /// Refuse a server that does not bind.
    Require,
}

impl Words for ChannelBinding {
    const WORDS: &'static [(&'static str, Self)] =
        &[("disable", Self::Disable), ("prefer", Self::Prefer), ("require", Self::Require)];
}

/// GSSAPI encryption, which we do not speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GssEncMode {
    /// Never.
    Disable,
    /// If possible: it is not, so the same as never.
    Prefer,
    /// Refused.
    Require,
}

impl Words for GssEncMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("disable", Self::Disable), ("prefer", Self::Prefer), ("require", Self::Require)];
}

/// A way to authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// The server asks for nothing (it may have looked at a certificate or at the socket's peer).
    None,
    /// The password in clear.
    Password,
    /// The password's MD5 digest.
    Md5,
    /// SCRAM-SHA-256, bound to the channel or not.
    ScramSha256,
    /// Kerberos.
    Gss,
    /// Windows.
    Sspi,
    /// OAuth.
    OAuth,
}

impl Words for AuthMethod {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("password", Self::Password),
        ("md5", Self::Md5),
        ("scram-sha-256", Self::ScramSha256),
        ("gss", Self::Gss),
        ("sspi", Self::Sspi),
        ("oauth", Self::OAuth),
    ];
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, value)| value == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

/// Which ways to authenticate are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RequireAuth {
    /// All that we know.
    #[default]
    Any,
    /// These only.
    Only(Vec<AuthMethod>),
    /// All but these.
    Not(Vec<AuthMethod>),
}

impl RequireAuth {
    /// Whether `method` may be used.
    pub fn accepts(&self, method: AuthMethod) -> bool {
        match self {
            Self::Any => true,
            Self::Only(methods) => methods.contains(&method),
            Self::Not(methods) => !methods.contains(&method),
        }
    }
}

/// Which kind of server is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSession {
    /// Any.
    Any,
    /// One on which sessions can write by default.
    ReadWrite,
    /// One on which they cannot.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One in recovery.
    Standby,
    /// One in recovery; any, if none of the hosts is.
    PreferStandby,
}

impl Words for TargetSession {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];
}

/// When the system asks a silent peer whether it is still there. It does not while sent bytes are unacknowledged: then
/// what counts is [`ConnInfo::tcp_user_timeout`](super::ConnInfo::tcp_user_timeout).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first question.
    pub idle: Duration,
    /// Time between questions.
    pub interval: Duration,
    /// Unanswered questions until the connection counts as lost.
    pub count: u32,
}

impl Keepalive {
    /// How long a lost peer stays unnoticed.
    pub fn patience(&self) -> Duration {
        self.idle + self.interval * self.count
    }
}

impl Default for Keepalive {
    /// A lost peer is noticed within two minutes ([`Keepalive::patience`]). The system's own defaults take more than two
    /// hours.
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 }
    }
}
