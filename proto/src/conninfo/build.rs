//! From words and values to a [`ConnInfo`].

use std::path::{Path, PathBuf};

use super::settings::Settings;
use super::values::{
    LoadBalance, choice, connect_timeout, flag, invalid, ip, keepalive, number, require_auth,
    tcp_user_timeout, tls_version,
};
use super::{
    Address, ChannelBinding, ConnInfo, ConnInfoError, Env, FileError, GssEncMode, Host, PassFile, Password,
    RootCert, SslMode, SslNegotiation, TargetSession, TlsVersion, keywords, service, uri, words,
};

/// Where Debian's servers, and most packages', put their socket.
pub(super) const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";
/// Where Debian looks for a service file for all users.
const DEFAULT_SYSCONF_DIRECTORY: &str = "/etc/postgresql-common";
const DEFAULT_PORT: u16 = 5432;

/// Reads `text` and completes it: service file, then variables, then defaults.
pub(super) fn build(text: &str, env: &dyn Env) -> Result<ConnInfo, ConnInfoError> {
    let mut settings = match uri::strip_scheme(text.trim_start()) {
        Some(rest) => uri::parse(rest.trim_end())?,
        None => keywords::parse(text)?,
    };
    let passfile_is_explicit = settings.get("passfile").is_some();
    if let Some(found) = read_service(&settings, env)? {
        settings.complete_from(found);
    }
    settings.complete_from(from_variables(env)?);
    from_settings(&settings, env, passfile_is_explicit)
}

fn from_variables(env: &dyn Env) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::default();
    for (word, variable) in words::variables() {
        if let Some(value) = env.var(variable) {
            settings.set(word, value)?;
        }
    }
    Ok(settings)
}

fn read_service(settings: &Settings, env: &dyn Env) -> Result<Option<Settings>, ConnInfoError> {
    let variable = env.var("PGSERVICE");
    let Some(name) = settings.get("service").or(variable.as_deref()) else { return Ok(None) };
    let named = settings.get("servicefile").map(str::to_owned).or_else(|| env.var("PGSERVICEFILE"));
    let own = match named {
        Some(path) => Some(PathBuf::from(path)),
        None => env.home().map(|home| home.join(".pg_service.conf")),
    };
    let system = env.var("PGSYSCONFDIR").unwrap_or_else(|| DEFAULT_SYSCONF_DIRECTORY.to_owned());
    for path in own.into_iter().chain([Path::new(&system).join("pg_service.conf")]) {
        let file_error = |why| ConnInfoError::File { what: "service file", path: path.clone(), why };
        let content = match env.read(&path) {
            Ok(content) => content,
            Err(FileError::Absent) => continue,
            Err(FileError::Failed(why)) => return Err(file_error(why)),
        };
        if let Some(found) = service::find(&content, name).map_err(file_error)? {
            return Ok(Some(found));
        }
    }
    Err(ConnInfoError::Conflict(format!("no service file defines the service \"{name}\"")))
}

fn from_settings(
    settings: &Settings,
    env: &dyn Env,
    passfile_is_explicit: bool,
) -> Result<ConnInfo, ConnInfoError> {
    // An empty value is as good as none, as in libpq.
    let text = |word: &str| settings.get(word).filter(|value| !value.is_empty());
    let owned = |word: &str| text(word).map(str::to_owned);
    check_gss(settings)?;
    check_encoding(settings)?;

    let hosts = hosts(settings)?;
    let user = match owned("user").or_else(|| env.user()) {
        Some(user) => user,
        None => {
            return Err(ConnInfoError::Conflict("the system's user has no name; add user=NAME".to_owned()));
        }
    };
    let sslrootcert = match text("sslrootcert") {
        Some("system") => Some(RootCert::System),
        Some(path) => Some(RootCert::File(path.into())),
        None => default_file(env, "root.crt").map(RootCert::File),
    };
    let sslmode = sslmode(settings, sslrootcert.as_ref())?;
    let sslnegotiation = choice(settings, "sslnegotiation")?.unwrap_or(SslNegotiation::Postgres);
    if sslnegotiation == SslNegotiation::Direct && sslmode < SslMode::Require {
        let why = "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full";
        return Err(ConnInfoError::Conflict(why.to_owned()));
    }
    let ssl_min_version = tls_version(settings, "ssl_min_protocol_version")?.unwrap_or(TlsVersion::V1_2);
    let ssl_max_version = tls_version(settings, "ssl_max_protocol_version")?.unwrap_or(TlsVersion::V1_3);
    if ssl_min_version > ssl_max_version {
        let why = "ssl_min_protocol_version is above ssl_max_protocol_version";
        return Err(ConnInfoError::Conflict(why.to_owned()));
    }
    Ok(ConnInfo {
        hosts,
        dbname: owned("dbname").unwrap_or_else(|| user.clone()),
        user,
        password: text("password").map(|password| Password::new(password.as_bytes().to_vec())),
        passfile: passfile(settings, env, passfile_is_explicit)?,
        application_name: owned("application_name"),
        fallback_application_name: owned("fallback_application_name"),
        options: owned("options"),
        sslmode,
        sslnegotiation,
        sslrootcert,
        sslcert: text("sslcert").map(PathBuf::from).or_else(|| default_file(env, "postgresql.crt")),
        sslkey: text("sslkey").map(PathBuf::from).or_else(|| default_file(env, "postgresql.key")),
        sslsni: flag(settings, "sslsni")?.unwrap_or(true),
        ssl_min_version,
        ssl_max_version,
        channel_binding: choice(settings, "channel_binding")?.unwrap_or(ChannelBinding::Prefer),
        require_auth: require_auth(settings)?,
        target_session_attrs: choice(settings, "target_session_attrs")?.unwrap_or(TargetSession::Any),
        load_balance_hosts: choice::<LoadBalance>(settings, "load_balance_hosts")?
            .is_some_and(|lb| lb.random),
        connect_timeout: connect_timeout(settings)?,
        keepalive: keepalive(settings)?,
        tcp_user_timeout: tcp_user_timeout(settings)?,
    })
}

/// A file in `~/.postgresql`, if it is there.
fn default_file(env: &dyn Env, name: &str) -> Option<PathBuf> {
    let path = env.home()?.join(".postgresql").join(name);
    env.exists(&path).then_some(path)
}

/// The three lists must agree: as many ports as hosts, or one for all.
fn hosts(settings: &Settings) -> Result<Vec<Host>, ConnInfoError> {
    let list =
        |word: &str| settings.get(word).filter(|v| !v.is_empty()).map(|v| v.split(',').collect::<Vec<_>>());
    let (names, addresses) = (list("host"), list("hostaddr"));
    let count = match (&names, &addresses) {
        (Some(names), Some(addresses)) if names.len() != addresses.len() => {
            let why = format!("host has {} entries, but hostaddr has {}", names.len(), addresses.len());
            return Err(ConnInfoError::Conflict(why));
        }
        (Some(list), _) | (None, Some(list)) => list.len(),
        (None, None) => 1,
    };
    let ports = list("port").unwrap_or_default();
    if ports.len() > 1 && ports.len() != count {
        let why = format!("port has {} entries, but there are {count} hosts", ports.len());
        return Err(ConnInfoError::Conflict(why));
    }
    (0..count)
        .map(|at| {
            let entry = |list: &Option<Vec<&str>>| {
                list.as_ref().map(|list| list[at].trim().to_owned()).filter(|entry| !entry.is_empty())
            };
            let address = match (entry(&names), entry(&addresses)) {
                (name, Some(addr)) => Address::Numeric { name, addr: ip(&addr)? },
                (Some(name), None) if name.starts_with(['/', '@']) => Address::Unix(name.into()),
                (Some(name), None) => Address::Name(name),
                (None, None) => Address::Unix(DEFAULT_SOCKET_DIRECTORY.into()),
            };
            let port = match ports.get(at).or(ports.first()).map(|port| port.trim()) {
                None | Some("") => DEFAULT_PORT,
                Some(port) => number(port, "port", 1..=65535)? as u16,
            };
            Ok(Host { address, port })
        })
        .collect()
}

fn check_gss(settings: &Settings) -> Result<(), ConnInfoError> {
    match choice(settings, "gssencmode")? {
        Some(GssEncMode::Require) => Err(ConnInfoError::Unsupported {
            word: "gssencmode",
            why: "walkeep does not speak GSSAPI; use sslmode=verify-full and gssencmode=disable",
        }),
        Some(GssEncMode::Disable | GssEncMode::Prefer) | None => Ok(()),
    }
}

fn check_encoding(settings: &Settings) -> Result<(), ConnInfoError> {
    let Some(value) = settings.get("client_encoding") else { return Ok(()) };
    let plain = value.to_ascii_lowercase().replace(['-', '_'], "");
    match plain.as_str() {
        "" | "auto" | "utf8" | "unicode" => Ok(()),
        _ => Err(invalid("client_encoding", value, "walkeep speaks UTF8 only; leave the word out")),
    }
}

fn sslmode(settings: &Settings, root: Option<&RootCert>) -> Result<SslMode, ConnInfoError> {
    let system = root == Some(&RootCert::System);
    let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = choice(settings, "sslmode")?.unwrap_or(default);
    if system && mode != SslMode::VerifyFull {
        let why = "sslrootcert=system needs sslmode=verify-full: anybody can get a certificate from a public \
                   authority";
        return Err(ConnInfoError::Conflict(why.to_owned()));
    }
    if mode >= SslMode::VerifyCa && root.is_none() {
        let why = "sslmode=verify-ca and verify-full need to know whom to trust: add sslrootcert=FILE with the \
                   authority's certificate, or sslrootcert=system";
        return Err(ConnInfoError::Conflict(why.to_owned()));
    }
    Ok(mode)
}

fn passfile(settings: &Settings, env: &dyn Env, explicit: bool) -> Result<PassFile, ConnInfoError> {
    if settings.get("password").is_some_and(|password| !password.is_empty()) {
        return Ok(PassFile::default());
    }
    let path = match settings.get("passfile").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => match env.home() {
            Some(home) => home.join(".pgpass"),
            None => return Ok(PassFile::default()),
        },
    };
    let error = |why| ConnInfoError::File { what: "password file", path: path.clone(), why };
    match env.read_secret(&path) {
        Ok(content) => PassFile::parse(&content).map_err(|wrong| error(wrong.to_string())),
        // Nobody may have asked for it: then it is no error that it is not there.
        Err(FileError::Absent) if !explicit => Ok(PassFile::default()),
        Err(why) => Err(error(why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    #[derive(Default)]
    struct FakeEnv {
        vars: HashMap<&'static str, &'static str>,
        files: HashMap<&'static str, &'static str>,
    }

    impl Env for FakeEnv {
        fn var(&self, name: &str) -> Option<String> {
            self.vars.get(name).map(|value| (*value).to_owned())
        }
        fn home(&self) -> Option<PathBuf> {
            Some("/home/me".into())
        }
        fn user(&self) -> Option<String> {
            Some("me".to_owned())
        }
        fn exists(&self, path: &Path) -> bool {
            self.read(path).is_ok()
        }
        fn read(&self, path: &Path) -> Result<String, FileError> {
            let text = path.to_str().and_then(|path| self.files.get(path));
            text.map(|text| (*text).to_owned()).ok_or(FileError::Absent)
        }
        fn read_secret(&self, path: &Path) -> Result<Zeroizing<String>, FileError> {
            self.read(path).map(Zeroizing::new)
        }
    }

    fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
        ConnInfo::parse(text, &FakeEnv::default())
    }

    fn message(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn an_empty_text_gives_libpqs_defaults() {
        let info = parse("").unwrap();
        assert_eq!(
            info.hosts,
            [Host { address: Address::Unix(DEFAULT_SOCKET_DIRECTORY.into()), port: 5432 }]
        );
        assert_eq!((info.user.as_str(), info.dbname.as_str()), ("me", "me"));
        assert_eq!(info.sslmode, SslMode::Prefer);
        assert!(info.password.is_none() && info.application_name.is_none() && info.keepalive.is_some());
    }

    #[test]
    fn text_outranks_service_outranks_variables() {
        let env = FakeEnv {
            vars: [("PGHOST", "env"), ("PGPORT", "3"), ("PGUSER", "env"), ("PGSERVICE", "s")].into(),
            files: [("/home/me/.pg_service.conf", "[s]\nhost=service\nport=2\n")].into(),
        };
        let info = ConnInfo::parse("host=text", &env).unwrap();
        assert_eq!(info.hosts[0].to_string(), "text:2");
        assert_eq!(info.user, "env");
    }

    #[test]
    fn a_service_is_looked_for_in_both_files() {
        let env = FakeEnv {
            files: [
                ("/home/me/.pg_service.conf", "[a]\n"),
                ("/etc/postgresql-common/pg_service.conf", "[b]\nhost=x\n"),
            ]
            .into(),
            ..FakeEnv::default()
        };
        assert_eq!(ConnInfo::parse("service=b", &env).unwrap().hosts[0].to_string(), "x:5432");
        let error = ConnInfo::parse("service=c", &env).unwrap_err();
        assert_eq!(error.to_string(), "no service file defines the service \"c\"");
    }

    #[test]
    fn several_hosts_share_a_port_or_have_their_own() {
        let texts = |text| parse(text).unwrap().hosts.iter().map(Host::to_string).collect::<Vec<_>>();
        assert_eq!(texts("host=a,/tmp port=1"), ["a:1", "/tmp/.s.PGSQL.1"]);
        assert_eq!(texts("host=a,b port=1,"), ["a:1", "b:5432"]);
        assert_eq!(texts("host=a hostaddr=::1"), ["a:5432 (::1)"]);
        assert_eq!(texts("postgresql://[::1]:7,h/"), ["[::1]:7", "h:5432"]);
        assert!(message("host=a,b port=1,2,3").contains("3 entries"));
        assert!(message("host=a,b hostaddr=127.0.0.1").contains("2 entries"));
    }

    #[test]
    fn unknown_words_name_the_nearest() {
        assert_eq!(message("hots=x"), "unknown connection keyword \"hots\"; did you mean \"host\"?");
        assert_eq!(message("sslmod=x"), "unknown connection keyword \"sslmod\"; did you mean \"sslmode\"?");
        assert_eq!(message("zzzzzz=x"), "unknown connection keyword \"zzzzzz\"");
        assert!(message("replication=1").contains("leave it out"));
        assert!(message("gssencmode=require").contains("GSSAPI"));
        assert!(parse("gssencmode=prefer").is_ok());
    }

    #[test]
    fn wrong_values_tell_what_is_allowed() {
        assert_eq!(
            message("sslmode=on"),
            "\"on\" is invalid for \"sslmode\": allowed are disable, allow, prefer, require, verify-ca, verify-full"
        );
        assert!(message("port=0").contains("from 1 to 65535"));
        assert!(message("target_session_attrs=master").contains("prefer-standby"));
        assert!(message("require_auth=md5,!none").contains("either all"));
        assert!(message("client_encoding=latin1").contains("UTF8"));
        assert!(message("sslmode=verify-full").contains("sslrootcert=FILE"));
        assert!(message("sslmode=require sslrootcert=system").contains("verify-full"));
        assert!(message("sslnegotiation=direct").contains("sslmode=require"));
    }

    #[test]
    fn sslrootcert_system_means_verify_full() {
        assert_eq!(parse("sslrootcert=system").unwrap().sslmode, SslMode::VerifyFull);
    }

    #[test]
    fn default_certificates_are_taken_where_they_are() {
        let env = FakeEnv { files: [("/home/me/.postgresql/root.crt", "x")].into(), ..FakeEnv::default() };
        let info = ConnInfo::parse("sslmode=verify-ca", &env).unwrap();
        assert_eq!(info.sslrootcert, Some(RootCert::File("/home/me/.postgresql/root.crt".into())));
        assert_eq!(info.sslcert, None);
    }

    #[test]
    fn the_password_file_is_optional_unless_named() {
        assert!(parse("").is_ok());
        assert!(message("passfile=/nowhere").contains("password file \"/nowhere\""));
        let env = FakeEnv { files: [("/home/me/.pgpass", "a:*:*:*:secret\n")].into(), ..FakeEnv::default() };
        let info = ConnInfo::parse("host=a", &env).unwrap();
        let found = info.passfile.find(&info.hosts[0], "replication", "me").unwrap();
        assert_eq!(found.reveal(), b"secret");
    }

    #[test]
    fn timeouts_follow_libpq() {
        let timeout = |text| parse(text).unwrap().connect_timeout;
        assert_eq!(timeout(""), Some(Duration::from_secs(30)));
        assert_eq!(timeout("connect_timeout=0"), None);
        assert_eq!(timeout("connect_timeout=-1"), None);
        assert_eq!(timeout("connect_timeout=1"), Some(Duration::from_secs(2)));
        assert_eq!(timeout("connect_timeout=9"), Some(Duration::from_secs(9)));
    }

    #[test]
    fn no_password_is_shown() {
        let info = parse("password=topsecret").unwrap();
        assert!(!format!("{info:?}").contains("topsecret"));
        for text in ["postgresql://u:topsecret@[x", "password=topsecret port=x", "password='topsecret"] {
            assert!(!message(text).contains("topsecret"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(postgresql://)?\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_values(word in "host|hostaddr|port|require_auth|keepalives_idle|sslmode", value: String) {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            let _ = parse(&format!("{word}='{quoted}'"));
        }
    }
}
