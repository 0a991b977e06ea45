//! The settings that recovery needs.

use std::path::{Path, PathBuf};

use proto::SystemId;
use serde::Serialize;

use super::choose::Choice;
use super::{Archive, Options, RecoveryTarget};
use crate::conf::{Setting, command_word};

/// How `restore_command` calls this program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchCommand {
    /// This program: an absolute path.
    pub program: PathBuf,
    /// The configuration file, absolute, if one is read.
    pub config: Option<PathBuf>,
    /// `--repository`, if it was given as a flag.
    pub repository: Option<String>,
    /// The cluster's name in the repository.
    pub cluster: String,
    /// Which of the clusters that had this name.
    pub system_id: SystemId,
}

/// How the restored server starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Signal {
    /// It recovers up to the target.
    #[serde(rename = "recovery.signal")]
    Recovery,
    /// It becomes a standby.
    #[serde(rename = "standby.signal")]
    Standby,
}

impl Signal {
    /// The file's name.
    pub fn file_name(self) -> &'static str {
        match self {
            Signal::Recovery => "recovery.signal",
            Signal::Standby => "standby.signal",
        }
    }
}

/// Whether the server follows one timeline, or whichever is newest: only a standby without a target does.
pub fn pins_timeline(options: &Options) -> bool {
    !(options.standby
        && options.target == RecoveryTarget::Latest
        && options.timeline == super::TimelineChoice::Latest)
}

impl FetchCommand {
    /// The whole `restore_command`, quoted for the shell; `%f` and `%p` are the server's to fill in.
    pub fn line(&self, pinned: Option<proto::TimelineId>) -> String {
        let text = |path: &Path| command_word(&path.to_string_lossy());
        let mut words = vec![text(&self.program), "fetch".to_owned()];
        if let Some(config) = &self.config {
            words.extend(["--config".to_owned(), text(config)]);
        }
        if let Some(repository) = &self.repository {
            words.extend(["--repository".to_owned(), command_word(repository)]);
        }
        words.extend(["--cluster".to_owned(), command_word(&self.cluster)]);
        words.extend(["--system-id".to_owned(), self.system_id.to_string()]);
        if let Some(timeline) = pinned {
            words.extend(["--timeline".to_owned(), timeline.to_string()]);
        }
        words.extend(["%f".to_owned(), "%p".to_owned()]);
        words.join(" ")
    }
}

/// The first version that reads WAL ahead of what it replays.
const READS_AHEAD: u32 = 150_000;

/// Whether the server, on its way to the target, may ask for WAL behind a hole that it never comes to replay. It is told
/// the truth about the hole, and would stop there: so it must not read ahead.
pub(super) fn reads_ahead_into_a_hole(choice: &Choice) -> bool {
    choice.resumes.is_some() && choice.backup.server_version >= READS_AHEAD
}

/// What goes into `postgresql.auto.conf`.
pub fn settings(choice: &Choice, options: &Options, fetch: &FetchCommand) -> Vec<Setting> {
    let pinned = pins_timeline(options).then(|| choice.lineage.timeline());
    let mut settings = vec![Setting::new("restore_command", fetch.line(pinned))];
    let timeline = pinned.map_or_else(|| "latest".to_owned(), |timeline| timeline.to_string());
    settings.push(Setting::new("recovery_target_timeline", timeline));
    let last_record = choice.last_record.map(|lsn| Setting::new("recovery_target_lsn", lsn.to_string()));
    let target = match &options.target {
        RecoveryTarget::Time(_) if last_record.is_some() => last_record,
        RecoveryTarget::Latest => None,
        RecoveryTarget::Immediate => Some(Setting::new("recovery_target", "immediate")),
        RecoveryTarget::Time(time) => Some(Setting::new("recovery_target_time", time.setting())),
        RecoveryTarget::Lsn(lsn) => Some(Setting::new("recovery_target_lsn", lsn.to_string())),
        RecoveryTarget::Xid(xid) => Some(Setting::new("recovery_target_xid", xid.to_string())),
        RecoveryTarget::Name(name) => Some(Setting::new("recovery_target_name", name.as_str())),
    };
    let exclusive = options.exclusive && choice.last_record.is_none();
    if let Some(target) = target {
        settings.push(target);
        settings.push(Setting::new("recovery_target_inclusive", if exclusive { "off" } else { "on" }));
        settings.push(Setting::new("recovery_target_action", options.action.to_string()));
    }
    if reads_ahead_into_a_hole(choice) {
        settings.push(Setting::new("recovery_prefetch", "off"));
    }
    if let Some(primary) = options.primary.as_ref().filter(|_| options.standby) {
        settings.push(Setting::new("primary_conninfo", primary));
    }
    if options.archive == Archive::Off {
        settings.push(Setting::new("archive_mode", "off"));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_quoted_for_the_shell_and_the_server() {
        let fetch = FetchCommand {
            program: "/opt/walk keep/restore-cmd".into(),
            config: Some("/etc/100%.toml".into()),
            repository: Some("s3://it's".into()),
            cluster: "main".into(),
            system_id: SystemId(7),
        };
        assert_eq!(
            fetch.line(proto::TimelineId::new(3)),
            "'/opt/walk keep/restore-cmd' fetch --config /etc/100%%.toml --repository 's3://it'\\''s' \
             --cluster main --system-id 7 --timeline 3 %f %p"
        );
        assert!(!fetch.line(None).contains("--timeline"));
    }
}
