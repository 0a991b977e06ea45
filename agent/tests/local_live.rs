//! A backup that reads the server's files itself, against one that the server sends: the same files, to the byte.
//!
//! Needs PostgreSQL 15: `cargo xtask servers` fetches it. Where it is missing the tests are skipped, and counted as that.

#[allow(dead_code, reason = "shared with other tests, which use other parts of it")]
mod server;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use repository::Branch;
use repository::manifest::{Entry, Manifest};
use server::{Server, run, tool, unprivileged, until};

async fn newest(branch: &Branch) -> Manifest {
    let backups = branch.backups().await.expect("listing");
    branch.read_manifest(backups.last().expect("a backup")).await.expect("the manifest is sound")
}

/// What a manifest says of each file and directory, but where its content is.
fn shown(manifest: &Manifest) -> BTreeMap<String, String> {
    let entries = manifest.entries.iter().map(|entry| match entry {
        Entry::Directory { path, mode } => (path.to_string(), format!("directory {mode:o}")),
        Entry::File { path, size, mode, mtime, crc32c, .. } => {
            (path.to_string(), format!("file {mode:o} {size} {mtime} {crc32c:?}"))
        }
    });
    entries.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_read_as_the_server_sends() {
    let Some(server) = Server::start(&["-k"]) else { return };
    let elsewhere = server.directory("elsewhere");
    server.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", elsewhere.display()));
    server.pgbench(2);
    server.sql("CREATE TABLE moved TABLESPACE fast AS SELECT generate_series(1, 20000) AS n");
    server.sql("CREATE UNLOGGED TABLE forgotten AS SELECT generate_series(1, 1000) AS n");
    server.sql("CREATE UNLOGGED TABLE forgotten_there (n int PRIMARY KEY) TABLESPACE fast");
    server.sql("INSERT INTO forgotten_there SELECT generate_series(1, 1000)");
    server.sql("CREATE DATABASE other");
    // A session's own relations, in both places.
    let mut session = unprivileged(tool("psql"))
        .args(["-X", "-U", "postgres", "-h", server.path()])
        .args(["-c", "CREATE TEMP TABLE own AS SELECT generate_series(1, 1000) AS n"])
        .args(["-c", "CREATE TEMP TABLE own_there (n int PRIMARY KEY) TABLESPACE fast"])
        .args(["-c", "SELECT pg_sleep(600)"])
        .stdout(Stdio::null())
        .spawn()
        .expect("psql starts");
    until("the session sleeps", async || {
        server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()")
            == "1"
    })
    .await;
    // What a crashed server leaves, what people put there, and what is neither.
    let data = server.data();
    std::fs::create_dir_all(data.join("base/pgsql_tmp")).expect("made");
    std::fs::write(data.join("base/pgsql_tmp/pgsql_tmp1.0"), "sorted").expect("written");
    std::fs::write(data.join("pg_replslot/left"), "x").expect("written");
    std::fs::write(data.join("base/5/notes"), "a foreign file").expect("written");
    std::fs::write(data.join("backup_label.old"), "old").expect("written");
    std::fs::write(data.join("log-of-mine"), vec![7; 700_000]).expect("written");
    std::fs::set_permissions(data.join("log-of-mine"), PermissionsExt::from_mode(0o755)).expect("set");
    symlink("/etc/hostname", data.join("a-link")).expect("made");
    server.sql("VACUUM FREEZE");
    server.sql("CHECKPOINT");
    server.init();
    let branch = server.branch().await;

    server.backup(&["--full"]);
    let sent = newest(&branch).await;
    server.backup(&["--full", "--source", "local"]);
    let read = newest(&branch).await;
    session.kill().and_then(|()| session.wait()).expect("gone");

    let (mut expected, mut found) = (shown(&sent), shown(&read));
    // Each backup has its own of these: where it starts, and what the checkpoint has written.
    for path in [
        "backup_label",
        "global/pg_control",
        "tablespace_map",
        "pg_xact/0000",
        "pg_logical/replorigin_checkpoint",
    ] {
        assert_eq!(expected.remove(path).is_some(), found.remove(path).is_some(), "{path}");
    }
    assert!(expected.len() > 900, "{}", expected.len());
    let differ: Vec<_> = expected.iter().filter(|(path, shown)| found.get(*path) != Some(shown)).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    let more: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "{more:#?}");
    assert_eq!(read.head.tablespaces, sent.head.tablespaces);
    assert!(found.contains_key("log-of-mine") && !found.contains_key("a-link"));
    assert!(read.head.start_lsn > sent.head.start_lsn && read.head.damaged_page_count == 0);
    let own = branch.read_server_manifest(&read.head).await.expect("sound").expect("kept");
    assert!(own.windows(18).any(|text| text == b"\"log-of-mine\", \"Si"), "the server's own form");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_recorded_without_asking_the_server() {
    let Some(server) = Server::start(&["-k"]) else { return };
    server.pgbench(1);
    let path = server.sql("SELECT pg_relation_filepath('pgbench_accounts')");
    server.sql("CHECKPOINT");
    server.stop();
    let file = server.data().join(&path);
    let mut content = std::fs::read(&file).expect("read");
    content[7 * 8192 + 5000] ^= 0x55;
    std::fs::write(&file, content).expect("written");
    server.boot();
    server.init();
    // This role may not read files through the server.
    server.sql("CREATE ROLE humble LOGIN REPLICATION IN ROLE pg_monitor");
    let begin =
        "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO \"humble\"";
    let refused =
        server.walkeep_as("humble", &["backup", "--source", "local"]).output().expect("walkeep starts");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && message.contains(begin), "{message}");
    server.sql(begin);
    let done = server.backup_as("humble", &["--source", "local"]);
    assert_eq!(done["damaged_files"], serde_json::json!([{"path": path, "blocks": [7]}]), "{done}");
}

/// The same path on another machine, or in a container, is another directory.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_server_s_directory_is_not_read() {
    let Some(server) = Server::start(&[]) else { return };
    server.init();
    // The server runs on in its directory, and under its old name there is a copy.
    let (data, away) = (server.data(), server.data().with_file_name("away"));
    std::fs::rename(&data, &away).expect("moved");
    run(Command::new("cp").arg("-a").arg(&away).arg(&data));
    let refused = server.walkeep(&["backup", "--source", "local"]).output().expect("walkeep starts");
    let by_protocol = server.walkeep(&["-v", "backup", "--source", "auto"]).output().expect("walkeep starts");
    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(&away, &data).expect("moved back");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("another directory") && message.contains("hint: "), "{message}");
    let message = String::from_utf8_lossy(&by_protocol.stderr).into_owned();
    assert!(by_protocol.status.success() && message.contains("local=false"), "{message}");
    assert_eq!(server.list()["backups"].as_array().map(Vec::len), Some(1));
}
