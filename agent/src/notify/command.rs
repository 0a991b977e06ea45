//! The hook: a program that gets an event on its standard input.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// What of our environment the program gets: where programs are, and how to write. None of the secrets that are in it.
const HARMLESS: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// So much of what it complains about is told.
const MOST_SAID: u64 = 2000;

/// Runs the program, without a shell, and waits for it no longer than `patience`.
///
/// # Errors
/// It could not be started, did not end in time, or failed; in words.
pub(super) async fn run(line: &[String], event: &str, patience: Duration) -> Result<(), String> {
    let Some((program, arguments)) = line.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.envs(HARMLESS.iter().filter_map(|&name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let work = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input has no fault.
            let _ = stdin.write_all(event.as_bytes()).await;
        }
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut stderr = stderr.take(MOST_SAID);
            let _ = stderr.read_to_end(&mut said).await;
        }
        (child.wait().await, said)
    };
    match tokio::time::timeout(patience, work).await {
        Err(_) => Err(format!("{program} did not end within {} s, and was killed", patience.as_secs())),
        Ok((Ok(status), _)) if status.success() => Ok(()),
        Ok((Ok(status), said)) => {
            let said = String::from_utf8_lossy(&said);
            Err(format!(
                "{program} ended with {status}: {}",
                said.split_whitespace().collect::<Vec<_>>().join(" ")
            ))
        }
        Ok((Err(error), _)) => Err(format!("nobody knows how {program} ended: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Vec<String> {
        ["/bin/sh", "-c", text].map(str::to_owned).to_vec()
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_program_gets_the_event_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let (event, environment) = (folder.path().join("event"), folder.path().join("environment"));
        let text = format!("cat > {}; env > {}", event.display(), environment.display());
        run(&script(&text), "{\"event\":\"gap\"}\n", PATIENCE).await.unwrap();
        assert_eq!(std::fs::read_to_string(event).unwrap(), "{\"event\":\"gap\"}\n");
        let environment = std::fs::read_to_string(environment).unwrap();
        let names = environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name);
        // What a shell sets by itself is no secret.
        let strange: Vec<_> = names
            .filter(|name| !HARMLESS.contains(name) && !["PWD", "SHLVL", "_", "OLDPWD"].contains(name))
            .collect();
        assert!(strange.is_empty(), "{strange:?}");
    }

    #[tokio::test]
    async fn a_program_that_fails_or_hangs_is_told_of() {
        let failed = run(&script("echo no such pager >&2; exit 3"), "{}", PATIENCE).await.unwrap_err();
        assert!(failed.contains("exit status: 3") && failed.contains("no such pager"), "{failed}");
        let hangs = run(&script("exec sleep 600"), "{}", Duration::from_millis(200)).await.unwrap_err();
        assert!(hangs.contains("was killed"), "{hangs}");
        let absent = run(&["/nonexistent/pager".to_owned()], "{}", PATIENCE).await.unwrap_err();
        assert!(absent.contains("cannot be started"), "{absent}");
    }
}
