//! `cargo xtask sbom`: what a program is built from, as CycloneDX 1.5 in JSON.
//!
//! As `cargo tree` tells it of the lock file: all that is linked into the program on this platform, with the features that
//! it is built with, and nothing of what only builds or tests it. The same lock file makes the same bytes: no time and no
//! random number is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cargo::cargo;

/// The arguments of `cargo xtask sbom`.
#[derive(clap::Args)]
pub(crate) struct SbomArgs {
    /// The program that it is about
    #[arg(default_value = "walkeep", value_parser = ["walkeep", "archive-cmd", "restore-cmd"])]
    program: String,

    /// The file that it is written to; else it is printed
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &SbomArgs) -> Result<()> {
    let bill = bill(&linked(&args.program)?);
    let text = serde_json::to_string_pretty(&bill)? + "\n";
    match &args.output {
        Some(file) => fs::write(file, text).with_context(|| format!("cannot write {}", file.display())),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// A crate that is linked, the program itself included.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Linked {
    name: String,
    version: String,
    license: String,
    /// Part of this project.
    is_ours: bool,
    /// What it needs, by reference.
    needs: BTreeSet<String>,
}

/// Everything that is linked into a program, by reference; the program first of all is told apart by its name.
struct Tree {
    root: String,
    all: BTreeMap<String, Linked>,
}

fn linked(program: &str) -> Result<Tree> {
    let mut tree = cargo(&["tree", "--locked", "--package", program, "--edges", "normal,no-proc-macro"]);
    let output =
        tree.args(["--prefix", "depth", "--format", "{p}|{l}"]).output().context("cannot run cargo tree")?;
    ensure!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Reads lines such as `2cfg-if v1.0.5|MIT OR Apache-2.0`, each below that which needs it.
fn parse(text: &str) -> Result<Tree> {
    let (mut all, mut above): (BTreeMap<String, Linked>, Vec<String>) = (BTreeMap::new(), Vec::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        let read = || {
            let digits = line.find(|c: char| !c.is_ascii_digit())?;
            let depth: usize = line.get(..digits)?.parse().ok()?;
            let (package, license) = line.get(digits..)?.split_once('|')?;
            let mut words = package.split_whitespace();
            let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
            // Of what comes again the rest is left out.
            Some((depth, name, version, license.trim_end_matches(" (*)"), package.contains(" (/")))
        };
        let (depth, name, version, license, is_ours) =
            read().with_context(|| format!("cargo tree printed what nobody understands: {line}"))?;
        let reference = format!("{name}@{version}");
        ensure!(depth <= above.len(), "cargo tree printed {line:?} below nothing");
        above.truncate(depth);
        if let Some(needing) = above.last().and_then(|above| all.get_mut(above)) {
            needing.needs.insert(reference.clone());
        }
        all.entry(reference.clone()).or_insert_with(|| Linked {
            name: name.to_owned(),
            version: version.to_owned(),
            license: license.to_owned(),
            is_ours,
            needs: BTreeSet::new(),
        });
        above.push(reference);
    }
    let root = above.into_iter().next().context("cargo tree printed nothing")?;
    Ok(Tree { root, all })
}

fn bill(tree: &Tree) -> Value {
    let component = |reference: &String, linked: &Linked| {
        let Linked { name, version, license, is_ours, .. } = linked;
        let kind = if *reference == tree.root { "application" } else { "library" };
        let mut component = json!({ "type": kind, "bom-ref": reference, "name": name, "version": version });
        if !license.is_empty() {
            // Older manifests separate alternatives by a stroke.
            component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
        }
        if !is_ours {
            component["purl"] = json!(format!("pkg:cargo/{name}@{version}"));
        }
        component
    };
    let others = tree.all.iter().filter(|(reference, _)| **reference != tree.root);
    let components: Vec<Value> = others.map(|(reference, linked)| component(reference, linked)).collect();
    let on = |(reference, linked): (&String, &Linked)| json!({ "ref": reference, "dependsOn": linked.needs });
    let dependencies: Vec<Value> = tree.all.iter().map(on).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": tree.all.get(&tree.root).map(|linked| component(&tree.root, linked)) },
        "components": components,
        "dependencies": dependencies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::root;

    fn names(tree: &Tree) -> BTreeSet<&str> {
        tree.all.values().map(|linked| linked.name.as_str()).collect()
    }

    #[test]
    fn every_dependency_of_archive_cmd_is_in_the_table_with_a_reason() {
        let text = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
        let (_, table) = text.split_once("\n| crate |").unwrap();
        let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
        let told: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let tree = linked("archive-cmd").unwrap();
        let mut ours = names(&tree);
        assert!(ours.remove("archive-cmd"));
        assert_eq!(told, ours, "docs/dependencies.md does not tell what is linked");
    }

    #[test]
    fn a_bill_names_what_is_linked_and_nothing_else() {
        let tree = linked("walkeep").unwrap();
        let names = names(&tree);
        for linked in ["walkeep", "age", "aws-lc-rs", "object_store", "proto", "repository", "zstd"] {
            assert!(names.contains(linked), "{linked} is missing");
        }
        for elsewhere in ["proptest", "walkeep-tests", "bench", "serde_derive"] {
            assert!(!names.contains(elsewhere), "{elsewhere} is not linked");
        }
        let bill = bill(&tree);
        assert_eq!(bill["metadata"]["component"]["type"], "application");
        assert_eq!(bill["components"].as_array().map(Vec::len), Some(tree.all.len() - 1));
        assert!(tree.all[&tree.root].needs.iter().any(|needed| needed.starts_with("repository@")));
    }

    #[test]
    fn a_tree_is_read_line_by_line() {
        let text =
            "0a v1.0.0 (/home/a)|\n1b v2.0.0|MIT\n2c v3.0.0|MIT/Apache-2.0\n1c v3.0.0|MIT/Apache-2.0 (*)\n";
        let tree = parse(text).unwrap();
        assert_eq!((tree.root.as_str(), tree.all.len()), ("a@1.0.0", 3));
        assert_eq!(tree.all["a@1.0.0"].needs, ["b@2.0.0".to_owned(), "c@3.0.0".to_owned()].into());
        let bill = bill(&tree);
        assert_eq!(bill["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        for wrong in ["", "x", "1b v2.0.0|MIT", "0a|", "0a 1.0|MIT"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
