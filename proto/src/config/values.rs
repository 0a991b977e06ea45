//! Values by their keys: each kind of value with its bounds, and the complaint about another.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, SECRET, known_in, nearest};
use super::{ConfigError, Retention};

/// The longest path of a Unix socket on Linux, without the closing zero.
const MAX_SOCKET_PATH: usize = 107;
/// So many entries may a list of statements, names or settings have.
const MOST_TEXTS: usize = 100;
/// S3's limits for tags: how many, and characters of a name and of a value.
const MAX_TAGS: (usize, usize, usize) = (10, 128, 256);

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
/// Far enough for any retention, near enough for arithmetic on times.
pub(super) const CENTURY: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// The line, counted from 1, in which `span` begins.
pub(super) fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
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

/// The whole file.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) document: &'a DeTable<'a>,
}

impl<'a> Reader<'a> {
    /// Refuses what is not in [`KEYS`], and what stands where a section should.
    pub(super) fn refuse_unknown(&self) -> Result<(), ConfigError> {
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

    /// Whether the section stands in the file, if only by its name.
    pub(super) fn has(&self, section: &str) -> bool {
        self.document.get(section).is_some()
    }

    fn find(&self, key: &'static str) -> Option<Found<'a>> {
        debug_assert!(KEYS.contains(&key), "{key} is not in the list of keys");
        let value = match key.split_once('.') {
            None => self.document.get(key)?,
            Some((section, key)) => self.document.get(section)?.get_ref().as_table()?.get(key)?,
        };
        Some(Found { key, text: self.text, value })
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let found = self.find(key);
        found.map(|found| found.string("a text in quotes is expected").map(str::to_owned)).transpose()
    }

    pub(super) fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let found = self.find(key);
        found.map(|found| found.string("a path in quotes is expected").map(PathBuf::from)).transpose()
    }

    pub(super) fn socket(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let allowed =
            format!("an absolute path in quotes, at most {MAX_SOCKET_PATH} bytes long, is expected");
        let path = found.string(&allowed)?;
        let valid = path.starts_with('/') && path.len() <= MAX_SOCKET_PATH;
        if valid { Ok(Some(PathBuf::from(path))) } else { Err(found.refuse(allowed)) }
    }

    /// A text that has a type of its own; that type's error says what is allowed.
    pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(
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

    pub(super) fn switch(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        found
            .get()
            .as_bool()
            .map(Some)
            .ok_or_else(|| found.refuse("true or false (without quotes) is expected"))
    }

    pub(super) fn number<T>(
        &self,
        key: &'static str,
        bounds: RangeInclusive<T>,
    ) -> Result<Option<T>, ConfigError>
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

    pub(super) fn duration(
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

    pub(super) fn endpoint(
        &self,
        key: &'static str,
        permission: &'static str,
    ) -> Result<Option<String>, ConfigError> {
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

    pub(super) fn tags(&self, key: &'static str) -> Result<BTreeMap<String, String>, ConfigError> {
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

    /// Statements of SQL.
    pub(super) fn statements(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
        self.texts(key, "statements such as [\"SELECT count(*) > 0 FROM orders\"]")
    }

    /// Names, or patterns of names.
    pub(super) fn names(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
        self.texts(key, "names such as [\"shop\", \"billing\"]")
    }

    fn texts(&self, key: &'static str, what: &str) -> Result<Vec<String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(Vec::new()) };
        let statement = |value: &Spanned<DeValue<'_>>| {
            let text = value.get_ref().as_str()?;
            (!text.trim().is_empty() && !text.contains('\0')).then(|| text.to_owned())
        };
        let entries =
            found.get().as_array().and_then(|array| array.iter().map(statement).collect::<Option<Vec<_>>>());
        entries
            .filter(|entries| entries.len() <= MOST_TEXTS)
            .ok_or_else(|| found.refuse(format!("a list of {what} is expected, at most {MOST_TEXTS}")))
    }

    /// Settings of a server, by their names.
    pub(super) fn settings(&self, key: &'static str) -> Result<BTreeMap<String, String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(BTreeMap::new()) };
        let name_fits = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
        };
        let settings: Option<BTreeMap<_, _>> = found.get().as_table().and_then(|table| {
            let setting = |(name, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                let (name, value) = (name.get_ref().as_ref(), value.get_ref().as_str()?);
                (name_fits(name) && !value.contains('\0')).then(|| (name.to_owned(), value.to_owned()))
            };
            table.iter().map(setting).collect()
        });
        settings.filter(|settings| settings.len() <= MOST_TEXTS).ok_or_else(|| {
            found.refuse(
                "a table of settings such as { shared_preload_libraries = \"timescaledb\" } is expected",
            )
        })
    }

    /// Per cents by name.
    pub(super) fn percents(&self, key: &'static str) -> Result<BTreeMap<String, u32>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(BTreeMap::new()) };
        let percents: Option<BTreeMap<_, _>> = found.get().as_table().and_then(|table| {
            let percent = |(name, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                let integer = value.get_ref().as_integer()?;
                let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok()?;
                (1..=100).contains(&number).then(|| (name.get_ref().as_ref().to_owned(), number))
            };
            table.iter().map(percent).collect()
        });
        percents.ok_or_else(|| {
            found.refuse(
                "a table of whole numbers from 1 to 100 is expected, such as { \"shop.public.orders\" = 5 }",
            )
        })
    }

    pub(super) fn recipients(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
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

    pub(super) fn retention(
        &self,
        window: &'static str,
        full: &'static str,
    ) -> Result<Option<Retention>, ConfigError> {
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

    /// A program and its arguments.
    pub(super) fn command(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(Vec::new()) };
        let word = |value: &Spanned<DeValue<'_>>| {
            value.get_ref().as_str().filter(|text| !text.contains('\0')).map(str::to_owned)
        };
        let words =
            found.get().as_array().and_then(|array| array.iter().map(word).collect::<Option<Vec<_>>>());
        words.filter(|words| words.first().is_some_and(|program| !program.is_empty())).ok_or_else(|| {
            found.refuse("a list of a program and its arguments is expected, such as [\"/usr/local/bin/page\", \"db\"]")
        })
    }

    /// A URL, of which nothing is repeated.
    pub(super) fn webhook(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let allowed = "a URL in quotes that begins with https:// or http:// is expected";
        let url = found.string(allowed)?;
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let fits = host.is_some_and(|host| !host.is_empty() && !url.contains(char::is_whitespace));
        if fits { Ok(Some(url.to_owned())) } else { Err(found.refuse(allowed)) }
    }

    /// Five or six fields of a crontab. Only their form is checked: whoever runs the schedule computes with them.
    pub(super) fn cron(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let allowed = "five fields are expected: minute, hour, day of the month, month, day of the week, \
                       such as \"0 2 * * 0\"; or six, with the second before them";
        let text = found.string(allowed)?;
        let field = |field: &str| field.bytes().all(|b| b.is_ascii_alphanumeric() || b"*,-/#?+".contains(&b));
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let valid = matches!(fields.len(), 5 | 6) && fields.iter().all(|text| field(text));
        if valid { Ok(Some(text.to_owned())) } else { Err(found.refuse(allowed)) }
    }

    pub(super) fn listen(&self, key: &'static str) -> Result<Option<std::net::SocketAddr>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let allowed = "an address and a port are expected, such as \"127.0.0.1:9187\" or \"[::1]:9187\"";
        found.string(allowed)?.parse().map(Some).map_err(|_| found.refuse(allowed))
    }
}
