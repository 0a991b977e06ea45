//! A real S3 server on 127.0.0.1, with faults to switch on.

mod bucket;
mod faults;
pub mod google;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};

use crate::{Port, World, runtime};

use bucket::Buckets;
pub use faults::Faults;
use faults::{Faulty, Rules};

/// The only bucket.
pub const BUCKET: &str = "backups";
/// The access key that it takes.
pub const ACCESS_KEY: &str = "AKIAHARNESS";
/// The secret that goes with it. A test may look for it where it must not be.
pub const SECRET_KEY: &str = "harness-secret-never-printed";

/// Whose clients a server lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Those that sign with [`SECRET_KEY`].
    Amazon,
    /// Those that show a token of the account in [`google`].
    Google,
}

/// In this process, on the threads of the harness's runtime; other processes reach it over TCP.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    _port: Port,
    root: PathBuf,
    faults: Arc<Faults>,
    dialect: Dialect,
    service: S3Service,
    listening: Mutex<Option<JoinHandle<()>>>,
    ahead: Arc<AtomicU64>,
}

impl S3Server {
    /// Starts a server with one empty bucket.
    pub fn start(world: &World, dialect: Dialect) -> Result<S3Server> {
        let root = world.folder("s3")?;
        std::fs::create_dir(root.join(BUCKET))?;
        let faults = Arc::new(Faults::default());
        let ahead = Arc::new(AtomicU64::new(0));
        let mut builder = S3ServiceBuilder::new(Buckets::new(&root, Arc::clone(&ahead))?);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        builder.set_access(Rules { faults: Arc::clone(&faults), signed: dialect == Dialect::Amazon });
        let port = Port::reserve()?;
        let server = S3Server {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())),
            _port: port,
            root,
            faults,
            dialect,
            service: builder.build(),
            listening: Mutex::new(None),
            ahead,
        };
        server.up()?;
        Ok(server)
    }

    /// `http://127.0.0.1:<port>`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder in which an object lies as a file under its own key.
    pub fn bucket_folder(&self) -> PathBuf {
        self.root.join(BUCKET)
    }

    /// The folder behind all buckets.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The switches.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Lets time pass, by whole seconds: what is written from now on is so much younger than what is there.
    pub fn pass(&self, time: Duration) {
        self.ahead.fetch_add(time.as_secs(), Relaxed);
    }

    /// Closes the port and every connection.
    pub fn down(&self) {
        let listening = self.listening.lock().expect("no holder of this lock panics").take();
        if let Some(task) = listening {
            task.abort();
            // The port is closed when the task has been dropped.
            let _ = runtime().block_on(task);
        }
    }

    /// Listens again on the same port.
    pub fn up(&self) -> Result<()> {
        let address = self.address;
        let _inside = runtime().enter();
        let socket = TcpSocket::new_v4()?;
        // Connections that were cut a moment ago still hold the port.
        socket.set_reuseaddr(true)?;
        socket.bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let listener = socket.listen(256)?;
        let (service, faults) = (self.service.clone(), Arc::clone(&self.faults));
        let task = runtime().spawn(accept(listener, Faulty { service, faults, dialect: self.dialect }));
        *self.listening.lock().expect("no holder of this lock panics") = Some(task);
        Ok(())
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.down();
    }
}

/// Serves until aborted; the connections end with it.
async fn accept(listener: TcpListener, server: Faulty) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let serve = server.clone();
        connections.spawn(async move {
            // A connection that ends badly is the client's affair, or a fault that was asked for.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), serve)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}
