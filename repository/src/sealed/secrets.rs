//! How objects are compressed and encrypted, and what opens them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use age::x25519::{Identity, Recipient};
use proto::config::{CompressionConfig, EncryptionConfig};
use zeroize::Zeroizing;

use super::{Audience, Encryption};
use crate::{Error, Result};

/// How objects are written: the compression level, and to whom they are encrypted. Cheap to clone.
#[derive(Clone)]
pub struct Sealing {
    level: i32,
    /// Read everything. None: nothing is encrypted.
    recipients: Arc<[Recipient]>,
    /// Read metadata as well.
    metadata_recipients: Arc<[Recipient]>,
}

impl Sealing {
    /// Compressed at `level`, not encrypted.
    pub fn plain(level: i32) -> Self {
        Self { level, recipients: Arc::new([]), metadata_recipients: Arc::new([]) }
    }

    /// Encrypted to `recipients`, metadata also to `metadata_recipients`.
    pub fn to(level: i32, recipients: &[Recipient], metadata_recipients: &[Recipient]) -> Self {
        Self { level, recipients: recipients.into(), metadata_recipients: metadata_recipients.into() }
    }

    /// As the configuration has it. The metadata identity's public half is taken from its file.
    pub fn from_config(compression: &CompressionConfig, encryption: &EncryptionConfig) -> Result<Self> {
        let recipients = encryption.recipients.iter().map(|text| {
            text.parse::<Recipient>().map_err(|why| {
                // A secret key in the wrong place must not be repeated.
                let shown = if text.starts_with("age1") { text } else { "what is set" };
                Error::invalid("encryption.recipients", format_args!("{shown} is no X25519 recipient: {why}"))
            })
        });
        let recipients: Arc<[Recipient]> = recipients.collect::<Result<_>>()?;
        let metadata_recipients = match &encryption.metadata_identity_file {
            Some(file) if !recipients.is_empty() => {
                identities(file)?.iter().map(Identity::to_public).collect()
            }
            _ => Arc::new([]) as Arc<[_]>,
        };
        Ok(Self { level: compression.level, recipients, metadata_recipients })
    }

    /// The zstd level.
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Whether objects are encrypted.
    pub fn encrypts(&self) -> bool {
        !self.recipients.is_empty()
    }

    pub(super) fn encryption(&self, audience: Audience) -> Encryption {
        match audience {
            Audience::Metadata | Audience::Content if self.encrypts() => Encryption::Age,
            _ => Encryption::None,
        }
    }

    pub(super) fn encryptor(&self, audience: Audience) -> Result<age::Encryptor> {
        let metadata = match audience {
            Audience::Metadata => &self.metadata_recipients[..],
            Audience::Everyone | Audience::Content => &[],
        };
        let recipients =
            self.recipients.iter().chain(metadata).map(|recipient| recipient as &dyn age::Recipient);
        age::Encryptor::with_recipients(recipients)
            .map_err(|error| Error::invalid("encryption.recipients", error))
    }
}

/// What opens encrypted objects: identities, perhaps none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Unsealing {
    identities: Arc<[Identity]>,
}

impl Unsealing {
    /// Opens plain objects only.
    pub fn none() -> Self {
        Self::default()
    }

    /// Opens what any of `identities` opens.
    pub fn with(identities: Vec<Identity>) -> Self {
        Self { identities: identities.into() }
    }

    /// With the identities of the configuration. A file that is named must be there.
    pub fn from_config(encryption: &EncryptionConfig) -> Result<Self> {
        let files = encryption.identity_file.iter().chain(&encryption.metadata_identity_file);
        let mut all = Vec::new();
        for file in files {
            all.extend(identities(file)?);
        }
        Ok(Self { identities: all.into() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.identities.iter().map(|identity| identity as &dyn age::Identity)
    }
}

/// The X25519 identities of a file as `age-keygen` writes it. Nothing of its content gets into a message.
fn identities(file: &Path) -> Result<Vec<Identity>> {
    let what = format!("identity file {}", file.display());
    let text = Zeroizing::new(fs::read_to_string(file).map_err(|error| Error::invalid(&what, error))?);
    let mut identities = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let identity = line.parse().map_err(|_| {
            Error::invalid(
                &what,
                format_args!("line {number} is no X25519 identity such as age-keygen makes"),
            )
        })?;
        identities.push(identity);
    }
    if identities.is_empty() {
        return Err(Error::invalid(&what, "there is no identity in it"));
    }
    Ok(identities)
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_wrong_recipient_is_not_repeated_if_it_may_be_a_secret() {
        let secret = Identity::generate().to_string().expose_secret().to_owned();
        let config = |text: &str| EncryptionConfig { recipients: vec![text.into()], ..Default::default() };
        let error = |text: &str| match Sealing::from_config(&CompressionConfig::default(), &config(text)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{text} was taken"),
        };
        assert!(!error(&secret).contains(&secret));
        assert!(error("age1xyz").contains("age1xyz"));
    }

    #[test]
    fn reads_what_age_keygen_writes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity.txt");
        let identity = Identity::generate();
        let secret = identity.to_string();
        let text = format!("# created: now\n# public key: x\n\n{}\n", secret.expose_secret());
        fs::write(&file, text).unwrap();
        assert_eq!(identities(&file).unwrap()[0].to_public(), identity.to_public());
        for wrong in ["", "# nothing\n", "AGE-SECRET-KEY-1WRONG\n"] {
            fs::write(&file, wrong).unwrap();
            let Err(error) = identities(&file) else { panic!("{wrong:?} was taken") };
            assert!(error.to_string().contains("identity.txt") && !error.to_string().contains("WRONG"));
        }
    }
}
