//! Errors in the server's log. It is read from where the last look ended, and no more than its end where there was none.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use repository::look::LogPosition;

use super::observed::LogErrors;

/// So much of it is read at most.
const MOST: u64 = 4 << 20;

/// So many of its lines are shown, and so much of each.
const SHOWN: usize = 5;
const SHOWN_OF_A_LINE: usize = 300;

/// Looks at the log of the server with this data directory. `None`: it has no collector of its log, or its files may not be
/// read; that is no fault of the server's.
pub(super) fn look(data: &Path, read_until: Option<&LogPosition>) -> Option<LogErrors> {
    // The server keeps the names of its present log files here, one for each form.
    let current = std::fs::read_to_string(data.join("current_logfiles")).ok()?;
    let file = current.lines().next()?.split_once(' ')?.1.to_owned();
    let since = read_until.filter(|position| position.file == file).map(|position| position.offset);
    // An absolute name replaces the folder.
    let found = read(&data.join(&file), file, since);
    found.inspect_err(|error| tracing::debug!("cannot read the server's log: {error}")).ok()
}

/// Reads what has come since `since`, or the end.
fn read(path: &Path, name: String, since: Option<u64>) -> io::Result<LogErrors> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A file that has become shorter was begun anew.
    let since = since.filter(|since| *since <= length);
    let from = since.unwrap_or_default().max(length.saturating_sub(MOST));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(length - from).read_to_end(&mut bytes)?;
    // What is still being written is for the next look.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let mut errors =
        LogErrors { file: name, since_offset: since, ..count(&String::from_utf8_lossy(&bytes[..whole])) };
    errors.offset = from + whole as u64;
    Ok(errors)
}

/// Counts the lines by their severity: as `stderr`, `csvlog` and `jsonlog` write it, whatever stands before it.
fn count(text: &str) -> LogErrors {
    let mut found = LogErrors::default();
    for line in text.lines() {
        let is = |word: &str| {
            line.contains(&format!("{word}:  "))
                || line.contains(&format!(",{word},"))
                || line.contains(&format!("\"error_severity\":\"{word}\""))
        };
        let counter = match () {
            () if is("PANIC") => &mut found.panics,
            () if is("FATAL") => &mut found.fatal,
            () if is("ERROR") => &mut found.errors,
            () => continue,
        };
        *counter += 1;
        found.last.push(line.chars().take(SHOWN_OF_A_LINE).collect());
        if found.last.len() > SHOWN {
            found.last.remove(0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_the_log_is_understood() {
        let text = "2026-11-26 12:00:00.000 UTC [7] LOG:  checkpoint complete\n\
                    2026-11-26 12:00:01.000 UTC [8] x ERROR:  relation \"a\" does not exist\n\
                    2026-11-26 12:00:01.000 UTC [8] x STATEMENT:  SELECT * FROM a\n\
                    2026-11-26 12:00:02.000 UTC,,,9,,x,1,,,,0,FATAL,28P01,\"no\",,,,,,,,,\"\",\"\",,0\n\
                    {\"timestamp\":\"x\",\"error_severity\":\"PANIC\",\"message\":\"no room\"}\n";
        let found = count(text);
        assert_eq!((found.errors, found.fatal, found.panics, found.last.len()), (1, 1, 1, 3));
        let many = count(&"ERROR:  x\n".repeat(20));
        assert_eq!((many.errors, many.last.len()), (20, SHOWN));
    }

    #[test]
    fn only_what_is_new_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let read = |since| read(&path, "log".to_owned(), since).unwrap();
        std::fs::write(&path, "ERROR:  one\nERROR:  t").unwrap();
        let first = read(None);
        assert_eq!((first.errors, first.offset, first.since_offset), (1, 12, None));
        std::fs::write(&path, "ERROR:  one\nERROR:  two\n").unwrap();
        let second = read(Some(first.offset));
        assert_eq!((second.errors, second.offset, second.since_offset), (1, 24, Some(12)));
        assert_eq!(read(Some(24)).errors, 0);
        std::fs::write(&path, "FATAL:  anew\n").unwrap();
        assert_eq!((read(Some(24)).fatal, read(Some(24)).since_offset), (1, None));
        std::fs::write(&path, "ERROR:  x\n".repeat(MOST as usize / 5)).unwrap();
        let much = read(Some(0));
        assert!((1..=MOST / 10 + 1).contains(&much.errors) && much.offset == MOST / 5 * 10);
    }
}
