//! Packs as a manifest names them.

use std::fmt;
use std::str::FromStr;

use proto::Digest;

use crate::backup::BackupLabel;

/// The name of a pack: the backup that wrote it, and an identifier of its own.
///
/// Written `<label>/<number>-<nonce>`: eight decimal digits and sixteen random hexadecimal ones, which no
/// other writer has drawn. It is the pack's key below `pack/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    label: BackupLabel,
    number: u32,
    nonce: u64,
}

/// The text names no pack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" names no pack: <backup label>/<8 digits>-<16 hexadecimal digits> is expected")]
pub struct PackNameError(String);

impl PackName {
    pub(crate) fn new(label: BackupLabel, number: u32, nonce: u64) -> Self {
        Self { label, number, nonce }
    }

    /// The backup that wrote the pack; an incremental backup also names packs of earlier ones.
    pub fn label(&self) -> &BackupLabel {
        &self.label
    }

    /// The last part of the pack's key.
    pub fn id(&self) -> String {
        format!("{:08}-{:016x}", self.number, self.nonce)
    }
}

impl FromStr for PackName {
    type Err = PackNameError;

    fn from_str(text: &str) -> Result<Self, PackNameError> {
        let parse = || {
            let (label, id) = text.split_once('/')?;
            let (number, nonce) = id.split_once('-')?;
            let name = Self {
                label: label.parse().ok()?,
                number: number.parse().ok()?,
                nonce: u64::from_str_radix(nonce, 16).ok()?,
            };
            (name.id() == id).then_some(name)
        };
        parse().ok_or_else(|| PackNameError(text.chars().take(100).collect()))
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.label, self.id())
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a manifest says of a pack: enough to fetch any frame of it and to trust no byte of it unchecked.
///
/// Outside this crate it cannot be made up: it comes from [`PackWriter::finish`](super::PackWriter::finish),
/// when the pack is durable, or out of a manifest. So a manifest cannot name a pack that was never finished.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PackEntry {
    pub(crate) name: PackName,
    pub(crate) stored_length: u64,
    pub(crate) raw_length: u64,
    pub(crate) index_offset: u64,
    pub(crate) index_digest: Digest,
}

impl PackEntry {
    /// The pack's name.
    pub fn name(&self) -> &PackName {
        &self.name
    }

    /// Bytes of the whole object in the store.
    pub fn stored_length(&self) -> u64 {
        self.stored_length
    }

    /// Bytes of the raw stream.
    pub fn raw_length(&self) -> u64 {
        self.raw_length
    }

    /// Where the index's skippable frame begins: bytes from the beginning of the content, which follows the
    /// object's opening header. In an encrypted pack that is an offset in the decrypted content.
    pub fn index_offset(&self) -> u64 {
        self.index_offset
    }

    /// The digest of the index. The index has the digests of all frames, so this one vouches for the whole
    /// pack.
    pub fn index_digest(&self) -> Digest {
        self.index_digest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_names_no_pack() {
        let label = "20261124T013015Z-full-1a2b3c";
        let good = format!("{label}/00000007-00000000000000ff");
        assert_eq!(good.parse::<PackName>().unwrap().to_string(), good);
        for id in [
            "",
            "7-ff",
            "00000007-00000000000000FF",
            "+0000007-00000000000000ff",
            "00000007",
            "../00000007-00000000000000ff",
            "00000007-00000000000000ff/x",
        ] {
            assert!(format!("{label}/{id}").parse::<PackName>().is_err(), "{id}");
        }
    }

    proptest! {
        #[test]
        fn names_survive_a_round_trip(number: u32, nonce: u64) {
            let label: BackupLabel = "20261124T013015Z-full-1a2b3c".parse().unwrap();
            let name = PackName::new(label, number, nonce);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}
