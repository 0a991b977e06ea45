//! What we must know of an X.509 certificate beyond what rustls tells: the digest of its signature (for channel
//! binding), its common name (older servers' certificates have no other), and enough to check version 1
//! certificates, which webpki refuses and which PostgreSQL's own manual makes with OpenSSL up to 3.1.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
/// `[0]` in the parameters of RSA-PSS: the digest.
const PSS_DIGEST: u8 = 0xA0;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];
const RSA_PSS: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0A];

/// The digest within a kind of signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// Kinds of signatures, and digests by themselves, with the digest that binds a channel: RFC 5929 raises MD5 and
/// SHA-1 to SHA-256.
const HASHES: &[(&[u8], Hash)] = &[
    // RSA with MD5, SHA-1, SHA-2.
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x04], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x05], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0E], Hash::Sha224),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0B], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0C], Hash::Sha384),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0D], Hash::Sha512),
    // ECDSA with SHA-1, SHA-2.
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x01], Hash::Sha224),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x03], Hash::Sha384),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x04], Hash::Sha512),
    // SHA-1 and SHA-2 by themselves, within RSA-PSS.
    (&[0x2B, 0x0E, 0x03, 0x02, 0x1A], Hash::Sha256),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x04], Hash::Sha224),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01], Hash::Sha256),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02], Hash::Sha384),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03], Hash::Sha512),
];

/// A certificate, taken apart. Nothing of it is verified.
#[derive(Debug, Clone, Copy)]
pub(super) struct Certificate<'a> {
    /// All of it.
    der: &'a [u8],
    /// What is signed.
    pub(super) signed: &'a [u8],
    /// 0 is version 1, which has no extensions.
    pub(super) version: u8,
    /// With tag and length, so that it can be compared.
    pub(super) issuer: &'a [u8],
    /// Likewise.
    pub(super) subject: &'a [u8],
    not_before: (u8, &'a [u8]),
    not_after: (u8, &'a [u8]),
    /// SubjectPublicKeyInfo, with tag and length.
    pub(super) public_key: &'a [u8],
    /// Whether it names its holder in the modern way.
    pub(super) has_alt_names: bool,
    /// AlgorithmIdentifier, without tag and length.
    pub(super) signature_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// `None` for what is no certificate.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?.content);
        let tbs = certificate.expect(SEQUENCE)?;
        let signature_algorithm = certificate.expect(SEQUENCE)?.content;
        let signature = bits(certificate.expect(BIT_STRING)?.content)?;

        let mut fields = Der(tbs.content);
        let mut first = fields.next()?;
        let mut version = 0;
        if first.tag == VERSION {
            version = *Der(first.content).next()?.content.last()?;
            first = fields.next()?;
        }
        // `first` is the serial number; the signature's kind follows once more.
        let _serial = first;
        fields.expect(SEQUENCE)?;
        let issuer = fields.expect(SEQUENCE)?.whole;
        let mut validity = Der(fields.expect(SEQUENCE)?.content);
        let (not_before, not_after) = (validity.next()?, validity.next()?);
        let subject = fields.expect(SEQUENCE)?.whole;
        let public_key = fields.expect(SEQUENCE)?.whole;
        let mut has_alt_names = false;
        while let Some(field) = fields.next() {
            if field.tag == EXTENSIONS {
                let mut extensions = Der(Der(field.content).expect(SEQUENCE)?.content);
                while let Some(extension) = extensions.next() {
                    has_alt_names |= Der(extension.content).expect(OID)?.content == SUBJECT_ALT_NAME;
                }
            }
        }
        Some(Self {
            der,
            signed: tbs.whole,
            version,
            issuer,
            subject,
            not_before: (not_before.tag, not_before.content),
            not_after: (not_after.tag, not_after.content),
            public_key,
            has_alt_names,
            signature_algorithm,
            signature,
        })
    }

    /// The channel binding `tls-server-end-point`; `None` where the signature has no digest of its own.
    pub(super) fn end_point(&self) -> Option<Vec<u8>> {
        let mut algorithm = Der(self.signature_algorithm);
        let mut kind = algorithm.expect(OID)?.content;
        if kind == RSA_PSS {
            let mut parameters = Der(algorithm.expect(SEQUENCE)?.content);
            let digest = Der(parameters.expect(PSS_DIGEST)?.content).expect(SEQUENCE)?;
            kind = Der(digest.content).expect(OID)?.content;
        }
        let (_, hash) = HASHES.iter().find(|(oid, _)| *oid == kind)?;
        Some(match hash {
            Hash::Sha224 => Sha224::digest(self.der).to_vec(),
            Hash::Sha256 => Sha256::digest(self.der).to_vec(),
            Hash::Sha384 => Sha384::digest(self.der).to_vec(),
            Hash::Sha512 => Sha512::digest(self.der).to_vec(),
        })
    }

    /// The last common name of the subject.
    pub(super) fn common_name(&self) -> Option<&'a str> {
        let mut found = None;
        let mut names = Der(Der(self.subject).expect(SEQUENCE)?.content);
        while let Some(set) = names.next() {
            let mut attributes = Der((set.tag == SET).then_some(set.content)?);
            while let Some(attribute) = attributes.next() {
                let mut attribute = Der(attribute.content);
                if attribute.expect(OID)?.content == COMMON_NAME {
                    found = std::str::from_utf8(attribute.next()?.content).ok();
                }
            }
        }
        found
    }

    /// Whether the certificate has begun and not ended at `now`, written `YYYYMMDDhhmmss` in UTC.
    pub(super) fn is_valid_at(&self, now: &str) -> bool {
        let (begin, end) = (time(self.not_before), time(self.not_after));
        begin.zip(end).is_some_and(|(begin, end)| begin.as_str() <= now && now <= end.as_str())
    }

    /// The public key: its AlgorithmIdentifier without tag and length, and the key itself.
    pub(super) fn key(&self) -> Option<(&'a [u8], &'a [u8])> {
        let mut key = Der(Der(self.public_key).expect(SEQUENCE)?.content);
        let algorithm = key.expect(SEQUENCE)?.content;
        Some((algorithm, bits(key.expect(BIT_STRING)?.content)?))
    }
}

/// Whether a certificate with the common name `name` is one for `host`. A star stands for one label.
pub(super) fn name_fits(name: &str, host: &str) -> bool {
    let (name, host) = (name.to_ascii_lowercase(), host.to_ascii_lowercase());
    match name.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
        None => name == host,
    }
}

/// A time as `YYYYMMDDhhmmss`.
fn time((tag, content): (u8, &[u8])) -> Option<String> {
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match (tag, text.len()) {
        (GENERALIZED_TIME, 14) => Some(text.to_owned()),
        // Two digits of the year: 50 to 49 are 1950 to 2049.
        (UTC_TIME, 12) if text < "50" => Some(format!("20{text}")),
        (UTC_TIME, 12) => Some(format!("19{text}")),
        _ => None,
    }
}

/// A bit string of whole bytes.
fn bits(content: &[u8]) -> Option<&[u8]> {
    content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bytes)| bytes)
}

/// What is left to read of some DER.
struct Der<'a>(&'a [u8]);

/// An element.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
}

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<Element<'a>> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some(Element { tag: *tag, content, whole })
    }

    fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(name_fits("db1.example.com", "DB1.example.com"));
        assert!(name_fits("*.example.com", "db1.example.com"));
        assert!(!name_fits("*.example.com", "a.db1.example.com"));
        assert!(!name_fits("*.example.com", "example.com"));
        assert!(!name_fits("*.example.com", ".example.com"));
        assert!(!name_fits("db1", "db2"));
        assert!(!name_fits("*", "db2"));
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        assert_eq!(time((UTC_TIME, b"261124013015Z")).as_deref(), Some("20261124013015"));
        assert_eq!(time((UTC_TIME, b"991124013015Z")).as_deref(), Some("19991124013015"));
        assert_eq!(time((GENERALIZED_TIME, b"20501124013015Z")).as_deref(), Some("20501124013015"));
        assert_eq!(time((UTC_TIME, b"2611240130+15")), None);
        assert_eq!(time((0, b"261124013015Z")), None);
    }

    proptest! {
        #[test]
        fn never_panics(der: Vec<u8>) {
            if let Some(certificate) = Certificate::parse(&der) {
                let _ = (certificate.end_point(), certificate.common_name(), certificate.key());
            }
        }

        /// Structured enough to get past the first elements.
        #[test]
        fn never_panics_on_nested_elements(tags in prop::collection::vec(0x30u8..0x32, 1..8), tail: Vec<u8>) {
            let mut der = tail;
            der.truncate(100);
            for tag in tags {
                let mut outer = vec![tag, der.len() as u8];
                outer.append(&mut der);
                der = outer;
                der.truncate(127);
            }
            let _ = Certificate::parse(&der);
        }
    }
}
