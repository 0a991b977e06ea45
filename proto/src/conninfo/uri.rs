//! The form `postgresql://user:password@host:port,host:port/dbname?word=value`.

use super::ConnInfoError;
use super::settings::Settings;

/// Whether `text` claims to be a URI; what follows the scheme.
pub(super) fn strip_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Reads what follows the scheme.
pub(super) fn parse(text: &str) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::default();
    let (head, query) = match text.split_once('?') {
        Some((head, query)) => (head, Some(query)),
        None => (text, None),
    };
    let (authority, dbname) = match head.split_once('/') {
        Some((authority, dbname)) => (authority, dbname),
        None => (head, ""),
    };
    let hosts = match authority.split_once('@') {
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            set_nonempty(&mut settings, "user", user)?;
            set_nonempty(&mut settings, "password", password)?;
            hosts
        }
        None => authority,
    };
    let (names, ports) = split_hosts(hosts)?;
    set_nonempty(&mut settings, "host", &names)?;
    set_nonempty(&mut settings, "port", &ports)?;
    set_nonempty(&mut settings, "dbname", dbname)?;
    for parameter in query.into_iter().flat_map(|query| query.split('&')).filter(|p| !p.is_empty()) {
        let Some((word, value)) = parameter.split_once('=') else {
            return Err(syntax("a parameter after \"?\" has no \"=\""));
        };
        if value.contains('=') {
            return Err(syntax("a parameter after \"?\" has two \"=\""));
        }
        let (word, value) = (decode(word)?, decode(value)?);
        // What JDBC calls it.
        if word == "ssl" && value == "true" {
            settings.set("sslmode", "require".to_owned())?;
        } else {
            settings.set(&word, value)?;
        }
    }
    Ok(settings)
}

fn set_nonempty(settings: &mut Settings, word: &str, value: &str) -> Result<(), ConnInfoError> {
    if value.is_empty() { Ok(()) } else { settings.set(word, decode(value)?) }
}

/// Two lists with commas: hosts and ports. Both are empty where the URI names neither.
fn split_hosts(text: &str) -> Result<(String, String), ConnInfoError> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in text.split(',') {
        let (name, rest) = match host.strip_prefix('[') {
            Some(bracketed) => bracketed
                .split_once(']')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| syntax("an IPv6 address in brackets is not complete"))?,
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some(port) => port,
            None if rest.is_empty() => "",
            None => return Err(syntax("after a host, \":\", \",\", \"/\" or the end is expected")),
        };
        names.push(name);
        ports.push(port);
    }
    let list =
        |parts: &[&str]| if parts.iter().all(|p| p.is_empty()) { String::new() } else { parts.join(",") };
    // A list of nothing but empty names still counts its hosts if there are ports for each.
    let names = if ports.len() > 1 { names.join(",") } else { list(&names) };
    Ok((names, list(&ports)))
}

/// Replaces `%XX` by the byte; the whole must be UTF-8 without a zero byte.
fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = |at: usize| rest.get(at).and_then(|b| char::from(*b).to_digit(16));
        match hex(0).zip(hex(1)) {
            Some((0, 0)) => return Err(syntax("%00 cannot be part of a value")),
            Some((high, low)) => bytes.push((high << 4 | low) as u8),
            None => return Err(syntax("\"%\" must be followed by two hexadecimal digits")),
        }
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| syntax("a value is not UTF-8 after its percent signs are decoded"))
}

/// Positions are not told: they would have to be counted through secrets.
fn syntax(why: &'static str) -> ConnInfoError {
    ConnInfoError::Uri(why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(&'static str, String)> {
        let settings = parse(strip_scheme(text).expect("a URI")).expect("well-formed");
        settings.iter().map(|(word, value)| (word, value.to_owned())).collect()
    }

    #[test]
    fn reads_the_forms_that_libpq_documents() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("postgresql://", &[]),
            ("postgresql://localhost", &[("host", "localhost")]),
            ("postgres://localhost:5433", &[("host", "localhost"), ("port", "5433")]),
            ("postgresql://localhost/mydb", &[("host", "localhost"), ("dbname", "mydb")]),
            ("postgresql://user@localhost", &[("user", "user"), ("host", "localhost")]),
            (
                "postgresql://user:s%65c%2Fret@localhost",
                &[("user", "user"), ("password", "sec/ret"), ("host", "localhost")],
            ),
            (
                "postgresql://other@localhost/otherdb?connect_timeout=10&application_name=my%20app",
                &[
                    ("user", "other"),
                    ("host", "localhost"),
                    ("dbname", "otherdb"),
                    ("connect_timeout", "10"),
                    ("application_name", "my app"),
                ],
            ),
            (
                "postgresql://host1:123,host2:456/db?target_session_attrs=any",
                &[
                    ("host", "host1,host2"),
                    ("port", "123,456"),
                    ("dbname", "db"),
                    ("target_session_attrs", "any"),
                ],
            ),
            (
                "postgresql:///mydb?host=localhost&port=5433",
                &[("dbname", "mydb"), ("host", "localhost"), ("port", "5433")],
            ),
            (
                "postgresql://[2001:db8::1234]:5/database",
                &[("host", "2001:db8::1234"), ("port", "5"), ("dbname", "database")],
            ),
            ("postgresql://%2Fvar%2Flib%2Fpg/dbname", &[("host", "/var/lib/pg"), ("dbname", "dbname")]),
            ("postgresql://h?ssl=true", &[("host", "h"), ("sslmode", "require")]),
        ];
        for (text, expected) in cases {
            let mut found = pairs(text);
            let mut expected: Vec<_> = expected.iter().map(|(w, v)| (*w, (*v).to_owned())).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn refuses_malformed_ones() {
        for text in [
            "[::1",
            "[]",
            "[::1]x",
            "h?x",
            "h?user=a=b",
            "h?user=%zz",
            "h?user=%0",
            "h?user=%00",
            "h?user=%ff",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = parse(&text);
        }

        #[test]
        fn percent_encoding_survives(password in "[^\0]+") {
            let encoded: String = password.bytes().map(|b| format!("%{b:02X}")).collect();
            let settings = parse(&format!("u:{encoded}@h")).unwrap();
            prop_assert_eq!(settings.get("password"), Some(password.as_str()));
        }
    }
}
