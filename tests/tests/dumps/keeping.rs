//! Which dumps stay, for whom they can be read, and who takes them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Output, StoreKind, skip, wait_for};
use serde_json::Value;

use crate::scene::{SHOP, Scene, label};

const HOUR: Duration = Duration::from_secs(3600);

/// What `expire` says of dumps: which of them stay.
fn kept(scene: &Scene) -> Result<Vec<bool>> {
    let plan: Value = scene.agent.walkeep(&["expire", "--dry-run", "--json"])?.ok()?.json()?;
    let dumps = plan["branches"][0]["dumps"].as_array().context("`dumps` is no list")?;
    Ok(dumps.iter().map(|dump| dump["kept"] == true).collect())
}

/// By count, by age, within each series; condemned first, gone a day later; in a bucket whose clock we have.
#[test]
fn by_count_and_by_age_pg15_s3() -> Result<()> {
    let Some(mut scene) = Scene::open(15, StoreKind::S3)? else { return Ok(()) };
    let small = ["--database", "postgres"];
    let mut nightly = Vec::new();
    for _ in 0..4 {
        nightly.push(label(&scene.dump(&small)?)?);
        scene.repo.s3_server().pass(24 * HOUR);
    }
    let shop = label(&scene.dump(&["--database", SHOP])?)?;
    scene.repo.s3_server().pass(HOUR);
    assert_eq!(kept(&scene)?, [true; 5], "nothing says that any should go");

    // Ages are about 97, 73, 49, 25 and 1 hours, by the store's clock; a dry run takes this computer's, of which all of
    // that is yet to come.
    scene.agent.set("dump", "keep", "2")?;
    assert_eq!(kept(&scene)?, [false, false, true, true, true]);
    let text = scene.agent.walkeep(&["expire", "--dry-run"])?.ok()?.stdout;
    for words in
        [&format!("goes   {}", nightly[0]), "is among the newest 2 of its kind", "nothing was changed"]
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
    scene.agent.set("dump", "window", "\"60h\"")?;
    // What either keeps stays: the third is younger, and the newest two are that anyway.
    scene.agent.set("dump", "keep", "1")?;
    let told: Value = scene.agent.walkeep(&["expire", "--json"])?.ok()?.json()?;
    let stays = |label: &str| {
        let dumps = told["branches"][0]["dumps"].as_array()?;
        dumps.iter().find(|dump| dump["label"] == label).map(|dump| dump["kept"] == true)
    };
    let stay: Vec<_> = nightly.iter().chain([&shop]).map(|label| stays(label)).collect();
    assert_eq!(stay, [Some(false), Some(false), Some(true), Some(true), Some(true)], "{told:#}");
    // Condemned: not offered any more, and still there.
    assert_eq!(scene.labels()?, [nightly[2].clone(), nightly[3].clone(), shop.clone()]);
    let is_there = |label: &str| -> Result<bool> {
        Ok(scene.objects()?.iter().any(|key| key.starts_with(&format!("{label}/"))))
    };
    ensure!(is_there(&nightly[0])? && is_there(&nightly[1])?, "gone before the grace period was over");
    scene.load("condemned", &[&nightly[0]])?.refused(1, &["there is no dump", &nightly[0]]);
    scene.repo.s3_server().pass(25 * HOUR);
    scene.agent.walkeep(&["expire"])?.ok()?;
    ensure!(!is_there(&nightly[0])? && !is_there(&nightly[1])?, "{:?}", scene.objects()?);

    // However old: the last one of each kind stays.
    scene.repo.s3_server().pass(2400 * HOUR);
    for _ in 0..2 {
        scene.agent.walkeep(&["expire"])?.ok()?;
        scene.repo.s3_server().pass(25 * HOUR);
    }
    assert_eq!(scene.labels()?, [nightly[3].clone(), shop.clone()]);
    ensure!(!is_there(&nightly[2])?);
    scene.load("back", &[&shop])?.ok()?;
    assert_eq!(scene.content("back")?, scene.content(SHOP)?);

    // What a killed dump has left goes, too.
    let mut child = scene.agent.spawn("walkeep", &["dump"])?;
    let unfinished = wait_for("a dump has begun", Duration::from_secs(90), || {
        let objects = scene.objects()?;
        let begun = objects.iter().filter_map(|key| key.strip_suffix("/intent"));
        Ok(begun.filter(|label| **label > *shop).max().map(str::to_owned))
    })?;
    child.kill()?;
    child.wait()?;
    if !scene.labels()?.contains(&unfinished) {
        for hours in [1, 25] {
            scene.repo.s3_server().pass(hours * HOUR);
            scene.agent.walkeep(&["expire"])?.ok()?;
        }
        scene.repo.s3_server().pass(25 * HOUR);
        scene.agent.walkeep(&["expire"])?.ok()?;
        ensure!(!is_there(&unfinished)?, "{:?}", scene.objects()?);
    }
    Ok(())
}

/// The database's host has the key of metadata: it dumps, lists and lets go. Only who has the other one reads a dump.
#[test]
fn an_encrypted_dump_pg15() -> Result<()> {
    let Some(mut scene) = Scene::open(15, StoreKind::File)? else { return Ok(()) };
    let mut recipients = Vec::new();
    for name in ["identity.txt", "metadata.txt"] {
        let path = scene.world.at(name);
        let Ok(made) = Output::of(Command::new("age-keygen").arg("-o").arg(&path)) else {
            skip("the program age-keygen is not on this computer");
            return Ok(());
        };
        let told = made.ok()?;
        scene.world.account().own(&path)?;
        recipients.push(told.stderr.rsplit_once(' ').context("no public key")?.1.trim().to_owned());
    }
    let quoted = |name: &str| format!("{:?}", scene.world.at(name).display().to_string());
    let (identity, metadata) = (quoted("identity.txt"), quoted("metadata.txt"));
    scene.agent.set("encryption", "recipients", &format!("[{:?}]", recipients[0]))?;
    scene.agent.set("encryption", "metadata_identity_file", &metadata)?;
    // What was begun in clear stays so.
    scene.agent.set("", "cluster", "\"secret\"")?;
    scene.agent.init()?;
    let dump = label(&scene.dump(&["--database", SHOP, "--format", "directory", "--jobs", "2"])?)?;
    let custom = label(&scene.dump(&["--database", SHOP])?)?;
    assert_eq!(scene.labels()?, [dump.clone(), custom.clone()]);
    // Nothing of the content is in clear: a row of a table that compresses badly would be found.
    for object in scene.repo.objects()?.iter().filter(|object| object.key.contains("/file-")) {
        let bytes = std::fs::read(scene.repo.folder().join(&object.key))?;
        assert!(bytes[1024..].starts_with(b"age-encryption.org"), "{}", object.key);
    }
    scene.load("closed", &[&custom])?.refused(1, &["is encrypted"]);
    ensure!(!scene.has_database("closed")?);
    scene.agent.set("encryption", "identity_file", &identity)?;
    for (name, label) in [("open 1", &dump), ("open 2", &custom)] {
        scene.load(name, &[label])?.ok()?;
        assert_eq!(scene.content(name)?, scene.content(SHOP)?);
    }
    scene.agent.walkeep(&["--quiet", "verify", "--deep"])?.ok()?;
    Ok(())
}

/// The agent takes dumps by itself, and tells of them.
#[test]
fn by_the_schedule_pg15() -> Result<()> {
    let Some(mut scene) = Scene::open(15, StoreKind::File)? else { return Ok(()) };
    scene.agent.set("schedule", "dump", "\"* * * * * *\"")?;
    scene.agent.set("dump", "databases", &format!("[{SHOP:?}]"))?;
    scene.agent.set("dump", "globals", "false")?;
    scene.agent.start()?;
    let status = scene.agent.wait_status("a dump was taken", |status| {
        let jobs = status["schedule"]["jobs"].as_array();
        jobs.is_some_and(|jobs| {
            jobs.iter().any(|job| job["job"] == "dump" && job["last"]["succeeded"] == true)
        })
    })?;
    scene.agent.stop()?;
    ensure!(!scene.labels()?.is_empty(), "{status:#}");
    scene.load("scheduled", &["latest", "--database", SHOP])?.ok()?;
    assert_eq!(scene.content("scheduled")?, scene.content(SHOP)?);
    Ok(())
}
