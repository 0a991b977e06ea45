//! The command BASE_BACKUP and its options, in the old (13, 14) and the new (15 and later) dialect.

use super::session::NEW_DIALECT;
use super::{Error, Result, ServerVersion};

/// What `backup_label` has room for.
const LABEL_LIMIT: usize = 1024;

/// How the server begins a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, with as much I/O as it takes.
    Fast,
    /// Gently: it can take minutes.
    Spread,
}

/// The digests in the server's backup manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestChecksums {
    /// No digests.
    None,
    /// CRC-32C: finds accidents, costs next to nothing.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// What kind of base backup is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Goes into `backup_label`: at most 1,024 bytes, no line breaks.
    pub label: String,
    /// How it begins.
    pub checkpoint: Checkpoint,
    /// The most the server sends, in KiB/s: 32–1,048,576.
    pub max_rate_kib: Option<u32>,
    /// The digests in the manifest, which is always asked for.
    pub manifest_checksums: ManifestChecksums,
    /// Only what has changed since the uploaded manifest (17 and later).
    pub incremental: bool,
    /// Whether the server checks its data pages.
    pub verify_checksums: bool,
    /// Whether the server measures the tablespaces beforehand and says how far it is.
    pub progress: bool,
    /// Whether the server waits at the end until its archiver has archived the WAL that the backup needs.
    pub wait_for_archive: bool,
    /// Whether tablespaces come as a `tablespace_map` file instead of links in the main archive.
    pub tablespace_map: bool,
}

impl Default for BaseBackupOptions {
    /// A full backup with a fast checkpoint, all checks on, progress told, not waiting for the archiver.
    fn default() -> Self {
        Self {
            label: "walkeep".to_owned(),
            checkpoint: Checkpoint::Fast,
            max_rate_kib: None,
            manifest_checksums: ManifestChecksums::Crc32c,
            incremental: false,
            verify_checksums: true,
            progress: true,
            wait_for_archive: false,
            tablespace_map: true,
        }
    }
}

/// The command for `version`, in its dialect.
pub(super) fn command(options: &BaseBackupOptions, version: ServerVersion) -> Result<String> {
    let label = label(&options.label)?;
    if let Some(rate) = options.max_rate_kib.filter(|rate| !(32..=1_048_576).contains(rate)) {
        let why = format!("{rate} KiB/s is no possible rate of a base backup: 32 to 1048576 are allowed");
        return Err(Error::Config(why));
    }
    if options.incremental && version.major() < 17 {
        let why = format!("PostgreSQL {version} makes no incremental backups: 17 does");
        return Err(Error::Config(why));
    }
    let old = version.major() < NEW_DIALECT;
    let fast = options.checkpoint == Checkpoint::Fast;
    let mut words = vec![format!("LABEL {label}")];
    let mut word = |wanted: bool, in_old: &str, in_new: &str| {
        if wanted {
            words.push(if old { in_old } else { in_new }.to_owned());
        }
    };
    word(options.progress, "PROGRESS", "PROGRESS");
    word(fast, "FAST", "CHECKPOINT 'fast'");
    word(!fast && !old, "", "CHECKPOINT 'spread'");
    word(!options.wait_for_archive, "NOWAIT", "WAIT 0");
    word(options.tablespace_map, "TABLESPACE_MAP", "TABLESPACE_MAP");
    word(!options.verify_checksums, "NOVERIFY_CHECKSUMS", "VERIFY_CHECKSUMS 0");
    word(options.incremental, "", "INCREMENTAL");
    if let Some(rate) = options.max_rate_kib {
        words.push(format!("MAX_RATE {rate}"));
    }
    words.push("MANIFEST 'yes'".to_owned());
    words.push(format!("MANIFEST_CHECKSUMS '{}'", algorithm(options.manifest_checksums)));
    Ok(match old {
        true => format!("BASE_BACKUP {}", words.join(" ")),
        false => format!("BASE_BACKUP ({})", words.join(", ")),
    })
}

/// The label as a quoted string. A line break would forge lines of `backup_label`.
fn label(label: &str) -> Result<String> {
    if label.len() > LABEL_LIMIT || label.contains(['\n', '\r', '\0']) {
        let why = format!("a backup's label has at most {LABEL_LIMIT} bytes and no line breaks");
        return Err(Error::Config(why));
    }
    Ok(format!("'{}'", label.replace('\'', "''")))
}

fn algorithm(checksums: ManifestChecksums) -> &'static str {
    match checksums {
        ManifestChecksums::None => "NONE",
        ManifestChecksums::Crc32c => "CRC32C",
        ManifestChecksums::Sha224 => "SHA224",
        ManifestChecksums::Sha256 => "SHA256",
        ManifestChecksums::Sha384 => "SHA384",
        ManifestChecksums::Sha512 => "SHA512",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_say_the_same() {
        let options = BaseBackupOptions {
            label: "it's".to_owned(),
            max_rate_kib: Some(1024),
            verify_checksums: false,
            ..BaseBackupOptions::default()
        };
        assert_eq!(
            command(&options, ServerVersion(140_000)).expect("valid"),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT TABLESPACE_MAP NOVERIFY_CHECKSUMS MAX_RATE 1024 \
             MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        assert_eq!(
            command(&options, ServerVersion(150_000)).expect("valid"),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT 0, TABLESPACE_MAP, VERIFY_CHECKSUMS 0, \
             MAX_RATE 1024, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
        );
    }

    #[test]
    fn refuses_what_the_server_would_misread() {
        let with = |change: fn(&mut BaseBackupOptions)| {
            let mut options = BaseBackupOptions::default();
            change(&mut options);
            command(&options, ServerVersion(160_000))
        };
        assert!(with(|options| options.label = "a\nSTART WAL LOCATION: 0/0".to_owned()).is_err());
        assert!(with(|options| options.label = "x".repeat(1025)).is_err());
        assert!(with(|options| options.max_rate_kib = Some(31)).is_err());
        assert!(with(|options| options.incremental = true).is_err());
        assert!(with(|options| options.label = "\u{e9}".repeat(512)).is_ok());
    }
}
