//! The flags that name a moment: the same for every verb that restores.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use proto::{Lsn, SystemId};
use repository::backup::BackupLabel;

use crate::plan::{RecoveryTarget, TargetName, TargetTime, TimeError, TimelineChoice};

/// Which moment, of which backup, along which timeline.
#[derive(clap::Args, Clone, Debug)]
pub struct TargetArgs {
    /// Which backup: a label, or "latest" for the newest that ends before the target
    #[arg(long, value_name = "LABEL", default_value = "latest")]
    backup: BackupArg,

    #[command(flatten)]
    moment: MomentArgs,

    /// Along which timeline: latest, current (the backup's) or a number
    #[arg(long, value_name = "TIMELINE", default_value = "latest")]
    target_timeline: TimelineChoice,

    /// Leave out what stands exactly at the target
    #[arg(long)]
    target_exclusive: bool,

    /// Which system identifier, if the repository has several under the cluster's name
    #[arg(long, value_name = "NUMBER")]
    system_id: Option<SystemId>,
}

#[derive(clap::Args, Clone, Debug)]
#[group(id = "moment", multiple = false)]
struct MomentArgs {
    /// Recover up to an instant, such as "2026-11-24 01:30:15+00"; local time if it names no offset
    #[arg(long, value_name = "TIME", value_parser = time)]
    target_time: Option<TargetTime>,

    /// Recover up to a position
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<Lsn>,

    /// Recover up to a transaction
    #[arg(long, value_name = "XID")]
    target_xid: Option<u32>,

    /// Recover up to a restore point
    #[arg(long, value_name = "NAME", value_parser = TargetName::new)]
    target_name: Option<TargetName>,

    /// Recover until the backup is consistent, no further
    #[arg(long)]
    target_immediate: bool,
}

#[derive(Clone, Debug)]
struct BackupArg(Option<BackupLabel>);

impl FromStr for BackupArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self(None)),
            label => label
                .parse()
                .map(|label| Self(Some(label)))
                .map_err(|error| format!("{error}, or \"latest\"")),
        }
    }
}

impl fmt::Display for BackupArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(label) => fmt::Display::fmt(label, f),
            None => f.write_str("latest"),
        }
    }
}

fn time(text: &str) -> Result<TargetTime, TimeError> {
    TargetTime::parse(text, &TimeZone::system())
}

impl TargetArgs {
    /// The backup that was named.
    pub fn backup(&self) -> Option<&BackupLabel> {
        self.backup.0.as_ref()
    }

    /// The moment; the end of WAL if none was named.
    pub fn target(&self) -> RecoveryTarget {
        let args = &self.moment;
        let time = args.target_time.clone().map(RecoveryTarget::Time);
        let name = args.target_name.clone().map(RecoveryTarget::Name);
        let lsn = args.target_lsn.map(RecoveryTarget::Lsn);
        let xid = args.target_xid.map(RecoveryTarget::Xid);
        let immediate = args.target_immediate.then_some(RecoveryTarget::Immediate);
        time.or(name).or(lsn).or(xid).or(immediate).unwrap_or(RecoveryTarget::Latest)
    }

    /// The timeline.
    pub fn timeline(&self) -> TimelineChoice {
        self.target_timeline
    }

    /// Whether what stands exactly at the target is left out.
    pub fn exclusive(&self) -> bool {
        self.target_exclusive
    }

    /// The system identifier that was named.
    pub fn system_id(&self) -> Option<SystemId> {
        self.system_id
    }
}
