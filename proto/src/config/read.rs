//! From TOML to [`Config`], by hand instead of by derive, so that each complaint is a sentence with a line.

use std::time::Duration;

use toml::de::DeTable;

use super::values::{CENTURY, DAY, HOUR, MILLISECOND, MINUTE, Reader, SECOND, line_of};
use super::{
    CompressionConfig, Config, ConfigError, DEFAULT_LISTEN, DrillConfig, EncryptionConfig, HttpConfig,
    RetentionConfig, StorageConfig, StreamConfig,
};

/// Reads the file's content.
pub(super) fn config(text: &str) -> Result<Config, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        line: line_of(text, &error.span().unwrap_or_default()),
        why: error.message().lines().collect::<Vec<_>>().join(", "),
    })?;
    let reader = Reader { text, document: document.get_ref() };
    reader.refuse_unknown()?;

    let stream = StreamConfig::default();
    let storage = StorageConfig::default();
    let drill = DrillConfig::default();
    Ok(Config {
        repository: reader.text("repository")?,
        cluster: reader.parsed("cluster")?,
        postgres: reader.text("postgres")?,
        socket: reader.socket("socket")?,
        stream: StreamConfig {
            enabled: reader.switch("stream.enabled")?.unwrap_or(stream.enabled),
            slot: reader.parsed("stream.slot")?.unwrap_or(stream.slot),
            flush_interval: reader
                .duration("stream.flush_interval", MILLISECOND..=HOUR)?
                .unwrap_or(stream.flush_interval),
            synchronous: reader.switch("stream.synchronous")?.unwrap_or(stream.synchronous),
            shutdown_grace: reader
                .duration("stream.shutdown_grace", Duration::ZERO..=HOUR)?
                .unwrap_or(stream.shutdown_grace),
            backup_after_gap: reader.switch("stream.backup_after_gap")?.unwrap_or(stream.backup_after_gap),
        },
        backup: super::backup::read(&reader)?,
        storage: StorageConfig {
            endpoint: reader.endpoint("storage.endpoint", "storage.allow_http")?,
            region: reader.text("storage.region")?,
            path_style: reader.switch("storage.path_style")?.unwrap_or(storage.path_style),
            allow_http: reader.switch("storage.allow_http")?.unwrap_or(storage.allow_http),
            storage_class: reader.text("storage.storage_class")?,
            kms_key: reader.text("storage.kms_key")?,
            tags: reader.tags("storage.tags")?,
            ca_file: reader.path("storage.ca_file")?,
            connect_timeout: reader
                .duration("storage.connect_timeout", MILLISECOND..=10 * MINUTE)?
                .unwrap_or(storage.connect_timeout),
            read_timeout: reader
                .duration("storage.read_timeout", MILLISECOND..=HOUR)?
                .unwrap_or(storage.read_timeout),
            retry_timeout: reader
                .duration("storage.retry_timeout", Duration::ZERO..=DAY)?
                .unwrap_or(storage.retry_timeout),
            concurrency: reader.number("storage.concurrency", 1..=64)?.unwrap_or(storage.concurrency),
        },
        compression: CompressionConfig {
            level: reader.number("compression.level", 1..=19)?.unwrap_or(CompressionConfig::default().level),
        },
        encryption: EncryptionConfig {
            recipients: reader.recipients("encryption.recipients")?,
            identity_file: reader.path("encryption.identity_file")?,
            metadata_identity_file: reader.path("encryption.metadata_identity_file")?,
        },
        retention: RetentionConfig {
            keep: reader.retention("retention.window", "retention.full")?,
            grace: reader
                .duration("retention.grace", MINUTE..=CENTURY)?
                .unwrap_or(RetentionConfig::default().grace),
        },
        schedule: super::schedule::read(&reader)?,
        health: super::health::read(&reader)?,
        checklist: super::checklist::read(&reader)?,
        upkeep: super::upkeep::read(&reader)?,
        notify: super::notify::read(&reader)?,
        log: super::log::read(&reader)?,
        drill: DrillConfig {
            scratch: reader.path("drill.scratch")?.unwrap_or(drill.scratch),
            bindir: reader.path("drill.bindir")?,
            patience: reader.duration("drill.patience", SECOND..=DAY)?.unwrap_or(drill.patience),
            amcheck: reader.switch("drill.amcheck")?.unwrap_or(drill.amcheck),
            sql: reader.statements("drill.sql")?,
            database: reader.text("drill.database")?.unwrap_or(drill.database),
            settings: reader.settings("drill.settings")?,
        },
        dump: super::dump::read(&reader)?,
        http: HttpConfig {
            // The section alone asks for the page.
            listen: reader.listen("http.listen")?.or(reader.has("http").then_some(DEFAULT_LISTEN)),
            token_file: reader.path("http.token_file")?,
            certificate_file: reader.path("http.certificate_file")?,
            key_file: reader.path("http.key_file")?,
            refresh: reader.duration("http.refresh", SECOND..=DAY)?.unwrap_or(HttpConfig::default().refresh),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::super::keys::{KEYS, SECRET};
    use super::super::{
        BackupSource, DumpFormat, DumpRetention, LogLevel, ReadRate, Retention, TakeFrom, UploadRate,
    };
    use super::*;

    const FULL: &str = r#"
repository = "s3://bucket/prefix"
cluster    = "main"
postgres   = "host=/var/run/postgresql user=walkeep dbname=postgres"
socket     = "/run/walkeep/main.sock"

[stream]
enabled = false
slot = "other"
flush_interval = "250ms"
synchronous = true
shutdown_grace = "10s"
backup_after_gap = true

[backup]
source = "auto"
from = "prefer-standby"
read_rate = "50MiB"
upload_rate = "20MB"

[storage]
endpoint = "http://127.0.0.1:9000"
region = "us-east-1"
path_style = true
allow_http = true
storage_class = "STANDARD_IA"
kms_key = "key"
tags = { team = "db" }
ca_file = "/etc/ca.pem"
connect_timeout = "1s"
read_timeout = "2s"
retry_timeout = "3s"
concurrency = 8

[compression]
level = 3

[encryption]
recipients = ["age1abc"]
identity_file = "/etc/walkeep/identity.txt"
metadata_identity_file = "/etc/walkeep/metadata.txt"

[retention]
window = "14d"
grace = "2d"

[schedule]
full = "0 2 * * 0"
incremental = "0 2 * * 1-6"
dump = "0 3 * * *"
expire = "0 4 * * *"
verify = "0 5 * * *"
verify_deep = "0 5 * * 0"
drill = "0 6 1 * *"
upkeep = "0 1 * * 6"
checklist_daily = "0 7 * * *"
checklist_weekly = "0 7 * * 1"
checklist_monthly = "0 7 1 * *"
timezone = "Europe/Berlin"
jitter = "10m"

[notify]
command = ["/usr/local/bin/page", "--team", "db"]
webhook = "https://hooks.example.com/x"
timeout = "5s"
after = "1m"

[log]
level = "debug"

[drill]
scratch = "/srv/scratch"
bindir = "/opt/pg/bin"
patience = "1m"
amcheck = false
sql = ["SELECT true"]
database = "app"
settings = { shared_preload_libraries = "timescaledb" }

[dump]
postgres = "host=db1 user=dumper"
databases = ["shop"]
globals = false
role_passwords = false
format = "directory"
jobs = 4
exclude_tables = ["public.log*"]
scratch = "/srv/dumps"
bindir = "/opt/pg/bin"
keep = 7
window = "30d"

[health]
enabled = true
interval = "10m"
connections = 70
long_transaction = "30m"
idle_in_transaction = "5m"
blocked = "30s"
cache_hit = 95
dead_rows = 30
unused_after = "14d"
xid_age = 300_000_000
replication_lag = "2GiB"
temp_files = "1GiB"

[checklist]
folder = "/srv/reports"

[upkeep]
enabled = true
postgres = "host=/var/run/postgresql user=postgres dbname=postgres"
window = "01:00-05:00"
budget = "30m"
lock_timeout = "1s"
dead_rows = 15
changed_rows = 20
tables = { "shop.public.orders" = 5 }
reindex = false
bloat = 40
smallest_index = "16MiB"
during_backup = true

[http]
listen = "127.0.0.1:9188"
token_file = "/etc/walkeep/token"
certificate_file = "/etc/walkeep/http.crt"
key_file = "/etc/walkeep/http.key"
refresh = "2m"
"#;

    fn message(text: &str) -> String {
        config(text).unwrap_err().to_string()
    }

    #[test]
    fn reads_every_key() {
        let read = config(FULL).unwrap();
        assert_eq!(read.repository.as_deref(), Some("s3://bucket/prefix"));
        assert_eq!(read.cluster.as_ref().map(|name| name.as_str()), Some("main"));
        assert_eq!(read.stream.flush_interval, Duration::from_millis(250));
        assert!(read.stream.synchronous && !read.stream.enabled && read.stream.backup_after_gap);
        assert_eq!(read.backup.from, Some(TakeFrom::PreferStandby));
        assert_eq!(read.backup.source, BackupSource::Auto);
        assert_eq!(read.backup.read_rate.map(ReadRate::kib), Some(50 << 10));
        assert_eq!(read.backup.upload_rate.map(UploadRate::bytes), Some(20_000_000));
        assert_eq!(read.storage.tags["team"], "db");
        assert_eq!(read.storage.concurrency, 8);
        assert_eq!(read.compression.level, 3);
        assert_eq!(read.encryption.recipients, ["age1abc"]);
        assert_eq!(read.retention.keep, Some(Retention::Window(14 * DAY)));
        assert_eq!(read.retention.grace, 2 * DAY);
        assert_eq!(read.schedule.drill.as_deref(), Some("0 6 1 * *"));
        assert_eq!(
            (read.schedule.timezone.as_deref(), read.schedule.jitter),
            (Some("Europe/Berlin"), 10 * MINUTE)
        );
        assert_eq!(
            (read.drill.sql.as_slice(), read.drill.database.as_str()),
            (&["SELECT true".into()][..], "app")
        );
        assert_eq!(read.drill.settings["shared_preload_libraries"], "timescaledb");
        assert_eq!((read.drill.patience, read.drill.amcheck), (MINUTE, false));
        assert_eq!((read.notify.command.len(), read.notify.after), (3, MINUTE));
        assert_eq!(read.notify.webhook.as_deref(), Some("https://hooks.example.com/x"));
        assert_eq!(read.log.level, LogLevel::Debug);
        assert_ne!(read.notify.timeout, Config::default().notify.timeout);
        assert_eq!(read.checklist.folder, Some(PathBuf::from("/srv/reports")));
        let upkeep = &read.upkeep;
        assert!(upkeep.enabled && upkeep.during_backup && !upkeep.reindex && upkeep.postgres.is_some());
        assert_eq!(
            (upkeep.window.and_then(|window| window.left(60)), upkeep.budget),
            (Some(240), 30 * MINUTE)
        );
        assert_eq!((upkeep.tables["shop.public.orders"], upkeep.bloat), (5, 40));
        assert_eq!(read.schedule.checklist_monthly.as_deref(), Some("0 7 1 * *"));
        let health = &read.health;
        assert_eq!((health.interval, health.connections, health.xid_age), (10 * MINUTE, 70, 300_000_000));
        assert_eq!((health.replication_lag.0, health.temp_files.0), (2 << 30, 1 << 30));
        assert_eq!(read.http.listen.map(|address| address.port()), Some(9188));
        assert_eq!(read.http.refresh, 2 * MINUTE);
        assert!(
            read.http.token_file.is_some()
                && read.http.certificate_file.is_some()
                && read.http.key_file.is_some()
        );
        assert_eq!(config("[http]").unwrap().http.listen, Some(DEFAULT_LISTEN));
        // Nothing is left at its default, so no key was forgotten.
        let default = Config::default();
        assert_ne!(read.stream, default.stream);
        assert!(read.storage.kms_key.is_some() && read.storage.ca_file.is_some());
        assert!(read.drill.scratch != default.drill.scratch && read.drill.bindir.is_some());
        let dump = &read.dump;
        assert!(dump.postgres.is_some() && dump.scratch.is_some() && dump.bindir.is_some());
        assert!(!dump.globals && !dump.role_passwords && dump.jobs == 4 && dump.exclude_tables.len() == 1);
        assert_eq!(
            (dump.databases.as_slice(), dump.format),
            (&["shop".to_owned()][..], DumpFormat::Directory)
        );
        assert_eq!(dump.retention, DumpRetention { keep: Some(7), window: Some(30 * DAY) });
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let read = config("").unwrap();
        assert_eq!(read, Config::default());
        assert_eq!(read.socket_path(), PathBuf::from("/run/walkeep/main.sock"));
        assert_eq!(read.stream.slot.as_str(), "walkeep");
        assert!(read.stream.enabled);
        let named = config("cluster = \"eu\"").unwrap();
        assert_eq!(named.socket_path(), PathBuf::from("/run/walkeep/eu.sock"));
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        let of = |text: &str| match config(text).unwrap_err() {
            ConfigError::UnknownKey { line, key, suggestion } => (line, key, suggestion.unwrap()),
            other => panic!("{other}"),
        };
        let owned = |line, key: &str, known: &str| (line, key.to_owned(), known.to_owned());
        assert_eq!(of("\nrepositry = \"x\""), owned(2, "repositry", "repository"));
        assert_eq!(of("[stream]\n\nslott = \"x\""), owned(3, "stream.slott", "stream.slot"));
        assert_eq!(of("[strem]\nslot = \"x\""), owned(1, "strem", "stream"));
        assert_eq!(of("slot = \"x\""), owned(1, "slot", "stream.slot"));
        assert_eq!(
            of("[storage]\nflush_interval = \"1s\""),
            owned(2, "storage.flush_interval", "stream.flush_interval")
        );
        assert_eq!(
            message("[http]\nlisten_on = 1"),
            "line 2: unknown key \"http.listen_on\"; did you mean \"http.listen\"?"
        );
    }

    /// A wrong value for each key: the message names the key, its line, the value (unless it may be secret), and
    /// what is allowed. Going through the list of keys proves as well that each of them is read.
    #[test]
    fn a_wrong_value_for_any_key_is_told() {
        for key in KEYS {
            let assignment = |value: &str| match key.split_once('.') {
                None => format!("# a comment\n\n{key} = {value}\n"),
                Some((section, key)) => format!("[{section}]\n\n{key} = {value}\n"),
            };
            // Of a type that no key has.
            let error = config(&assignment("1979-05-27")).unwrap_err();
            assert!(matches!(error, ConfigError::Value { line: 3, .. }), "{key}: {error}");
            let text = error.to_string();
            assert!(text.contains(&format!("\"{key}\"")) && text.contains("expected"), "{text}");
            assert_eq!(text.contains("1979"), !SECRET.contains(key), "{text}");
            assert!(config(&assignment("\"\"")).is_err(), "{key}");
        }
    }

    #[test]
    fn values_out_of_bounds_are_told() {
        for (text, expected) in [
            ("[stream]\nflush_interval = \"0s\"", "from 1ms to 1h"),
            ("[stream]\nflush_interval = \"2h\"", "from 1ms to 1h"),
            ("[stream]\nflush_interval = 5", "a duration in quotes"),
            ("[stream]\nslot = \"Big\"", "lower-case letters"),
            ("[backup]\nfrom = \"replica\"", "\"prefer-standby\" is expected"),
            ("[backup]\nsource = \"files\"", "\"local\" or \"auto\" is expected"),
            ("[backup]\nread_rate = \"50\"", "from 32KiB to 1GiB a second"),
            ("[compression]\nlevel = 20", "a whole number from 1 to 19"),
            ("[compression]\nlevel = 99999999999999999999", "a whole number from 1 to 19"),
            ("[retention]\nfull = 0", "a whole number from 1"),
            ("[retention]\nwindow = \"1s\"", "at least 1m"),
            ("[schedule]\nfull = \"daily\"", "five fields"),
            ("[schedule]\nfull = \"0 0 * * * * *\"", "five fields"),
            ("[schedule]\njitter = \"2d\"", "to 1day"),
            ("[drill]\nsql = \"SELECT 1\"", "a list of statements"),
            ("[drill]\nsettings = { work_mem = 1 }", "a table of settings"),
            ("[drill]\nsettings = { \"a b\" = \"1\" }", "a table of settings"),
            ("[http]\nlisten = \"localhost\"", "an address and a port"),
            ("[notify]\ncommand = \"page\"", "a list of a program and its arguments"),
            ("[log]\nlevel = \"loud\"", "\"trace\" is expected"),
            ("[notify]\ncommand = []", "a list of a program and its arguments"),
            ("[notify]\nwebhook = \"hooks.example.com\"", "https://"),
            ("[notify]\ntimeout = \"0s\"", "from 1s to 10m"),
            ("[http]\nrefresh = \"10ms\"", "from 1s to 1d"),
            ("[upkeep]\nwindow = \"at night\"", "two different times of the day"),
            ("[upkeep]\ntables = { a = 101 }", "a table of whole numbers"),
            ("[health]\nconnections = 101", "a whole number from 1 to 100"),
            ("[health]\ntemp_files = \"many\"", "a size with its unit"),
            ("[storage]\nendpoint = \"http://127.0.0.1:9000\"", "allow_http = true"),
            ("[storage]\nendpoint = \"ftp://x\"", "https://"),
            ("[encryption]\nrecipients = [\"AGE-SECRET-KEY-1X\"]", "public keys"),
            ("cluster = \"a/b\"", "letters, digits"),
            ("socket = \"relative\"", "absolute path"),
            ("stream = 1", "it is a section"),
            ("[[stream]]", "it is a section"),
        ] {
            let text = message(text);
            assert!(text.contains(expected), "{text}");
        }
        let both = "[retention]\nwindow = \"1d\"\nfull = 2";
        assert_eq!(
            message(both),
            "line 3: \"retention.window\" and \"retention.full\" exclude each other: remove one of them"
        );
    }

    #[test]
    fn a_secret_is_never_repeated() {
        for text in [
            "[encryption]\nrecipients = [\"AGE-SECRET-KEY-1HIDDEN\"]",
            "postgres = [\"password=HIDDEN\"]",
            "postgres = \"password=HIDDEN",
            "[storage]\nendpoint = \"ftp://HIDDEN@x\"",
            "[notify]\nwebhook = \"ftp://x/HIDDEN\"",
        ] {
            let error = config(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("HIDDEN"), "{error:?}");
        }
        let read =
            config("postgres = \"password=HIDDEN\"\n[notify]\nwebhook = \"https://x/HIDDEN\"").unwrap();
        assert!(!format!("{read:?}").contains("HIDDEN"));
    }

    #[test]
    fn broken_toml_names_its_line() {
        assert!(message("a = 1\nb = = 2").starts_with("line 2: this is not valid TOML: "));
        assert!(message("cluster = \"a\"\ncluster = \"b\"").starts_with("line 2: "));
    }

    proptest! {
        #[test]
        fn never_panics_on_any_text(text: String) {
            let _ = config(&text);
        }

        #[test]
        fn never_panics_on_any_value(index in 0..KEYS.len(), value in "[-\"\\[\\]{}=a-z0-9.: *é]{0,40}") {
            let _ = config(&format!("{} = {value}", KEYS[index]));
        }
    }
}
