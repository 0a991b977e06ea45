//! Is this server protected? What `walkeep check` looks at, and what it concludes.
//!
//! `gather` asks the server, the agent, the repository and this machine, and answers with `Observed`: plain data.
//! The `rules` are pure: what was observed goes in, findings come out, each with its fix. At last `round_trip` proves
//! with a WAL switch that what the settings promise does happen.

mod command;
mod gather;
mod hba;
mod observed;
mod round_trip;
mod rules;

use std::time::Duration;

use proto::config::Config;

use crate::finding::Findings;
pub(crate) use gather::{is_remote, space};

/// Examines the server of `config`. `archive_command`: the right one for this installation. `timeout`: for the proof.
///
/// # Errors
/// The configuration itself makes no sense. What cannot be reached is a finding.
pub async fn examine(config: Config, archive_command: String, timeout: Duration) -> anyhow::Result<Findings> {
    let (observed, sources) = gather::gather(config, archive_command).await?;
    let mut findings = rules::apply(&observed);
    findings.push(round_trip::prove(&observed, &sources, timeout).await);
    Ok(Findings::new(findings))
}
