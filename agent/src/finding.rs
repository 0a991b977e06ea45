//! What an examination has found: the one shape that `check` and `verify` print.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

/// How much a finding matters. The order is that of importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Looked at, and in order.
    Ok,
    /// Nothing is lost by it today.
    Warning,
    /// Something cannot be restored, or will not be; or the server is about to stop.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about, for programs: lower case with underscores, the same in every version.
    pub code: &'static str,
    /// What was found, for people: one or two sentences.
    pub message: String,
    /// What to do, if possible as a line to paste; `None` if there is nothing to do.
    pub fix: Option<String>,
}

impl Finding {
    /// In order.
    pub fn ok(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, code, message: message.into(), fix: None }
    }

    /// Not in order, but nothing is lost by it today.
    pub fn warning(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, code, message: message.into(), fix: Some(fix.into()) }
    }

    /// Worth knowing, and there is nothing to do.
    pub fn note(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, fix: None, ..Self::ok(code, message) }
    }

    /// Something cannot be restored, or will not be.
    pub fn error(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), fix: Some(fix.into()) }
    }
}

/// All findings of one examination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// No finding is an error.
    ok: bool,
    findings: Vec<Finding>,
}

impl Findings {
    /// In the order in which they are to be read.
    pub fn new(findings: Vec<Finding>) -> Self {
        Self { ok: findings.iter().all(|finding| finding.severity < Severity::Error), findings }
    }

    /// Whether no finding is an error. Warnings do not count.
    pub fn is_ok(&self) -> bool {
        self.ok
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    /// 0, or 1 if a finding is an error.
    pub fn exit_code(&self) -> ExitCode {
        if self.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// For people: the findings, each with its fix below it, and the sum.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { severity, code, message, fix } in &self.findings {
            let word = match severity {
                Severity::Ok => "ok     ",
                Severity::Warning => "WARNING",
                Severity::Error => "ERROR  ",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{word}  {code}: {message}");
            for line in fix.iter().flat_map(|fix| fix.lines()) {
                let _ = writeln!(text, "           {line}");
            }
        }
        let count = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let counts = [(Severity::Error, "error"), (Severity::Warning, "warning")].map(|(severity, word)| {
            let count = count(severity);
            format!("{count} {word}{}", if count == 1 { "" } else { "s" })
        });
        let _ = writeln!(text, "\n{}, {} in order", counts.join(", "), count(Severity::Ok));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_do_not_fail_and_errors_do() {
        let fine = Finding::ok("wal_level", "wal_level is replica");
        let warning =
            Finding::warning("archive_timeout", "it is off", "ALTER SYSTEM SET archive_timeout = '1min';");
        let error = Finding::error("slot", "the slot is lost", "walkeep init");
        assert!(Findings::new(vec![fine.clone(), warning.clone()]).is_ok());
        let all = Findings::new(vec![fine, warning, error]);
        assert!(!all.is_ok());
        assert_eq!(
            serde_json::to_value(&all).unwrap(),
            serde_json::json!({"ok": false, "findings": [
                {"severity": "ok", "code": "wal_level", "message": "wal_level is replica", "fix": null},
                {"severity": "warning", "code": "archive_timeout", "message": "it is off",
                 "fix": "ALTER SYSTEM SET archive_timeout = '1min';"},
                {"severity": "error", "code": "slot", "message": "the slot is lost", "fix": "walkeep init"},
            ]})
        );
        assert_eq!(
            all.text(),
            "ok       wal_level: wal_level is replica\n\
             WARNING  archive_timeout: it is off\n           ALTER SYSTEM SET archive_timeout = '1min';\n\
             ERROR    slot: the slot is lost\n           walkeep init\n\n1 error, 1 warning, 1 in order\n"
        );
    }
}
