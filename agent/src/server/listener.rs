//! Listening, for one agent at a time.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use restore::program::failure;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::warn;

use super::connection;
use super::guests::Guests;
use super::status::AgentState;
use crate::archive::Archive;
use crate::stop::stopped;

/// Connections that are served side by side. More wait in the socket's queue.
const CONNECTIONS: usize = 16;

/// So many who may not call are told so at a time.
const STRANGERS: usize = 4;

/// Connections that wait. What finds no place is told that the agent is busy, and tried again.
const QUEUE: i32 = 1024;

/// How long calls that have begun may go on after the agent was told to stop.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The agent's socket. Its file goes when it is dropped.
pub struct Listener {
    listener: UnixListener,
    guests: Guests,
    path: PathBuf,
    /// Which file is ours: another agent may have put its own in the place.
    inode: (u64, u64),
}

impl Listener {
    /// Listens at `path`, for `guests`: makes the directory, and replaces what an agent that was killed has left.
    ///
    /// # Errors
    /// Another agent answers there, the place is taken by something else, or the system refuses.
    pub async fn bind(path: &Path, guests: Guests) -> anyhow::Result<Self> {
        let at = path.display();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| {
                failure(
                    format!("cannot make the socket's directory {}: {error}", folder.display()),
                    "make it and give it to the agent's user, or set `socket` to a place that this user may write to",
                )
            })?;
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(failure(
                    format!("{at} is there already and is no socket"),
                    "set `socket` to another path",
                ));
            }
            Ok(_) => {
                refuse_if_served(path).await?;
                fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {at}"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot look at {at}")),
        }
        let mode = guests.mode();
        let listener = listen(path, mode).map_err(|error| {
            failure(
                format!("cannot listen on {at}: {error}"),
                "set `socket` to a place that this user may write to",
            )
        })?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {at}"))?;
        let metadata = fs::symlink_metadata(path).with_context(|| format!("cannot look at {at}"))?;
        Ok(Self { listener, guests, path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if ours {
            // Left behind it does no harm: the next agent replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An error unless it is sure that nobody listens on the socket any more.
async fn refuse_if_served(path: &Path) -> anyhow::Result<()> {
    let at = path.display();
    match UnixStream::connect(path).await {
        Ok(_) => Err(failure(
            format!("another agent is already listening on {at}"),
            "one agent per cluster and host; give each cluster its own `socket`",
        )),
        // What an agent that was killed leaves, or nothing any more.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(error) => Err(failure(
            format!("nobody can tell whether an agent listens on {at}: {error}"),
            "if none runs, remove the file; else set `socket` to another path",
        )),
    }
}

/// Listens. The file never has more permissions than `mode`, whatever the umask: Linux makes it with those that the
/// socket has.
fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode))?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, QUEUE)?;
    UnixListener::from_std(socket.into())
}

/// Serves until `stop` becomes true, and lets those finish who have been heard.
pub async fn serve(listener: Listener, archive: Archive, state: AgentState, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let porch = Arc::new(Semaphore::new(STRANGERS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.listener.accept() => match accepted {
                Ok((stream, _)) if !stream.peer_cred().is_ok_and(|who| listener.guests.admit(who.uid())) => {
                    // Strangers take no guest's place; those for whom there is no time are hung up on.
                    if let Ok(place) = porch.clone().try_acquire_owned() {
                        connections.spawn(async move {
                            connection::refuse(stream).await;
                            drop(place);
                        });
                    }
                }
                Ok((stream, _)) => {
                    // Never closed; an error would only mean that there is no limit.
                    let Ok(place) = room.clone().acquire_owned().await else { return };
                    let (archive, state) = (archive.clone(), state.clone());
                    connections.spawn(async move {
                        connection::serve(stream, archive, state).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            () = stopped(&mut stop) => break,
        }
        while connections.try_join_next().is_some() {}
    }
    let _ = tokio::time::timeout(LAST_WORDS, connections.join_all()).await;
}
