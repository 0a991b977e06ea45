//! From TOML to [`Config`], by hand instead of by derive, so that each complaint is a sentence with a line.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    CompressionConfig, Config, ConfigError, EncryptionConfig, HttpConfig, Retention, RetentionConfig,
    ScheduleConfig, StorageConfig, StreamConfig,
};

/// Every key, with its section. What is not here is refused before anything is read.
const KEYS: &[&str] = &[
    "repository",
    "cluster",
    "postgres",
    "socket",
    "stream.enabled",
    "stream.slot",
    "stream.flush_interval",
    "stream.synchronous",
    "stream.shutdown_grace",
    "storage.endpoint",
    "storage.region",
    "storage.path_style",
    "storage.allow_http",
    "storage.storage_class",
    "storage.kms_key",
    "storage.tags",
    "storage.ca_file",
    "storage.connect_timeout",
    "storage.read_timeout",
    "storage.retry_timeout",
    "storage.concurrency",
    "compression.level",
    "encryption.recipients",
    "encryption.identity_file",
    "encryption.metadata_identity_file",
    "retention.window",
    "retention.full",
    "retention.grace",
    "schedule.full",
    "schedule.incremental",
    "schedule.verify",
    "schedule.drill",
    "http.listen",
];

/// Keys whose values are never repeated in a message: they may hold a secret, or one was put there by mistake.
const SECRET: &[&str] =
    &["repository", "postgres", "storage.endpoint", "storage.kms_key", "encryption.recipients"];

/// The longest path of a Unix socket on Linux, without the closing zero.
const MAX_SOCKET_PATH: usize = 107;
/// S3's limits for tags: how many, and characters of a name and of a value.
const MAX_TAGS: (usize, usize, usize) = (10, 128, 256);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MILLISECOND: Duration = Duration::from_millis(1);
/// Far enough for any retention, near enough for arithmetic on times.
const CENTURY: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

pub(super) fn config(text: &str) -> Result<Config, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        line: line_of(text, &error.span().unwrap_or_default()),
        why: error.message().lines().collect::<Vec<_>>().join(", "),
    })?;
    let reader = Reader { text, document: document.get_ref() };
    reader.refuse_unknown()?;

    let stream = StreamConfig::default();
    let storage = StorageConfig::default();
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
        },
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
                .duration("retention.grace", Duration::ZERO..=CENTURY)?
                .unwrap_or(RetentionConfig::default().grace),
        },
        schedule: ScheduleConfig {
            full: reader.cron("schedule.full")?,
            incremental: reader.cron("schedule.incremental")?,
            verify: reader.cron("schedule.verify")?,
            drill: reader.cron("schedule.drill")?,
        },
        http: HttpConfig { listen: reader.listen("http.listen")? },
    })
}

/// The line, counted from 1, in which `span` begins.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

/// The known keys and sections within `section` ("" for the top level), without their section's name.
fn known_in(section: &str) -> impl Iterator<Item = &'static str> {
    let all = KEYS.iter().filter_map(move |key| match section {
        "" => Some(key.split_once('.').map_or(*key, |(section, _)| section)),
        _ => key.strip_prefix(section)?.strip_prefix('.'),
    });
    // The sections' names come several times, but one after another.
    let mut last = "";
    all.filter(move |key| std::mem::replace(&mut last, *key) != *key)
}

/// The known key that looks most like an unknown one: of the same section rather than of another.
fn nearest(section: &str, key: &str) -> Option<String> {
    let qualified = |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    let here = known_in(section).map(|known| (2 * strsim::damerau_levenshtein(key, known), qualified(known)));
    let elsewhere = KEYS.iter().map(|known| {
        let last = known.rsplit('.').next().unwrap_or(known);
        (2 * strsim::damerau_levenshtein(key, last) + 1, (*known).to_owned())
    });
    here.chain(elsewhere).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// A value that was found, with what a complaint about it needs.
struct Found<'a> {
    key: &'static str,
    text: &'a str,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Found<'a> {
    fn get(&self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    fn line(&self) -> usize {
        line_of(self.text, &self.value.span())
    }

    /// The complaint that the value will not do.
    fn refuse(&self, allowed: impl Into<String>) -> ConfigError {
        let value = if SECRET.contains(&self.key) {
            "what it is set to".to_owned()
        } else {
            let written = self.text.get(self.value.span()).unwrap_or_default();
            let first = written.lines().next().unwrap_or_default();
            let short: String = first.chars().take(60).collect();
            if short.len() < written.len() { format!("{short}…") } else { short }
        };
        ConfigError::Value { line: self.line(), key: self.key.to_owned(), value, allowed: allowed.into() }
    }

    fn string(&self, allowed: &str) -> Result<&'a str, ConfigError> {
        match self.get().as_str() {
            Some(text) if !text.is_empty() && !text.contains('\0') => Ok(text),
            _ => Err(self.refuse(allowed)),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    document: &'a DeTable<'a>,
}

impl<'a> Reader<'a> {
    /// Refuses what is not in [`KEYS`], and what stands where a section should.
    fn refuse_unknown(&self) -> Result<(), ConfigError> {
        let unknown = |section: &str, key: &Spanned<std::borrow::Cow<'_, str>>| {
            let name: String = key.get_ref().chars().take(80).collect();
            ConfigError::UnknownKey {
                line: line_of(self.text, &key.span()),
                suggestion: nearest(section, &name),
                key: if section.is_empty() { name } else { format!("{section}.{name}") },
            }
        };
        for (key, value) in self.document {
            let name = key.get_ref().as_ref();
            if KEYS.contains(&name) {
                continue;
            }
            let section = known_in("").find(|known| *known == name).ok_or_else(|| unknown("", key))?;
            let Some(table) = value.get_ref().as_table() else {
                let allowed = format!("it is a section: write its keys below a line [{section}]");
                return Err(Found { key: section, text: self.text, value }.refuse(allowed));
            };
            for key in table.keys() {
                if !known_in(section).any(|known| known == key.get_ref().as_ref()) {
                    return Err(unknown(section, key));
                }
            }
        }
        Ok(())
    }

    fn find(&self, key: &'static str) -> Option<Found<'a>> {
        debug_assert!(KEYS.contains(&key), "{key} is not in the list of keys");
        let value = match key.split_once('.') {
            None => self.document.get(key)?,
            Some((section, key)) => self.document.get(section)?.get_ref().as_table()?.get(key)?,
        };
        Some(Found { key, text: self.text, value })
    }

    fn text(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let found = self.find(key);
        found.map(|found| found.string("a text in quotes is expected").map(str::to_owned)).transpose()
    }

    fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let found = self.find(key);
        found.map(|found| found.string("a path in quotes is expected").map(PathBuf::from)).transpose()
    }

    fn socket(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let allowed =
            format!("an absolute path in quotes, at most {MAX_SOCKET_PATH} bytes long, is expected");
        let path = found.string(&allowed)?;
        let valid = path.starts_with('/') && path.len() <= MAX_SOCKET_PATH;
        if valid { Ok(Some(PathBuf::from(path))) } else { Err(found.refuse(allowed)) }
    }

    /// A text that has a type of its own; that type's error says what is allowed.
    fn parsed<T: FromStr<Err: std::fmt::Display>>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let text = found.string("a text in quotes is expected")?;
        text.parse().map(Some).map_err(|error: T::Err| {
            let full = error.to_string();
            // The complaint has the value already.
            let allowed = full.split_once(": ").map_or(full.as_str(), |(_, allowed)| allowed);
            found.refuse(allowed)
        })
    }

    fn switch(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        found
            .get()
            .as_bool()
            .map(Some)
            .ok_or_else(|| found.refuse("true or false (without quotes) is expected"))
    }

    fn number<T>(&self, key: &'static str, bounds: RangeInclusive<T>) -> Result<Option<T>, ConfigError>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display,
    {
        let Some(found) = self.find(key) else { return Ok(None) };
        let number = found.get().as_integer().and_then(|integer| {
            i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .and_then(|number| T::try_from(number).ok())
        });
        number.filter(|number| bounds.contains(number)).map(Some).ok_or_else(|| {
            found.refuse(format!("a whole number from {} to {} is expected", bounds.start(), bounds.end()))
        })
    }

    fn duration(
        &self,
        key: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let parsed = found.get().as_str().and_then(|text| humantime::parse_duration(text).ok());
        parsed.filter(|duration| bounds.contains(duration)).map(Some).ok_or_else(|| {
            let (least, most) = bounds.clone().into_inner();
            let least = humantime::format_duration(least);
            let form = "a duration in quotes, such as \"500ms\", \"1s\" or \"14d\"";
            found.refuse(if most == CENTURY {
                format!("{form}, at least {least}, is expected")
            } else {
                format!("{form}, from {least} to {}, is expected", humantime::format_duration(most))
            })
        })
    }

    fn endpoint(&self, key: &'static str, permission: &'static str) -> Result<Option<String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let allowed = "a URL in quotes that begins with https:// or http:// is expected";
        let url = found.string(allowed)?;
        let plain = url.starts_with("http://");
        if plain && !self.switch(permission)?.unwrap_or(false) {
            return Err(found.refuse(format!("a store without TLS needs {permission} = true")));
        }
        if plain || url.starts_with("https://") {
            Ok(Some(url.to_owned()))
        } else {
            Err(found.refuse(allowed))
        }
    }

    fn tags(&self, key: &'static str) -> Result<BTreeMap<String, String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(BTreeMap::new()) };
        let (count, name_length, value_length) = MAX_TAGS;
        let allowed = format!(
            "a table such as {{ team = \"db\" }} is expected, with at most {count} tags, \
             names to {name_length} and values to {value_length} characters"
        );
        let fits = |text: &str, most: usize| text.chars().count() <= most;
        let tags: Option<BTreeMap<_, _>> = found.get().as_table().and_then(|table| {
            let tag = |(name, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                let (name, value) = (name.get_ref().as_ref(), value.get_ref().as_str()?);
                let valid = !name.is_empty() && fits(name, name_length) && fits(value, value_length);
                valid.then(|| (name.to_owned(), value.to_owned()))
            };
            table.iter().map(tag).collect()
        });
        tags.filter(|tags| tags.len() <= count).ok_or_else(|| found.refuse(allowed))
    }

    fn recipients(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(Vec::new()) };
        let public_key = |text: &&str| {
            text.strip_prefix("age1")
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
        };
        let entry =
            |value: &Spanned<DeValue<'_>>| value.get_ref().as_str().filter(public_key).map(str::to_owned);
        let entries =
            found.get().as_array().and_then(|array| array.iter().map(entry).collect::<Option<Vec<_>>>());
        entries.ok_or_else(|| found.refuse("a list of public keys such as [\"age1…\"] is expected"))
    }

    fn retention(&self, window: &'static str, full: &'static str) -> Result<Option<Retention>, ConfigError> {
        let by_window = self.duration(window, MINUTE..=CENTURY)?.map(Retention::Window);
        let by_full = self.number(full, 1..=10_000)?.map(Retention::Full);
        if by_window.is_some() && by_full.is_some() {
            let line =
                [window, full].into_iter().filter_map(|key| self.find(key)).map(|found| found.line()).max();
            return Err(ConfigError::Exclusive {
                line: line.unwrap_or(1),
                key: window.to_owned(),
                other: full.to_owned(),
            });
        }
        Ok(by_window.or(by_full))
    }

    /// Five fields of a crontab. Only their form is checked: whoever runs the schedule computes with them.
    fn cron(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let allowed = "five fields are expected: minute, hour, day of the month, month, day of the week, \
                       such as \"0 2 * * 0\"";
        let text = found.string(allowed)?;
        let field = |field: &str| field.bytes().all(|b| b.is_ascii_alphanumeric() || b"*,-/#?".contains(&b));
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let valid = fields.len() == 5 && fields.iter().all(|text| field(text));
        if valid { Ok(Some(text.to_owned())) } else { Err(found.refuse(allowed)) }
    }

    fn listen(&self, key: &'static str) -> Result<Option<std::net::SocketAddr>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let allowed = "an address and a port are expected, such as \"127.0.0.1:9187\" or \"[::1]:9187\"";
        found.string(allowed)?.parse().map(Some).map_err(|_| found.refuse(allowed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
verify = "0 5 * * *"
drill = "0 6 1 * *"

[http]
listen = "127.0.0.1:9187"
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
        assert!(read.stream.synchronous && !read.stream.enabled);
        assert_eq!(read.storage.tags["team"], "db");
        assert_eq!(read.storage.concurrency, 8);
        assert_eq!(read.compression.level, 3);
        assert_eq!(read.encryption.recipients, ["age1abc"]);
        assert_eq!(read.retention.keep, Some(Retention::Window(14 * DAY)));
        assert_eq!(read.retention.grace, 2 * DAY);
        assert_eq!(read.schedule.drill.as_deref(), Some("0 6 1 * *"));
        assert_eq!(read.http.listen.map(|address| address.port()), Some(9187));
        // Nothing is left at its default, so no key was forgotten.
        let default = Config::default();
        assert_ne!(read.stream, default.stream);
        assert!(read.storage.kms_key.is_some() && read.storage.ca_file.is_some());
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
            ("[compression]\nlevel = 20", "a whole number from 1 to 19"),
            ("[compression]\nlevel = 99999999999999999999", "a whole number from 1 to 19"),
            ("[retention]\nfull = 0", "a whole number from 1"),
            ("[retention]\nwindow = \"1s\"", "at least 1m"),
            ("[schedule]\nfull = \"daily\"", "five fields"),
            ("[schedule]\nfull = \"0 0 * * * *\"", "five fields"),
            ("[http]\nlisten = \"localhost\"", "an address and a port"),
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
        ] {
            let error = config(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("HIDDEN"), "{error:?}");
        }
        let read = config("postgres = \"password=HIDDEN\"").unwrap();
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
