//! The flags of every verb that makes a copy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use proto::config::Config;
use proto::conninfo::ConnInfo;
use repository::Branch;
use repository::catalogue::Inventory;

use super::Wanted;
use crate::plan::{Archive, Options, RecoveryTarget, TargetAction, TimelineChoice};
use crate::prepare::fetch_command;
use crate::program::{GlobalArgs, TargetArgs};

/// Where and how a copy is made. What is not given comes from `[drill]` of the configuration.
#[derive(clap::Args, Clone, Debug)]
pub struct CopyArgs {
    /// The directory below which the copy is made; it needs room for the whole cluster. /var/tmp if not given
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// The folder with PostgreSQL's programs; looked for in the usual places if not given
    #[arg(long, value_name = "DIR")]
    bindir: Option<PathBuf>,

    /// As root: the user that all of it runs as; postgres if not given
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,

    /// A setting of the copy's server; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    setting: Vec<(String, String)>,

    /// How long the recovery may stand still, such as 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    patience: Option<Duration>,

    /// Threads, packs that are read at once, and sessions; as many as there are processors if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,

    /// Try it even where there does not seem to be room enough, as on a file system that compresses
    #[arg(long)]
    no_space_check: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let valid = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b))
    };
    match text.split_once('=') {
        Some((name, value)) if valid(name.trim()) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("NAME=VALUE is expected, such as shared_preload_libraries=timescaledb".to_owned()),
    }
}

impl CopyArgs {
    /// The user that all of it runs as, if one was named.
    pub fn run_as(&self) -> Option<&str> {
        self.run_as.as_deref()
    }

    /// Where the scratch directory is made.
    pub fn base<'a>(&'a self, config: &'a Config) -> &'a Path {
        self.scratch.as_ref().unwrap_or(&config.drill.scratch)
    }

    /// Threads and sessions.
    pub fn jobs(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.jobs.map_or(processors, usize::from)
    }

    /// The copy that is wanted.
    ///
    /// # Errors
    /// `restore-cmd` is not to be found.
    pub fn wanted<'a>(
        &'a self,
        global: &GlobalArgs,
        config: &'a Config,
        (branch, inventory): (&'a Branch, &'a Inventory),
        options: Options,
    ) -> Result<Wanted<'a>> {
        let mut settings: Vec<_> = config.drill.settings.clone().into_iter().collect();
        settings.extend(self.setting.iter().cloned());
        // A role of the cluster: the agent's own, if no other.
        let known = ConnInfo::resolve(config.postgres.as_deref().unwrap_or_default()).map(|info| info.user);
        Ok(Wanted {
            branch,
            inventory,
            options,
            fetch: fetch_command(global, config, branch)?,
            bindir: self.bindir.as_deref().or(config.drill.bindir.as_deref()),
            settings,
            roles: std::iter::once("postgres".to_owned()).chain(known).collect(),
            patience: self.patience.unwrap_or(config.drill.patience),
            jobs: self.jobs(),
            ignore_room: self.no_space_check,
            quiet: global.quiet,
        })
    }
}

/// What a copy is restored to. Its directories are chosen later.
pub fn copy_options(args: &TargetArgs, target: RecoveryTarget, timeline: TimelineChoice) -> Options {
    Options {
        pgdata: PathBuf::new(),
        backup: args.backup().cloned(),
        target,
        exclusive: args.exclusive(),
        timeline,
        action: TargetAction::Promote,
        standby: false,
        primary: None,
        archive: Archive::Off,
        tablespaces: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_a_name_and_a_value() {
        assert_eq!(setting("a.b = c=d").unwrap(), ("a.b".into(), "c=d".into()));
        for text in ["", "a", "=b", "a b=c"] {
            assert!(setting(text).is_err(), "{text}");
        }
    }
}
