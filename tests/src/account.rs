//! The unprivileged account under which servers and programs run.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};

/// Who runs the servers: ourselves, or, if we are root, `postgres` or else `nobody`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The numeric user.
    pub uid: u32,
    /// The user's first group.
    pub gid: u32,
}

/// What ends a child process when the scenario that started it dies without tidying up.
#[derive(Clone, Copy, Debug)]
pub enum Orphan {
    /// SIGQUIT: PostgreSQL takes its children along.
    Quit,
    /// SIGKILL, for programs of one process.
    Kill,
}

impl Account {
    /// The account of this run.
    pub fn current() -> Account {
        static ACCOUNT: OnceLock<Account> = OnceLock::new();
        *ACCOUNT.get_or_init(|| {
            let ourselves = Account::ourselves();
            if ourselves.uid != 0 {
                return ourselves;
            }
            let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let (uid, gid) = ["postgres", "nobody"]
                .iter()
                .find_map(|name| ids_of(&known, name))
                .unwrap_or((65_534, 65_534));
            Account { uid, gid }
        })
    }

    /// The account of this process, whoever that is.
    pub fn ourselves() -> Account {
        Account { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }

    /// True if the account is not the one that this process runs under.
    pub fn is_other(self) -> bool {
        rustix::process::getuid().as_raw() != self.uid
    }

    /// A command that will run as this account, without the caller's PG* and AWS_* settings.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if self.is_other() {
            command.uid(self.uid).gid(self.gid);
        }
        self.tidy(&mut command);
        command
    }

    /// A command for a process that outlives the call: it dies with the *thread* that starts it, where the machine
    /// has `setpriv` (util-linux).
    pub fn daemon(self, program: impl AsRef<OsStr>, orphan: Orphan) -> Command {
        if !has_setpriv() {
            return self.command(program);
        }
        let signal = match orphan {
            Orphan::Quit => "QUIT",
            Orphan::Kill => "KILL",
        };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", signal]);
        if self.is_other() {
            command.args([
                "--reuid",
                &self.uid.to_string(),
                "--regid",
                &self.gid.to_string(),
                "--clear-groups",
            ]);
        }
        command.arg("--").arg(program);
        self.tidy(&mut command);
        command
    }

    fn tidy(self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let foreign =
                ["PG", "AWS_", "AZURE_", "GOOGLE_", "WALKEEP_"].iter().any(|start| text.starts_with(start));
            if foreign {
                command.env_remove(&name);
            }
        }
        // The home of root cannot be read by the account; nothing may be looked up there in any case.
        command.env("HOME", "/nonexistent").env("LC_ALL", "C").stdin(Stdio::null()).current_dir("/");
    }

    /// Makes the account the owner of one file or folder.
    pub fn own(self, path: &Path) -> Result<()> {
        if !self.is_other() {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} away", path.display()))
    }
}

fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn has_setpriv() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let tried = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "true"])
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    })
}
