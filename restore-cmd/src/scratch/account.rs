//! Who the copy belongs to. PostgreSQL does not run as root, and nothing that a copy needs does.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::program::failure;

/// Whose the servers of most machines are.
const USUAL: &str = "postgres";

/// An entry of the system's list of users.
#[derive(PartialEq, Eq, Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// Makes this program run as `wanted`, as `postgres` if nobody is named and it runs as root: it then begins anew with the
/// same arguments, and this does not return. Returns where nothing is to be changed.
///
/// # Errors
/// There is no such user, or we are neither he nor root.
pub fn become_user(wanted: Option<&str>) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    let wanted = match (wanted, root) {
        (None, false) => return Ok(()),
        (None, true) => USUAL,
        (Some(wanted), _) => wanted,
    };
    let user = find(wanted)?;
    if user.uid == rustix::process::geteuid().as_raw() && user.uid != 0 {
        return Ok(());
    }
    if user.uid == 0 {
        return Err(failure(
            "PostgreSQL does not run as root, so the copy cannot either",
            "name another user with --run-as",
        ));
    }
    if !root {
        return Err(failure(
            format!("only root can become {wanted}"),
            format!("run it as {wanted}, or as root"),
        ));
    }
    let this = std::env::current_exe().context("cannot tell where this program lies")?;
    // Groups besides the user's own are given up as well.
    let error = Command::new(this)
        .args(std::env::args_os().skip(1))
        .uid(user.uid)
        .gid(user.gid)
        .env("HOME", &user.home)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .exec();
    Err(anyhow::Error::new(error).context(format!("cannot go on as {wanted}")))
}

/// By way of `getent`, which asks whatever the system is set up to ask.
fn find(name: &str) -> Result<User> {
    let unknown = || {
        failure(
            format!("there is no user {name} on this computer"),
            "name the user that PostgreSQL shall run as with --run-as",
        )
    };
    let output = Command::new("getent").args(["passwd", "--", name]).output();
    let output = output.context("cannot look up a user: the program getent cannot be run")?;
    String::from_utf8_lossy(&output.stdout).lines().next().and_then(parse).ok_or_else(unknown)
}

/// `name:password:uid:gid:comment:home:shell`
fn parse(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
    Some(User {
        name: (*name).to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: (*home).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_list_of_users() {
        let user =
            parse("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (101, 104, "/var/lib/postgresql"));
        assert_eq!(parse("postgres:x"), None);
        assert!(find("no such user").unwrap_err().to_string().contains("no such user"));
    }

    #[test]
    fn nobody_but_root_becomes_another() {
        if rustix::process::geteuid().is_root() {
            assert!(become_user(Some("root")).is_err());
        } else {
            assert!(become_user(None).is_ok());
            assert!(become_user(Some("root")).is_err());
        }
    }
}
