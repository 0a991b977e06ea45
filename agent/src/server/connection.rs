//! One connection: one request, one response.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use proto::socket::{HEADER, Request, Response};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::status::AgentState;
use crate::archive::{Archive, ArchiveError, Offer};

/// A client that says nothing for so long is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// So long a caller is heard who may not ask.
const SHORT: Duration = Duration::from_secs(1);

/// Descriptors that a request may carry; one is used.
const MAX_DESCRIPTORS: usize = 4;

/// Reads the request, does it, answers.
pub(super) async fn serve(mut stream: UnixStream, archive: Archive, state: AgentState) {
    let response = match timeout(PATIENCE, receive(&stream)).await {
        Ok(Ok(Some((request, file)))) => respond(request, file, &archive, &state).await,
        // Somebody looked whether an agent is there.
        Ok(Ok(None)) => return,
        Ok(Err(error)) => Response::Failed { message: error.to_string() },
        Err(_) => return,
    };
    if let Err(error) = stream.write_all(&response.encode()).await {
        debug!("a client has gone before it was answered: {error}");
    }
}

/// Answers somebody who may not ask. What he wants is read, or he would not hear the answer, and thrown away.
pub(super) async fn refuse(mut stream: UnixStream) {
    let caller =
        stream.peer_cred().map_or_else(|_| "this user".to_owned(), |who| format!("user {}", who.uid()));
    warn!("{caller} has called, and is not among `socket_users`");
    let message = format!("{caller} may not call this agent\nhint: name the user in `socket_users`");
    let _ = timeout(SHORT, receive(&stream)).await;
    if let Ok(Err(error)) = timeout(SHORT, stream.write_all(&Response::Failed { message }.encode())).await {
        debug!("a caller has gone before it was refused: {error}");
    }
}

async fn respond(request: Request, file: Option<File>, archive: &Archive, state: &AgentState) -> Response {
    match request {
        Request::Status => Response::Status { json: state.report().await.to_json() },
        Request::Archive { file: name, size, digest, system_id, path } => {
            let Some(source) = file else {
                return Response::Failed { message: "the request came without the file itself".to_owned() };
            };
            let on_server = PathBuf::from(OsString::from_vec(path.clone()));
            let on_server = on_server.is_absolute().then_some(on_server);
            let offer = Offer { file: name, size, digest: Some(digest), source, path: on_server };
            match Box::pin(archive.archive(offer, system_id)).await {
                Ok(()) => {
                    state.archive.note(name, Ok(()));
                    // Durable: `archive` returns Ok for nothing else.
                    Response::Stored
                }
                Err(error) => {
                    state.archive.note(name, Err(&error.to_string()));
                    Response::Failed { message: message(&error) }
                }
            }
        }
    }
}

fn message(error: &ArchiveError) -> String {
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

/// The request, and the file that came with it. `None`: the client hung up at once.
async fn receive(stream: &UnixStream) -> io::Result<Option<(Request, Option<File>)>> {
    let mut header = [0; HEADER];
    let mut file = None;
    if !fill(stream, &mut header, &mut file).await? {
        return Ok(None);
    }
    let length = Request::body_length(&header).map_err(io::Error::other)?;
    // At most MAX_REQUEST bytes.
    let mut body = vec![0; length];
    if !fill(stream, &mut body, &mut file).await? && length > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let request = Request::decode(&body).map_err(io::Error::other)?;
    Ok(Some((request, file.map(File::from))))
}

/// Reads until `buffer` is full. `false`: there was nothing at all.
async fn fill(stream: &UnixStream, buffer: &mut [u8], file: &mut Option<OwnedFd>) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        let (read, received) = stream.async_io(Interest::READABLE, || receive_some(stream, rest)).await?;
        if file.is_none() {
            *file = received;
        }
        match read {
            0 if filled == 0 => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => filled += read,
        }
    }
    Ok(true)
}

fn receive_some(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    let mut file = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            // Those beyond the first are closed here.
            for descriptor in descriptors {
                file.get_or_insert(descriptor);
            }
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("the request carries too many descriptors"));
    }
    Ok((received.bytes, file))
}
