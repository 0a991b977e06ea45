//! Whether the agent does its work: `/readyz`.

use super::facts::Facts;
use crate::stream::StreamPhase;

/// Why it does not, a sentence each; nothing if it does.
pub(super) fn reasons(facts: &Facts) -> Vec<String> {
    let mut reasons = Vec::new();
    if facts.stream_enabled {
        match facts.stream.state {
            StreamPhase::Streaming => {}
            StreamPhase::Connecting => reasons.push("the stream is connecting to the server".to_owned()),
            StreamPhase::Waiting if facts.stands_by => {
                reasons.push("another session has the slot: this agent stands by".to_owned());
            }
            StreamPhase::Waiting => reasons.push("the stream waits for the server or its slot".to_owned()),
            StreamPhase::Stopped => reasons.push("the stream is stopped until an operator acts".to_owned()),
        }
    } else if let Some(error) = &facts.archive.last_error {
        reasons.push(format!("the last call of archive_command was not answered with success: {error}"));
    }
    match (&facts.repository.failure, &facts.repository.found) {
        (Some(why), _) => reasons.push(format!("the repository could not be looked at: {why}")),
        (None, None) => reasons.push("the repository has not been looked at yet".to_owned()),
        (None, Some(_)) => {}
    }
    reasons
}
