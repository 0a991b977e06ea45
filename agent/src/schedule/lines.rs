//! What a job's process says, said again as the agent's own: one log, one format, whatever it is.

use repository::run::Job;
use serde_json::Value;
use tracing::{debug, error, info, trace, warn};

/// One line of a process that logs JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    level: Level,
    /// With the event's other fields behind it.
    text: String,
    /// Of an error: what is to be remembered as the reason.
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Line {
    /// Whatever is no event was not said in order, such as the words of a panic: an error.
    pub(super) fn parse(line: &str) -> Self {
        let event = serde_json::from_str::<serde_json::Map<String, Value>>(line).ok();
        let Some(mut event) = event.filter(|event| event.contains_key("level")) else {
            return Self { level: Level::Error, text: line.to_owned(), reason: Some(line.to_owned()) };
        };
        let mut take = |key: &str| event.remove(key).map(|value| plain(&value)).unwrap_or_default();
        let level = match take("level").as_str() {
            "ERROR" => Level::Error,
            "WARN" => Level::Warn,
            "DEBUG" => Level::Debug,
            "TRACE" => Level::Trace,
            _ => Level::Info,
        };
        let mut text = take("message");
        let (causes, hint) = (take("causes"), take("hint"));
        for key in ["timestamp", "target"] {
            take(key);
        }
        if !causes.is_empty() {
            text = format!("{text}: {causes}");
        }
        for (key, value) in &event {
            text = format!("{text} {key}={}", plain(value));
        }
        if !hint.is_empty() {
            text = format!("{text}; hint: {hint}");
        }
        let reason = (level == Level::Error).then(|| text.clone());
        Self { level, text, reason }
    }

    /// Says it again.
    pub(super) fn tell(&self, job: Job) {
        let text = &self.text;
        match self.level {
            Level::Error => error!(%job, "{text}"),
            Level::Warn => warn!(%job, "{text}"),
            Level::Info => info!(%job, "{text}"),
            Level::Debug => debug!(%job, "{text}"),
            Level::Trace => trace!(%job, "{text}"),
        }
    }

    /// Why the job failed, if this says so.
    pub(super) fn into_reason(self) -> Option<String> {
        self.reason
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What came of a job, in a few words, from what it printed. `None`: nothing that could be told.
pub(super) fn summary(job: Job, printed: &str) -> Option<String> {
    let json = || serde_json::from_str::<Value>(printed).ok();
    match job {
        Job::Full | Job::Incremental => {
            let backup = json()?;
            let stored = backup["stored_bytes"].as_u64()?;
            Some(format!("{}, {} stored", backup["label"].as_str()?, indicatif::HumanBytes(stored)))
        }
        Job::Dump => {
            let dump = json()?;
            let stored = dump["stored_bytes"].as_u64()?;
            Some(format!("{}, {} stored", dump["label"].as_str()?, indicatif::HumanBytes(stored)))
        }
        // The last line is the sum.
        Job::Expire => printed.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned),
        Job::Verify | Job::VerifyDeep => {
            let findings = json()?;
            let findings = findings["findings"].as_array()?;
            let of = |severity: &'static str| findings.iter().filter(move |f| f["severity"] == severity);
            let (errors, warnings) = (of("error").count(), of("warning").count());
            let first = of("error").chain(of("ok")).next().and_then(|finding| finding["message"].as_str());
            let first = first.map(|first| format!(": {first}")).unwrap_or_default();
            Some(format!("{errors} errors, {warnings} warnings{first}"))
        }
        Job::Drill => {
            let proof = json()?;
            let label = proof["backup"]["label"].as_str().unwrap_or("no backup");
            let failure = proof["failure"].as_str().map(|failure| format!(": {failure}")).unwrap_or_default();
            Some(format!("{} with {label}{failure}", proof["verdict"].as_str()?))
        }
        Job::Upkeep | Job::ChecklistDaily | Job::ChecklistWeekly | Job::ChecklistMonthly => {
            Some(json()?["summary"].as_str()?.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_level_its_fields_and_its_hint() {
        let line = Line::parse(
            r#"{"timestamp":"x","level":"INFO","message":"taking a full backup","label":"L","target":"agent"}"#,
        );
        assert_eq!(
            line,
            Line { level: Level::Info, text: "taking a full backup label=L".into(), reason: None }
        );
        let line = Line::parse(
            r#"{"level":"ERROR","message":"backup L failed","causes":"no room","hint":"make room"}"#,
        );
        assert_eq!(line.into_reason().unwrap(), "backup L failed: no room; hint: make room");
        let line = Line::parse("thread 'main' panicked at x.rs");
        assert_eq!((line.level, line.text.as_str()), (Level::Error, "thread 'main' panicked at x.rs"));
    }

    #[test]
    fn each_job_has_its_sum() {
        let backup = r#"{"label":"20261124T013015Z-full-1a2b3c","stored_bytes":2048}"#;
        let dump = r#"{"label":"20261124T013015Z-dump-1a2b3c","stored_bytes":2048}"#;
        assert_eq!(summary(Job::Dump, dump).unwrap(), "20261124T013015Z-dump-1a2b3c, 2.00 KiB stored");
        assert_eq!(summary(Job::Full, backup).unwrap(), "20261124T013015Z-full-1a2b3c, 2.00 KiB stored");
        assert_eq!(
            summary(Job::Expire, "cluster main\n  stays  x\n  1 KiB freed\n\n").unwrap(),
            "1 KiB freed"
        );
        let findings = r#"{"ok":false,"findings":[{"severity":"warning","message":"a"},{"severity":"error","message":"pack x is gone"}]}"#;
        assert_eq!(summary(Job::Verify, findings).unwrap(), "1 errors, 1 warnings: pack x is gone");
        let proof = r#"{"verdict":"failed","backup":null,"failure":"no backup"}"#;
        assert_eq!(summary(Job::Drill, proof).unwrap(), "failed with no backup: no backup");
        assert_eq!(summary(Job::Drill, "no json"), None);
    }
}
