//! The command line, by hand: few flags, and a library would be larger than the program.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use proto::config::ClusterName;

use crate::failure::Failure;

const MANUAL: &str = "\
archive-cmd makes a WAL file of PostgreSQL durable in walkeep's repository.

In postgresql.conf:

    archive_mode = on
    archive_command = 'archive-cmd %p'

It checks that the file is the WAL that its name promises, and whole, digests it, and has the
running agent (`walkeep run`) store it. Mostly the agent has it already, from streaming. Where
no agent runs, `walkeep push` stores it instead.

Usage: archive-cmd FILE [OPTION]...

  FILE                what PostgreSQL puts for %p
  --config FILE       configuration file; else $WALKEEP_CONFIG, else /etc/walkeep/walkeep.toml
  --socket PATH       where the agent listens; the configuration is not read then, and without
                      an agent nothing is stored unless --config or --repository says where
  --cluster NAME      which cluster, instead of the configuration's `cluster`
  --repository URL    handed on to `walkeep push`, as is the configuration file
  --postgres CONNINFO handed on to `walkeep push`
  --timeout DURATION  how long to wait for the agent, which may be uploading (10m)
  --help, --version

Exit status: 0 the file is durable in the repository; 1 it is not, PostgreSQL will try again;
2 wrong usage. Never above 125, which would stop PostgreSQL's archiver.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Archive(Arguments),
    Print(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) file: PathBuf,
    pub(crate) config: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) cluster: Option<ClusterName>,
    pub(crate) repository: Option<OsString>,
    pub(crate) postgres: Option<OsString>,
    pub(crate) timeout: Duration,
}

impl Arguments {
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
        let mut words = words;
        let (mut file, mut socket, mut config) = (None, None, None);
        let (mut cluster, mut repository, mut postgres) = (None, None, None);
        let mut timeout = Duration::from_secs(600);
        while let Some(word) = words.next() {
            let (flag, attached) = split(&word);
            let mut value = || {
                let value = attached.clone().or_else(|| words.next());
                value.ok_or_else(|| usage(format!("{} needs a value", flag.display())))
            };
            match flag.to_str() {
                Some("--help" | "-h") => return Ok(Command::Print(MANUAL.to_owned())),
                Some("--version" | "-V") => {
                    return Ok(Command::Print(
                        concat!("archive-cmd ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
                    ));
                }
                Some("--config") => config = Some(PathBuf::from(value()?)),
                Some("--socket") => socket = Some(PathBuf::from(value()?)),
                Some("--repository") => repository = Some(value()?),
                Some("--postgres") => postgres = Some(value()?),
                Some("--cluster") => {
                    let name = value()?.to_string_lossy().parse::<ClusterName>();
                    cluster = Some(name.map_err(|error| usage(error.to_string()))?);
                }
                Some("--timeout") => {
                    let text = value()?;
                    timeout = humantime::parse_duration(&text.to_string_lossy())
                        .ok()
                        .filter(|timeout| !timeout.is_zero())
                        .ok_or_else(|| usage("--timeout needs a duration such as 10m".to_owned()))?;
                }
                Some(flag) if flag.starts_with('-') => return Err(usage(format!("unknown option {flag}"))),
                _ if file.is_some() => return Err(usage("more than one file is named".to_owned())),
                _ => file = Some(PathBuf::from(&word)),
            }
        }
        let file = file.filter(|file| !file.as_os_str().is_empty());
        let file = file.ok_or_else(|| usage("no file is named".to_owned()))?;
        Ok(Command::Archive(Self { file, config, socket, cluster, repository, postgres, timeout }))
    }
}

/// `--flag=value` in two.
fn split(word: &OsStr) -> (&OsStr, Option<OsString>) {
    use std::os::unix::ffi::OsStrExt;
    let bytes = word.as_bytes();
    let equals = bytes.iter().position(|byte| *byte == b'=').filter(|_| bytes.starts_with(b"--"));
    match equals {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
        None => (word, None),
    }
}

fn usage(message: String) -> Failure {
    Failure::new(message).hint("archive_command = 'archive-cmd %p'; see archive-cmd --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Command, Failure> {
        Arguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn reads_flags_in_both_forms_and_any_order() {
        let expected = Arguments {
            file: "pg_wal/x".into(),
            config: Some("/c".into()),
            socket: Some("/s".into()),
            cluster: Some("eu".parse().unwrap()),
            repository: Some("file:///r".into()),
            postgres: Some("host=a".into()),
            timeout: Duration::from_secs(5),
        };
        let words =
            ["--config=/c", "--cluster", "eu", "pg_wal/x", "--socket", "/s", "--repository=file:///r"];
        let rest = ["--postgres=host=a", "--timeout=5s"];
        assert_eq!(parse(&[&words[..], &rest[..]].concat()), Ok(Command::Archive(expected)));
        assert!(matches!(parse(&["x", "--help"]), Ok(Command::Print(text)) if text == MANUAL));
    }

    #[test]
    fn refuses_everything_else() {
        for words in [
            &[][..],
            &[""],
            &["a", "b"],
            &["--socket"],
            &["--wat"],
            &["-x"],
            &["a", "--cluster=/"],
            &["a", "--timeout=0s"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
