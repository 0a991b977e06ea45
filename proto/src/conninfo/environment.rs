//! A connection for libpq's own programs: as variables, since their arguments may be read by everybody on the computer.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::types::Words;
use super::{Address, ConnInfo, RequireAuth, RootCert, TlsVersion};

/// The word for a value.
fn word<W: Words + PartialEq>(value: W) -> &'static str {
    W::WORDS.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}

const fn version(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V1_2 => "TLSv1.2",
        TlsVersion::V1_3 => "TLSv1.3",
    }
}

impl ConnInfo {
    /// The variables with which a program of libpq's reaches the first of the hosts and that database, as we do. Everything
    /// that the text, the service file and the password file have said is in them, the password, too: so all other `PG…`
    /// variables should be taken away from the program.
    pub fn environment(&self, database: &str) -> Vec<(&'static str, OsString)> {
        let mut variables: Vec<(&'static str, OsString)> = Vec::new();
        let mut set = |name, value: OsString| variables.push((name, value));
        if let Some(host) = self.hosts.first() {
            set("PGPORT", host.port.to_string().into());
            match &host.address {
                Address::Unix(directory) => set("PGHOST", directory.into()),
                Address::Name(name) => set("PGHOST", name.into()),
                Address::Numeric { name, addr } => {
                    set("PGHOSTADDR", addr.to_string().into());
                    name.iter().for_each(|name| set("PGHOST", name.into()));
                }
            }
            let of_file = || self.passfile.find(host, database, &self.user);
            if let Some(password) = self.password.as_ref().or_else(of_file) {
                set("PGPASSWORD", OsString::from_vec(password.reveal().to_vec()));
            }
        }
        set("PGUSER", (&self.user).into());
        set("PGDATABASE", database.into());
        let texts = [("PGAPPNAME", &self.application_name), ("PGOPTIONS", &self.options)];
        for (name, value) in texts {
            value.iter().for_each(|value| set(name, value.into()));
        }
        set("PGSSLMODE", word(self.sslmode).into());
        set("PGSSLNEGOTIATION", word(self.sslnegotiation).into());
        match &self.sslrootcert {
            Some(RootCert::System) => set("PGSSLROOTCERT", "system".into()),
            Some(RootCert::File(path)) => set("PGSSLROOTCERT", path.into()),
            None => {}
        }
        for (name, path) in [("PGSSLCERT", &self.sslcert), ("PGSSLKEY", &self.sslkey)] {
            path.iter().for_each(|path| set(name, path.into()));
        }
        set("PGSSLSNI", if self.sslsni { "1" } else { "0" }.into());
        set("PGSSLMINPROTOCOLVERSION", version(self.ssl_min_version).into());
        set("PGSSLMAXPROTOCOLVERSION", version(self.ssl_max_version).into());
        set("PGCHANNELBINDING", word(self.channel_binding).into());
        let methods = |methods: &[super::AuthMethod], not: &str| {
            let words: Vec<String> = methods.iter().map(|method| format!("{not}{method}")).collect();
            words.join(",")
        };
        match &self.require_auth {
            RequireAuth::Any => {}
            RequireAuth::Only(only) => set("PGREQUIREAUTH", methods(only, "").into()),
            RequireAuth::Not(not) => set("PGREQUIREAUTH", methods(not, "!").into()),
        }
        // Neither do we.
        set("PGGSSENCMODE", "disable".into());
        if let Some(timeout) = self.connect_timeout {
            set("PGCONNECT_TIMEOUT", timeout.as_secs().max(1).to_string().into());
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use zeroize::Zeroizing;

    use super::super::{Env, FileError};
    use super::*;

    /// A home with a password file.
    struct Home;

    impl Env for Home {
        fn var(&self, _: &str) -> Option<String> {
            None
        }

        fn home(&self) -> Option<PathBuf> {
            Some("/home/me".into())
        }

        fn user(&self) -> Option<String> {
            Some("me".to_owned())
        }

        fn exists(&self, _: &Path) -> bool {
            false
        }

        fn read(&self, _: &Path) -> Result<String, FileError> {
            Err(FileError::Absent)
        }

        fn read_secret(&self, path: &Path) -> Result<Zeroizing<String>, FileError> {
            match path == Path::new("/home/me/.pgpass") {
                true => Ok(Zeroizing::new("db1:5433:shop:*:for shop\n*:*:*:*:for all\n".to_owned())),
                false => Err(FileError::Absent),
            }
        }
    }

    fn of(text: &str, database: &str) -> Vec<(&'static str, String)> {
        let info = ConnInfo::parse(text, &Home).unwrap();
        let text = |value: OsString| value.into_string().unwrap();
        info.environment(database).into_iter().map(|(name, value)| (name, text(value))).collect()
    }

    #[test]
    fn variables_say_what_the_text_says_and_read_back_the_same() {
        let text = "host=db1 hostaddr=10.0.0.7 port=5433 user=me dbname=postgres sslmode=verify-full sslrootcert=/ca.pem \
                    channel_binding=require require_auth=!md5,!password options='-c x=1' connect_timeout=7 application_name=a";
        let variables = of(text, "sh op");
        for (name, value) in [
            ("PGHOST", "db1"),
            ("PGHOSTADDR", "10.0.0.7"),
            ("PGPORT", "5433"),
            ("PGUSER", "me"),
            ("PGDATABASE", "sh op"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/ca.pem"),
            ("PGCHANNELBINDING", "require"),
            ("PGREQUIREAUTH", "!md5,!password"),
            ("PGOPTIONS", "-c x=1"),
            ("PGAPPNAME", "a"),
            ("PGCONNECT_TIMEOUT", "7"),
            ("PGPASSWORD", "for all"),
        ] {
            let found = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
            assert_eq!(found, Some(value), "{name}");
        }
    }

    #[test]
    fn the_password_is_that_of_the_database() {
        let password = |text: &str, database: &str| {
            let variables = of(text, database);
            variables.into_iter().find(|(name, _)| *name == "PGPASSWORD").map(|(_, value)| value)
        };
        assert_eq!(password("host=db1 port=5433", "shop").as_deref(), Some("for shop"));
        assert_eq!(password("host=db1 port=5433", "other").as_deref(), Some("for all"));
        assert_eq!(password("host=db1 password=own", "shop").as_deref(), Some("own"));
    }
}
