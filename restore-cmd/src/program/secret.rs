//! Passwords stay out of arguments.

use std::path::{Path, PathBuf};

use anyhow::Result;
use proto::conninfo::{ConnInfo, Env, FileError};

use super::failure;

/// An environment without anything: so what a connection string says by itself is seen.
struct Nothing;

impl Env for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn home(&self) -> Option<PathBuf> {
        None
    }

    fn user(&self) -> Option<String> {
        Some("nobody".to_owned())
    }

    fn exists(&self, _: &Path) -> bool {
        false
    }

    fn read(&self, _: &Path) -> Result<String, FileError> {
        Err(FileError::Absent)
    }

    fn read_secret(&self, _: &Path) -> Result<zeroize::Zeroizing<String>, FileError> {
        Err(FileError::Absent)
    }
}

/// Refuses a connection string that holds a password: it becomes an argument of a program or a line of a plan, which others
/// may read. `flag`: where it came from.
///
/// # Errors
/// It holds one, or looks as if it did.
pub fn no_password(conninfo: &str, flag: &str) -> Result<()> {
    // A service cannot be looked up without an environment; what its file says is in no argument.
    let holds = ConnInfo::parse(conninfo, &Nothing).is_ok_and(|info| info.password.is_some());
    if holds || conninfo.contains("password") {
        return Err(failure(
            format!("{flag} holds a password, which others could read"),
            "put it into a password file: ~/.pgpass, or where PGPASSFILE points",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_refused_in_any_form() {
        for text in [
            "host=a password=x",
            "postgresql://me:secret@host/db",
            "password = 'x y'",
            "host=a pass word=1 password=2",
        ] {
            assert!(no_password(text, "--flag").is_err(), "{text}");
        }
        for text in ["host=a user=me dbname=x", "postgresql://me@host/db", "service=live"] {
            assert!(no_password(text, "--flag").is_ok(), "{text}");
        }
    }
}
