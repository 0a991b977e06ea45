//! How objects are compressed and encrypted, and what opens them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use age::x25519::{Identity, Recipient};
use proto::config::{CompressionConfig, EncryptionConfig, SigningConfig};
use zeroize::Zeroizing;

use super::{Audience, Encryption, PublicKey, Signer, command};
use crate::{Error, Result};

/// How objects are written: the compression level, and to whom they are encrypted. Cheap to clone.
#[derive(Clone)]
pub struct Sealing {
    level: i32,
    /// Read everything. None: nothing is encrypted.
    recipients: Arc<[Recipient]>,
    /// Read metadata as well.
    metadata_recipients: Arc<[Recipient]>,
    /// Signs everything. None: nothing is signed.
    signer: Option<Signer>,
}

impl Sealing {
    /// Compressed at `level`, not encrypted.
    pub fn plain(level: i32) -> Self {
        Self { level, recipients: Arc::new([]), metadata_recipients: Arc::new([]), signer: None }
    }

    /// Encrypted to `recipients`, metadata also to `metadata_recipients`.
    pub fn to(level: i32, recipients: &[Recipient], metadata_recipients: &[Recipient]) -> Self {
        let (recipients, metadata_recipients) = (recipients.into(), metadata_recipients.into());
        Self { level, recipients, metadata_recipients, signer: None }
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
        Ok(Self { level: compression.level, recipients, metadata_recipients, signer: None })
    }

    /// The same, signed by `signer`.
    pub fn signed_by(self, signer: Signer) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// Who signs.
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// The zstd level.
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Whether objects are encrypted.
    pub fn encrypts(&self) -> bool {
        !self.recipients.is_empty()
    }

    /// What tells one set of recipients from another: the first 16 hexadecimal digits of the digest of their public keys, one a
    /// line in ascending order. `None` where nothing is encrypted.
    pub fn fingerprint(&self, audience: Audience) -> Option<String> {
        if self.encryption(audience) == Encryption::None {
            return None;
        }
        let mut keys: Vec<String> = self.readers(audience).map(ToString::to_string).collect();
        keys.sort_unstable();
        keys.dedup();
        let digest = blake3::hash(keys.join("\n").as_bytes()).to_hex();
        digest.get(..16).map(str::to_owned)
    }

    fn readers(&self, audience: Audience) -> impl Iterator<Item = &Recipient> {
        let metadata = match audience {
            Audience::Metadata => &self.metadata_recipients[..],
            Audience::Everyone | Audience::Content => &[],
        };
        self.recipients.iter().chain(metadata)
    }

    pub(super) fn encryption(&self, audience: Audience) -> Encryption {
        match audience {
            Audience::Metadata | Audience::Content if self.encrypts() => Encryption::Age,
            _ => Encryption::None,
        }
    }

    pub(super) fn encryptor(&self, audience: Audience) -> Result<age::Encryptor> {
        let recipients = self.readers(audience).map(|recipient| recipient as &dyn age::Recipient);
        age::Encryptor::with_recipients(recipients)
            .map_err(|error| Error::invalid("encryption.recipients", error))
    }
}

/// What opens encrypted objects: identities, perhaps none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Unsealing {
    identities: Arc<[Identity]>,
    /// What none of these has signed is refused. None: nobody looks.
    trusted: Arc<[PublicKey]>,
}

impl Unsealing {
    /// Opens plain objects only.
    pub fn none() -> Self {
        Self::default()
    }

    /// Opens what any of `identities` opens.
    pub fn with(identities: Vec<Identity>) -> Self {
        Self { identities: identities.into(), ..Self::default() }
    }

    /// With the identities of the configuration. A file that is named must be there, and a command is run.
    pub fn from_config(encryption: &EncryptionConfig) -> Result<Self> {
        let files = encryption.identity_file.iter().chain(&encryption.metadata_identity_file);
        let mut all = Vec::new();
        for file in files {
            all.extend(identities(file)?);
        }
        if !encryption.identity_command.is_empty() {
            let what = format!("identity_command {}", encryption.identity_command[0]);
            all.extend(parse(&what, &command::output(&what, &encryption.identity_command)?)?);
        }
        Ok(Self { identities: all.into(), ..Self::default() })
    }

    /// The same, which takes nothing that none of `trusted` has signed.
    pub fn trusting(self, trusted: Vec<PublicKey>) -> Self {
        Self { trusted: trusted.into(), ..self }
    }

    /// Those without whose signature nothing is taken; if there are none, nobody looks.
    pub fn trusted(&self) -> &[PublicKey] {
        &self.trusted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.identities.iter().map(|identity| identity as &dyn age::Identity)
    }
}

/// Sealing and unsealing with the keys of `[signing]` besides.
pub(crate) fn with_signing(
    sealing: Sealing,
    unsealing: Unsealing,
    config: &SigningConfig,
) -> Result<(Sealing, Unsealing)> {
    let signer = config.key_file.as_deref().map(Signer::from_file).transpose()?;
    let mut trusted =
        config.trusted_keys.iter().map(|key| key.parse()).collect::<Result<Vec<PublicKey>>>()?;
    trusted.extend(signer.as_ref().map(Signer::public_key));
    let sealing = match signer {
        Some(signer) => sealing.signed_by(signer),
        None => sealing,
    };
    Ok((sealing, unsealing.trusting(trusted)))
}

/// The X25519 identities of a file as `age-keygen` writes it. Nothing of its content gets into a message.
fn identities(file: &Path) -> Result<Vec<Identity>> {
    let what = format!("identity file {}", file.display());
    let failed = |error: std::io::Error| Error::invalid(&what, error);
    let text = Zeroizing::new(fs::read_to_string(file).map_err(failed)?);
    if fs::metadata(file).map_err(failed)?.permissions().mode() & 0o007 != 0 {
        tracing::warn!("everybody on this machine may use {what}; take that away: chmod 0600");
    }
    parse(&what, &text)
}

/// The identities in a text.
fn parse(what: &str, text: &str) -> Result<Vec<Identity>> {
    let mut identities = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let identity = line.parse().map_err(|_| {
            Error::invalid(what, format_args!("line {number} is no X25519 identity such as age-keygen makes"))
        })?;
        identities.push(identity);
    }
    if identities.is_empty() {
        return Err(Error::invalid(what, "there is no identity in it"));
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
