//! What the tests of this folder share: a server with many ways in, and sessions with a deadline.

use std::time::Duration;

use anyhow::Result;
use harness::{Certificates, Installation, Postgres, World, runtime};
use proto::client::{Error, Replication, SessionOptions, Start, WalStream, sql};
use proto::conninfo::ConnInfo;
use proto::{Lsn, TimelineId};

/// Who may do what. Each user shows one way in, or one way to be kept out.
const HBA: &str = "
local     all         all                       trust
local     replication all                       trust
host      all         md5_user   127.0.0.1/32   md5
host      replication md5_user   127.0.0.1/32   md5
host      all         clear_user 127.0.0.1/32   password
host      replication clear_user 127.0.0.1/32   password
host      all         ident_user 127.0.0.1/32   trust
host      replication ident_user 127.0.0.1/32   trust
host      replication no_repl    127.0.0.1/32   trust
hostssl   all         cert_user  127.0.0.1/32   cert
hostssl   replication cert_user  127.0.0.1/32   cert
hostssl   replication tls_only   127.0.0.1/32   scram-sha-256
hostnossl replication clear_only 127.0.0.1/32   scram-sha-256
host      all         postgres   127.0.0.1/32   scram-sha-256
host      replication postgres   127.0.0.1/32   scram-sha-256
";

const ROLES: &str = "
SET password_encryption = 'scram-sha-256';
ALTER ROLE postgres PASSWORD 'secret';
CREATE ROLE clear_user LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE ident_user LOGIN REPLICATION;
CREATE ROLE no_line LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE no_repl LOGIN;
CREATE ROLE cert_user LOGIN REPLICATION;
CREATE ROLE tls_only LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE clear_only LOGIN REPLICATION PASSWORD 'secret';
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN REPLICATION PASSWORD 'secret';
";

/// A server and its folder.
pub(crate) struct Scene {
    pub(crate) server: Postgres,
    pub(crate) world: World,
}

impl Scene {
    pub(crate) fn start(installation: &Installation, conf: &[(&str, &str)]) -> Result<Scene> {
        Scene::start_in(World::new()?, installation, conf)
    }

    pub(crate) fn start_in(
        world: World,
        installation: &Installation,
        conf: &[(&str, &str)],
    ) -> Result<Scene> {
        let builder = Postgres::build(installation, "data").hba(HBA);
        let server = conf.iter().fold(builder, |builder, (name, value)| builder.conf(name, value));
        let server = server.start(&world)?;
        server.sql(ROLES)?;
        Ok(Scene { server, world })
    }

    /// The superuser over the Unix socket.
    pub(crate) fn unix(&self) -> String {
        unix(&self.server)
    }

    pub(crate) fn tcp(&self, user: &str, password: &str) -> String {
        let port = self.server.port();
        format!("host=127.0.0.1 port={port} user={user} password='{password}' dbname=postgres")
    }
}

/// The superuser over a server's Unix socket.
pub(crate) fn unix(server: &Postgres) -> String {
    format!("host={} port={} user=postgres dbname=postgres", server.socket_folder().display(), server.port())
}

/// A server that can do TLS, and certificates to choose from.
pub(crate) struct Encrypted {
    pub(crate) scene: Scene,
    pub(crate) certificates: Certificates,
}

impl Encrypted {
    /// Without TLS as yet: [`Encrypted::serve`] switches it on. None, and a loud skip, without certificates.
    pub(crate) fn or_skip(installation: &Installation) -> Result<Option<Encrypted>> {
        let world = World::new()?;
        let Some(certificates) = Certificates::or_skip(&world)? else { return Ok(None) };
        let mut conf = certificates.settings();
        conf[0].1 = "off".to_owned();
        let conf = conf.each_ref().map(|(name, value)| (*name, value.as_str()));
        Ok(Some(Encrypted { scene: Scene::start_in(world, installation, &conf)?, certificates }))
    }

    /// Restarts the server with this certificate.
    pub(crate) fn serve(&self, name: &str) -> Result<()> {
        self.certificates.serve(name)?;
        self.scene.server.sql("ALTER SYSTEM SET ssl = on")?;
        self.scene.server.restart()
    }

    /// A connection by a name that need not be the certificate's.
    pub(crate) fn host(&self, host: &str, user: &str, more: &str) -> String {
        let port = self.scene.server.port();
        format!(
            "host={host} hostaddr=127.0.0.1 port={port} user={user} password=secret dbname=postgres {more}"
        )
    }

    /// The superuser, by the certificates' usual name.
    pub(crate) fn to(&self, more: &str) -> String {
        self.host("localhost", "postgres", more)
    }

    /// Trust in one authority.
    pub(crate) fn root(&self, name: &str) -> String {
        format!("sslrootcert={}", self.certificates.path(&format!("{name}.crt")).display())
    }
}

/// Waits, but not for ever: a hang is a failure of one test, not of the whole run.
pub(crate) fn soon<T>(future: impl Future<Output = T>) -> T {
    let waited = runtime().block_on(async { tokio::time::timeout(Duration::from_secs(90), future).await });
    waited.expect("an answer within a minute and a half")
}

pub(crate) fn info(text: &str) -> ConnInfo {
    ConnInfo::resolve(text).expect("a connection string")
}

/// Opens a replication session. The server bears its silence for long: a test may wait for a busy machine.
pub(crate) fn connect(text: &str) -> Result<Replication, Error> {
    let timeout = Some(Duration::from_secs(600));
    let options = SessionOptions { application_name: "live".to_owned(), wal_sender_timeout: timeout };
    soon(Replication::connect(&info(text), &options))
}

/// Why a replication session is not opened.
pub(crate) fn refused(text: &str) -> Error {
    connect(text).map(drop).expect_err(text)
}

/// Opens both kinds of session; whether they are encrypted.
fn try_both(text: &str) -> Result<bool, Error> {
    let info = ConnInfo::resolve(text)?;
    soon(async {
        let mut session = Replication::connect(&info, &SessionOptions::default()).await?;
        session.identify_system().await?;
        session.close().await;
        let client = sql(&info, "live").await?;
        let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Ok(client.query_one(query, &[]).await.expect("an answer").get(0))
    })
}

/// Both kinds of session can be had, encrypted.
#[track_caller]
pub(crate) fn encrypted(text: &str) {
    let encrypted = try_both(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(encrypted, "in clear: {text}");
}

/// Both kinds of session can be had, in clear.
#[track_caller]
pub(crate) fn in_clear(text: &str) {
    let encrypted = try_both(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(!encrypted, "encrypted: {text}");
}

/// No session can be had.
#[track_caller]
pub(crate) fn denied(text: &str) -> Error {
    try_both(text).map(drop).expect_err(text)
}

/// TLS fails, with these words.
#[track_caller]
pub(crate) fn tls_error(text: &str, why: &str) {
    match denied(text) {
        Error::Tls { why: found, .. } => assert!(found.contains(why), "{text}: {found}"),
        error => panic!("{text}: {error}"),
    }
}

/// A stream on a timeline that goes on.
pub(crate) fn streaming(
    session: Replication,
    slot: Option<&str>,
    from: Lsn,
    timeline: TimelineId,
) -> WalStream {
    let slot = slot.map(|name| name.parse().expect("a slot's name"));
    match soon(session.start_replication(slot.as_ref(), from, timeline)).expect("a stream") {
        Start::Streaming(stream) => stream,
        Start::TimelineEnded { .. } => panic!("timeline {timeline} ends at {from}"),
    }
}
