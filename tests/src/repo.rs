//! The repository of a scenario: a folder, or a bucket of the S3 server.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use crate::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::{World, objects};

/// The kinds of store that scenarios run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A folder.
    File,
    /// The S3 server of the harness.
    S3,
}

/// Where a repository is, and how programs get there. Nothing is created: that is `walkeep init`'s task.
#[derive(Clone, Debug)]
pub struct Repo {
    url: String,
    storage: Vec<(&'static str, String)>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    server: Option<Arc<S3Server>>,
}

impl Repo {
    /// A repository of that kind.
    pub fn of(kind: StoreKind, world: &World) -> Result<Repo> {
        match kind {
            StoreKind::File => Repo::file(world),
            StoreKind::S3 => Repo::s3(world),
        }
    }

    /// A folder.
    pub fn file(world: &World) -> Result<Repo> {
        let folder = world.folder("repository")?;
        let url = format!("file://{}", folder.display());
        Ok(Repo { url, storage: Vec::new(), environment: Vec::new(), folder, server: None })
    }

    /// A bucket, below a prefix as most users have it.
    pub fn s3(world: &World) -> Result<Repo> {
        let server = S3Server::start(world)?;
        let storage = vec![
            ("endpoint", format!("{:?}", server.endpoint())),
            ("region", "\"us-east-1\"".to_owned()),
            ("path_style", "true".to_owned()),
            ("allow_http", "true".to_owned()),
        ];
        let secrets = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        let environment = secrets.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let folder = server.bucket_folder().join("walkeep");
        let url = format!("s3://{BUCKET}/walkeep");
        Ok(Repo { url, storage, environment, folder, server: Some(Arc::new(server)) })
    }

    /// `file:///…` or `s3://…`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The keys of `[storage]`, with values as TOML writes them.
    pub fn storage(&self) -> &[(&'static str, String)] {
        &self.storage
    }

    /// The variables with the credentials.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// The S3 server, to switch faults on.
    ///
    /// # Panics
    /// On a file repository.
    pub fn s3_server(&self) -> &S3Server {
        self.server.as_ref().expect("only an S3 repository has a server")
    }

    /// The folder in which each object lies as a file under its key, on both kinds of store.
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Every object's key and size, in the order of the keys.
    pub fn objects(&self) -> Result<Vec<objects::Object>> {
        objects::list(&self.folder)
    }
}
