//! Single values: what each keyword takes, and the complaint about anything else.

use std::net::IpAddr;
use std::time::Duration;

use super::settings::Settings;
use super::types::Words;
use super::{AuthMethod, ConnInfoError, Keepalive, RequireAuth, TlsVersion};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn ip(text: &str) -> Result<IpAddr, ConnInfoError> {
    text.parse().map_err(|_| invalid("hostaddr", text, "an IPv4 or IPv6 address is expected"))
}

pub(super) fn invalid(word: &'static str, value: &str, expected: impl Into<String>) -> ConnInfoError {
    ConnInfoError::Value { word, origin: format!("\"{value}\""), expected: expected.into() }
}

pub(super) fn number(
    text: &str,
    word: &'static str,
    range: std::ops::RangeInclusive<i64>,
) -> Result<i64, ConnInfoError> {
    let expected = || format!("a number from {} to {} is expected", range.start(), range.end());
    let value = text.trim().parse().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| invalid(word, text, expected()))
}

pub(super) fn choice<T: Words>(settings: &Settings, word: &'static str) -> Result<Option<T>, ConnInfoError> {
    let Some(value) = settings.get(word).filter(|value| !value.is_empty()) else { return Ok(None) };
    T::from_word(value).map(Some).ok_or_else(|| invalid(word, value, T::allowed()))
}

pub(super) fn flag(settings: &Settings, word: &'static str) -> Result<Option<bool>, ConnInfoError> {
    match settings.get(word) {
        None | Some("") => Ok(None),
        Some("0") => Ok(Some(false)),
        Some("1") => Ok(Some(true)),
        Some(value) => Err(invalid(word, value, "allowed are 0, 1")),
    }
}

/// What `load_balance_hosts` takes.
#[derive(Clone, Copy)]
pub(super) struct LoadBalance {
    pub(super) random: bool,
}

impl Words for LoadBalance {
    const WORDS: &'static [(&'static str, Self)] =
        &[("disable", Self { random: false }), ("random", Self { random: true })];
}

pub(super) fn tls_version(
    settings: &Settings,
    word: &'static str,
) -> Result<Option<TlsVersion>, ConnInfoError> {
    let Some(value) = settings.get(word).filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "tlsv1.2" => Ok(Some(TlsVersion::V1_2)),
        "tlsv1.3" => Ok(Some(TlsVersion::V1_3)),
        // As a lower bound these are met by everything that we speak.
        "tlsv1" | "tlsv1.1" if word == "ssl_min_protocol_version" => Ok(Some(TlsVersion::V1_2)),
        _ => Err(invalid(word, value, "allowed are TLSv1.2, TLSv1.3")),
    }
}

pub(super) fn require_auth(settings: &Settings) -> Result<RequireAuth, ConnInfoError> {
    let Some(value) = settings.get("require_auth").filter(|value| !value.is_empty()) else {
        return Ok(RequireAuth::Any);
    };
    let (mut only, mut not) = (Vec::new(), Vec::new());
    for word in value.split(',').map(str::trim) {
        let (list, name) = match word.strip_prefix('!') {
            Some(name) => (&mut not, name),
            None => (&mut only, word),
        };
        list.push(
            AuthMethod::from_word(name)
                .ok_or_else(|| invalid("require_auth", word, AuthMethod::allowed()))?,
        );
    }
    match (only.is_empty(), not.is_empty()) {
        (false, true) => Ok(RequireAuth::Only(only)),
        (true, _) => Ok(RequireAuth::Not(not)),
        (false, false) => {
            Err(invalid("require_auth", value, "either all methods have a \"!\" before them, or none has"))
        }
    }
}

pub(super) fn connect_timeout(settings: &Settings) -> Result<Option<Duration>, ConnInfoError> {
    let Some(value) = settings.get("connect_timeout").filter(|value| !value.is_empty()) else {
        return Ok(Some(DEFAULT_CONNECT_TIMEOUT));
    };
    match number(value, "connect_timeout", i64::from(i32::MIN)..=i64::from(i32::MAX))? {
        ..=0 => Ok(None),
        // As in libpq: one second is too easily missed.
        seconds => Ok(Some(Duration::from_secs(seconds.unsigned_abs().max(2)))),
    }
}

/// A number of which 0 means "leave the default".
fn positive(settings: &Settings, word: &'static str) -> Result<Option<u64>, ConnInfoError> {
    let Some(value) = settings.get(word).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = number(value, word, 0..=i64::from(i32::MAX))?.unsigned_abs();
    Ok(Some(value).filter(|value| *value > 0))
}

pub(super) fn keepalive(settings: &Settings) -> Result<Option<Keepalive>, ConnInfoError> {
    let mut keepalive = Keepalive::default();
    if let Some(seconds) = positive(settings, "keepalives_idle")? {
        keepalive.idle = Duration::from_secs(seconds);
    }
    if let Some(seconds) = positive(settings, "keepalives_interval")? {
        keepalive.interval = Duration::from_secs(seconds);
    }
    if let Some(count) = positive(settings, "keepalives_count")? {
        keepalive.count = u32::try_from(count).unwrap_or(u32::MAX);
    }
    let on = flag(settings, "keepalives")?.unwrap_or(true);
    Ok(on.then_some(keepalive))
}

pub(super) fn tcp_user_timeout(settings: &Settings) -> Result<Option<Duration>, ConnInfoError> {
    Ok(positive(settings, "tcp_user_timeout")?.map(Duration::from_millis))
}
