//! Connections: so many at a time, each for one request, none for long.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::routes::Routes;
use super::settings::Settings;
use super::watched::Watching;
use crate::backoff::Backoff;
use crate::stop::stopped;

/// Connections at a time. More wait in the system's queue.
const CONNECTIONS: usize = 32;

/// How long a client may take for its request.
const REQUEST: Duration = Duration::from_secs(10);

/// How long a connection may last in all.
const CONNECTION: Duration = Duration::from_secs(30);

/// The longest head of a request, in bytes, and how many headers it may have.
const HEAD: (usize, usize) = (16 << 10, 64);

/// Between tries to listen on an address that is taken.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Serves until `stop` becomes true. What is watched comes when the agent has opened its repository.
///
/// An address that cannot be had is told, and tried again: it must not keep the agent from its work.
pub async fn serve(settings: Settings, watching: Arc<OnceLock<Watching>>, mut stop: watch::Receiver<bool>) {
    let routes = Arc::new(Routes { token: settings.token, watching });
    let tls = settings.tls.map(TlsAcceptor::from);
    let listener = tokio::select! {
        listener = listen(settings.address) => listener,
        () = stopped(&mut stop) => return,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address = listener.local_addr().unwrap_or(settings.address);
    info!(url = %format_args!("{scheme}://{address}/"), "serving metrics and the status page");
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Never closed; an error would only mean that there is no limit.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (routes, tls) = (routes.clone(), tls.clone());
                    connections.spawn(async move {
                        if timeout(CONNECTION, connection(stream, tls, routes)).await.is_err() {
                            debug!(%peer, "a client was hung up on: it took too long");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    debug!("cannot accept a connection for the status page: {error}");
                    sleep(Duration::from_millis(200)).await;
                }
            },
            () = stopped(&mut stop) => return,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    let mut told = String::new();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                let message = error.to_string();
                if told != message {
                    warn!(
                        %address,
                        hint = "set `http.listen` to another address",
                        "cannot serve metrics and the status page: {message}; trying again, all else goes on"
                    );
                    told = message;
                }
                sleep(backoff.next_wait()).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, routes: Arc<Routes>) {
    match tls {
        None => exchange(stream, routes).await,
        Some(acceptor) => match timeout(REQUEST, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => exchange(stream, routes).await,
            Ok(Err(error)) => debug!("a TLS handshake has failed: {error}"),
            Err(_) => debug!("a TLS handshake took too long"),
        },
    }
}

/// One request, one answer.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Arc<Routes>) {
    let service = service_fn(move |request| {
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEAD.0)
        .max_headers(HEAD.1)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!("a connection to the status page has failed: {error}");
    }
}
