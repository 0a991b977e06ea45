//! `walkeep init --quick`: which server this machine has, the configuration for it, and the settings that it needs.
//!
//! Looking and writing are at the end of this file; everything before that is pure.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use proto::config::ClusterName;
use restore::program::failure;

use crate::backup::facts::Facts;

/// Where servers have their sockets: Debian's and Red Hat's packages, then what PostgreSQL itself is built with.
const FOLDERS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// A Unix socket's name is this and the port.
const SOCKET: &str = ".s.PGSQL.";

/// The agent's socket lies here, where that can be.
const RUNTIME: &str = "/run/walkeep";

/// Where a repository is made unless `--repository` says something else: for trying things out.
const REPOSITORY: &str = "file:///var/lib/walkeep";

/// A server that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    folder: PathBuf,
    port: u16,
}

impl Local {
    /// A connection string for it, as this role.
    fn conninfo(&self, user: &str) -> String {
        let word = |text: &str| {
            let plain =
                !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
            match plain {
                true => text.to_owned(),
                false => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
            }
        };
        let folder = self.folder.to_string_lossy();
        format!("host={} port={} user={} dbname=postgres", word(&folder), self.port, word(user))
    }
}

/// The one server that is meant, as a connection string.
///
/// # Errors
/// There is none, or more than one.
pub(crate) fn only_one(servers: &[Local], folders: &[PathBuf], user: &str) -> anyhow::Result<String> {
    match servers {
        [one] => Ok(one.conninfo(user)),
        [] => {
            let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            Err(failure(
                format!("no PostgreSQL server answers on this machine (looked into {})", folders.join(", ")),
                format!("start it, or name it: --postgres 'host=… port=5432 user={user} dbname=postgres'"),
            ))
        }
        several => {
            let choices: Vec<_> =
                several.iter().map(|server| format!("'{}'", server.conninfo(user))).collect();
            Err(failure(
                format!("{} PostgreSQL servers answer on this machine", several.len()),
                format!("choose one with --postgres: {}", choices.join(" or ")),
            ))
        }
    }
}

/// What goes into the new configuration file.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) repository: Option<String>,
    pub(crate) cluster: ClusterName,
    pub(crate) postgres: String,
    pub(crate) socket: PathBuf,
}

impl Answers {
    /// The file's text.
    pub(crate) fn text(&self) -> String {
        // A JSON string is a TOML string, too.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (repository, remark) = match &self.repository {
            Some(url) => (quoted(url), ""),
            None => (quoted(REPOSITORY), "   # on the server's own disk: for trying things out"),
        };
        format!(
            "# Written by `walkeep init --quick`. docs/configuration.md has every key.\n\
             repository = {repository}{remark}\n\
             cluster    = {}\n\
             postgres   = {}\n\
             socket     = {}\n\n\
             [retention]\n\
             window = \"14d\"\n\n\
             [schedule]\n\
             full        = \"0 2 * * 0\"\n\
             incremental = \"0 2 * * 1-6\"\n\
             expire      = \"0 4 * * *\"\n\
             verify      = \"0 5 * * *\"\n",
            quoted(&self.cluster.to_string()),
            quoted(&self.postgres),
            quoted(&self.socket.to_string_lossy()),
        )
    }
}

/// What has to be set on the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// It waits for the server's next start.
    pub(crate) restart: bool,
}

/// The settings that are not as they have to be.
///
/// # Errors
/// Somebody else archives this server's WAL: nobody takes that away unasked.
pub(crate) fn changes(facts: &Facts, archive_command: &str) -> anyhow::Result<Vec<Change>> {
    let setting = |name| facts.setting(name).unwrap_or_default();
    let (command, library) = (setting("archive_command"), setting("archive_library"));
    let is_free = matches!(command, "" | "(disabled)") || command == archive_command;
    if !is_free || !library.is_empty() {
        let (other, first) = match library {
            "" => (command, ""),
            library => (library, "ALTER SYSTEM SET archive_library = ''; "),
        };
        return Err(failure(
            format!("this server's WAL is archived by something else: {other}"),
            format!(
                "if this walkeep shall do that from now on: {first}ALTER SYSTEM SET archive_command = {}",
                restore::conf::quote(archive_command)
            ),
        ));
    }
    let mut changes = Vec::new();
    if !matches!(setting("archive_mode"), "on" | "always") {
        changes.push(Change { name: "archive_mode", value: "on".to_owned(), restart: true });
    }
    if command != archive_command {
        changes.push(Change { name: "archive_command", value: archive_command.to_owned(), restart: false });
    }
    for (name, least) in [("max_wal_senders", 3), ("max_replication_slots", 2)] {
        if setting(name).parse::<u32>().is_ok_and(|value| value < least) {
            changes.push(Change { name, value: "10".to_owned(), restart: true });
        }
    }
    Ok(changes)
}

/// The servers that answer, and where was looked: in the folder and at the port of `PGHOST` and `PGPORT` alone, where
/// they are set.
pub(crate) fn look() -> (Vec<Local>, Vec<PathBuf>) {
    let named = std::env::var_os("PGHOST").map(PathBuf::from).filter(|path| path.is_absolute());
    let port: Option<u16> = std::env::var("PGPORT").ok().and_then(|port| port.parse().ok());
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in named.map_or_else(|| FOLDERS.map(PathBuf::from).to_vec(), |one| vec![one]) {
        // One of them may be a link to another.
        let same = |known: &PathBuf| known.canonicalize().ok() == folder.canonicalize().ok();
        if folder.is_dir() && !folders.iter().any(same) {
            folders.push(folder);
        }
    }
    let mut servers = Vec::new();
    for folder in &folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let found = name.to_str().and_then(|name| name.strip_prefix(SOCKET)?.parse().ok());
            let Some(found) = found.filter(|found| port.is_none_or(|port| port == *found)) else { continue };
            // What a crash has left behind answers nobody.
            if UnixStream::connect(entry.path()).is_ok() {
                servers.push(Local { folder: folder.clone(), port: found });
            }
        }
    }
    servers.sort_by_key(|server| (server.port, server.folder.clone()));
    (servers, folders)
}

/// Where the agent's socket can lie: in the usual folder, else beside the configuration.
pub(crate) fn socket(cluster: &ClusterName, config: &Path) -> PathBuf {
    let name = format!("{cluster}.sock");
    let usual = Path::new(RUNTIME);
    let is_ours =
        rustix::fs::access(usual, rustix::fs::Access::WRITE_OK).is_ok() || make_folder(usual).is_ok();
    match is_ours {
        true => usual.join(name),
        false => config.with_file_name(name),
    }
}

/// Writes a configuration file that is not there yet, for its owner alone.
///
/// # Errors
/// It is there, or cannot be written; says what to do.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let written = (|| {
        if !folder.is_dir() {
            make_folder(folder)?;
        }
        // Whole or not at all: half of it would be taken for a configuration by the next call.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        std::io::Result::Ok(())
    })();
    written.map_err(|error| {
        failure(
            format!("cannot write the configuration {}: {error}", path.display()),
            format!(
                "as root: install -d -o postgres -g postgres -m 0700 {}; or name another file with --config",
                folder.display()
            ),
        )
    })
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "/usr/bin/archive-cmd %p";

    fn local(port: u16) -> Local {
        Local { folder: "/var/run/postgresql".into(), port }
    }

    #[test]
    fn one_server_is_taken_and_several_are_named() {
        let only = |servers: &[Local]| only_one(servers, &["/tmp".into()], "postgres");
        let text = "host=/var/run/postgresql port=5433 user=postgres dbname=postgres";
        assert_eq!(only(&[local(5433)]).unwrap(), text);
        let several = only(&[local(5432), local(5433)]).unwrap_err();
        assert!(restore::program::hint(&several).unwrap_or_default().contains(text));
        assert!(only(&[]).unwrap_err().to_string().contains("/tmp"));
    }

    #[test]
    fn odd_names_are_quoted() {
        let odd = Local { folder: "/srv/it's".into(), port: 5432 };
        let info = proto::conninfo::ConnInfo::resolve(&odd.conninfo("a b")).unwrap();
        assert_eq!(info.user, "a b");
    }

    #[test]
    fn what_is_written_is_a_configuration() {
        let answers = Answers {
            repository: Some("s3://a/\"b\"".into()),
            cluster: "main".parse().unwrap(),
            postgres: local(5432).conninfo("it's"),
            socket: "/run/walkeep/main.sock".into(),
        };
        let config = proto::config::Config::parse(&answers.text()).unwrap();
        assert_eq!(config.repository.as_deref(), Some("s3://a/\"b\""));
        assert_eq!(config.postgres, Some(answers.postgres));
    }

    #[test]
    fn only_what_is_wrong_is_changed() {
        let fresh = Facts::of(&[
            ("archive_mode", "off"),
            ("archive_command", "(disabled)"),
            ("max_wal_senders", "10"),
        ]);
        let names: Vec<_> = changes(&fresh, OURS).unwrap().iter().map(|change| change.name).collect();
        assert_eq!(names, ["archive_mode", "archive_command"]);
        let done =
            Facts::of(&[("archive_mode", "on"), ("archive_command", OURS), ("max_replication_slots", "1")]);
        let slots = Change { name: "max_replication_slots", value: "10".to_owned(), restart: true };
        assert_eq!(changes(&done, OURS).unwrap(), [slots]);
    }

    #[test]
    fn somebody_elses_archiving_is_left_alone() {
        let others = [
            ("archive_command", "pgbackrest archive-push %p"),
            // Ours, of another cluster or repository.
            ("archive_command", "/usr/bin/archive-cmd --config /etc/walkeep/other.toml %p"),
            ("archive_library", "basic_archive"),
        ];
        for (name, value) in others {
            let facts = Facts::of(&[("archive_mode", "on"), (name, value)]);
            assert!(changes(&facts, OURS).unwrap_err().to_string().contains(value), "{value}");
        }
    }
}
