//! Base backups of a real server: what is in the repository is what was on the disk.
//!
//! Needs PostgreSQL 15: `cargo xtask servers` fetches it. Where it is missing the tests are skipped, and counted as that.

#[allow(dead_code, reason = "shared with other tests, which use other parts of it")]
mod server;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};

use futures::StreamExt;
use repository::Branch;
use repository::manifest::{EXTERNAL_PREFIX, Entry, Manifest};
use repository::pack::PackReader;
use server::{Server, run, tool, unprivileged, until};

/// The content of every file of a backup, out of its packs.
async fn contents(branch: &Branch, manifest: &Manifest) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut packs = Vec::new();
    for pack in &manifest.packs {
        let mut raw = vec![0; pack.raw_length() as usize];
        let everything = 0..pack.raw_length();
        let wanted = std::slice::from_ref(&everything);
        let mut pieces = PackReader::read(branch, pack, wanted, 2).await.expect("the pack opens");
        while let Some(piece) = pieces.next().await {
            let (offset, bytes) = piece.expect("the frame is sound");
            raw[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        packs.push(raw);
    }
    let mut files = BTreeMap::new();
    for entry in &manifest.entries {
        let Entry::File { path, size, extents, .. } = entry else { continue };
        let mut content = vec![0; *size as usize];
        for extent in extents {
            let from = &packs[extent.pack as usize][extent.pack_offset as usize..][..extent.length as usize];
            content[extent.file_offset as usize..][..from.len()].copy_from_slice(from);
        }
        files.insert(path.as_bytes().to_vec(), content);
    }
    files
}

async fn only_manifest(branch: &Branch) -> Manifest {
    let backups = branch.backups().await.expect("listing");
    assert_eq!(backups.len(), 1);
    branch.read_manifest(&backups[0]).await.expect("the manifest is sound")
}

/// Flips a byte in the middle of a page on disk, with the server stopped meanwhile. The file's path.
fn damage(server: &Server, table: &str, block: u64) -> String {
    let path = server.sql(&format!("SELECT pg_relation_filepath('{table}')"));
    server.sql("CHECKPOINT");
    server.stop();
    let mut file =
        std::fs::OpenOptions::new().read(true).write(true).open(server.data().join(&path)).expect("the file");
    let at = SeekFrom::Start(block * 8192 + 5000);
    let mut byte = [0];
    file.seek(at).and_then(|_| file.read_exact(&mut byte)).expect("read");
    file.seek(at).and_then(|_| file.write_all(&[byte[0] ^ 0x55])).expect("written");
    server.boot();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backup_holds_what_is_on_the_disk() {
    let Some(server) = Server::start(&["-k"]) else { return };
    let elsewhere = server.directory("elsewhere");
    server.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", elsewhere.display()));
    server.pgbench(3);
    server.sql("CREATE TABLE moved TABLESPACE fast AS SELECT generate_series(1, 20000) AS n");
    server.sql("CREATE UNLOGGED TABLE forgotten AS SELECT generate_series(1, 1000) AS n");
    // As on Debian: configuration outside of the data directory.
    let etc = server.directory("etc");
    let hba = std::fs::read(server.data().join("pg_hba.conf")).expect("pg_hba.conf");
    std::fs::write(etc.join("pg_hba.conf"), &hba).expect("written");
    server.sql(&format!("ALTER SYSTEM SET hba_file = '{}'", etc.join("pg_hba.conf").display()));
    server.stop();
    server.boot();
    server.sql("VACUUM FREEZE");
    server.sql("CHECKPOINT");
    server.init();

    let done = server.backup(&["--label-note", "the first one"]);
    assert_eq!((&done["kind"], &done["note"]), (&"full".into(), &"the first one".into()));
    assert_eq!(done["damaged_pages"], 0);

    let branch = server.branch().await;
    let manifest = only_manifest(&branch).await;
    let files = contents(&branch, &manifest).await;
    let same = |path: &str| {
        let content = files.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is in the backup"));
        let on_disk = std::fs::read(server.data().join(path)).expect("on disk");
        assert!(*content == on_disk, "{path} differs: {} and {} bytes", content.len(), on_disk.len());
    };
    let mut compared = 0;
    for table in ["pgbench_accounts", "pgbench_accounts_pkey", "pgbench_tellers", "moved", "pg_class"] {
        same(&server.sql(&format!("SELECT pg_relation_filepath('{table}')")));
        compared += 1;
    }
    assert_eq!(compared, 5);
    same("PG_VERSION");
    let unlogged = server.sql("SELECT pg_relation_filepath('forgotten')");
    assert!(
        !files.contains_key(unlogged.as_bytes()) && files.contains_key(format!("{unlogged}_init").as_bytes())
    );
    assert_eq!(manifest.head.tablespaces.len(), 1);
    let directories: Vec<String> = manifest
        .entries
        .iter()
        .filter(|entry| matches!(entry, Entry::Directory { .. }))
        .map(|entry| entry.path().to_string())
        .collect();
    assert!(
        ["pg_wal", "pg_wal/archive_status", "pg_replslot"]
            .iter()
            .all(|path| directories.contains(&path.to_string()))
    );

    let external = &manifest.head.external_config;
    assert_eq!(external.iter().map(|file| file.role.as_str()).collect::<Vec<_>>(), ["hba_file"]);
    assert_eq!(external[0].original_path.as_path(), etc.join("pg_hba.conf"));
    assert_eq!(files.get(external[0].path.as_bytes()), Some(&hba));

    // PostgreSQL's own judgement: the files out of our packs under the server's own manifest.
    let restored = server.directory("restored");
    for (path, content) in files.iter().filter(|(path, _)| !path.starts_with(EXTERNAL_PREFIX.as_bytes())) {
        let to = restored.join(std::str::from_utf8(path).expect("a plain name"));
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("made");
        std::fs::write(to, content).expect("written");
    }
    let own = branch.read_server_manifest(&manifest.head).await.expect("sound").expect("kept");
    std::fs::write(restored.join("backup_manifest"), own).expect("written");
    run(Command::new(tool("pg_verifybackup")).arg("-n").arg(&restored));

    // All WAL from start to stop is there.
    let listed = server.list();
    assert_eq!(listed["backups"][0]["label"], done["label"]);
    assert_eq!(listed["gaps"], serde_json::json!([]));
    assert_eq!(listed["windows"][0]["from_lsn"], done["stop_lsn"], "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_reported_and_recorded_and_the_backup_is_kept() {
    let Some(server) = Server::start(&["-k"]) else { return };
    server.pgbench(1);
    let path = damage(&server, "pgbench_accounts", 7);
    server.init();
    let expected = serde_json::json!([{"path": path, "blocks": [7]}]);
    // Once we are the judge, and once the server: this role may not read files.
    let superuser = server.backup(&[]);
    assert_eq!((&superuser["damaged_pages"], &superuser["damaged_files"]), (&1.into(), &expected));
    server.sql("CREATE ROLE humble LOGIN REPLICATION");
    let humble = server.backup_as("humble", &[]);
    assert_eq!((&humble["damaged_pages"], &humble["damaged_files"]), (&1.into(), &expected));
    let listed = server.list();
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(2));
    assert_eq!(listed["backups"][0]["damaged_files"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_is_not_listed_and_blocks_nobody() {
    let Some(server) = Server::start(&[]) else { return };
    server.pgbench(5);
    server.init();
    let branch = server.branch().await;
    for step in ["an intent", "a running server backup", "WAL"] {
        let mut child = server
            .walkeep(&["backup"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("walkeep starts");
        match step {
            "an intent" => {
                let before = branch.unfinished_backups().await.expect("listing").len();
                until(step, async || branch.unfinished_backups().await.expect("listing").len() > before)
                    .await;
            }
            "WAL" => {
                until(step, async || !branch.wal_listing().await.expect("listing").timelines.is_empty()).await
            }
            _ => {
                until(step, async || server.sql("SELECT count(*) FROM pg_stat_progress_basebackup") == "1")
                    .await;
            }
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        if step != "WAL" {
            assert_eq!(server.list()["backups"], serde_json::json!([]), "killed at {step}");
        }
    }
    let done = server.backup(&[]);
    let labels: Vec<_> =
        server.list()["backups"].as_array().expect("backups").iter().map(|b| b["label"].clone()).collect();
    assert!(labels.contains(&done["label"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_backup_with_a_sentence() {
    let Some(server) = Server::start(&[]) else { return };
    server.init();
    // One of its first questions waits for this lock, and meets the signal there.
    let mut holder = unprivileged(tool("psql"))
        .args([
            "-X",
            "-U",
            "postgres",
            "-h",
            server.path(),
            "-c",
            "BEGIN; LOCK pg_settings; SELECT pg_sleep(60)",
        ])
        .stdout(Stdio::null())
        .spawn()
        .expect("psql starts");
    let locks =
        async |which: &str| server.sql(&format!("SELECT count(*) FROM pg_locks WHERE {which}")) != "0";
    until("the lock", async || locks("granted AND mode = 'AccessExclusiveLock'").await).await;
    let child = server.walkeep(&["backup"]).stderr(Stdio::piped()).spawn().expect("walkeep starts");
    until("walkeep to wait", async || locks("NOT granted").await).await;
    run(Command::new("kill").arg("-TERM").arg(child.id().to_string()));
    let output = child.wait_with_output().expect("walkeep ends");
    holder.kill().and_then(|()| holder.wait()).expect("gone");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("stopped by SIGTERM"), "{message}");
    assert_eq!(server.list()["backups"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_backups_at_once_are_refused() {
    let Some(server) = Server::start(&[]) else { return };
    server.init();
    // The lock of a backup that runs, held by psql.
    let mut holder = unprivileged(tool("psql"))
        .args(["-X", "-U", "postgres", "-h", server.path(), "-c"])
        .arg(format!("SELECT pg_advisory_lock({})", 0x0077_616C_6B65_6570_i64))
        .args(["-c", "SELECT pg_sleep(60)"])
        .stdout(Stdio::null())
        .spawn()
        .expect("psql starts");
    until("the lock", async || {
        server.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "1"
    })
    .await;
    let output = server.walkeep(&["backup"]).output().expect("walkeep starts");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    holder.kill().and_then(|()| holder.wait()).expect("gone");
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("another backup of this cluster is running"), "{message}");
}

#[test]
fn what_cannot_work_is_told_in_one_sentence() {
    let Some(server) = Server::start(&[]) else { return };
    server.sql("CREATE ROLE humble LOGIN");
    let fails = |command: &mut Command, expected: &[&str]| {
        let output = command.output().expect("walkeep starts");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(expected.iter().all(|words| message.contains(words)), "{message}");
    };
    fails(&mut server.walkeep_as("humble", &["init"]), &["may not replicate", "ALTER ROLE"]);
    fails(
        server.walkeep(&["init"]).args(["--postgres", "host=/nonexistent user=postgres"]),
        &["/nonexistent", "hint: "],
    );
    fails(server.walkeep(&["init"]).args(["--repository", "ftp://host/x"]), &["ftp://", "file:///path"]);
    fails(
        server.walkeep(&["init"]).args(["--repository", "file:///proc/walkeep"]),
        &["/proc/walkeep", "hint: "],
    );
    fails(&mut server.walkeep(&["backup"]), &["hint: "]);
    server.init();
    server.sql("ALTER SYSTEM SET wal_level = minimal");
    server.sql("ALTER SYSTEM SET max_wal_senders = 0");
    server.sql("SELECT pg_drop_replication_slot('walkeep')");
    server.stop();
    server.boot();
    fails(&mut server.walkeep(&["init"]), &["wal_level", "wal_level = replica"]);
}

/// The places of all blocks that a backup has for itself.
fn own_packs(manifest: &Manifest) -> usize {
    manifest.packs.iter().filter(|pack| *pack.name().label() == manifest.head.label).count()
}

async fn newest_manifest(branch: &Branch) -> Manifest {
    let backups = branch.backups().await.expect("listing");
    branch.read_manifest(backups.last().expect("a backup")).await.expect("the manifest is sound")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_backup_stores_what_has_changed_and_nothing_else() {
    let Some(server) = Server::start(&["-k"]) else { return };
    server.pgbench(5);
    server.sql("VACUUM FREEZE");
    server.init();
    let full = server.backup(&[]);
    assert_eq!(full["kind"], "full", "there is nothing to compare with");
    let branch = server.branch().await;

    // Nothing but what every backup brings has changed.
    let idle = server.backup(&["--incremental"]);
    let stored = |shown: &serde_json::Value| shown["stored_bytes"].as_u64().expect("a number");
    assert_eq!(idle["kind"], "incremental");
    assert!(stored(&idle) * 50 < stored(&full), "{idle} against {full}");

    // One row in each hundredth page: a new version of it needs a page too, and so does the index.
    server.sql("UPDATE pgbench_accounts SET abalance = 1 WHERE (ctid::text::point)[0]::int % 100 = 3 AND (ctid::text::point)[1] = 1");
    server.sql("CHECKPOINT");
    let changed = server.backup(&[]);
    assert_eq!(changed["kind"], "incremental", "there is a parent now");
    assert!(stored(&changed) * 20 < stored(&full), "{changed} against {full}");

    let manifest = newest_manifest(&branch).await;
    assert_eq!(manifest.head.parent.as_ref().map(ToString::to_string).as_deref(), idle["label"].as_str());
    assert!(own_packs(&manifest) == 1 && manifest.packs.len() > 1, "it needs packs of its forebears");
    let files = contents(&branch, &manifest).await;
    for table in ["pgbench_accounts", "pgbench_accounts_pkey", "pgbench_tellers", "pg_class"] {
        let path = server.sql(&format!("SELECT pg_relation_filepath('{table}')"));
        let on_disk = std::fs::read(server.data().join(&path)).expect("on disk");
        assert!(files.get(path.as_bytes()) == Some(&on_disk), "{path} differs");
    }

    let anew = server.backup(&["--full"]);
    assert_eq!(anew["kind"], "full");
    let manifest = newest_manifest(&branch).await;
    assert_eq!(own_packs(&manifest), manifest.packs.len(), "a full backup shares nothing");
}

/// The objects below a folder of the branch.
fn objects(server: &Server, folder: &str) -> Vec<std::path::PathBuf> {
    let find = format!("find {}/repository -type f -path '*/{folder}/*'", server.path());
    let output = run(Command::new("sh").args(["-c", &find]));
    let mut found: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(Into::into).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_of_the_parent_is_taken_anew() {
    let Some(server) = Server::start(&["-k"]) else { return };
    server.pgbench(1);
    server.sql("CHECKPOINT");
    server.init();
    let full = server.backup(&[]);
    let path = server.sql("SELECT pg_relation_filepath('pgbench_accounts')");
    let on_disk = std::fs::read(server.data().join(&path)).expect("on disk");
    let branch = server.branch().await;

    // Digests that are gone, and digests that are damaged, cost space and nothing else.
    let digests = objects(&server, "block-digests");
    assert!(!digests.is_empty());
    digests.iter().for_each(|digests| std::fs::remove_file(digests).expect("removed"));
    let without = server.backup(&["--incremental"]);
    assert_eq!(without["kind"], "incremental");
    assert!(
        without["stored_bytes"].as_u64() >= full["stored_bytes"].as_u64().map(|all| all / 2),
        "{without}"
    );
    for digests in objects(&server, "block-digests") {
        let mut bytes = std::fs::read(&digests).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&digests, bytes).expect("written");
    }
    let output = run(&mut server.walkeep(&["backup", "--incremental"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("taken anew"), "{said}");
    let manifest = newest_manifest(&branch).await;
    assert!(contents(&branch, &manifest).await.get(path.as_bytes()) == Some(&on_disk));

    // A manifest that cannot be read is passed over; a pack that is gone makes all that need it no parents.
    let newest = manifest.head.label.to_string();
    for manifest in objects(&server, &format!("backup/{newest}")) {
        if manifest.to_string_lossy().contains("/manifest-") {
            std::fs::write(manifest, "nothing").expect("written");
        }
    }
    let next = server.backup(&["--incremental"]);
    assert_eq!(next["kind"], "incremental", "an older one will do");
    objects(&server, "pack").iter().for_each(|pack| std::fs::remove_file(pack).expect("removed"));
    let output = run(&mut server.walkeep(&["backup", "--incremental"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("taken in full") && said.contains("does not exist"), "{said}");
    let manifest = newest_manifest(&branch).await;
    assert_eq!(own_packs(&manifest), manifest.packs.len());
    assert!(contents(&branch, &manifest).await.get(path.as_bytes()) == Some(&on_disk));
}
