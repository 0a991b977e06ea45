//! Somebody who may write to the bucket and delete in it, knows every public key, and has no secret one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::keys::{HOST_PUBLIC, RECIPIENT};
use harness::postgres::pg_verifybackup;
use harness::{Agent, Postgres, objects, runtime, wait_for};
use proto::Digest;
use proto::config::{CompressionConfig, EncryptionConfig, StorageConfig};
use proto::wal::SegmentName;
use repository::{Branch, Repository, Sealing, Signer, Store, Unsealing};

use crate::scene::{Scene, copy, found, told};

/// Every object below a folder, in the order of the keys.
fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(objects::list(folder)?.into_iter().map(|object| object.path).collect())
}

fn swap(one: &Path, other: &Path) -> Result<()> {
    let (first, second) = (fs::read(one)?, fs::read(other)?);
    fs::write(one, second)?;
    fs::write(other, first)?;
    Ok(())
}

/// A writer of our own kind, with everything but the right key.
fn impostor(copy: &Path, signer: Option<Signer>) -> Result<Branch> {
    let store = Store::open(&format!("file://{}", copy.display()), &StorageConfig::default())?;
    let recipients = vec![RECIPIENT.to_owned()];
    let encryption = EncryptionConfig { recipients, ..EncryptionConfig::default() };
    let mut sealing = Sealing::from_config(&CompressionConfig::default(), &encryption)?;
    if let Some(signer) = signer {
        sealing = sealing.signed_by(signer);
    }
    runtime().block_on(async {
        let repository = Repository::open(store, sealing, Unsealing::none()).await?;
        Ok(repository.only_branch(&"main".parse()?).await?)
    })
}

#[test]
fn what_is_replaced_or_taken_away_is_told() -> Result<()> {
    let Some(mut scene) = Scene::or_skip()? else { return Ok(()) };
    let untouched = scene.copy("untouched")?;
    let findings = scene.verify(&untouched)?;
    ensure!(findings["ok"] == true, "{findings:#}");
    ensure!(found(&findings, "error", "").is_empty(), "{findings:#}");
    // The agent has ended, and its promise is over.
    wait_for("the promise is over", Duration::from_secs(60), || {
        let findings = scene.verify(&untouched)?;
        Ok((!found(&findings, "warning", "promised another").is_empty()).then_some(()))
    })?;

    let spoilt = scene.copy("without-backup")?;
    fs::remove_dir_all(scene.branch(&spoilt)?.join("backup").join(&scene.second))?;
    let findings = scene.verify(&spoilt)?;
    told(&findings, &format!("backup {} was stated, and is gone", scene.second))?;
    // A restore goes on with what there is, and tells.
    let target = scene.world.at("from-the-first");
    let restored = scene.vault.restore(&target, &[])?.ok()?;
    ensure!(restored.stdout.contains(&format!("backup {} was stated", scene.second)), "{}", restored.stdout);
    pg_verifybackup(&scene.installation, &target)?;
    let server = Postgres::adopt(&scene.installation, &scene.world, "from-the-first.server", &target)?;
    let server = server.with_setting("archive_mode", "off");
    server.start()?;
    server.wait_promoted()?;
    assert_eq!(server.digest_all()?, scene.end.digest);
    drop(server);

    // The operator who did it himself says so.
    scene.vault.walkeep(&["verify", "--accept-losses"])?.ok()?;
    let findings = scene.verify(&spoilt)?;
    ensure!(findings["ok"] == true, "{findings:#}");

    let spoilt = scene.copy("without-wal")?;
    let wal = scene.branch(&spoilt)?.join("wal");
    let newest = below(&wal)?.into_iter().rfind(|path| !path.to_string_lossy().contains("/tail/"));
    fs::remove_file(newest.context("there is no segment")?)?;
    for tail in below(&wal)?.iter().filter(|path| path.to_string_lossy().contains("/tail/")) {
        fs::remove_file(tail)?;
    }
    told(&scene.verify(&spoilt)?, "WAL of timeline 1 from")?;

    let spoilt = scene.copy("without-statements")?;
    fs::remove_dir_all(scene.branch(&spoilt)?.join("statement"))?;
    told(&scene.verify(&spoilt)?, "there is no statement")?;
    // Nor does it help that the host states anew.
    scene.host.walkeep(&["init"])?.ok()?;
    told(&scene.verify(&spoilt)?, "those before have been taken away")?;
    // Nor does it keep anybody from restoring that they cannot be read at all.
    let statements = scene.branch(&spoilt)?.join("statement");
    fs::remove_dir_all(&statements)?;
    fs::write(&statements, "no folder")?;
    let restored =
        scene.vault.restore(&scene.world.at("without-statements-restored"), &["--dry-run"])?.ok()?;
    ensure!(restored.stdout.contains("nobody could look"), "{}", restored.stdout);

    let spoilt = scene.copy("with-swapped-packs")?;
    let packs = below(&scene.branch(&spoilt)?.join("pack").join(&scene.first))?;
    let others = below(&scene.branch(&spoilt)?.join("pack").join(&scene.second))?;
    swap(&packs[0], &others[0])?;
    told(&scene.verify(&spoilt)?, "cannot be restored because of it")?;
    let refused = scene.vault.restore(&scene.world.at("swapped"), &["--backup", &scene.second])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("damaged"), "{refused:?}");

    let spoilt = scene.copy("with-swapped-manifests")?;
    let backups = scene.branch(&spoilt)?.join("backup");
    let manifest = |label: &str| backups.join(label).join("manifest-00000001");
    swap(&manifest(&scene.first), &manifest(&scene.second))?;
    told(&scene.verify(&spoilt)?, "its name is backup/")?;

    let spoilt = scene.copy("with-swapped-segments")?;
    let segments = below(&scene.branch(&spoilt)?.join("wal/00000001"))?;
    let segments: Vec<_> =
        segments.iter().filter(|path| !path.to_string_lossy().contains("/tail/")).collect();
    swap(segments[0], segments[1])?;
    told(&scene.verify(&spoilt)?, "its name is wal/")
}

#[test]
fn what_is_forged_is_refused() -> Result<()> {
    let Some(mut scene) = Scene::or_skip()? else { return Ok(()) };
    let size = 1 << 20;

    // A segment after the last one, encrypted as it must be, signed by another key.
    let forged = scene.copy("with-a-segment")?;
    let branch = impostor(&forged, Some(Signer::generate()?))?;
    let listing = runtime().block_on(branch.wal_listing())?;
    let wal = listing.timelines.values().next().context("there is no WAL")?;
    let last = wal.segments.keys().next_back().context("there is no segment")?;
    let number = last.number(branch.segment_size())?;
    let name = SegmentName::new(last.timeline, number.next(), branch.segment_size());
    let content = Bytes::from(vec![0; size]);
    runtime().block_on(branch.put_segment(name, Digest::of(&content), None, content))?;
    told(&scene.verify(&forged)?, "it is signed, but by none")?;

    // Without any signature our own program would not write it: the object is taken from where nothing is signed.
    let plain = scene.world.folder("elsewhere")?;
    let mut elsewhere = Agent::named(&scene.world, "elsewhere", &scene.server.conninfo(), &scene.repo)?;
    elsewhere.set("", "repository", &format!("\"file://{}\"", plain.display()))?;
    elsewhere.set("stream", "slot", "\"elsewhere\"")?;
    elsewhere.init()?;
    // Or the backup would wait for an archiver that nobody answers.
    scene.server.archive_with(&elsewhere.archive_command()?)?;
    let label = elsewhere.backup_full()?;

    // A whole backup of the same cluster, which anybody could take who reaches the server.
    let forged = scene.copy("with-a-backup")?;
    let (from, to) = (scene.branch(&plain)?, scene.branch(&forged)?);
    for folder in ["backup", "pack", "block-digests"] {
        copy(&scene.world, &from.join(folder).join(&label), &to.join(folder).join(&label))?;
    }
    told(&scene.verify(&forged)?, "it is not signed")?;
    let listed = scene.vault.list()?;
    let labels = listed["backups"].as_array().context("no list")?;
    ensure!(labels.iter().all(|backup| backup["label"] != label.as_str()), "{listed:#}");
    let target = scene.world.at("not-from-the-forged");
    let restored = scene.vault.restore(&target, &["--dry-run"])?.ok()?;
    ensure!(restored.stdout.contains(&scene.second), "{}", restored.stdout);
    let refused = scene.vault.restore(&target, &["--backup", &label])?;
    ensure!(refused.code == Some(1), "{refused:?}");
    // What is not signed is never stated.
    scene.host.walkeep(&["expire"])?.ok()?;
    told(&scene.verify(&forged)?, "it is not signed")?;

    // A branch that says of itself that nothing in it is encrypted: the host does not fall for it.
    let forged = scene.copy("with-a-branch")?;
    fs::copy(from.join("branch"), scene.branch(&forged)?.join("branch"))?;
    scene.look_at(&forged)?;
    let before = objects::list(&forged)?.len();
    for arguments in [&["backup", "--full"][..], &["init"], &["expire"], &["run"]] {
        let refused = scene.host.walkeep(arguments)?;
        ensure!(refused.code == Some(1), "{refused:?}");
        ensure!(refused.stderr.contains("it is not signed"), "{refused:?}");
    }
    assert_eq!(objects::list(&forged)?.len(), before);

    // A mark that keeps a backup, and with it whatever its author likes.
    let forged = scene.copy("with-a-mark")?;
    let mut author = Agent::named(&scene.world, "author", &scene.server.conninfo(), &scene.repo)?;
    author.set("", "repository", &format!("\"file://{}\"", forged.display()))?;
    author.set("encryption", "recipients", &format!("[{RECIPIENT:?}]"))?;
    let key = "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
    let pem = scene.world.write("author.pem", pem)?;
    fs::set_permissions(&pem, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    author.set("signing", "key_file", &format!("{:?}", pem.display().to_string()))?;
    author.set("signing", "trusted_keys", &format!("[{HOST_PUBLIC:?}]"))?;
    // It is written before the author finds out that he cannot read what is condemned.
    author.walkeep(&["keep", &scene.first])?;
    ensure!(objects::list(&forged)?.iter().any(|object| object.key.contains("/keep-")), "there is no mark");
    scene.look_at(&forged)?;
    let refused = scene.vault.walkeep(&["expire"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("it is signed, but by none"), "{refused:?}");
    // The host, for whom it was not encrypted, does not guess either.
    ensure!(scene.host.walkeep(&["expire"])?.code == Some(1));
    Ok(())
}

#[test]
fn a_repository_that_is_put_back_is_noticed_by_the_running_agent() -> Result<()> {
    let Some(mut scene) = Scene::or_skip()? else { return Ok(()) };
    // At rest only the time tells.
    let early = scene.early.clone();
    wait_for("the promise is over", Duration::from_secs(60), || {
        let findings = scene.verify(&early)?;
        Ok((!found(&findings, "warning", "promised another").is_empty()).then_some(()))
    })?;

    let live = scene.copy("live")?;
    scene.look_at(&live)?;
    scene.host.start()?;
    let statements = scene.branch(&live)?.join("statement");
    let count = below(&statements)?.len();
    wait_for("the agent states", Duration::from_secs(60), || {
        Ok((below(&statements)?.len() > count).then_some(()))
    })?;
    wait_for("the agent notices", Duration::from_secs(60), || {
        for statement in below(&statements)?.iter().skip(1) {
            fs::remove_file(statement)?;
        }
        Ok(scene.host.log_text().contains("has gone: somebody has put the repository back").then_some(()))
    })?;
    scene.host.stop()?;
    Ok(())
}
