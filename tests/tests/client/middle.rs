//! A man in the middle: he ends our TLS with a certificate of his own, and begins another with the server.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use harness::{Certificates, runtime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What is said before TLS begins.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];
const BOUND: &[u8] = b"SCRAM-SHA-256-PLUS\0";

/// What he passes on of the server's ways to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    AsItIs,
    /// SCRAM without a bond to the channel only.
    WithoutBinding,
}

/// A proxy that decrypts. It serves until the test ends.
pub(crate) struct Middle {
    port: u16,
}

impl Middle {
    /// Before the server on this port, with this certificate.
    pub(crate) fn start(server: u16, all: &Certificates, certificate: &str, offer: Offer) -> Result<Middle> {
        let chain = vec![CertificateDer::from_pem_file(all.path(&format!("{certificate}.crt")))?];
        let key = PrivateKeyDer::from_pem_file(all.path(&format!("{certificate}.key")))?;
        let own = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(all.path("ca.crt"))?)?;
        let theirs = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (acceptor, connector) = (TlsAcceptor::from(Arc::new(own)), TlsConnector::from(Arc::new(theirs)));
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).context("no port is free")?;
        let port = listener.local_addr()?.port();
        runtime().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, connector) = (acceptor.clone(), connector.clone());
                // Whatever goes wrong ends the connection: both sides see that.
                tokio::spawn(async move { relay(client, server, &acceptor, &connector, offer).await });
            }
        });
        Ok(Middle { port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

async fn relay(
    mut client: TcpStream,
    port: u16,
    acceptor: &TlsAcceptor,
    connector: &TlsConnector,
    offer: Offer,
) -> io::Result<()> {
    let mut request = [0; SSL_REQUEST.len()];
    client.read_exact(&mut request).await?;
    assert_eq!(request, SSL_REQUEST, "who wants TLS asks for it");
    client.write_all(b"S").await?;
    let client = acceptor.accept(client).await?;

    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(&SSL_REQUEST).await?;
    assert_eq!(server.read_u8().await?, b'S', "the server does TLS");
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let server = connector.connect(name, server).await?;

    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (split(client), split(server));
    let answers = async {
        if offer == Offer::WithoutBinding {
            pass_poorer_offer(&mut from_server, &mut to_client).await?;
        }
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    let questions = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    tokio::try_join!(answers, questions).map(drop)
}

/// The server's first message, without what would bind the channel.
async fn pass_poorer_offer(
    server: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let (tag, length) = (server.read_u8().await?, server.read_u32().await?);
    let mut body = vec![0; length as usize - 4];
    server.read_exact(&mut body).await?;
    if let Some(at) = body.windows(BOUND.len()).position(|window| window == BOUND) {
        body.drain(at..at + BOUND.len());
    }
    client.write_u8(tag).await?;
    client.write_u32(body.len() as u32 + 4).await?;
    client.write_all(&body).await?;
    client.flush().await
}
