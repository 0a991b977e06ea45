//! Finding PostgreSQL's programs of the right major version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::program::failure;

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

    /// The server's version, such as `15.18`.
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
    for place in ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql-{}/bin"] {
        add(place.replace("{}", &major.to_string()).into());
    }
    add("/usr/local/pgsql/bin".into());
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

/// 19 of `19devel`, too.
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
