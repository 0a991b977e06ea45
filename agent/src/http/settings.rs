//! What is served to whom. What would be careless is refused when the agent starts.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proto::config::HttpConfig;
use restore::program::failure;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::warn;

/// Characters that a token has.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 16..=1024;

/// `[http]`, with what its files hold.
#[derive(Clone)]
pub struct Settings {
    pub(super) address: SocketAddr,
    pub(super) token: Option<Token>,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl Settings {
    /// Reads the files. `None`: nothing is to be served.
    ///
    /// # Errors
    /// A file cannot be read or used, or everybody in the network could read what is served.
    pub fn load(config: &HttpConfig) -> anyhow::Result<Option<Self>> {
        let Some(address) = config.listen else { return Ok(None) };
        let token = config.token_file.as_deref().map(Token::read).transpose()?;
        let tls = match (&config.certificate_file, &config.key_file) {
            (Some(certificate), Some(key)) => Some(Arc::new(tls(certificate, key)?)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(failure(
                    "`http.certificate_file` is set, and `http.key_file` is not",
                    "name the file with the certificate's key",
                ));
            }
            (None, Some(_)) => {
                return Err(failure(
                    "`http.key_file` is set, and `http.certificate_file` is not",
                    "name the file with the key's certificate",
                ));
            }
        };
        if !address.ip().is_loopback() {
            if token.is_none() {
                return Err(failure(
                    format!("`http.listen` is {address}, which others can reach, and no token is asked for"),
                    "set `http.token_file`, or listen on 127.0.0.1",
                ));
            }
            if tls.is_none() {
                warn!(
                    %address,
                    "metrics and status page are served without TLS: whoever sees the network's traffic sees the token; \
                     set `http.certificate_file` and `http.key_file`"
                );
            }
        }
        Ok(Some(Self { address, token, tls }))
    }
}

/// What whoever asks must bring. Only its digest is kept.
#[derive(Clone)]
pub(super) struct Token(blake3::Hash);

impl Token {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let at = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the token in {at}"))?;
        Self::new(text.trim()).ok_or_else(|| {
            failure(
                format!("{at} holds no usable token"),
                "write one line of 16 to 1,024 printable characters without blanks, such as of `openssl rand -hex 32`",
            )
        })
    }

    /// `None`: too short, too long, or with characters that cannot be in a header.
    pub(super) fn new(text: &str) -> Option<Self> {
        let usable = TOKEN_LENGTH.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        usable.then(|| Self(blake3::hash(text.as_bytes())))
    }

    /// Whether the value of an `Authorization` header brings it: as a bearer token, or, for browsers, as the password of
    /// any user. Digests are compared, in constant time: how long it takes tells nothing.
    pub(super) fn is_in(&self, authorization: &str) -> bool {
        let Some((scheme, value)) = authorization.split_once(' ') else { return false };
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return blake3::hash(value.as_bytes()) == self.0;
        }
        if scheme.eq_ignore_ascii_case("basic")
            && let Ok(pair) = BASE64_STANDARD.decode(value)
            && let Some(colon) = pair.iter().position(|byte| *byte == b':')
        {
            return blake3::hash(&pair[colon + 1..]) == self.0;
        }
        false
    }
}

fn tls(certificate: &Path, key: &Path) -> anyhow::Result<ServerConfig> {
    let at = certificate.display();
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read the certificate in {at}"))?;
    if chain.is_empty() {
        return Err(failure(format!("{at} holds no certificate"), "it must be a PEM file"));
    }
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read the key in {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| format!("the certificate in {at} and its key cannot be used together"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_both_ways_and_nothing_else_is() {
        let token = Token::new("0123456789abcdef").unwrap();
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for right in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert!(token.is_in(right), "{right}");
        }
        assert!(token.is_in(&basic("anybody:0123456789abcdef")) && token.is_in(&basic(":0123456789abcdef")));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "0123456789abcdef", "Basic !", "Basic"]
        {
            assert!(!token.is_in(wrong), "{wrong}");
        }
        assert!(!token.is_in(&basic("0123456789abcdef")) && !token.is_in(&basic("0123456789abcdef:")));
    }

    #[test]
    fn a_token_is_long_enough_and_fits_into_a_header() {
        for text in ["", "short", "0123456789 abcdef", "0123456789abcdeé"] {
            assert!(Token::new(text).is_none(), "{text}");
        }
        assert!(Token::new(&"x".repeat(1025)).is_none());
    }

    #[test]
    fn what_others_can_reach_needs_a_token() {
        let open = |listen: &str, token_file| {
            let listen = Some(listen.parse().unwrap());
            Settings::load(&HttpConfig { listen, token_file, ..HttpConfig::default() })
        };
        assert!(Settings::load(&HttpConfig::default()).unwrap().is_none());
        for listen in ["127.0.0.1:0", "[::1]:0", "127.8.8.8:0"] {
            assert!(open(listen, None).unwrap().is_some(), "{listen}");
        }
        for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            assert!(open(listen, None).is_err(), "{listen}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "0123456789abcdef\n").unwrap();
        assert!(open("0.0.0.0:0", Some(file.path().to_owned())).unwrap().is_some());
        fs::write(file.path(), "short\n").unwrap();
        assert!(open("127.0.0.1:0", Some(file.path().to_owned())).is_err());
    }
}
