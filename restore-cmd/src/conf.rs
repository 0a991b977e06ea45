//! `postgresql.auto.conf` of the restored cluster: the settings that recovery needs. And quoting: for configuration files,
//! for SQL, for the shell.
//!
//! PostgreSQL reads this file after all others, and it lies in the data directory wherever `postgresql.conf` may
//! lie, so what is written here counts. Pure text in, text out.

/// The first and the last line of what we add.
const BEGIN: &str = "# Recovery settings, written by restore-cmd.";
const END: &str = "# End of the recovery settings.";

/// Settings that a backup may have carried and that must not direct this recovery, with the values that mean nothing.
/// Other files than this one may set them as well, so those that are not needed are set to nothing.
const RECOVERY: &[(&str, &str)] = &[
    ("restore_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("recovery_target", ""),
    ("recovery_target_time", ""),
    ("recovery_target_xid", ""),
    ("recovery_target_name", ""),
    ("recovery_target_lsn", ""),
    ("recovery_target_inclusive", "on"),
    ("recovery_target_timeline", "latest"),
    ("recovery_target_action", "pause"),
    ("recovery_min_apply_delay", "0"),
];

/// One that only counts for the recovery for which we wrote it; elsewhere it is the user's.
const OURS_ALONE: &str = "recovery_prefetch";

/// One setting: a name and its plain value.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Setting {
    /// As PostgreSQL spells it.
    pub name: &'static str,
    /// Not quoted.
    pub value: String,
}

impl Setting {
    /// A setting.
    pub fn new(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: value.into() }
    }
}

/// `inherited` without its recovery settings and without those that `settings` replace; then every recovery setting that
/// `settings` do not name, set to nothing; then `settings`. In this order: the server takes an empty target that comes after
/// another one for a second target.
///
/// Bytes in any encoding pass through.
pub fn rewrite(inherited: &[u8], settings: &[Setting]) -> Vec<u8> {
    let mut text = Vec::with_capacity(inherited.len() + 1024);
    let mut ours = false;
    for line in inherited.split_inclusive(|&byte| byte == b'\n') {
        let is = |mark: &str| line.trim_ascii_end() == mark.as_bytes();
        let mark = is(BEGIN) || is(END);
        ours = if mark { is(BEGIN) } else { ours };
        let name = setting_name(line);
        let dropped = |name: &str| {
            RECOVERY.iter().any(|(known, _)| *known == name)
                || (ours && name == OURS_ALONE)
                || settings.iter().any(|setting| setting.name.eq_ignore_ascii_case(name))
        };
        if !mark && !name.as_deref().is_some_and(dropped) {
            text.extend_from_slice(line);
        }
    }
    if text.last().is_some_and(|&byte| byte != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(BEGIN.as_bytes());
    text.push(b'\n');
    let unset = RECOVERY.iter().filter(|(name, _)| settings.iter().all(|setting| setting.name != *name));
    let unset = unset.map(|(name, value)| (*name, *value));
    for (name, value) in unset.chain(settings.iter().map(|setting| (setting.name, setting.value.as_str()))) {
        text.extend_from_slice(format!("{name} = {}\n", quote(value)).as_bytes());
    }
    text.extend_from_slice(END.as_bytes());
    text.push(b'\n');
    text
}

/// The last value that a configuration text gives to `name`; `None` if it gives none. Included files are not read.
pub fn last_value(text: &[u8], name: &str) -> Option<String> {
    let line = text.split(|&byte| byte == b'\n').rfind(|line| setting_name(line).as_deref() == Some(name))?;
    let line = String::from_utf8_lossy(line);
    let rest = line.trim_start().get(name.len()..)?.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    Some(unquote(rest))
}

/// Whether a configuration text has others read as well.
pub fn has_includes(text: &[u8]) -> bool {
    let includes = |name: &str| matches!(name, "include" | "include_if_exists" | "include_dir");
    text.split(|&byte| byte == b'\n').any(|line| setting_name(line).as_deref().is_some_and(includes))
}

/// The name that a line sets, in lower case.
pub fn setting_name(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.')));
    let name = &line[..end.unwrap_or(line.len())];
    let name = std::str::from_utf8(name).ok()?;
    (!name.is_empty()).then(|| name.to_ascii_lowercase())
}

/// A value as a configuration file takes it: quotes doubled, backslashes and line ends escaped.
pub fn quote(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('\'');
    for letter in value.chars() {
        match letter {
            '\'' => text.push_str("''"),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            other => text.push(other),
        }
    }
    text.push('\'');
    text
}

/// What the server makes of a value in a configuration file.
fn unquote(text: &str) -> String {
    let Some(quoted) = text.strip_prefix('\'') else {
        return text.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default().to_owned();
    };
    let mut value = String::new();
    let mut letters = quoted.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if letters.peek() == Some(&'\'') => value.extend(letters.next()),
            '\'' => break,
            '\\' => match letters.next() {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                other => value.extend(other),
            },
            other => value.push(other),
        }
    }
    value
}

/// A string constant of SQL. Backslashes are plain: `standard_conforming_strings` is on unless somebody turned it off.
pub fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A name in SQL, and in pg_hba.conf.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// One word for a shell, whatever it contains; and for `restore_command` and `archive_command`, where a percent sign must
/// be doubled.
pub fn command_word(word: &str) -> String {
    let word = word.replace('%', "%%");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn inherited_recovery_settings_go() {
        let inherited = b"# Do not edit this file manually!\n\
            work_mem = '8MB'\n\
            Recovery_Target_Time = '2020-01-01'\n\
            \trestore_command 'cp /old/%f %p'\n\
            restore_command_of_mine.x = 1\n\
            archive_mode = on";
        let settings = [Setting::new("recovery_target_xid", "7"), Setting::new("archive_mode", "off")];
        let text = String::from_utf8(rewrite(inherited, &settings)).unwrap();
        let (kept, ours) = text.split_once("# Recovery settings, written by restore-cmd.\n").unwrap();
        assert_eq!(
            kept,
            "# Do not edit this file manually!\nwork_mem = '8MB'\nrestore_command_of_mine.x = 1\n"
        );
        // What `postgresql.conf` may say is overruled as well; the target comes last.
        assert!(ours.starts_with("restore_command = ''\narchive_cleanup_command = ''\n"), "{ours}");
        assert!(ours.contains("recovery_target_time = ''\nrecovery_target_name = ''\n"), "{ours}");
        assert!(
            ours.ends_with(
                "recovery_target_xid = '7'\narchive_mode = 'off'\n# End of the recovery settings.\n"
            ),
            "{ours}"
        );
        assert_eq!(ours.matches("recovery_target_xid").count(), 1);
    }

    #[test]
    fn rewriting_twice_is_like_rewriting_once() {
        let settings =
            [Setting::new("restore_command", "x '%f'"), Setting::new("recovery_target_timeline", "3")];
        let once = rewrite(b"a = 1\n\xff = 2\n", &settings);
        assert_eq!(rewrite(&once, &settings), once);
    }

    #[test]
    fn what_one_recovery_needed_is_not_inherited_by_the_next() {
        let users = b"recovery_prefetch = 'on'\n";
        let first = rewrite(users, &[Setting::new("recovery_prefetch", "off")]);
        assert_eq!(last_value(&first, "recovery_prefetch").as_deref(), Some("off"));
        assert_eq!(last_value(&rewrite(&first, &[]), "recovery_prefetch"), None);
        assert_eq!(last_value(&rewrite(users, &[]), "recovery_prefetch").as_deref(), Some("on"));
    }

    #[test]
    fn finds_the_last_value() {
        let text = b"synchronous_standby_names = 'a'\n#synchronous_standby_names = 'b'\n  SYNCHRONOUS_STANDBY_NAMES='wal''keep' # c\nx = on # y";
        assert_eq!(last_value(text, "synchronous_standby_names").as_deref(), Some("wal'keep"));
        assert_eq!(last_value(text, "x").as_deref(), Some("on"));
        assert_eq!(last_value(text, "y"), None);
    }

    #[test]
    fn sql_reads_names_and_constants() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal(r"it's\"), r"'it''s\'");
    }

    #[test]
    fn knows_that_others_are_read() {
        assert!(has_includes(b"a = 1\n  Include_Dir = 'conf.d'\n") && has_includes(b"include 'x'"));
        assert!(!has_includes(b"#include_dir = 'conf.d'\nincluded.x = 1\n"));
    }

    #[test]
    fn words_are_the_shells() {
        assert_eq!(command_word("/usr/bin/restore-cmd"), "/usr/bin/restore-cmd");
        assert_eq!(command_word("s3://b/p%20x"), "s3://b/p%%20x");
        assert_eq!(command_word(""), "''");
        assert_eq!(command_word("it's"), r"'it'\''s'");
    }

    proptest! {
        #[test]
        fn quoting_survives_the_round_trip(value in "[^\0]*") {
            let quoted = quote(&value);
            prop_assert!(!quoted.contains('\n'));
            prop_assert_eq!(unquote(&quoted), value.clone());
            let text = rewrite(b"", &[Setting::new("restore_command", value.clone())]);
            prop_assert_eq!(last_value(&text, "restore_command"), Some(value));
        }

        #[test]
        fn no_setting_of_any_text_survives(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let rewritten = rewrite(&text, &[Setting::new("recovery_target_timeline", "1")]);
            let last = last_value(&rewritten, "recovery_target_timeline");
            prop_assert_eq!(last.as_deref(), Some("1"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// The shell gets back each word as it was, once the server has made `%` of `%%`.
        #[test]
        fn a_shell_reads_the_word(word in "[^\0]{1,20}") {
            let command = format!("printf %s {}", command_word(&word).replace("%%", "%"));
            let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
            prop_assert_eq!(output.stdout, word.into_bytes());
        }
    }
}
