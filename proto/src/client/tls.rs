//! TLS as libpq's words ask for it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::certificate::{Certificate, name_fits};
use super::{Error, Result};
use crate::conninfo::{Address, ConnInfo, Host, RootCert, SslMode, TlsVersion};

/// The protocol that direct TLS must agree on.
const ALPN: &[u8] = b"postgresql";
/// Stands in for names that TLS cannot carry, where the name does not matter.
const NAMELESS: &str = "server.invalid";

/// All that handshakes need, read once.
pub(super) struct Settings {
    /// `None` where TLS is never used.
    config: Option<Arc<ClientConfig>>,
    mode: SslMode,
}

impl Settings {
    /// Reads certificates and keys, if any connection may use TLS.
    pub(super) fn load(info: &ConnInfo) -> Result<Self> {
        let mode = info.sslmode;
        let all_local = info.hosts.iter().all(|host| matches!(host.address, Address::Unix(_)));
        if mode == SslMode::Disable || all_local {
            return Ok(Self { config: None, mode });
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier::load(info, &provider)?;
        let versions: Vec<&'static SupportedProtocolVersion> =
            [(TlsVersion::V1_3, &rustls::version::TLS13), (TlsVersion::V1_2, &rustls::version::TLS12)]
                .into_iter()
                .filter(|(version, _)| (info.ssl_min_version..=info.ssl_max_version).contains(version))
                .map(|(_, supported)| supported)
                .collect();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| Error::Config(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity(info)? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::Config(format!("the client certificate and its key cannot be used together: {error}"))
            })?,
        };
        config.enable_sni = info.sslsni;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config: Some(Arc::new(config)), mode })
    }

    /// TLS over `io`, and the digest that binds SCRAM to it.
    pub(super) async fn handshake(
        &self,
        io: TcpStream,
        host: &Host,
        direct: bool,
    ) -> Result<(TlsStream<TcpStream>, Option<Vec<u8>>)> {
        let error = |why: String| Error::Tls { host: host.to_string(), why };
        let Some(config) = &self.config else { return Err(error("it is switched off".to_owned())) };
        let name = host.name().unwrap_or_default();
        let name = match ServerName::try_from(name.trim_end_matches('.').to_owned()) {
            Ok(name) => name,
            Err(_) if self.mode == SslMode::VerifyFull => {
                return Err(error(format!("\"{name}\" is not a name that a certificate can carry")));
            }
            Err(_) => ServerName::try_from(NAMELESS).map_err(|invalid| error(invalid.to_string()))?,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(name, io).await.map_err(|failure| error(explain(&failure, direct)))?;
        let (_, session) = stream.get_ref();
        if direct && session.alpn_protocol() != Some(ALPN) {
            return Err(error(
                "the server does not speak PostgreSQL's protocol inside direct TLS".to_owned(),
            ));
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let end_point = certificate.and_then(|der| Certificate::parse(der)?.end_point());
        Ok((stream, end_point))
    }
}

/// Why a handshake failed, in words for operators.
pub(super) fn explain(error: &io::Error, direct: bool) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset if direct => {
                "the server closed the connection; servers before 17 know no sslnegotiation=direct".to_owned()
            }
            _ => error.to_string(),
        };
    };
    match tls {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "its certificate was not issued by an authority that sslrootcert names".to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "its certificate is for another host name (sslmode=verify-full compares it with host)".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("the server refused with the TLS alert {alert:?}"),
        other => other.to_string(),
    }
}

/// Our own certificate and key, if there are any.
fn identity(info: &ConnInfo) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
    let Some(path) = &info.sslcert else { return Ok(None) };
    let chain = certificates(path)?;
    let Some(key_path) = &info.sslkey else {
        let why = format!("sslcert names \"{}\", but sslkey names no private key", path.display());
        return Err(Error::Config(why));
    };
    let unusable =
        |why: String| Error::Config(format!("the key \"{}\" cannot be used: {why}", key_path.display()));
    let metadata = fs::metadata(key_path).map_err(|error| unusable(error.to_string()))?;
    // As libpq: the owner's alone, or root's with reading rights for a group.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(unusable("other users may read it; give it the mode 0600".to_owned()));
    }
    let content = fs::read(key_path).map(Zeroizing::new).map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&content).map_err(|error| {
        unusable(format!("it holds no private key in clear, PEM (encrypted ones are not supported): {error}"))
    })?;
    Ok(Some((chain, key)))
}

/// All certificates of a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |why: String| {
        Error::Config(format!("the certificate file \"{}\" cannot be used: {why}", path.display()))
    };
    let content = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unusable("it holds no certificate in PEM form".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(error.to_string())),
    }
}

/// Whom we trust, and how much must be right.
#[derive(Debug)]
struct Verifier {
    /// `None`: any certificate will do.
    roots: Option<Arc<RootCertStore>>,
    /// The trusted certificates themselves: a server may use one of them as its own.
    trusted: Vec<CertificateDer<'static>>,
    /// Whether the certificate must carry the server's name.
    named: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn load(info: &ConnInfo, provider: &CryptoProvider) -> Result<Self> {
        let trusted = match &info.sslrootcert {
            None => None,
            Some(RootCert::File(path)) => Some(certificates(path)?),
            Some(RootCert::System) => Some(rustls_native_certs::load_native_certs().certs),
        };
        let roots = trusted.as_ref().map(|trusted| {
            let mut roots = RootCertStore::empty();
            // What cannot be an authority can still be the server's own certificate.
            roots.add_parsable_certificates(trusted.iter().cloned());
            Arc::new(roots)
        });
        if info.sslrootcert == Some(RootCert::System) && roots.as_ref().is_none_or(|roots| roots.is_empty()) {
            let why = "sslrootcert=system: this system has no trusted authorities (install ca-certificates)";
            return Err(Error::Config(why.to_owned()));
        }
        Ok(Self {
            roots,
            trusted: trusted.unwrap_or_default(),
            named: info.sslmode == SslMode::VerifyFull,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn check_issuer(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?;
        // A self-signed certificate that is its own authority: webpki refuses these, and OpenSSL does not. The
        // very certificate that the operator trusts needs no issuer.
        if self.trusted.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref()) {
            return in_time(&parsed, now);
        }
        // webpki would complain of something else first.
        if parsed.issuer == parsed.subject {
            return Err(CertificateError::UnknownIssuer.into());
        }
        if parsed.version == 0 {
            return self.check_version_1(&parsed, now);
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            roots,
            intermediates,
            now,
            self.algorithms.all,
        )
    }

    /// A certificate of version 1, issued directly by one that is trusted.
    fn check_version_1(&self, certificate: &Certificate<'_>, now: UnixTime) -> Result<(), rustls::Error> {
        in_time(certificate, now)?;
        let issued_by = |issuer: &Certificate<'_>| {
            let Some((key_algorithm, key)) = issuer.key() else { return false };
            issuer.subject == certificate.issuer
                && in_time(issuer, now).is_ok()
                && self.algorithms.all.iter().any(|algorithm| {
                    algorithm.signature_alg_id().as_ref() == certificate.signature_algorithm
                        && algorithm.public_key_alg_id().as_ref() == key_algorithm
                        && algorithm.verify_signature(key, certificate.signed, certificate.signature).is_ok()
                })
        };
        let issuers = self.trusted.iter().filter_map(|trusted| Certificate::parse(trusted));
        if { issuers }.any(|issuer| issued_by(&issuer)) {
            Ok(())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn check_name(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), rustls::Error> {
        let certificate = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?;
        if certificate.has_alt_names {
            return verify_server_name(&ParsedCertificate::try_from(end_entity)?, name);
        }
        // As libpq: without alternative names the common name counts.
        if certificate.common_name().is_some_and(|common| name_fits(common, &name.to_str())) {
            Ok(())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }
}

fn in_time(certificate: &Certificate<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = jiff::Timestamp::from_second(seconds).map_err(|_| CertificateError::Expired)?;
    let now = now.strftime("%Y%m%d%H%M%S").to_string();
    if certificate.is_valid_at(&now) { Ok(()) } else { Err(CertificateError::Expired.into()) }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            self.check_issuer(end_entity, intermediates, roots, now)?;
        }
        if self.named {
            Self::check_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match Certificate::parse(cert) {
            Some(certificate) if certificate.version == 0 => {
                let key = SubjectPublicKeyInfoDer::from(certificate.public_key);
                verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
            }
            _ => verify_tls13_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
