//! Somebody who may read everything in the bucket, and has no secret key.

use std::fs;

use anyhow::{Result, ensure};
use harness::objects;

use crate::scene::{SECRET, Scene};

/// Names of tables, too, tell what a database is about.
const TABLES: [&str; 2] = ["recipes", "pgbench_accounts"];

#[test]
fn nothing_of_the_database_can_be_read() -> Result<()> {
    let Some(scene) = Scene::or_skip()? else { return Ok(()) };
    // It was in what the server gave out: else this test would find nothing in anything.
    scene.server.sql("CHECKPOINT")?;
    let file = scene.server.data().join(scene.server.sql("SELECT pg_relation_filepath('recipes')")?);
    ensure!(holds(&fs::read(&file)?, SECRET), "{} does not hold it", file.display());
    let all = objects::list(scene.repo.folder())?;
    for object in &all {
        let content = fs::read(&object.path)?;
        for word in TABLES.into_iter().chain([SECRET]) {
            ensure!(!holds(&content, word) && !object.key.contains(word), "{word} is in {}", object.key);
        }
        // What is not encrypted is only what the threat model lists.
        let header: serde_json::Value = match serde_json::from_slice(content.get(8..1024).unwrap_or_default())
        {
            Ok(header) => header,
            Err(_) => {
                assert_eq!(object.key, "walkeep.json");
                continue;
            }
        };
        let kind = header["kind"].as_str().unwrap_or_default();
        let open = ["branch", "epoch", "history", "statement"].contains(&kind);
        assert_eq!(header["encryption"], if open { "none" } else { "age" }, "{}", object.key);
        let known = [
            "walkeep",
            "kind",
            "name",
            "cluster",
            "system_identifier",
            "timeline",
            "from_lsn",
            "to_lsn",
            "server_time_us",
            "ahead",
            "writer",
            "compression",
            "encryption",
            "recipients",
        ];
        for key in header.as_object().into_iter().flat_map(|header| header.keys()) {
            ensure!(known.contains(&key.as_str()), "{key} is in the clear, and not in the threat model");
        }
    }
    ensure!(all.iter().any(|object| object.key.contains("/pack/")));
    Ok(())
}

fn holds(content: &[u8], word: &str) -> bool {
    content.windows(word.len()).any(|window| window == word.as_bytes())
}
