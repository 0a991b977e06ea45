//! The repository of a scenario: a folder, or a bucket of some object store.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::s3::{ACCESS_KEY, BUCKET, Dialect, S3Server, SECRET_KEY, google};
use crate::stores::{AZURE_ACCOUNT, AZURE_KEY, Maker, StoreServer};
use crate::{World, objects, skip};

/// The kinds of store that scenarios run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A folder.
    File,
    /// The S3 server of the harness.
    S3,
    /// The same server, asked and answering as Google's does.
    Gcs,
    /// S3 by moto.
    Moto,
    /// S3 by rclone.
    Rclone,
    /// Azure by its emulator.
    Azurite,
}

/// Where a repository is, and how programs get there. Nothing is created: that is `walkeep init`'s task.
#[derive(Clone, Debug)]
pub struct Repo {
    url: String,
    storage: Vec<(&'static str, String)>,
    environment: Vec<(String, String)>,
    /// Where each object lies as a file under its key.
    folder: Option<PathBuf>,
    server: Server,
}

#[derive(Clone, Debug)]
enum Server {
    None,
    Own(Arc<S3Server>),
    Foreign(Arc<StoreServer>),
}

impl Repo {
    /// A repository of that kind.
    pub fn of(kind: StoreKind, world: &World) -> Result<Repo> {
        match kind {
            StoreKind::File => Repo::file(world),
            StoreKind::S3 => Repo::s3(world),
            StoreKind::Gcs => Repo::gcs(world),
            StoreKind::Moto => Repo::foreign(Maker::Moto, world),
            StoreKind::Rclone => Repo::foreign(Maker::Rclone, world),
            StoreKind::Azurite => Repo::foreign(Maker::Azurite, world),
        }
    }

    /// A repository of that kind, or none and a loud skip where the machine lacks what it takes.
    pub fn or_skip(kind: StoreKind, world: &World) -> Result<Option<Repo>> {
        let maker = match kind {
            StoreKind::File | StoreKind::S3 => None,
            StoreKind::Gcs if google::can_make_keys() => None,
            StoreKind::Gcs => {
                skip("the program openssl, which makes a service account's key, is not on this machine");
                return Ok(None);
            }
            StoreKind::Moto => Some(Maker::Moto),
            StoreKind::Rclone => Some(Maker::Rclone),
            StoreKind::Azurite => Some(Maker::Azurite),
        };
        if let Some(maker) = maker.filter(|maker| !maker.is_here()) {
            skip(format!("{} is not on this machine; `cargo xtask servers` installs it", maker.name()));
            return Ok(None);
        }
        Repo::of(kind, world).map(Some)
    }

    /// A folder.
    pub fn file(world: &World) -> Result<Repo> {
        let folder = world.folder("repository")?;
        let url = format!("file://{}", folder.display());
        let folder = Some(folder);
        Ok(Repo { url, storage: Vec::new(), environment: Vec::new(), folder, server: Server::None })
    }

    /// A bucket, below a prefix as most users have it.
    pub fn s3(world: &World) -> Result<Repo> {
        let server = S3Server::start(world, Dialect::Amazon)?;
        let folder = Some(server.bucket_folder().join("walkeep"));
        let environment = amazon(ACCESS_KEY, SECRET_KEY);
        Ok(Repo::bucket("s3", &server.endpoint(), environment, folder, Server::Own(Arc::new(server))))
    }

    /// A bucket of Google's kind.
    pub fn gcs(world: &World) -> Result<Repo> {
        let server = S3Server::start(world, Dialect::Google)?;
        let folder = Some(server.bucket_folder().join("walkeep"));
        let environment = vec![("GOOGLE_SERVICE_ACCOUNT_KEY".to_owned(), google::service_account()?)];
        Ok(Repo::bucket("gs", &server.endpoint(), environment, folder, Server::Own(Arc::new(server))))
    }

    fn foreign(maker: Maker, world: &World) -> Result<Repo> {
        let server = StoreServer::start(maker, world)?;
        let mut endpoint = server.endpoint();
        let (scheme, environment) = match maker {
            Maker::Moto | Maker::Rclone => ("s3", amazon(server.keys().0, server.keys().1)),
            Maker::Azurite => {
                endpoint = format!("{endpoint}/{AZURE_ACCOUNT}");
                let names = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"];
                let values = [AZURE_ACCOUNT, AZURE_KEY];
                ("az", names.map(str::to_owned).into_iter().zip(values.map(str::to_owned)).collect())
            }
        };
        Ok(Repo::bucket(scheme, &endpoint, environment, None, Server::Foreign(Arc::new(server))))
    }

    fn bucket(
        scheme: &str,
        endpoint: &str,
        environment: Vec<(String, String)>,
        folder: Option<PathBuf>,
        server: Server,
    ) -> Repo {
        let mut storage = vec![("endpoint", format!("{endpoint:?}")), ("allow_http", "true".to_owned())];
        if scheme == "s3" {
            storage.extend([("region", "\"us-east-1\"".to_owned()), ("path_style", "true".to_owned())]);
        }
        Repo { url: format!("{scheme}://{BUCKET}/walkeep"), storage, environment, folder, server }
    }

    /// `file:///…`, `s3://…`, `gs://…` or `az://…`
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

    /// The same variables with secrets that are well formed, and wrong.
    pub fn wrong_environment(&self) -> Vec<(String, String)> {
        let wrong = |(name, value): &(String, String)| {
            let value = match name.as_str() {
                "AWS_SECRET_ACCESS_KEY" => format!("{value}-wrong"),
                "AZURE_STORAGE_ACCOUNT_KEY" => "d3Jvbmc=".to_owned(),
                "GOOGLE_SERVICE_ACCOUNT_KEY" => value.replace(google::KEY_ID, "another-key"),
                _ => value.clone(),
            };
            (name.clone(), value)
        };
        self.environment.iter().map(wrong).collect()
    }

    /// The S3 server, to switch faults on.
    ///
    /// # Panics
    /// On a repository that is somewhere else.
    pub fn s3_server(&self) -> &S3Server {
        match &self.server {
            Server::Own(server) => server,
            Server::None | Server::Foreign(_) => panic!("{} is not on a server of the harness", self.url),
        }
    }

    /// Ends the store's server, if it has one.
    pub fn down(&self) -> Result<()> {
        match &self.server {
            Server::None => Ok(()),
            Server::Own(server) => {
                server.down();
                Ok(())
            }
            Server::Foreign(server) => server.down(),
        }
    }

    /// The folder in which each object lies as a file under its key.
    ///
    /// # Panics
    /// On a store of another maker, who keeps objects as he likes.
    pub fn folder(&self) -> &PathBuf {
        self.folder.as_ref().expect("only a folder and the harness's own server keep objects as files")
    }

    /// Every object's key and size, in the order of the keys.
    pub fn objects(&self) -> Result<Vec<objects::Object>> {
        objects::list(self.folder.as_ref().context("this store keeps its objects to itself")?)
    }
}

fn amazon(key: &str, secret: &str) -> Vec<(String, String)> {
    let variables = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}
