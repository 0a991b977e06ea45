//! `walkeep push`: each file goes to its own cluster's branch, or nowhere.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proto::SystemId;
use proto::config::{ClusterName, StorageConfig};
use proto::wal::{SegmentSize, WalFile};
use repository::{Branch, BranchFacts, Repository, Sealing, Store, Unsealing};

const HISTORY: &str = "1\t0/300028\tno recovery target specified\n";

/// A data directory with nothing but a real server's `pg_control` and a history file.
fn data_directory(home: &Path, version: &str) -> (PathBuf, SystemId) {
    let data = home.join(version);
    let control = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/golden");
    let control = fs::read(control.join(version).join("pg_control")).unwrap();
    for folder in ["global", "pg_wal"] {
        fs::create_dir_all(data.join(folder)).unwrap();
    }
    fs::write(data.join("global/pg_control"), &control).unwrap();
    fs::write(data.join("pg_wal/00000002.history"), HISTORY).unwrap();
    (data, SystemId::of_control_file(&control).unwrap())
}

async fn begin(repository: &Repository, cluster: &ClusterName, system_id: SystemId) -> Branch {
    let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
    repository.begin_branch(cluster, system_id, facts).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_file_goes_to_the_cluster_in_whose_data_directory_it_lies() {
    let home = tempfile::tempdir().unwrap();
    let url = format!("file://{}", home.path().join("repository").display());
    let store = Store::create(&url, &StorageConfig::default()).unwrap();
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
    let cluster: ClusterName = "main".parse().unwrap();
    let push = |data: &Path, file: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_walkeep"))
            .args(["push", "--repository", &url, "--cluster", "main"])
            .arg(file)
            .current_dir(data)
            .env_remove("WALKEEP_CONFIG")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let relative = Path::new("pg_wal/00000002.history");
    let file: WalFile = "00000002.history".parse().unwrap();
    let (ours, theirs) = (data_directory(home.path(), "15"), data_directory(home.path(), "18"));
    let our_branch = begin(&repository, &cluster, ours.1).await;

    // There is one branch only, and the file is not of that cluster.
    let (code, message) = push(&theirs.0, relative);
    assert_eq!(code, Some(1), "{message}");
    assert!(our_branch.read_wal_file(file).await.unwrap().is_empty());

    // There are two, and that begun last is the other's.
    let their_branch = begin(&repository, &cluster, theirs.1).await;
    let (code, message) = push(&ours.0, relative);
    assert_eq!(code, Some(0), "{message}");
    assert_eq!(our_branch.read_wal_file(file).await.unwrap().len(), 1);
    assert!(their_branch.read_wal_file(file).await.unwrap().is_empty());

    // By its path, from elsewhere; then without anything that tells.
    let (code, message) = push(home.path(), &theirs.0.join(relative));
    assert_eq!(code, Some(0), "{message}");
    assert_eq!(their_branch.read_wal_file(file).await.unwrap().len(), 1);
    fs::remove_file(ours.0.join("global/pg_control")).unwrap();
    let (code, message) = push(&ours.0, relative);
    assert!(code == Some(1) && message.contains("does not tell whose it is"), "{message}");
}
