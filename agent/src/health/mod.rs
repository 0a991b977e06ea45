//! How the server is: what `walkeep health` looks at, and what it concludes.
//!
//! `gather` asks the server (`queries` has the questions, `log` reads its log) and answers with `Observed`: plain data. `growth`
//! measures that against an earlier look, which `kept` reads from the repository. The `rules` are pure: what was observed goes in,
//! findings come out, each with its fix. `watch` does all of it again and again in `walkeep run`.
//!
//! Nothing of it shares a connection, or a failure, with the stream.

mod gather;
mod growth;
mod kept;
mod log;
mod observed;
mod queries;
mod rules;
mod watch;

use proto::config::Config;
use proto::conninfo::ConnInfo;
use repository::look::LogPosition;
use restore::program::failure;
use serde::Serialize;
use tokio::time::timeout;

use crate::finding::Findings;
use gather::PATIENCE;
use kept::Earlier;
#[cfg(test)]
pub(crate) use observed::Statements;
pub use observed::{Database, Observed, Statement};
pub use watch::{HealthState, Watch};

/// What was found, and what it follows from.
#[derive(Debug, Clone, Serialize)]
pub struct Examination {
    /// What the rules say.
    #[serde(flatten)]
    pub findings: Findings,
    /// All figures.
    pub observed: Observed,
}

/// Looks at the server of `config` once. Nothing is changed anywhere.
///
/// # Errors
/// The server cannot be reached, or refuses to answer. A repository that is away only takes growth away.
pub async fn examine(config: &Config) -> anyhow::Result<Examination> {
    let info = crate::commands::conninfo(config)?;
    let earlier = kept::recall(config).await;
    let read = earlier.log.clone();
    Box::pin(look(config, &info, &earlier, read)).await
}

/// The same, and keeps the look in the repository if it is time for one.
///
/// # Errors
/// As of [`examine`].
pub async fn examine_and_keep(config: &Config) -> anyhow::Result<Examination> {
    let info = crate::commands::conninfo(config)?;
    let earlier = kept::recall(config).await;
    let read = earlier.log.clone();
    let found = Box::pin(look(config, &info, &earlier, read)).await?;
    if earlier.is_time {
        kept::keep_by(config, &found.observed).await;
    }
    Ok(found)
}

/// Looks, and concludes.
async fn look(
    config: &Config,
    info: &ConnInfo,
    earlier: &Earlier,
    read: Option<LogPosition>,
) -> anyhow::Result<Examination> {
    let gathered = timeout(PATIENCE, Box::pin(gather::gather(info, &config.health, read))).await;
    let mut observed = gathered.map_err(|_| {
        let silence = format!("the server has not answered within {} s", PATIENCE.as_secs());
        failure(silence, "see whether the machine is busy, or the network broken")
    })??;
    for slot in &mut observed.slots {
        slot.own = slot.name == config.stream.slot.to_string();
    }
    match &earlier.base {
        Some(base) => growth::measure(&mut observed, base),
        None => observed.earlier_unknown.clone_from(&earlier.unknown),
    }
    let findings = Findings::new(rules::apply(&observed, &config.health));
    Ok(Examination { findings, observed })
}

/// A healthy server's, but for one change.
#[cfg(test)]
pub(crate) fn examined(change: impl FnOnce(&mut Observed)) -> Examination {
    let mut observed = rules::tests::healthy();
    change(&mut observed);
    let findings = Findings::new(rules::apply(&observed, &proto::config::HealthConfig::default()));
    Examination { findings, observed }
}
