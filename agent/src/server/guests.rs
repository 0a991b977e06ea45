//! Who may call the agent over its socket. The kernel says who calls.

use std::fs;

use restore::program::failure;
use rustix::process::geteuid;

/// The users whose calls are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guests {
    uids: Vec<u32>,
    /// Whether others than the agent's own user and root are named. If not, the socket's file decides: the kernel lets
    /// nobody connect who may not write to it.
    has_others: bool,
}

impl Default for Guests {
    /// The agent's own user, those of its group, and root.
    fn default() -> Self {
        Self { uids: vec![geteuid().as_raw(), 0], has_others: false }
    }
}

impl Guests {
    /// The agent's own user, root, and these: names from `/etc/passwd`, or numbers.
    ///
    /// # Errors
    /// There is no user of such a name.
    pub fn with(users: &[String]) -> anyhow::Result<Self> {
        let mut guests = Self::default();
        let known = if users.is_empty() { String::new() } else { fs::read_to_string("/etc/passwd")? };
        for user in users {
            let uid = user.parse().ok().or_else(|| uid_of(&known, user));
            guests.uids.push(uid.ok_or_else(|| {
                failure(
                    format!("`socket_users` names {user}, and there is no such user in /etc/passwd"),
                    "name one that is there, or give its number",
                )
            })?);
            guests.has_others = true;
        }
        Ok(guests)
    }

    /// Whether a call of this user is answered.
    pub fn admit(&self, uid: u32) -> bool {
        !self.has_others || self.uids.contains(&uid)
    }

    /// What the socket's file has to allow.
    pub(super) fn mode(&self) -> u32 {
        // Where others are admitted they need not be of the agent's group: the list decides.
        if self.has_others { 0o666 } else { 0o660 }
    }
}

/// The number of a user, in the text of `/etc/passwd`.
fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    let mut users = passwd.lines().map(|line| line.split(':'));
    users.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1))?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_named_is_admitted() {
        let own = geteuid().as_raw();
        let guests = Guests::with(&[]).unwrap();
        // Whoever gets through a file of this mode is of the agent's group.
        assert!(guests.admit(own) && guests.admit(0) && guests.admit(own + 77) && guests.mode() == 0o660);
        let guests = Guests::with(&[(own + 77).to_string(), "root".into()]).unwrap();
        assert!(guests.admit(own + 77) && !guests.admit(own + 78) && guests.mode() == 0o666);
        let error = Guests::with(&["nobody at all".into()]).unwrap_err().to_string();
        assert!(error.contains("nobody at all"), "{error}");
        assert_eq!(
            uid_of("root:x:0:0::/root:/bin/sh\npostgres:x:105:109::/:/bin/sh\n", "postgres"),
            Some(105)
        );
        assert_eq!(uid_of("postgres2:x:105:109::/:/bin/sh\n", "postgres"), None);
    }
}
