//! Finding PostgreSQL's programs of the right major version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::program::failure;

/// Whose version is that of all client programs beside it.
const DUMPER: &str = "pg_dump";

/// Where packages put the programs of one major version.
const OF_PACKAGES: [&str; 3] = ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql-{}/bin"];

/// So many major versions after a server's are looked for by the names of their folders.
const NEWER: u32 = 10;

/// The folder with the programs of one major version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binaries {
    folder: PathBuf,
    version: String,
}

impl Binaries {
    /// Looks for them: in `bindir` alone if that is given, else where `pg_config` points, in `PATH`, and where packages put
    /// them.
    ///
    /// # Errors
    /// There is no server of that major version. The message names the places.
    pub fn find(major: u32, bindir: Option<&Path>) -> Result<Self> {
        let places = match bindir {
            Some(bindir) => vec![bindir.to_owned()],
            None => places(major),
        };
        let mut others = Vec::new();
        for folder in &places {
            let Some(version) = version(&folder.join("postgres")) else { continue };
            if major_of(&version) == Some(major) {
                return Ok(Self { folder: folder.clone(), version });
            }
            others.push(format!("{version} in {}", folder.display()));
        }
        let looked: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        let found = match others.is_empty() {
            true => format!("looked for in {}", looked.join(", ")),
            false => format!("there is {}", others.join(", ")),
        };
        Err(failure(
            format!("no PostgreSQL {major} is on this computer: {found}"),
            format!(
                "install the server of PostgreSQL {major}, or name the folder with its programs with --bindir"
            ),
        ))
    }

    /// Looks for the client programs: those of that major version, else of the next newer one; in `bindir` alone if that is
    /// given, else where packages put them, where `pg_config` points, and in `PATH`.
    ///
    /// # Errors
    /// There is none that knows that version. The message names the places, and the package.
    pub fn clients(major: u32, bindir: Option<&Path>) -> Result<Self> {
        let places = match bindir {
            Some(bindir) => vec![bindir.to_owned()],
            None => client_places(major),
        };
        let found = |folder: &PathBuf| {
            let version = version(&folder.join(DUMPER))?;
            Some(Self { folder: folder.clone(), version })
        };
        let found: Vec<Self> = places.iter().filter_map(found).collect();
        let fitting = found.iter().filter_map(|found| {
            let its = major_of(&found.version).filter(|its| *its >= major)?;
            Some((its, found))
        });
        if let Some((_, nearest)) = fitting.min_by_key(|(its, _)| *its) {
            return Ok(nearest.clone());
        }
        let others: Vec<String> =
            found.iter().map(|found| format!("{} in {}", found.version, found.folder.display())).collect();
        let found = match others.is_empty() {
            true => {
                let looked: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
                format!("looked for in {}", looked.join(", "))
            }
            false => format!("there is only {}, which does not know that version", others.join(", ")),
        };
        Err(failure(
            format!("no {DUMPER} of PostgreSQL {major} or newer is on this computer: {found}"),
            format!(
                "install the client programs of PostgreSQL {major} (Debian: the package postgresql-client-{major}; Red Hat: \
                 postgresql{major}), or name the folder with them with --bindir"
            ),
        ))
    }

    /// The version of the server, or of the client programs, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where a program lies; `None` if it is not there, as where only the server was installed.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        path.is_file().then_some(path)
    }

    /// Where a program lies that cannot be done without.
    ///
    /// # Errors
    /// It is not there.
    pub fn needed(&self, name: &str) -> Result<PathBuf> {
        self.program(name).ok_or_else(|| {
            failure(
                format!("the program {name} is not in {}", self.folder.display()),
                "install PostgreSQL's client programs of the same major version, or name their folder with --bindir",
            )
        })
    }
}

fn places(major: u32) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let mut add = |place: PathBuf| {
        if !places.contains(&place) {
            places.push(place);
        }
    };
    if let Some(folder) = words_of("pg_config".as_ref(), "--bindir") {
        add(folder.into());
    }
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .filter(|folder| folder.join("postgres").is_file())
        .for_each(&mut add);
    for place in OF_PACKAGES {
        add(place.replace("{}", &major.to_string()).into());
    }
    add("/usr/local/pgsql/bin".into());
    places
}

/// Packages first: what lies in `PATH` may be a wrapper that chooses a version by itself.
fn client_places(major: u32) -> Vec<PathBuf> {
    let of_packages = (major..=major + NEWER)
        .flat_map(|major| OF_PACKAGES.map(|place| PathBuf::from(place.replace("{}", &major.to_string()))));
    let mut places: Vec<PathBuf> = of_packages.collect();
    places.push("/usr/local/pgsql/bin".into());
    places.extend(words_of("pg_config".as_ref(), "--bindir").map(PathBuf::from));
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    places.retain(|folder| folder.join(DUMPER).is_file());
    places.dedup();
    places
}

/// What a program prints when asked with one argument.
fn words_of(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// `15.18`, out of `postgres (PostgreSQL) 15.18 (Debian 15.18-1)`.
fn version(postgres: &Path) -> Option<String> {
    let words = words_of(postgres, "--version")?;
    let (_, version) = words.split_once("(PostgreSQL) ")?;
    Some(version.split_whitespace().next()?.to_owned())
}

/// The major version of a program: 15 of `15.18`, and 19 of `19devel`, too.
fn major_of(version: &str) -> Option<u32> {
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn server(version: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postgres");
        std::fs::write(&path, format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version} (Some Linux)'\n"))
            .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn client_programs_may_be_newer_and_never_older() {
        let folder = server("15.18");
        std::fs::rename(folder.path().join("postgres"), folder.path().join("pg_dump")).unwrap();
        for major in [13, 15] {
            assert_eq!(Binaries::clients(major, Some(folder.path())).unwrap().version(), "15.18");
        }
        let error = Binaries::clients(16, Some(folder.path())).unwrap_err();
        let told = format!("{error} {}", crate::program::hint(&error).unwrap_or_default());
        for words in ["no pg_dump of PostgreSQL 16", "15.18 in", "postgresql-client-16"] {
            assert!(told.contains(words), "{told}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(Binaries::clients(15, Some(empty.path())).unwrap_err().to_string().contains("looked for"));
    }

    #[test]
    fn only_the_same_major_version_will_do() {
        let folder = server("15.18");
        let found = Binaries::find(15, Some(folder.path())).unwrap();
        assert_eq!(found.version(), "15.18");
        assert!(found.program("postgres").is_some() && found.program("pg_dump").is_none());
        assert!(found.needed("pg_dump").unwrap_err().to_string().contains("pg_dump"));
        let error = Binaries::find(16, Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("no PostgreSQL 16") && error.contains("15.18 in"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(Binaries::find(15, Some(empty.path())).is_err());
        assert_eq!((major_of("19devel"), major_of("18beta1"), major_of("x")), (Some(19), Some(18), None));
    }
}
