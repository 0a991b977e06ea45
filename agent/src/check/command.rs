//! Reading an `archive_command`, as far as that is possible without a shell.

/// The words of a plain command, `%%` taken as `%`. `None` where it takes a shell to tell what will be run.
pub(super) fn words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut open) = (Vec::new(), String::new(), false);
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => {
                if std::mem::take(&mut open) {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    '%' => word.push(percent(&mut chars)),
                    c => word.push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '$' | '`' => return None,
                    '\\' => word.push(chars.next()?),
                    '%' => word.push(percent(&mut chars)),
                    c => word.push(c),
                }
            },
            '\\' => word.push(chars.next()?),
            '%' => word.push(percent(&mut chars)),
            '|' | '&' | ';' | '<' | '>' | '$' | '`' | '(' | ')' | '*' | '?' | '[' | '#' | '~' | '{' | '}' => {
                return None;
            }
            c => word.push(c),
        }
        open = true;
    }
    if open {
        words.push(word);
    }
    Some(words)
}

/// A percent sign; of two of them the second is swallowed.
fn percent(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> char {
    chars.next_if_eq(&'%');
    '%'
}

/// The value of a flag among the words: `--config FILE` or `--config=FILE`.
pub(super) fn flag<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == name || word.starts_with(&format!("{name}=")))?;
    match words[at].split_once('=') {
        Some((_, value)) => Some(value),
        None => words.get(at + 1).map(String::as_str),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_commands_are_understood() {
        let found = words(r"/usr/bin/archive-cmd --config '/srv/it'\''s 100%%/w.toml' %p").unwrap();
        assert_eq!(found, ["/usr/bin/archive-cmd", "--config", "/srv/it's 100%/w.toml", "%p"]);
        assert_eq!(flag(&found, "--config"), Some("/srv/it's 100%/w.toml"));
        assert_eq!(flag(&words("a --config=b").unwrap(), "--config"), Some("b"));
        assert_eq!(flag(&words("a b").unwrap(), "--config"), None);
        assert_eq!(words("a \"\" 'b'").unwrap(), ["a", "", "b"]);
    }

    #[test]
    fn what_takes_a_shell_is_not_guessed_at() {
        for command in ["a | b", "test ! -f x && a %p", "$HOME/a %p", "a \"$(b)\"", "'a", "a 2>/dev/null"] {
            assert_eq!(words(command), None, "{command}");
        }
    }
}
