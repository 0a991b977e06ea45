//! Errors in the server's log. It is read from where the last look ended, through all files that were written since, and no more
//! than its end where there was none. What could not be read of it is told.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use repository::look::LogPosition;

use super::observed::LogErrors;

/// So much of a file is read at most.
const MOST: u64 = 4 << 20;

/// So many files between the last look's and the present one are read.
const MOST_FILES: usize = 16;

/// So many of its lines are shown, and so much of each.
const SHOWN: usize = 5;
const SHOWN_OF_A_LINE: usize = 300;

/// Looks at the log of the server with this data directory. `None`: it has no collector of its log, or its files may not be
/// read; that is no fault of the server's.
pub(super) fn look(data: &Path, read_until: Option<&LogPosition>) -> Option<LogErrors> {
    // The server keeps the names of its present log files here, one for each form.
    let current = std::fs::read_to_string(data.join("current_logfiles")).ok()?;
    let file = current.lines().next()?.split_once(' ')?.1.to_owned();
    let found = since(data, file, read_until);
    found.inspect_err(|error| tracing::debug!("cannot read the server's log: {error}")).ok()
}

/// Reads all that has come since, or the end of the present file.
fn since(data: &Path, file: String, read_until: Option<&LogPosition>) -> io::Result<LogErrors> {
    // An absolute name replaces the folder.
    let path = data.join(&file);
    let Some(last) = read_until else { return read(&path, file, None) };
    if last.file == file {
        return read(&path, file, Some(last.offset));
    }
    let (mut sum, mut unread) = (LogErrors::default(), Vec::new());
    let old = data.join(&last.file);
    match read(&old, last.file.clone(), Some(last.offset)) {
        Ok(rest) => sum.add(rest, &mut unread),
        Err(_) => unread.push(format!("the rest of {}", last.file)),
    }
    match between(&old, &path) {
        Some(files) if files.len() <= MOST_FILES => {
            for found in files {
                let name = found.display().to_string();
                match read(&found, name.clone(), Some(0)) {
                    Ok(whole) => sum.add(whole, &mut unread),
                    Err(_) => unread.push(name),
                }
            }
        }
        // Of a file that is gone nobody knows which came after it.
        _ => unread.push(format!("what was written between {} and {file}", last.file)),
    }
    let present = read(&path, file.clone(), Some(0))?;
    let offset = present.offset;
    sum.add(present, &mut unread);
    let unread = (!unread.is_empty()).then(|| unread.join(", "));
    Ok(LogErrors { file, offset, since_offset: Some(last.offset), unread, ..sum })
}

/// The files of the same form beside `new` that were written after `old`, oldest first. `None`: that cannot be told.
fn between(old: &Path, new: &Path) -> Option<Vec<PathBuf>> {
    let written = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let from = written(old)?;
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in new.parent()?.read_dir().ok()? {
        let path = entry.ok()?.path();
        if path == old || path == new || path.extension() != new.extension() {
            continue;
        }
        let at = written(&path)?;
        if at >= from {
            found.push((at, path));
        }
    }
    found.sort();
    Some(found.into_iter().map(|(_, path)| path).collect())
}

/// Reads what has come since `since`, or the end.
fn read(path: &Path, name: String, since: Option<u64>) -> io::Result<LogErrors> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut unread = None;
    // A file that has become shorter was begun anew.
    let is_anew = since.is_some_and(|since| since > length);
    if is_anew {
        unread = Some(format!("what {name} had before it was begun anew"));
    }
    let since = since.filter(|_| !is_anew);
    let from = since.unwrap_or_default().max(length.saturating_sub(MOST));
    if let Some(since) = since.filter(|since| *since < from) {
        unread = Some(format!("{} of {name} from byte {since} on", indicatif::HumanBytes(from - since)));
    }
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(length - from).read_to_end(&mut bytes)?;
    // What is still being written is for the next look.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let mut errors = LogErrors {
        file: name,
        since_offset: since,
        unread,
        ..count(&String::from_utf8_lossy(&bytes[..whole]))
    };
    errors.offset = from + whole as u64;
    Ok(errors)
}

impl LogErrors {
    /// Adds those of a later file.
    fn add(&mut self, later: Self, unread: &mut Vec<String>) {
        self.errors += later.errors;
        self.fatal += later.fatal;
        self.panics += later.panics;
        self.last.extend(later.last);
        let many = self.last.len().saturating_sub(SHOWN);
        self.last.drain(..many);
        unread.extend(later.unread);
    }
}

/// Counts the lines by their severity: as `stderr`, `csvlog` and `jsonlog` write it, whatever stands before it.
fn count(text: &str) -> LogErrors {
    let mut found = LogErrors::default();
    for line in text.lines() {
        let of = |word: &'static str| Some((word, message(line, word)?));
        let Some((word, message)) = of("PANIC").or_else(|| of("FATAL")).or_else(|| of("ERROR")) else {
            continue;
        };
        let counter = match word {
            "PANIC" => &mut found.panics,
            "FATAL" => &mut found.fatal,
            _ => &mut found.errors,
        };
        *counter += 1;
        found.last.push(format!("{word}:  {message}").chars().take(SHOWN_OF_A_LINE).collect());
        if found.last.len() > SHOWN {
            found.last.remove(0);
        }
    }
    found
}

/// The message of a line with this severity. What stands before and after it may name people, addresses and statements.
fn message(line: &str, word: &str) -> Option<String> {
    if let Some((_, message)) = line.split_once(&format!("{word}:  ")) {
        return Some(message.to_owned());
    }
    if line.contains(&format!("\"error_severity\":\"{word}\"")) {
        let fields: Option<serde_json::Value> = serde_json::from_str(line).ok();
        return Some(
            fields.and_then(|fields| Some(fields["message"].as_str()?.to_owned())).unwrap_or_default(),
        );
    }
    // The code of the state stands between them; a quote within the message is written twice.
    let (_, rest) = line.split_once(&format!(",{word},"))?;
    let message = rest.split_once(',').map_or("", |(_, message)| message);
    Some(match message.strip_prefix('"') {
        Some(quoted) => {
            quoted.replace("\"\"", "\u{0}").split('"').next().unwrap_or_default().replace('\u{0}', "\"")
        }
        None => message.split(',').next().unwrap_or_default().to_owned(),
    })
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
        let shown = ["ERROR:  relation \"a\" does not exist", "FATAL:  no", "PANIC:  no room"];
        assert_eq!(found.last, shown);
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
        assert!(much.unread.is_some_and(|what| what.ends_with("of log from byte 0 on")));
    }

    #[test]
    fn a_log_that_goes_on_in_other_files_is_read_through() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let last = LogPosition { file: "a.log".to_owned(), offset: 12 };
        let look = || since(folder.path(), "c.log".to_owned(), Some(&last)).unwrap();
        write("a.log", "ERROR:  old\nERROR:  rest\n");
        write("b.log", "FATAL:  between\n");
        write("b.csv", "FATAL:  the same in another form\n");
        write("c.log", "ERROR:  now\n");
        let found = look();
        assert_eq!((found.errors, found.fatal, found.offset, &*found.file), (2, 1, 12, "c.log"));
        assert_eq!((found.unread, found.last.len()), (None, 3));
        std::fs::remove_file(folder.path().join("a.log")).unwrap();
        let found = look();
        assert_eq!(found.errors, 1);
        assert_eq!(found.unread.unwrap(), "the rest of a.log, what was written between a.log and c.log");
        // Begun anew.
        let last = LogPosition { file: "c.log".to_owned(), offset: 100 };
        assert!(since(folder.path(), "c.log".to_owned(), Some(&last)).unwrap().unread.is_some());
    }
}
