//! Asking a running agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::socket::{HEADER, Request, Response, SocketError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The agent gave no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody listens.
    #[error("no agent answers on {}: {why}", .socket.display())]
    Nobody {
        /// Where one was expected.
        socket: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The conversation broke off.
    #[error("the agent on {} has hung up: {why}", .socket.display())]
    Broken {
        /// Where it listens.
        socket: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// It speaks something else.
    #[error(transparent)]
    Protocol(#[from] SocketError),
}

/// Sends a request without a file, and waits for the answer.
pub async fn ask(socket: &Path, request: &Request, patience: Duration) -> Result<Response, AskError> {
    let mut stream = UnixStream::connect(socket)
        .await
        .map_err(|why| AskError::Nobody { socket: socket.to_owned(), why })?;
    let exchange = async {
        stream.write_all(&request.encode()).await?;
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let length = match Response::body_length(&header) {
            Ok(length) => length,
            Err(error) => return Ok(Err(error)),
        };
        // At most MAX_RESPONSE bytes.
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        io::Result::Ok(Response::decode(&body))
    };
    let answer = match tokio::time::timeout(patience, exchange).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", patience.as_secs())))
        }
    };
    Ok(answer.map_err(|why| AskError::Broken { socket: socket.to_owned(), why })??)
}
