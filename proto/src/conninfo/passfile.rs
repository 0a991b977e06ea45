//! The password file: `host:port:dbname:user:password` a line.

use zeroize::Zeroizing;

use super::types::{Host, Password};

/// The lines of a password file. `Debug` shows no password.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassFile(Vec<Line>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    host: Field,
    port: Field,
    dbname: Field,
    user: Field,
    password: Password,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Any,
    Is(String),
}

impl Field {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(text) => text == value,
        }
    }
}

/// A line that is not of five fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not of the form host:port:dbname:user:password")]
pub struct PassFileError {
    /// Counted from 1.
    pub line: usize,
}

impl PassFile {
    /// Reads a file's content. Empty lines and those that start with `#` are skipped.
    pub fn parse(text: &str) -> Result<Self, PassFileError> {
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            lines.push(parse_line(line).ok_or(PassFileError { line: number + 1 })?);
        }
        Ok(Self(lines))
    }

    /// The password of the first line that fits.
    pub fn find(&self, host: &Host, dbname: &str, user: &str) -> Option<&Password> {
        let (name, port) = (host.passfile_name(), host.port.to_string());
        self.0
            .iter()
            .find(|line| {
                line.host.matches(&name)
                    && line.port.matches(&port)
                    && line.dbname.matches(dbname)
                    && line.user.matches(user)
            })
            .map(|line| &line.password)
    }
}

fn parse_line(line: &str) -> Option<Line> {
    let mut fields = Vec::with_capacity(4);
    let mut rest = line;
    for _ in 0..4 {
        let (field, tail) = split_field(rest)?;
        fields.push(if field.as_str() == "*" { Field::Any } else { Field::Is(unescape(&field)) });
        rest = tail;
    }
    let [host, port, dbname, user] = fields.try_into().ok()?;
    // A further colon ends the password: what follows is not part of it.
    let end = split_field(rest).map_or(rest.len(), |(field, _)| field.len());
    let password = Password::new(unescape(&rest[..end]).into_bytes());
    Some(Line { host, port, dbname, user, password })
}

/// Up to the next colon without a backslash before it; still escaped.
fn split_field(text: &str) -> Option<(Zeroizing<String>, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((Zeroizing::new(text[..at].to_owned()), &text[at + 1..])),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::types::Address;
    use super::*;

    fn host(name: &str, port: u16) -> Host {
        Host { address: Address::Name(name.to_owned()), port }
    }

    fn password(file: &str, host: &Host, dbname: &str, user: &str) -> Option<String> {
        let file = PassFile::parse(file).expect("well-formed");
        file.find(host, dbname, user).map(|p| String::from_utf8_lossy(p.reveal()).into_owned())
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let file = "# comment\n\ndb1:5432:replication:w:one\n*:*:*:w:two\n*:*:*:*:three\n";
        assert_eq!(password(file, &host("db1", 5432), "replication", "w").as_deref(), Some("one"));
        assert_eq!(password(file, &host("db1", 5433), "replication", "w").as_deref(), Some("two"));
        assert_eq!(password(file, &host("db1", 5432), "replication", "x").as_deref(), Some("three"));
        assert_eq!(password("db2:*:*:*:x", &host("db1", 5432), "a", "b"), None);
    }

    #[test]
    fn the_default_socket_is_called_localhost() {
        let default = Host { address: Address::Unix("/var/run/postgresql".into()), port: 5432 };
        let other = Host { address: Address::Unix("/tmp".into()), port: 5432 };
        assert_eq!(password("localhost:*:*:*:x", &default, "a", "b").as_deref(), Some("x"));
        assert_eq!(password("/tmp:*:*:*:x", &other, "a", "b").as_deref(), Some("x"));
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        let file = r"a\:b:*:*:c\\d:p\:q\\:rest";
        assert_eq!(password(file, &host("a:b", 1), "x", r"c\d").as_deref(), Some(r"p:q\"));
        // An escaped star is a star.
        assert_eq!(password(r"\*:*:*:*:x", &host("a", 1), "x", "y"), None);
    }

    #[test]
    fn names_the_line_that_is_no_line() {
        assert_eq!(PassFile::parse("*:*:*:*:x\n*:*:x\n"), Err(PassFileError { line: 2 }));
    }

    #[test]
    fn shows_no_password() {
        let file = PassFile::parse("*:*:*:*:topsecret").expect("well-formed");
        assert!(!format!("{file:?}").contains("topsecret"));
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = PassFile::parse(&text);
        }

        #[test]
        fn escaping_survives(user in "[^\0\r\n]+", secret in "[^\0\r\n]*") {
            let escape = |s: &str| s.replace('\\', "\\\\").replace(':', "\\:");
            let line = format!("h:*:*:{}:{}", if user == "*" { "\\*".into() } else { escape(&user) }, escape(&secret));
            prop_assert_eq!(password(&line, &host("h", 1), "d", &user), Some(secret));
        }
    }
}
