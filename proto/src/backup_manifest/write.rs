//! Writing a manifest, file by file: however many there are, none of it stays in memory.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use super::{BackupManifest, Checksum, FileEntry, WalRange, hex, write_time};
use crate::SystemId;

/// Writes a manifest to something, in which many small writes should be gathered.
pub struct BackupManifestWriter<W: Write> {
    to: W,
    sum: Sha256,
    files: u64,
}

impl<W: Write> BackupManifestWriter<W> {
    /// Begins one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(to: W, version: u8, system_id: Option<SystemId>) -> io::Result<Self> {
        let mut writer = Self { to, sum: Sha256::new(), files: 0 };
        writer.text(&format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n"))?;
        if let Some(system_id) = system_id {
            writer.text(&format!("\"System-Identifier\": {system_id},\n"))?;
        }
        writer.text("\"Files\": [")?;
        Ok(writer)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&mut self, file: &FileEntry) -> io::Result<()> {
        self.text(if self.files == 0 { "\n" } else { ",\n" })?;
        self.files += 1;
        self.text(&file.text())
    }

    /// Ends it, with its own checksum; gives back what was written to, which is not flushed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self, wal_ranges: &[WalRange]) -> io::Result<W> {
        self.text("\n],\n\"WAL-Ranges\": [\n")?;
        for (index, range) in wal_ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { ",\n" };
            let WalRange { timeline, start, end } = range;
            self.text(&format!(
                "{comma}{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
            ))?;
        }
        self.text("\n],\n")?;
        let checksum = hex(&self.sum.finalize());
        writeln!(self.to, "\"Manifest-Checksum\": \"{checksum}\"}}")?;
        Ok(self.to)
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.sum.update(text.as_bytes());
        self.to.write_all(text.as_bytes())
    }
}

impl BackupManifest {
    /// As a server writes it.
    pub fn write(&self) -> Vec<u8> {
        let written = || -> io::Result<Vec<u8>> {
            let mut writer = BackupManifestWriter::new(Vec::new(), self.version, self.system_id)?;
            self.files.iter().try_for_each(|file| writer.file(file))?;
            writer.finish(&self.wal_ranges)
        };
        // Writing to memory cannot fail.
        written().unwrap_or_default()
    }
}

impl FileEntry {
    fn text(&self) -> String {
        let mut text = "{ ".to_owned();
        // Only text has a JSON form; any other name goes as hexadecimal digits.
        match std::str::from_utf8(&self.path).ok().and_then(|path| serde_json::to_string(path).ok()) {
            Some(path) => text += &format!("\"Path\": {path}, "),
            None => text += &format!("\"Encoded-Path\": \"{}\", ", hex(&self.path)),
        }
        text +=
            &format!("\"Size\": {}, \"Last-Modified\": \"{}\"", self.size, write_time(self.last_modified));
        if let Some(Checksum { algorithm, bytes }) = &self.checksum {
            let name = algorithm.name();
            text += &format!(", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{}\"", hex(bytes));
        }
        text + " }"
    }
}
