//! The service file: sections `[name]` with lines `word=value`.

use super::ConnInfoError;
use super::settings::Settings;

/// The settings of section `name`; `None` if the file has no such section.
pub(super) fn find(text: &str, name: &str) -> Result<Option<Settings>, String> {
    let mut found: Option<Settings> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if section.strip_suffix(']') == Some(name) {
                found = Some(Settings::default());
            }
            continue;
        }
        let Some(settings) = found.as_mut() else { continue };
        let at = number + 1;
        if line.starts_with("ldap") {
            return Err(format!("line {at} asks an LDAP server, which is not supported"));
        }
        let (word, value) =
            line.split_once('=').ok_or_else(|| format!("line {at} is not of the form word=value"))?;
        if word == "service" || word == "servicefile" {
            return Err(format!("line {at} refers to another service, which is not allowed"));
        }
        // In libpq, too, the first of equal words counts here.
        if settings.get(word).is_none() {
            settings
                .set(word, value.to_owned())
                .map_err(|error: ConnInfoError| format!("line {at}: {error}"))?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "# services\n[first]\nhost=a\nport=1\n\n[second]\nhost = b\nuser=x\nuser=y\n[third]\n";

    #[test]
    fn reads_one_section_only() {
        let first = find(FILE, "first").unwrap().unwrap();
        assert_eq!((first.get("host"), first.get("port"), first.get("user")), (Some("a"), Some("1"), None));
        assert!(find(FILE, "fourth").unwrap().is_none());
        assert!(find(FILE, "third").unwrap().is_some());
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        // A space before "=" is part of the word, as in libpq.
        assert!(find(FILE, "second").err().unwrap().starts_with("line 7"));
        assert!(find("[a]\nhots=x\n", "a").err().unwrap().contains("\"host\""));
        assert!(find("[a]\nservice=b\n", "a").is_err());
        assert!(find("[a]\nldap://x\n", "a").is_err());
        assert!(find("[a]\nnothing\n", "a").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text: String, name: String) {
            let _ = find(&text, &name);
        }
    }
}
