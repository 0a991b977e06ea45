//! The last words of a program that failed.

use std::fmt;

use super::logging::{self, LogFormat};
use crate::plan::Refusal;

/// A failure with what the operator can do about it.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: String,
}

/// A failure to be reported as `message`, followed by a hint to the operator.
pub fn failure(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { message: message.into(), hint: hint.into() })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints `error: …`, each cause on a line of its own, and `hint: …` if there is one; a JSON line when logs are.
pub fn report(error: &anyhow::Error) {
    match logging::format() {
        LogFormat::Text => {
            let text = render(error);
            let told = match logging::is_journal() {
                true => text.lines().map(|line| format!("<3>{line}\n")).collect(),
                false => text,
            };
            super::progress::around_bars(|| eprint!("{told}"));
        }
        LogFormat::Json => {
            let causes: Vec<String> = causes(error);
            tracing::error!(causes = causes.join(": "), hint = hint(error).unwrap_or_default(), "{error}");
        }
    }
}

fn render(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    for cause in causes(error) {
        text += &format!("  because: {cause}\n");
    }
    if let Some(hint) = hint(error) {
        text += &format!("hint: {hint}\n");
    }
    text
}

/// What lies below the error itself. A cause that the line above already tells is left out.
fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut above = error.to_string();
    let mut causes = Vec::new();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !above.contains(&text) {
            causes.push(text.clone());
        }
        above = text;
    }
    causes
}

/// What an operator can do about an error: the hint nearest to the top.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let ours = cause.downcast_ref::<Failure>().map(|failure| failure.hint.clone());
        let plans = || cause.downcast_ref::<Refusal>().map(|refusal| refusal.hint.clone());
        let repositorys = || cause.downcast_ref::<repository::Error>()?.hint().map(ToOwned::to_owned);
        let servers = || cause.downcast_ref::<proto::client::Error>()?.hint();
        ours.or_else(plans).or_else(repositorys).or_else(servers)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn tells_error_causes_and_hint() {
        let result: anyhow::Result<()> = Err(failure("the directory is not empty", "use --force"));
        let error = result.context("cannot restore into /srv/pg").unwrap_err();
        assert_eq!(
            render(&error),
            "error: cannot restore into /srv/pg\n  because: the directory is not empty\nhint: use --force\n"
        );
    }

    #[test]
    fn tells_nothing_twice() {
        let error = anyhow::anyhow!("no such file").context("cannot open x: no such file");
        assert_eq!(render(&error), "error: cannot open x: no such file\n");
    }
}
