//! From a connection string to a session: hosts in turn, TLS, authentication, the kind of server.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::auth::{Channel, Credentials, authenticate};
use super::connection::{Connection, Incoming, server_error};
use super::session::show;
use super::{Error, Result, tls};
use crate::conninfo::{Address, ConnInfo, Host, SslMode, SslNegotiation, TargetSession};

/// What kind of session is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A physical walsender.
    Replication,
    /// A database session.
    Sql,
}

/// What a session needs beyond the connection string.
pub(super) struct Request<'a> {
    pub(super) role: Role,
    /// Used if the connection string sets none.
    pub(super) application_name: &'a str,
    /// Command-line options for the server's session: `-c name=value`.
    pub(super) settings: Vec<String>,
}

/// A session with the first host that will do.
pub(super) async fn open(info: &ConnInfo, request: &Request<'_>) -> Result<Connection> {
    let mut hosts: Vec<&Host> = info.hosts.iter().collect();
    if info.load_balance_hosts {
        hosts.shuffle(&mut rand::rng());
    }
    // Certificates are read before the first connection: a wrong path is not the server's fault.
    let tls = tls::Settings::load(info)?;
    match info.target_session_attrs {
        TargetSession::PreferStandby => {
            match first(info, request, &tls, &hosts, TargetSession::Standby).await {
                Ok(connection) => Ok(connection),
                Err(error) if !error.is_transient() => Err(error),
                Err(_) => first(info, request, &tls, &hosts, TargetSession::Any).await,
            }
        }
        wanted => first(info, request, &tls, &hosts, wanted).await,
    }
}

async fn first(
    info: &ConnInfo,
    request: &Request<'_>,
    tls: &tls::Settings,
    hosts: &[&Host],
    wanted: TargetSession,
) -> Result<Connection> {
    let mut errors = Vec::new();
    for host in hosts {
        let attempt = Attempt { info, request, tls, host, wanted };
        for place in places(host).await.unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        }) {
            // Boxed, since the handshakes' states are large and connecting is rare.
            match Box::pin(attempt.within_time(&place)).await {
                Ok(connection) => return Ok(connection),
                // Another host may be up, or be what is wanted. But it would not like the password better.
                Err(error) if error.is_transient() => errors.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    match <[Error; 1]>::try_from(errors) {
        Ok([only]) => Err(only),
        Err(errors) => Err(Error::AllHosts(errors)),
    }
}

/// Where a host may be reached.
enum Place<'a> {
    Unix(&'a Path),
    Tcp(SocketAddr),
}

/// All addresses of a host.
async fn places(host: &Host) -> Result<Vec<Place<'_>>> {
    let unreachable = |source| Error::Unreachable { host: host.to_string(), source };
    match &host.address {
        Address::Unix(directory) => Ok(vec![Place::Unix(directory)]),
        Address::Numeric { addr, .. } => Ok(vec![Place::Tcp(SocketAddr::new(*addr, host.port))]),
        Address::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), host.port)).await.map_err(unreachable)?;
            let places: Vec<_> = found.map(Place::Tcp).collect();
            if places.is_empty() {
                return Err(unreachable(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
            }
            Ok(places)
        }
    }
}

/// One host, tried.
struct Attempt<'a> {
    info: &'a ConnInfo,
    request: &'a Request<'a>,
    tls: &'a tls::Settings,
    host: &'a Host,
    wanted: TargetSession,
}

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered,
    Always,
}

impl Attempt<'_> {
    async fn within_time(&self, place: &Place<'_>) -> Result<Connection> {
        let Some(after) = self.info.connect_timeout else { return self.run(place).await };
        match tokio::time::timeout(after, self.run(place)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { host: self.host.to_string(), after }),
        }
    }

    /// `allow` and `prefer` have a second choice if the server refuses the first.
    async fn run(&self, place: &Place<'_>) -> Result<Connection> {
        let (first, second) = match (place, self.info.sslmode) {
            (Place::Unix(_), _) | (_, SslMode::Disable) => (Encryption::Never, None),
            (_, SslMode::Allow) => (Encryption::Never, Some(Encryption::Always)),
            (_, SslMode::Prefer) => (Encryption::IfOffered, Some(Encryption::Never)),
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => (Encryption::Always, None),
        };
        match (self.session(place, first).await, second) {
            (Err(error), Some(second)) if is_about_encryption(&error) => {
                // The first error says more, unless the second try has found another one.
                match self.session(place, second).await {
                    Err(Error::Tls { .. }) => Err(error),
                    result => result,
                }
            }
            (result, _) => result,
        }
    }

    async fn session(&self, place: &Place<'_>, encryption: Encryption) -> Result<Connection> {
        let host = self.host.to_string();
        let (mut connection, channel, client) = match place {
            Place::Unix(directory) => {
                let io = self.connect_unix(directory).await?;
                (Connection::over(Box::new(io), host), Channel::Plain, None)
            }
            Place::Tcp(address) => {
                let io = self.connect_tcp(*address).await?;
                let client = io.local_addr().ok();
                let (connection, channel) = self.negotiate(io, encryption).await?;
                (connection, channel, client)
            }
        };
        let encrypted = channel != Channel::Plain;
        let accepted = self.log_in(&mut connection, channel).await;
        accepted.map_err(|error| self.advise(error, client, encrypted))?;
        match self.check_kind(&mut connection).await {
            Ok(()) => Ok(connection),
            Err(error) => {
                connection.close().await;
                Err(error)
            }
        }
    }

    fn unreachable(&self, source: io::Error) -> Error {
        Error::Unreachable { host: self.host.to_string(), source }
    }

    async fn connect_unix(&self, directory: &Path) -> Result<UnixStream> {
        let path = directory.join(format!(".s.PGSQL.{}", self.host.port));
        // An abstract socket's name begins with a zero byte, which users write as "@".
        let path = match path.to_str().and_then(|path| path.strip_prefix('@')) {
            Some(name) => format!("\0{name}").into(),
            None => path,
        };
        UnixStream::connect(path).await.map_err(|source| self.unreachable(source))
    }

    async fn connect_tcp(&self, address: SocketAddr) -> Result<TcpStream> {
        let stream = TcpStream::connect(address).await.map_err(|source| self.unreachable(source))?;
        self.tune(&stream).map_err(|source| self.unreachable(source))?;
        Ok(stream)
    }

    /// This is what notices a lost server: reads have no time limit. Keepalive does while nothing of ours is on its way,
    /// the user timeout while something is.
    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        use rustix::net::sockopt;
        stream.set_nodelay(true)?;
        let socket = stream.as_fd();
        if let Some(keepalive) = self.info.keepalive {
            sockopt::set_socket_keepalive(socket, true)?;
            sockopt::set_tcp_keepidle(socket, keepalive.idle)?;
            sockopt::set_tcp_keepintvl(socket, keepalive.interval)?;
            sockopt::set_tcp_keepcnt(socket, keepalive.count)?;
        }
        let keepalive = self.info.keepalive.map(|keepalive| keepalive.patience());
        if let Some(timeout) = self.info.tcp_user_timeout.or(keepalive) {
            let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(socket, milliseconds)?;
        }
        Ok(())
    }

    async fn negotiate(&self, mut io: TcpStream, encryption: Encryption) -> Result<(Connection, Channel)> {
        let host = self.host.to_string();
        let direct = self.info.sslnegotiation == SslNegotiation::Direct;
        let encrypted = match encryption {
            Encryption::Never => false,
            Encryption::Always if direct => true,
            Encryption::Always | Encryption::IfOffered => self.ask_for_tls(&mut io).await?,
        };
        if !encrypted {
            if encryption == Encryption::Always {
                let why = "the server does not offer it".to_owned();
                return Err(Error::Tls { host, why });
            }
            return Ok((Connection::over(Box::new(io), host), Channel::Plain));
        }
        let (io, server_end_point) = self.tls.handshake(io, self.host, direct).await?;
        Ok((Connection::over(Box::new(io), host), Channel::Tls { server_end_point }))
    }

    /// SSLRequest. Exactly one byte is read from the socket, so that whatever an attacker in between has put
    /// behind it meets the TLS handshake, which refuses it, and never counts as said inside TLS.
    async fn ask_for_tls(&self, io: &mut TcpStream) -> Result<bool> {
        let mut request = bytes::BytesMut::new();
        frontend::ssl_request(&mut request);
        let lost = |source| Error::Lost { host: self.host.to_string(), source };
        io.write_all(&request).await.map_err(lost)?;
        let why = match io.read_u8().await.map_err(lost)? {
            b'S' => return Ok(true),
            b'N' => return Ok(false),
            // What the error says is not repeated: anybody on the way could have written it.
            b'E' => "the server answers with an error when asked for it",
            _ => "this does not seem to be a PostgreSQL server",
        };
        Err(Error::Tls { host: self.host.to_string(), why: why.to_owned() })
    }

    async fn log_in(&self, connection: &mut Connection, channel: Channel) -> Result<()> {
        let info = self.info;
        let application_name = info
            .application_name
            .as_deref()
            .or(info.fallback_application_name.as_deref())
            .unwrap_or(self.request.application_name);
        let options = self.options();
        let mut parameters = vec![("user", info.user.as_str())];
        match self.request.role {
            Role::Replication => parameters.push(("replication", "true")),
            Role::Sql => parameters.extend([("database", info.dbname.as_str()), ("client_encoding", "UTF8")]),
        }
        parameters.extend([("application_name", application_name), ("options", options.as_str())]);
        parameters.retain(|(_, value)| !value.is_empty());
        connection.queue(|buffer| frontend::startup_message(parameters, buffer))?;
        connection.flush().await?;

        let password = info.password.as_ref().or_else(|| {
            let find = |dbname| info.passfile.find(self.host, dbname, &info.user);
            match self.request.role {
                // The database's own line is taken too: libpq would not, but it is what users mean.
                Role::Replication => find("replication").or_else(|| find(&info.dbname)),
                Role::Sql => find(&info.dbname),
            }
        });
        let credentials = Credentials {
            user: &info.user,
            password,
            channel_binding: info.channel_binding,
            require_auth: &info.require_auth,
            channel,
        };
        authenticate(connection, &credentials).await?;
        connection.trust();
        loop {
            match connection.receive().await? {
                Incoming::Message(Message::ReadyForQuery(_)) => return Ok(()),
                Incoming::Message(Message::NoticeResponse(_)) => {}
                Incoming::Message(Message::ErrorResponse(body)) => return Err(server_error(&body)),
                _ => return Err(connection.unexpected("a message that is not part of the start")),
            }
        }
    }

    fn options(&self) -> String {
        let mut options: Vec<&str> = self.info.options.iter().map(String::as_str).collect();
        options.extend(self.request.settings.iter().map(String::as_str));
        // Then transaction_read_only tells whether the server is in recovery, and nothing else.
        if matches!(self.wanted, TargetSession::Primary | TargetSession::Standby) {
            options.push("-c default_transaction_read_only=off");
        }
        options.join(" ")
    }

    /// Whether the server is of the wanted kind. SHOW works in all versions and in both kinds of session;
    /// pg_is_in_recovery() does not, and servers before 14 do not report in_hot_standby.
    async fn check_kind(&self, connection: &mut Connection) -> Result<()> {
        let wants_read_only = match self.wanted {
            TargetSession::Any | TargetSession::PreferStandby => return Ok(()),
            TargetSession::ReadWrite | TargetSession::Primary => false,
            TargetSession::ReadOnly | TargetSession::Standby => true,
        };
        let is_read_only = show(connection, "transaction_read_only").await? == "on";
        if is_read_only == wants_read_only {
            return Ok(());
        }
        let found = match (self.wanted, is_read_only) {
            (TargetSession::Primary | TargetSession::Standby, true) => "it is a standby",
            (TargetSession::Primary | TargetSession::Standby, false) => "it is a primary",
            (_, true) => "sessions are read-only there",
            (_, false) => "sessions can write there",
        };
        Err(Error::WrongKind { host: self.host.to_string(), found })
    }

    /// What only we know: who wanted to connect from where.
    fn advise(&self, mut error: Error, client: Option<SocketAddr>, encrypted: bool) -> Error {
        if let Error::Server { code, message, hint, .. } = &mut error {
            let user = &self.info.user;
            match code.as_str() {
                // The file's name is the same in every language.
                "28000" if message.contains("pg_hba.conf") => {
                    let line = self.hba_line(client, encrypted);
                    *hint = Some(format!("add this line to the server's pg_hba.conf and reload it: {line}"));
                }
                "42501" if self.request.role == Role::Replication => {
                    *hint = Some(format!("run on the server: ALTER ROLE {} REPLICATION", quote(user)));
                }
                _ => {}
            }
        }
        error
    }

    fn hba_line(&self, client: Option<SocketAddr>, encrypted: bool) -> String {
        let database = match self.request.role {
            Role::Replication => "replication".to_owned(),
            Role::Sql => quote(&self.info.dbname),
        };
        let user = quote(&self.info.user);
        match client.map(|client| client.ip()) {
            None => format!("local {database} {user} peer"),
            Some(ip) => {
                let kind = if encrypted { "hostssl" } else { "host" };
                let bits = if ip.is_ipv4() { 32 } else { 128 };
                format!("{kind} {database} {user} {ip}/{bits} scram-sha-256")
            }
        }
    }
}

/// A name in double quotes where it needs them; pg_hba.conf and SQL agree on that.
fn quote(name: &str) -> String {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    if starts_well && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Whether the other kind of connection may fare better: TLS failed, or pg_hba.conf refuses this kind.
fn is_about_encryption(error: &Error) -> bool {
    matches!(error, Error::Tls { .. }) || error.sqlstate() == Some("28000")
}
