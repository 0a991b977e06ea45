//! A command that prints a secret.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::{Error, Result};

/// So long it may take: somebody may have to touch a token.
const PATIENCE: Duration = Duration::from_secs(60);

/// No list of identities comes near this.
const LONGEST: usize = 64 << 10;

/// What the program prints, run once and without a shell. Its complaints go where ours go; what it prints gets into no
/// message, and is wiped when it was read.
///
/// # Errors
/// It cannot be started, fails, takes longer than a minute, or prints more than 64 KiB or what is no text.
pub(super) fn output(what: &str, line: &[String]) -> Result<Zeroizing<String>> {
    let wrong = |why: String| Error::invalid(what, why);
    // What it asks may be down: another time it may answer.
    let failed = |why: String| Error::Unreachable { what: what.to_owned(), why };
    let Some((program, arguments)) = line.split_first() else { return Err(wrong("it is empty".into())) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| wrong(format!("it cannot be started: {error}")))?;
    let stdout = child.stdout.take();
    let (sender, printed) = channel();
    std::thread::spawn(move || {
        // One piece of memory of which nothing is left behind elsewhere: it never grows.
        let mut text = Zeroizing::new(vec![0; LONGEST + 1]);
        let mut length = 0;
        if let Some(mut stdout) = stdout {
            while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
                match stdout.read(rest) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => length += count,
                }
            }
        }
        // Nobody waits any more if it took too long.
        let _ = sender.send((text, length));
    });
    let printed = printed.recv_timeout(PATIENCE);
    if !matches!(&printed, Ok((_, length)) if *length <= LONGEST) {
        // It may have ended by itself meanwhile.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| wrong(format!("nobody knows how it ended: {error}")))?;
    let (text, length) = match printed {
        Ok(printed) => printed,
        Err(RecvTimeoutError::Timeout) => {
            return Err(failed(format!("it did not end within {} s, and was killed", PATIENCE.as_secs())));
        }
        Err(RecvTimeoutError::Disconnected) => return Err(wrong("what it prints cannot be read".into())),
    };
    if length > LONGEST {
        return Err(wrong(format!("it prints more than {LONGEST} bytes")));
    }
    if !status.success() {
        return Err(failed(format!("it ended with {status}")));
    }
    match std::str::from_utf8(&text[..length]) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(wrong("what it prints is no text".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_prints_is_read_and_never_told() {
        let run = |script: &str| output("the command", &["/bin/sh".into(), "-c".into(), script.into()]);
        assert_eq!(run("echo one; echo two").unwrap().as_str(), "one\ntwo\n");
        for (script, why) in [
            ("echo HIDDEN; exit 3", "exit status: 3"),
            ("head -c 70000 /dev/zero", "more than 65536 bytes"),
            ("yes HIDDEN", "more than 65536 bytes"),
            ("printf 'HIDDEN\\377'", "no text"),
        ] {
            let error = run(script).unwrap_err();
            assert_eq!(error.is_transient(), script.contains("exit"), "{error}");
            let error = error.to_string();
            assert!(error.contains(why) && !error.contains("HIDDEN"), "{error}");
        }
        let error = output("the command", &["/nowhere/at/all".into()]).unwrap_err().to_string();
        assert!(error.contains("cannot be started"), "{error}");
    }
}
