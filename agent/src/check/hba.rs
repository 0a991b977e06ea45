//! A line of pg_hba.conf, as the server has understood it.

use serde::Deserialize;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct HbaLine {
    /// Its number in the file.
    pub(super) number: i64,
    /// `local`, `host`, `hostssl`, …
    pub(super) kind: String,
    pub(super) databases: Vec<String>,
    pub(super) roles: Vec<String>,
    /// An address, a name, or `all`; `None` of a local line.
    pub(super) address: Option<String>,
    /// Where the address came without a length.
    pub(super) netmask: Option<String>,
    pub(super) method: String,
    pub(super) options: Vec<String>,
    /// Why the server could not understand it.
    pub(super) error: Option<String>,
}

/// The lines, as `pg_hba_file_rules` tells them. Of a line that is wrong only the number and the error are there.
pub(super) const LINES: &str = "SELECT line_number AS number, coalesce(type, '') AS kind, \
    coalesce(database, '{}') AS databases, coalesce(user_name, '{}') AS roles, address, netmask, coalesce(auth_method, '') AS \
    method, coalesce(options, '{}') AS options, error FROM pg_hba_file_rules ORDER BY line_number";

/// Whether this role may ask for them.
pub(super) const MAY_ASK: &str = "SELECT has_table_privilege('pg_hba_file_rules', 'select') \
    AND has_function_privilege('pg_hba_file_rules()', 'execute')";

impl HbaLine {
    /// Whether it lets in whoever comes from anywhere.
    pub(super) fn is_wide(&self) -> bool {
        let nothing = |mask: &Option<String>| matches!(mask.as_deref(), Some("0.0.0.0" | "::"));
        match self.address.as_deref() {
            Some("all") => true,
            Some(address) if address.ends_with("/0") => true,
            Some("0.0.0.0" | "::") => nothing(&self.netmask),
            _ => false,
        }
    }

    /// As it can be written.
    pub(super) fn text(&self) -> String {
        let listed = |names: &[String]| names.join(",");
        let mut words = vec![self.kind.clone(), listed(&self.databases), listed(&self.roles)];
        words.extend(self.address.clone());
        // A mask of all ones is what the server tells of an address with its length, too; of a name it tells none.
        words.extend(
            self.netmask.clone().filter(|_| !self.address.as_deref().is_some_and(|at| at.contains('/'))),
        );
        words.push(self.method.clone());
        words.extend(self.options.iter().cloned());
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(address: Option<&str>, netmask: Option<&str>) -> HbaLine {
        HbaLine {
            number: 1,
            kind: if address.is_some() { "host" } else { "local" }.to_owned(),
            databases: vec!["all".to_owned()],
            roles: vec!["app".to_owned(), "+staff".to_owned()],
            address: address.map(str::to_owned),
            netmask: netmask.map(str::to_owned),
            method: "md5".to_owned(),
            options: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn the_whole_world_has_many_names() {
        for (address, netmask, wide) in [
            (Some("all"), None, true),
            (Some("0.0.0.0"), Some("0.0.0.0"), true),
            (Some("::"), Some("::"), true),
            (Some("0.0.0.0/0"), None, true),
            (Some("10.0.0.0"), Some("255.0.0.0"), false),
            (Some("samehost"), None, false),
            (None, None, false),
        ] {
            assert_eq!(line(address, netmask).is_wide(), wide, "{address:?}");
        }
    }

    #[test]
    fn a_line_is_told_as_it_is_written() {
        assert_eq!(line(None, None).text(), "local all app,+staff md5");
        assert_eq!(
            line(Some("10.0.0.0"), Some("255.0.0.0")).text(),
            "host all app,+staff 10.0.0.0 255.0.0.0 md5"
        );
        assert_eq!(line(Some("10.0.0.0/8"), None).text(), "host all app,+staff 10.0.0.0/8 md5");
    }
}
