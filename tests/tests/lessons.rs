//! `docs/lessons.md` names tests: each of them exists. And nothing cites papers that are not here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

const PARTS: [&str; 6] = ["agent", "archive-cmd", "proto", "repository", "restore-cmd", "tests"];

/// Every file below a folder that has text in it, with the text.
fn texts(folder: &Path, found: &mut Vec<(PathBuf, String)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            texts(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            found.push((path.clone(), fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

#[test]
fn what_is_cited_is_here() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for part in PARTS.into_iter().chain(["bench", "docs", "fuzz/src", "xtask"]) {
        texts(&root.join(part), &mut found)?;
    }
    assert!(found.len() > 300, "only {} files", found.len());
    // In parts, so that this file is none of those that it looks for.
    let papers = [["LESS", "ONS"], ["FA", "CTS"], ["DES", "IGN"]].map(|parts| parts.concat());
    let cites = |line: &str, paper: &String| {
        let after = line.split(paper.as_str()).skip(1).any(|rest| {
            let rest = rest.trim_start_matches(".md").strip_prefix([' ', ':', ',', ')']);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        });
        after && line.trim_start().starts_with("//")
    };
    for (path, text) in &found {
        for line in text.lines() {
            assert!(!papers.iter().any(|paper| cites(line, paper)), "{}: {line}", path.display());
        }
    }
    Ok(())
}

/// Adds the names of all functions and of all rounds of the files below a folder.
fn names(folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            names(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for line in fs::read_to_string(&path)?.lines() {
                let line = line.trim().trim_start_matches("async ");
                let name = |text: &str| {
                    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)
                };
                found.extend(line.strip_prefix("fn ").and_then(name));
                found.extend(line.starts_with("seed_").then(|| name(line)).flatten());
            }
        }
    }
    Ok(())
}

#[test]
fn every_test_that_is_named_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut there = BTreeSet::new();
    for part in PARTS {
        for folder in ["src", "tests"] {
            names(&root.join(part).join(folder), &mut there)?;
        }
    }
    let text = fs::read_to_string(root.join("docs/lessons.md"))?;
    let cells = text.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.rsplit('|').nth(1));
    let named: Vec<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('_') && !name.contains(' '))
        .collect();
    assert!(named.len() > 80, "only {} tests are named", named.len());
    let gone: Vec<_> = named.into_iter().filter(|name| !there.contains(*name)).collect();
    assert!(gone.is_empty(), "docs/lessons.md names tests that do not exist: {gone:?}");
    Ok(())
}
