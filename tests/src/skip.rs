//! Skipping aloud: a scenario that cannot run here says why, and is counted.

use std::fmt::Display;
use std::io::Write;

/// The file, named by this variable, in which `cargo xtask test` collects what was skipped.
///
/// Each line has three fields, parted by tabs: `test` or `check`, the test's name, the reason.
pub const LOG: &str = "WALKEEP_SKIP_LOG";

/// Says that the running test is skipped, and why.
pub fn skip(why: impl Display) {
    record("test", why);
}

/// Says that one check of the running test is left out, and why; the rest of the test counts.
pub fn skip_check(why: impl Display) {
    record("check", why);
}

fn record(what: &str, why: impl Display) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    eprintln!("SKIPPED {what} in {name}: {why}");
    if let Some(path) = std::env::var_os(LOG) {
        // One short write to a file opened for appending is not torn by other tests.
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let written =
            opened.and_then(|mut file| file.write_all(format!("{what}\t{name}\t{why}\n").as_bytes()));
        written.expect("the log of skipped tests must be writable, or a skip would go unseen");
    }
}
