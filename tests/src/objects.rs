//! Looking at a repository's objects from outside.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Below the repository's root.
    pub key: String,
    /// The file that holds it.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
}

/// All objects below a folder, sorted.
pub fn list(root: &Path) -> Result<Vec<Object>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path.strip_prefix(root)?.to_string_lossy().into_owned();
            found.push(Object { key, size: entry.metadata()?.len(), path });
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// Every object with a digest of its stored bytes: equal before and after means that nothing was touched.
pub fn fingerprint(objects: &[Object]) -> Result<Vec<(String, String)>> {
    let digest = |object: &Object| {
        Ok((object.key.clone(), blake3::hash(&fs::read(&object.path)?).to_hex().to_string()))
    };
    objects.iter().map(digest).collect()
}
