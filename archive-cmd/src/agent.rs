//! One question to the agent, one answer.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use proto::socket::{HEADER, Request, Response};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use crate::failure::Failure;

/// Asks the agent at `socket`, handing over `file`. `None`: no agent is there.
pub(crate) fn ask(
    socket: &Path,
    request: &Request,
    file: &File,
    timeout: Duration,
) -> Result<Option<Response>, Failure> {
    let at = socket.display();
    let deadline = Instant::now() + timeout;
    let stream = match connect(socket, timeout) {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                io::ErrorKind::PermissionDenied => {
                    Err(Failure::new(format!("the agent's socket {at} may not be opened: {error}"))
                        .hint("the agent must run as a user that shares a group with the server's user"))
                }
                _ => Err(Failure::new(format!("the agent at {at} cannot be reached: {error}"))),
            };
        }
    };
    exchange(&stream, request, file, deadline).map(Some).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let waited = humantime::format_duration(timeout);
            Failure::new(format!("the agent at {at} did not answer within {waited}"))
                .hint("`walkeep status` shows what it is doing")
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            Failure::new(format!("the agent at {at} hung up before it had answered"))
                .hint("its own log tells why; PostgreSQL tries again")
        }
        _ => Failure::new(format!("the agent at {at} cannot be asked: {error}")),
    })
}

/// Unlike the standard library's connect this one does not wait for ever where an agent no longer accepts.
fn connect(socket: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let stream =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(timeout))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream.into())
}

fn exchange(
    mut stream: &UnixStream,
    request: &Request,
    file: &File,
    deadline: Instant,
) -> io::Result<Response> {
    let frame = request.encode();
    let sent = send_with_file(stream, &frame, file)?;
    stream.write_all(&frame[sent..])?;

    let mut header = [0; HEADER];
    read_exact(stream, &mut header, deadline)?;
    let length = Response::body_length(&header).map_err(io::Error::other)?;
    let mut body = vec![0; length];
    read_exact(stream, &mut body, deadline)?;
    Response::decode(&body).map_err(io::Error::other)
}

/// The descriptor travels with the first bytes.
fn send_with_file(stream: &UnixStream, frame: &[u8], file: &File) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// A time-out per read would let an agent that sends a byte now and then hold up the archiver for ever.
fn read_exact(mut stream: &UnixStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
