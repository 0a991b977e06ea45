//! The configuration file: one for all programs, TOML, every key optional, unknown keys refused.
//!
//! The comments of the fields are the reference manual. Durations are written as `"1s"`, `"500ms"`, `"14d"`,
//! `"1h 30m"`. Whatever a key names is only checked for its form here: whether it exists is found out by whoever
//! uses it.

mod backup;
mod checklist;
mod dump;
mod error;
mod health;
mod keys;
mod log;
mod names;
mod notify;
mod read;
mod schedule;
mod upkeep;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use backup::{BackupConfig, BackupSource, ReadRate, TakeFrom, UploadRate};
pub use checklist::ChecklistConfig;
pub use dump::{DumpConfig, DumpFormat, DumpRetention};
pub use error::ConfigError;
pub use health::{HealthConfig, Size};
pub use log::{LogConfig, LogLevel};
pub use names::{ClusterName, ClusterNameError, SlotName, SlotNameError};
pub use notify::NotifyConfig;
pub use schedule::ScheduleConfig;
pub use upkeep::{DayWindow, UpkeepConfig};

/// Where the file is looked for when nothing names one.
pub const DEFAULT_PATH: &str = "/etc/walkeep/walkeep.toml";
/// The environment variable that names the file.
pub const ENV: &str = "WALKEEP_CONFIG";
/// The cluster's name where none is given.
pub const DEFAULT_CLUSTER: &str = "main";
/// Where `[http]` listens if it does not say.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9187);

/// What the configuration file says, defaults filled in.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `repository`: where everything is stored: `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix` or
    /// `az://container/prefix`. Credentials come from the environment's usual places, never from here.
    pub repository: Option<String>,
    /// `cluster`: the user's own name for one PostgreSQL cluster; any number share a repository.
    /// Letters, digits, `-`, `_`, `.`; 1 to 63 of them.
    pub cluster: Option<ClusterName>,
    /// `postgres`: how to reach the server, as libpq keywords or as a URI; several hosts may be named. May hold a
    /// password, so it is never shown; better keep that in a passfile.
    pub postgres: Option<String>,
    /// `socket`: where the agent listens for `archive-cmd`; at most 107 bytes. See [`Config::socket_path`].
    pub socket: Option<PathBuf>,
    /// `[stream]`
    pub stream: StreamConfig,
    /// `[backup]`
    pub backup: BackupConfig,
    /// `[storage]`
    pub storage: StorageConfig,
    /// `[compression]`
    pub compression: CompressionConfig,
    /// `[encryption]`
    pub encryption: EncryptionConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[schedule]`
    pub schedule: ScheduleConfig,
    /// `[notify]`
    pub notify: NotifyConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[drill]`
    pub drill: DrillConfig,
    /// `[dump]`
    pub dump: DumpConfig,
    /// `[health]`
    pub health: HealthConfig,
    /// `[checklist]`
    pub checklist: ChecklistConfig,
    /// `[upkeep]`
    pub upkeep: UpkeepConfig,
    /// `[http]`
    pub http: HttpConfig,
}

/// `[stream]`: WAL by the replication protocol, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// `enabled`: whether the agent streams. Default `true`; without it only `archive_command` brings WAL.
    pub enabled: bool,
    /// `slot`: the physical replication slot. Default `"walkeep"`; `[a-z0-9_]`, 1 to 63 characters.
    pub slot: SlotName,
    /// `flush_interval`: the most that received WAL waits before it goes to the repository. Default `"1s"`;
    /// more than 0, at most 1 hour.
    pub flush_interval: Duration,
    /// `synchronous`: flush at once and be fit to be named in `synchronous_standby_names`. Default `false`.
    pub synchronous: bool,
    /// `shutdown_grace`: how long a shutdown of the server may wait for a repository that does not answer.
    /// Default `"1m"`; at most 1 hour.
    pub shutdown_grace: Duration,
    /// `backup_after_gap`: whether the agent takes a full backup when it finds that WAL is missing for good: no restore
    /// goes across a gap, and a backup behind it makes what follows restorable. Default `false`.
    pub backup_after_gap: bool,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            slot: SlotName::default(),
            flush_interval: Duration::from_secs(1),
            synchronous: false,
            shutdown_grace: Duration::from_secs(60),
            backup_after_gap: false,
        }
    }
}

/// `[storage]`: how to speak to the object store. A file repository needs none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// `endpoint`: URL of a store that is not the provider's own, such as `"http://127.0.0.1:9000"`.
    pub endpoint: Option<String>,
    /// `region`: the bucket's region. Default: what the environment says.
    pub region: Option<String>,
    /// `path_style`: the bucket goes into the path of a request instead of the host's name. Default `false`.
    pub path_style: bool,
    /// `allow_http`: permits an endpoint without TLS. Default `false`.
    pub allow_http: bool,
    /// `storage_class`: the class of what is written, by the provider's name for it.
    pub storage_class: Option<String>,
    /// `kms_key`: identifier of the provider's key that encrypts what is written: SSE-KMS. For s3:// only.
    pub kms_key: Option<String>,
    /// `tags`: a table of tags that every object gets; at most 10, as S3 has it. For s3:// and az://.
    pub tags: BTreeMap<String, String>,
    /// `ca_file`: PEM file of certificate authorities to trust, for a private store.
    pub ca_file: Option<PathBuf>,
    /// `connect_timeout`: for one attempt to connect. Default `"5s"`; more than 0, at most 10 minutes.
    pub connect_timeout: Duration,
    /// `read_timeout`: the longest silence within an answer. Default `"30s"`; more than 0, at most 1 hour.
    pub read_timeout: Duration,
    /// `retry_timeout`: how long one request is tried again before the store counts as unreachable.
    /// Default `"30s"`; at most 1 day. What must not fail is tried again after that too.
    pub retry_timeout: Duration,
    /// `concurrency`: objects that `verify`, `expire` and `list` read at a time; of heads of manifests, which are small,
    /// four times as many. Default 4; 1 to 64.
    pub concurrency: usize,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: false,
            allow_http: false,
            storage_class: None,
            kms_key: None,
            tags: BTreeMap::new(),
            ca_file: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            retry_timeout: Duration::from_secs(30),
            concurrency: 4,
        }
    }
}

/// `[compression]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressionConfig {
    /// `level`: of zstd. Default 1; 1 to 19. From 6 up it costs five times the time for a few per cent.
    pub level: i32,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self { level: 1 }
    }
}

/// `[encryption]`: by age, to public keys. No recipients: nothing is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncryptionConfig {
    /// `recipients`: X25519 public keys (`age1…`) to which everything is encrypted.
    pub recipients: Vec<String>,
    /// `identity_file`: the secret key that reads everything. The database host does not need it to write.
    pub identity_file: Option<PathBuf>,
    /// `metadata_identity_file`: a secret key that reads manifests and indexes, but no data.
    pub metadata_identity_file: Option<PathBuf>,
}

/// `[retention]`: what `walkeep expire` keeps, and how it deletes the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionConfig {
    /// `window` or `full`; with neither everything is kept.
    pub keep: Option<Retention>,
    /// `grace`: how long what is to be deleted waits, condemned. It must be longer than the longest restore. Default
    /// `"1d"`; at least a minute, at most a century.
    pub grace: Duration,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { keep: None, grace: Duration::from_secs(24 * 3600) }
    }
}

/// What is kept: by one of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// `window`: every moment of this much time back stays restorable; at least 1 minute.
    Window(Duration),
    /// `full`: so many full backups stay, with all that depends on them; at least 1.
    Full(u32),
}

/// `[drill]`: restores for proof, by `walkeep drill`; and where `restore-cmd export` restores to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillConfig {
    /// `scratch`: the directory below which they restore. Default `"/var/tmp"`. It needs room for the whole cluster.
    pub scratch: PathBuf,
    /// `bindir`: the folder with PostgreSQL's programs. Default: looked for in the usual places.
    pub bindir: Option<PathBuf>,
    /// `patience`: how long a recovery may stand still before it counts as stuck. Default `"10m"`; at least 1 second,
    /// at most 1 day.
    pub patience: Duration,
    /// `amcheck`: whether `pg_amcheck` looks at tables and indexes, where it is installed. Default `true`.
    pub amcheck: bool,
    /// `sql`: statements that must succeed, and must not answer `false`, at most 100.
    pub sql: Vec<String>,
    /// `database`: where `sql` is run. Default `"postgres"`.
    pub database: String,
    /// `settings`: a table of settings of the server that is started. Its own are not read; what its data needs must be
    /// given here, such as `shared_preload_libraries`.
    pub settings: BTreeMap<String, String>,
}

impl Default for DrillConfig {
    fn default() -> Self {
        Self {
            scratch: PathBuf::from("/var/tmp"),
            bindir: None,
            patience: Duration::from_secs(600),
            amcheck: true,
            sql: Vec::new(),
            database: "postgres".to_owned(),
            settings: BTreeMap::new(),
        }
    }
}

/// `[http]`: metrics and the status page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// `listen`: address and port for `/metrics`, `/status.json` and the page at `/`. Default `"127.0.0.1:9187"` where there is a
    /// section `[http]`, else none. Another address than a loopback one needs `token_file`.
    pub listen: Option<SocketAddr>,
    /// `token_file`: a file with the token that whoever asks must bring; at least 16 characters. It is read when the agent
    /// starts. Default: none.
    pub token_file: Option<PathBuf>,
    /// `certificate_file`: PEM file with the certificate, and those that lead to its authority. With it, only TLS is spoken.
    pub certificate_file: Option<PathBuf>,
    /// `key_file`: PEM file with the certificate's key.
    pub key_file: Option<PathBuf>,
    /// `refresh`: how often the repository and the server are looked at for it. Default `"1m"`; 1 second to 1 day. A look
    /// that takes long is taken less often.
    pub refresh: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: None,
            token_file: None,
            certificate_file: None,
            key_file: None,
            refresh: Duration::from_secs(60),
        }
    }
}

/// Which file applies: the one that is named, else that of [`ENV`] unless it is empty, else the usual one if it is there.
/// `None`: none does, and all keys have their defaults.
pub fn file(named: Option<PathBuf>) -> Option<PathBuf> {
    let of_environment = || std::env::var_os(ENV).filter(|path| !path.is_empty()).map(PathBuf::from);
    let usual = || {
        let path = PathBuf::from(DEFAULT_PATH);
        // Anything but "it is not there" must be told when the file is opened.
        let absent = matches!(path.try_exists(), Ok(false));
        (!absent).then_some(path)
    };
    named.or_else(of_environment).or_else(usual)
}

/// A duration as the configuration file takes it: `"1s"`, `"500ms"`, `"14d"`, `"1h 30m"`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

impl Config {
    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// The first thing that is wrong: the key, the line, and what is allowed.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        read::config(text)
    }

    /// Where the agent's socket is: `socket`, else `/run/walkeep/<cluster>.sock`, where the cluster is `main` if
    /// it was given no name.
    pub fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| {
            let cluster = self.cluster.as_ref().map_or(DEFAULT_CLUSTER, ClusterName::as_str);
            PathBuf::from(format!("/run/walkeep/{cluster}.sock"))
        })
    }
}

/// `postgres`, `upkeep.postgres` and `notify.webhook` may hold a secret: they are left out.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("repository", &self.repository)
            .field("cluster", &self.cluster)
            .field("postgres", &self.postgres.as_ref().map(|_| "…"))
            .field("socket", &self.socket)
            .field("stream", &self.stream)
            .field("backup", &self.backup)
            .field("storage", &self.storage)
            .field("compression", &self.compression)
            .field("encryption", &self.encryption)
            .field("retention", &self.retention)
            .field("schedule", &self.schedule)
            .field("notify.command", &self.notify.command)
            .field("log", &self.log)
            .field("drill", &self.drill)
            .field("dump", &self.dump)
            .field("health", &self.health)
            .field("checklist", &self.checklist)
            .field("upkeep", &self.upkeep)
            .field("http", &self.http)
            .finish()
    }
}
