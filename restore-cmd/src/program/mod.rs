//! What the programs share at their edge: global flags, configuration, logging, errors, progress.

mod core_dumps;
mod load;
mod logging;
mod manual;
pub(crate) mod output;
mod progress;
mod report;
mod secret;
mod signals;
mod target;
mod tool;

use std::path::PathBuf;

use proto::config::ClusterName;

pub use core_dumps::forbid_core_dumps;
pub use load::{config_file, load};
pub use logging::{LogFormat, init_logging, set_log_level};
pub use manual::{CompletionsArgs, ManArgs, completions, man};
pub use output::free_bytes;
pub use progress::Progress;
pub use report::{Failure, failure, hint, report};
pub use secret::no_password;
pub use signals::Interrupt;
pub use target::TargetArgs;
pub use tool::{client, finish, last_words};

/// The flags that every program takes.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Common options")]
pub struct GlobalArgs {
    /// The configuration file. Without it: $WALKEEP_CONFIG, then /etc/walkeep/walkeep.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where backups and WAL are: file:///dir, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
    #[arg(long, global = true, value_name = "URL")]
    pub repository: Option<String>,

    /// The name under which the repository knows the PostgreSQL cluster
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<ClusterName>,

    /// How to connect to the server: libpq keywords or a URI
    #[arg(long, global = true, value_name = "CONNINFO")]
    pub postgres: Option<String>,

    /// How log lines look
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,

    /// Log more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Log errors only, and show no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}
