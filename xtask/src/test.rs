//! `cargo xtask test`: all set-up, then all tests, then an honest count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use harness::servers::MAJORS;
use harness::{programs, skip};

use crate::cargo::{self, cargo, succeeds};
use crate::{machine, servers};

#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Only these versions of PostgreSQL, for example 15,18
    #[arg(long, value_delimiter = ',', value_name = "MAJOR")]
    pg: Vec<u32>,

    /// Only the long scenarios that are left out otherwise: many rounds with other seeds, outages of minutes. The
    /// variables WALKEEP_ROUNDS and WALKEEP_SEED choose how many rounds, and the first seed
    #[arg(long)]
    soak: bool,

    /// Only tests like these: a scenario file, a test, or both: main_job::pg15_file
    filters: Vec<String>,
}

pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let wanted = if args.pg.is_empty() { MAJORS.to_vec() } else { args.pg.clone() };
    if let Some(unknown) = wanted.iter().find(|major| !MAJORS.contains(major)) {
        bail!("PostgreSQL {unknown} is not supported; the versions are 13 to 18");
    }
    machine::provide_programs();
    // What is missing has been said; its tests will be counted as skipped.
    servers::fetch(&wanted)?;
    servers::stores::provide();
    cargo::build(&["--all-targets"])?;

    let target = cargo::target()?;
    let skips = target.join("skipped-tests");
    let _ = fs::remove_file(&skips);
    let begun = Instant::now();
    let excluded: Vec<_> = MAJORS.iter().filter(|major| !wanted.contains(major)).collect();
    let nextest = succeeds(&mut cargo(&["nextest", "--version"]));
    let outcome =
        if nextest { by_nextest(args, &excluded, &skips)? } else { by_cargo(args, &excluded, &skips)? };
    let documented = args.filters.is_empty() && nextest && !args.soak;
    let examples = if documented {
        cargo::run(&mut cargo(&["test", "--locked", "--quiet", "--workspace", "--doc"]))
    } else {
        Ok(())
    };

    let reasons = reasons(&skips);
    let skipped: usize = reasons.iter().filter(|((what, _), _)| what == "test").map(|(_, count)| count).sum();
    println!();
    for ((what, why), count) in &reasons {
        println!("skipped {count} {what}{}: {why}", if *count == 1 { "" } else { "s" });
    }
    let passed = outcome.passed.saturating_sub(skipped);
    println!(
        "{passed} passed, {} failed, {skipped} skipped, in {:.0} s",
        outcome.failed,
        begun.elapsed().as_secs_f32()
    );
    examples.context("examples in the documentation fail")?;
    ensure!(outcome.succeeded && outcome.failed == 0, "tests failed");
    ensure!(outcome.passed > 0, "no test matches");
    Ok(())
}

struct Outcome {
    succeeded: bool,
    /// With those that skipped themselves.
    passed: usize,
    failed: usize,
}

fn by_nextest(args: &TestArgs, excluded: &[&u32], skips: &Path) -> Result<Outcome> {
    let mut chosen = args.filters.iter().map(|filter| filterset(filter)).collect::<Vec<_>>().join(" | ");
    if chosen.is_empty() {
        chosen = "all()".to_owned();
    }
    let others = excluded.iter().map(|major| format!(" - test(/pg{major}/)")).collect::<String>();
    let mut command =
        cargo(&["nextest", "run", "--locked", "--workspace", "-E", &format!("({chosen}){others}")]);
    if args.soak {
        command.args(["--run-ignored", "only", "--no-capture"]);
    }
    // nextest keeps its reports below the workspace, wherever cargo builds.
    let report = cargo::root().join("target/nextest/default/junit.xml");
    let _ = fs::remove_file(&report);
    let succeeded = environment(&mut command, skips)?.status().context("cannot run cargo nextest")?.success();
    let report = fs::read_to_string(&report).unwrap_or_default();
    let count = |name: &str| attribute(&report, name).unwrap_or(0);
    let failed = count("failures") + count("errors");
    Ok(Outcome { succeeded, passed: count("tests").saturating_sub(failed), failed })
}

/// nextest's words for `file`, `test`, or `file::test`.
fn filterset(filter: &str) -> String {
    match filter.split_once("::") {
        Some((file, test)) => format!("(binary(={file}) & test({test})) | test({filter})"),
        None => format!("binary(={filter}) | test({filter})"),
    }
}

/// A number from the root element of a JUnit report.
fn attribute(report: &str, name: &str) -> Option<usize> {
    let root = report.split_once("<testsuites ")?.1.split_once('>')?.0;
    root.split_once(&format!("{name}=\""))?.1.split_once('"')?.0.parse().ok()
}

fn by_cargo(args: &TestArgs, excluded: &[&u32], skips: &Path) -> Result<Outcome> {
    println!("cargo-nextest is not here: cargo test does the same, but slower");
    let filters = if args.filters.is_empty() { vec![String::new()] } else { args.filters.clone() };
    let mut all = Outcome { succeeded: true, passed: 0, failed: 0 };
    for filter in filters {
        let (file, test) = filter.split_once("::").unwrap_or((&filter, ""));
        // A test that hangs must not hold up everything for ever.
        let mut command = bounded(&cargo(&["test", "--locked", "--no-fail-fast", "--workspace"]));
        match is_test_file(file)? {
            true => command.args(["--test", file, "--", test]),
            false => command.args(["--", &filter]),
        };
        command.args(["--test-threads", "2"]);
        if args.soak {
            command.args(["--ignored", "--nocapture"]);
        }
        for major in excluded {
            command.args(["--skip", &format!("pg{major}")]);
        }
        let output = environment(&mut command, skips)?.stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        all.succeeded &= output.status.success();
        for line in text.lines().filter_map(|line| line.strip_prefix("test result: ")) {
            all.passed += before(line, " passed");
            all.failed += before(line, " failed");
        }
    }
    Ok(all)
}

/// The most that one call of `cargo test` may take; with `--soak` it is hours.
const LONGEST: &str = "6h";

/// The same command, with all that it has started ended after [`LONGEST`].
fn bounded(command: &Command) -> Command {
    let mut bounded = Command::new("timeout");
    bounded.args(["--kill-after=10", LONGEST]).arg(command.get_program()).args(command.get_args());
    bounded.current_dir(cargo::root());
    bounded
}

/// Whether one of the crates has tests of this name in its `tests` folder.
fn is_test_file(name: &str) -> Result<bool> {
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    for entry in fs::read_dir(cargo::root())? {
        let tests = entry?.path().join("tests");
        if plain && (tests.join(format!("{name}.rs")).is_file() || tests.join(name).join("main.rs").is_file())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number that stands before a word.
fn before(line: &str, word: &str) -> usize {
    let number = line.split_once(word).and_then(|(head, _)| head.rsplit(' ').next());
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn environment<'a>(command: &'a mut Command, skips: &Path) -> Result<&'a mut Command> {
    let folder: PathBuf = cargo::target()?.join("debug");
    Ok(command.env(skip::LOG, skips).env(programs::FOLDER, folder))
}

/// How often a whole test, or a check within one, was skipped for which reason.
fn reasons(skips: &Path) -> BTreeMap<(String, String), usize> {
    let mut reasons = BTreeMap::new();
    for line in fs::read_to_string(skips).unwrap_or_default().lines() {
        let mut fields = line.splitn(3, '\t').map(str::to_owned);
        let what = fields.next().unwrap_or_default();
        let why = fields.nth(1).unwrap_or_default();
        *reasons.entry((what, why)).or_default() += 1;
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_files_of_every_crate_are_found() {
        for (name, found) in
            [("main_job", true), ("simulation", true), ("stream_live", true), ("pg15_file", false)]
        {
            assert_eq!(is_test_file(name).unwrap(), found, "{name}");
        }
    }

    #[test]
    fn counts_are_read_from_both_kinds_of_report() {
        let junit = "<?xml?>\n<testsuites name=\"n\" tests=\"12\" failures=\"2\" errors=\"1\" uuid=\"x\">";
        assert_eq!(attribute(junit, "tests"), Some(12));
        assert_eq!(attribute(junit, "errors"), Some(1));
        assert_eq!(before("ok. 7 passed; 3 failed; 0 ignored", " passed"), 7);
        assert_eq!(before("FAILED. 7 passed; 3 failed; 0 ignored", " failed"), 3);
    }
}
