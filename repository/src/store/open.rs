//! From a URL and `[storage]` to a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use object_store::TagSet;
use object_store::local::LocalFileSystem;
use proto::config::StorageConfig;

use super::bucket::{self, Provider};
use super::grow::Directory;
use super::local::Root;
use super::{Inner, Store, attributes, failure};
use crate::{Error, Key, Result};

#[derive(Debug, PartialEq, Eq)]
enum Location {
    Directory(PathBuf),
    Bucket { provider: Provider, bucket: String, prefix: Key },
}

impl Location {
    fn parse(url: &str) -> Result<Self> {
        const FORMS: &str = "a repository is file:///path, s3://bucket/prefix, gs://bucket/prefix or \
                             az://container/prefix";
        let Some((scheme, rest)) = url.split_once("://") else {
            return match url.starts_with('/') {
                true => Self::directory(url),
                false => Err(Error::invalid(format_args!("repository {url:?}"), FORMS)),
            };
        };
        let provider = match scheme {
            "file" => {
                return Self::directory(rest);
            }
            "s3" => Provider::S3,
            "gs" => Provider::Gcs,
            "az" => Provider::Azure,
            _ => {
                let why = format!("the scheme {scheme}:// is unknown; {FORMS}");
                return Err(Error::invalid("repository", why));
            }
        };
        if rest.contains('@') {
            // What stands there may be a secret: it is not repeated.
            let why = format!("credentials do not belong in a {scheme}:// URL; set them in the environment");
            return Err(Error::invalid("repository", why));
        }
        let what = format!("repository {url:?}");
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let usual = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if bucket.is_empty() || !bucket.bytes().all(usual) {
            return Err(Error::invalid(what, "a bucket's name is expected after the scheme"));
        }
        let prefix = Key::new(prefix.trim_matches('/'));
        let prefix = prefix.map_err(|_| Error::invalid(what, "this prefix cannot be part of a key"))?;
        Ok(Self::Bucket { provider, bucket: bucket.to_owned(), prefix })
    }

    fn directory(path: &str) -> Result<Self> {
        let what = format!("repository {path:?}");
        if !path.starts_with('/') {
            return Err(Error::invalid(
                what,
                "an absolute path is expected, such as file:///var/lib/walkeep; a relative one would mean \
                 another directory for each program",
            ));
        }
        let clean = Path::new(path).components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if path == "/" || !clean || path.contains('\0') {
            return Err(Error::invalid(what, "this cannot be a repository's directory"));
        }
        Ok(Self::Directory(PathBuf::from(path)))
    }
}

impl Store {
    /// Opens the store that `url` names: `file:///path` or an absolute path, `s3://bucket/prefix`,
    /// `gs://bucket/prefix`, `az://container/prefix`. Credentials come from the environment's usual places.
    ///
    /// # Errors
    /// A directory must exist. Whether a bucket does is seen with the first request.
    pub fn open(url: &str, storage: &StorageConfig) -> Result<Self> {
        let variables = std::env::vars_os();
        let text =
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::open_in(url, storage, &text.collect::<Vec<_>>())
    }

    /// Like [`Store::open`], with the given variables instead of the environment.
    pub fn open_in(url: &str, storage: &StorageConfig, environment: &[(String, String)]) -> Result<Self> {
        match Location::parse(url)? {
            Location::Directory(path) => directory(&path, storage),
            Location::Bucket { provider, bucket, prefix } => {
                bucket::open(provider, &bucket, prefix, storage, environment)
            }
        }
    }

    /// Like [`Store::open`], but makes the directory if it is one and not there yet. A bucket is not made.
    pub fn create(url: &str, storage: &StorageConfig) -> Result<Self> {
        if let Location::Directory(path) = Location::parse(url)? {
            Root::create(&path)?;
        }
        Self::open(url, storage)
    }
}

/// The keys of `[storage]` that are set, and that mean nothing for a directory. Pure.
fn idle_keys(storage: &StorageConfig) -> Vec<&'static str> {
    let StorageConfig { connect_timeout, read_timeout, retry_timeout, .. } = StorageConfig::default();
    let keys = [
        ("endpoint", storage.endpoint.is_some()),
        ("region", storage.region.is_some()),
        ("path_style", storage.path_style),
        ("allow_http", storage.allow_http),
        ("storage_class", storage.storage_class.is_some()),
        ("kms_key", storage.kms_key.is_some()),
        ("tags", !storage.tags.is_empty()),
        ("ca_file", storage.ca_file.is_some()),
        ("connect_timeout", storage.connect_timeout != connect_timeout),
        ("read_timeout", storage.read_timeout != read_timeout),
        ("retry_timeout", storage.retry_timeout != retry_timeout),
    ];
    keys.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect()
}

fn directory(path: &Path, storage: &StorageConfig) -> Result<Store> {
    for key in idle_keys(storage) {
        tracing::warn!("`storage.{key}` is set, and means nothing for a repository in a directory");
    }
    let root = Root::open(path)?;
    let description = format!("file://{}", path.display());
    let objects = LocalFileSystem::new_with_prefix(path);
    let objects = objects.map_err(|error| failure::classify(&description, &error))?.with_fsync(true);
    Ok(Store::from_parts(Inner {
        objects: Arc::new(objects),
        pages: None,
        prefix: Key::root(),
        grows: Some(Arc::new(Directory(root.clone()))),
        root: Some(root),
        description,
        attributes: attributes(None),
        tags: TagSet::default(),
        concurrency: storage.concurrency,
        bucket_seen: AtomicBool::new(false),
        activity: Arc::default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_users_write() {
        assert_eq!(
            Location::parse("file:///var/lib/walkeep").unwrap(),
            Location::Directory("/var/lib/walkeep".into())
        );
        assert_eq!(
            Location::parse("/var/lib/walkeep").unwrap(),
            Location::Directory("/var/lib/walkeep".into())
        );
        let (provider, prefix) = (Provider::S3, Key::new("a/b").unwrap());
        assert_eq!(
            Location::parse("s3://bucket/a/b/").unwrap(),
            Location::Bucket { provider, bucket: "bucket".into(), prefix }
        );
        let (provider, prefix) = (Provider::Azure, Key::root());
        assert_eq!(
            Location::parse("az://box").unwrap(),
            Location::Bucket { provider, bucket: "box".into(), prefix }
        );
    }

    #[test]
    fn each_wrong_url_gets_a_sentence() {
        for (url, says) in [
            ("", "a repository is"),
            ("walkeep", "a repository is"),
            ("file://walkeep", "absolute path"),
            ("file:///a/../b", "cannot be"),
            ("file:///", "cannot be"),
            ("ftp://host/x", "scheme ftp:// is unknown"),
            ("s3://", "bucket's name"),
            ("s3:///prefix", "bucket's name"),
            ("s3://bucket/a b", "prefix"),
        ] {
            let error = Location::parse(url).unwrap_err().to_string();
            assert!(error.contains(says), "{url}: {error}");
        }
        let secret = Location::parse("s3://KEY:SECRET@bucket/x").unwrap_err().to_string();
        assert!(secret.contains("environment") && !secret.contains("SECRET"), "{secret}");
    }

    #[test]
    fn what_means_nothing_for_a_directory_is_found() {
        assert_eq!(idle_keys(&StorageConfig::default()), [""; 0]);
        let storage = StorageConfig {
            region: Some("x".into()),
            kms_key: Some("y".into()),
            concurrency: 9,
            ..StorageConfig::default()
        };
        assert_eq!(idle_keys(&storage), ["region", "kms_key"]);
    }

    #[test]
    fn a_missing_or_closed_directory_is_named() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("none");
        let url = format!("file://{}", path.display());
        let error = Store::open(&url, &StorageConfig::default()).unwrap_err();
        assert!(matches!(&error, Error::Refused { what, .. } if what.ends_with("none")), "{error}");
        Store::create(&url, &StorageConfig::default()).unwrap();
        assert!(Store::open(&url, &StorageConfig::default()).is_ok());
    }
}
