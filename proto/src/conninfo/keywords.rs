//! The form `host=db1 user=walkeep password='a b'`.

use super::ConnInfoError;
use super::settings::Settings;

/// Splits `text` into words and values, in order.
pub(super) fn parse(text: &str) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::default();
    let mut rest = Cursor { text, at: 0 };
    loop {
        rest.skip_spaces();
        if rest.peek().is_none() {
            return Ok(settings);
        }
        let word = rest.word();
        rest.skip_spaces();
        if rest.peek() != Some('=') {
            return Err(rest.error("\"=\" is missing after a keyword"));
        }
        if word.is_empty() {
            return Err(rest.error("a keyword is missing before \"=\""));
        }
        rest.next();
        rest.skip_spaces();
        let value = if rest.peek() == Some('\'') { rest.quoted()? } else { rest.plain()? };
        settings.set(word, value)?;
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn error(&self, why: &'static str) -> ConnInfoError {
        ConnInfoError::Syntax { at: self.at, why }
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.next();
        }
    }

    fn word(&mut self) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(|c| c != '=' && !is_space(c)) {
            self.next();
        }
        &self.text[start..self.at]
    }

    fn plain(&mut self) -> Result<String, ConnInfoError> {
        let mut value = String::new();
        while let Some(c) = self.peek().filter(|c| !is_space(*c)) {
            self.next();
            value.push(if c == '\\' { self.escaped()? } else { c });
        }
        Ok(value)
    }

    fn quoted(&mut self) -> Result<String, ConnInfoError> {
        self.next();
        let mut value = String::new();
        loop {
            match self.next() {
                Some('\'') => return Ok(value),
                Some('\\') => value.push(self.escaped()?),
                Some(c) => value.push(c),
                None => return Err(self.error("a quoted value has no closing quote")),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, ConnInfoError> {
        self.next().ok_or_else(|| self.error("a backslash has nothing behind it"))
    }
}

/// The C locale's white space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sorted by word.
    fn pairs(text: &str) -> Vec<(&'static str, String)> {
        parse(text).expect("well-formed").iter().map(|(word, value)| (word, value.to_owned())).collect()
    }

    #[test]
    fn takes_spaces_quotes_and_escapes_as_libpq_does() {
        assert_eq!(
            pairs(r" host = db1 user='a b' password=it\'s\ me dbname='q\'\\' "),
            [
                ("dbname", "q'\\".to_owned()),
                ("host", "db1".to_owned()),
                ("password", "it's me".to_owned()),
                ("user", "a b".to_owned())
            ]
        );
        assert_eq!(pairs("user= host=a"), [("user", "host=a".to_owned())]);
    }

    #[test]
    fn the_last_of_equal_words_counts() {
        assert_eq!(pairs("port=1 port=2"), [("port", "2".to_owned())]);
    }

    #[test]
    fn says_where_the_text_is_malformed() {
        for (text, at) in [("host", 4), ("host db1", 5), ("=x", 0), ("host='x", 7), ("host=x\\", 7)] {
            match parse(text) {
                Err(ConnInfoError::Syntax { at: found, .. }) => assert_eq!(found, at, "{text:?}"),
                _ => panic!("{text:?} was accepted"),
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = parse(&text);
        }

        #[test]
        fn quoting_survives(value in "[^\0]*") {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            let text = format!("user='{quoted}'");
            let settings = parse(&text).unwrap();
            prop_assert_eq!(settings.get("user"), Some(value.as_str()));
        }
    }
}
