//! What went wrong, for the server's log.

use std::io::Write;

/// One sentence, and what to do where that is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The agent's own words; they may bring a hint on a line of its own.
    pub(crate) fn from_agent(message: &str) -> Self {
        // It goes to the server's log: nothing in it may look like something else there.
        let clean = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
        Self::new(message.trim().chars().map(clean).collect::<String>())
    }

    /// Writes to stderr. That it may be closed is no reason to fail otherwise.
    pub(crate) fn print(&self) {
        let mut text = format!("error: {}\n", self.message);
        if let Some(hint) = &self.hint {
            text += &format!("hint: {hint}\n");
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}
