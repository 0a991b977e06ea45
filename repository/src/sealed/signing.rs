//! Signatures: who has written an object, and whom a reader trusts.
//!
//! Ed25519, with keys as `openssl` makes and prints them. What is signed begins with words that say what it is, so that no
//! signature can be taken for one of another purpose.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::{Error, Result};

/// Bytes of a signature.
pub(crate) const SIGNATURE: usize = 64;

/// What a public key of Ed25519 begins with in its usual form (RFC 8410): 12 bytes, and 32 of the key follow.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What a signature is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A whole object, by its closing header.
    Object,
    /// The first line of a manifest, which is read without the rest.
    Head,
}

impl Purpose {
    fn message(self, about: &[u8]) -> Vec<u8> {
        let words: &[u8] = match self {
            Self::Object => b"walkeep object\n",
            Self::Head => b"walkeep manifest head\n",
        };
        [words, about].concat()
    }
}

/// The secret key of whoever writes. Cheap to clone; `Debug` shows none of it.
#[derive(Clone)]
pub struct Signer {
    pair: Arc<Ed25519KeyPair>,
}

impl Signer {
    /// A new one, for tests.
    ///
    /// # Errors
    /// There is no randomness to be had.
    pub fn generate() -> Result<Self> {
        let pair =
            Ed25519KeyPair::generate().map_err(|_| Error::invalid("a signing key", "none can be made"))?;
        Ok(Self { pair: Arc::new(pair) })
    }

    /// The key of a file as `openssl genpkey -algorithm ed25519` writes it. Nothing of its content gets into a message.
    ///
    /// # Errors
    /// It cannot be read, is no such key, or everybody may read it.
    pub fn from_file(file: &Path) -> Result<Self> {
        let what = format!("signing key {}", file.display());
        let failed = |error: std::io::Error| Error::invalid(&what, error);
        if fs::metadata(file).map_err(failed)?.permissions().mode() & 0o007 != 0 {
            return Err(Error::invalid(
                &what,
                "everybody on this machine may use it; take that away: chmod 0600",
            ));
        }
        let text = Zeroizing::new(fs::read(file).map_err(failed)?);
        let none = "it is no Ed25519 key such as `openssl genpkey -algorithm ed25519` makes";
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| Error::invalid(&what, none))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        Ok(Self { pair: Arc::new(pair.map_err(|_| Error::invalid(&what, none))?) })
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let mut key = [0; 32];
        let bytes = self.pair.public_key().as_ref();
        // An Ed25519 key has no other length.
        key.copy_from_slice(&bytes[..32]);
        PublicKey(key)
    }

    pub(crate) fn sign(&self, purpose: Purpose, about: &[u8]) -> [u8; SIGNATURE] {
        let mut signature = [0; SIGNATURE];
        signature.copy_from_slice(&self.pair.sign(&purpose.message(about)).as_ref()[..SIGNATURE]);
        signature
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.public_key()).finish()
    }
}

/// The public key of somebody who may write.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(crate) fn verifies(&self, purpose: Purpose, about: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(&purpose.message(about), signature).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let key = STANDARD.decode(text).ok().and_then(|der| der.strip_prefix(&SPKI)?.try_into().ok());
        key.map(Self).ok_or_else(|| {
            Error::invalid(
                "signing.trusted_keys",
                "one of them is no public key as `openssl pkey -pubout` prints it",
            )
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode([&SPKI[..], &self.0].concat()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A signature as JSON has it.
pub(super) fn encode(signature: &[u8; SIGNATURE]) -> String {
    STANDARD.encode(signature)
}

/// What [`encode`] has written.
pub(super) fn decode(text: &str) -> Option<[u8; SIGNATURE]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl genpkey -algorithm ed25519`, for this test.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIObf64PpBsJwez5fZSwHAgyso3pdNSi5lpPr1jqbDYeq\n-----END PRIVATE KEY-----\n";

    #[test]
    fn takes_the_keys_that_openssl_makes_and_nothing_that_everybody_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("signing.pem");
        let put = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            Signer::from_file(&file)
        };
        let signer = put(PEM, 0o640).unwrap();
        assert_eq!(
            signer.public_key().to_string(),
            "MCowBQYDK2VwAyEAdcwwceJYrLb/MzshCOrXp55ukQlLCjxf6ohhJ/7yoXQ="
        );
        assert_eq!(
            "MCowBQYDK2VwAyEAdcwwceJYrLb/MzshCOrXp55ukQlLCjxf6ohhJ/7yoXQ=".parse::<PublicKey>().unwrap(),
            signer.public_key()
        );
        let signature = signer.sign(Purpose::Object, b"content");
        assert!(signer.public_key().verifies(Purpose::Object, b"content", &signature));
        assert!(!signer.public_key().verifies(Purpose::Head, b"content", &signature));
        assert!(!signer.public_key().verifies(Purpose::Object, b"contend", &signature));
        for (text, mode) in [(PEM, 0o604), ("", 0o600), (&PEM.replace("MC4", "MC5"), 0o600)] {
            let error = put(text, mode).unwrap_err().to_string();
            assert!(error.contains("signing.pem") && !error.contains("MC"), "{error}");
        }
        assert!("MCowBQYDK2VwAyEA".parse::<PublicKey>().is_err());
    }
}
