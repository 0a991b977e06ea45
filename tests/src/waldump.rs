//! What `pg_waldump` says of WAL, and the same said from our reader's records.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use proto::wal::WalError;
use proto::wal::record::{Fork, Record};

use crate::{Account, Installation, Output, skip};

/// What `pg_waldump` says of every record of the segments from `first` to `last`, one line each, as [`line()`] writes
/// it; none, and a loud skip, where that version has no `pg_waldump` here.
pub fn waldump(
    installation: &Installation,
    folder: &Path,
    first: &str,
    last: &str,
) -> Result<Option<Vec<String>>> {
    let Some(tool) = installation.tool("pg_waldump") else {
        skip(format!("no pg_waldump of PostgreSQL {} is on this machine", installation.major));
        return Ok(None);
    };
    let mut command = Account::current().command(tool);
    let output = Output::of(command.arg("-p").arg(folder).args([first, last]))?.ok()?;
    let records = output.stdout.lines().filter(|line| line.starts_with("rmgr:"));
    Ok(Some(records.map(|record| theirs(record).with_context(|| record.to_owned())).collect::<Result<_>>()?))
}

/// The words of one of its lines, in ours.
fn theirs(text: &str) -> Option<String> {
    let (head, description) = text.split_once(", desc: ")?;
    let rest = head.strip_prefix("rmgr: ")?;
    let (rmgr, rest) = rest.split_once(" len (rec/tot):")?;
    let (lengths, rest) = rest.split_once(", tx:")?;
    let (own, total) = lengths.split_once('/')?;
    let (xid, rest) = rest.split_once(", lsn: ")?;
    let (lsn, previous) = rest.split_once(", prev ")?;
    let lsn: proto::Lsn = lsn.trim().parse().ok()?;
    let previous: proto::Lsn = previous.trim().parse().ok()?;
    let mut line = format!("{lsn} {previous} {} {} {}/{}", rmgr.trim(), xid.trim(), own.trim(), total.trim());
    for block in description.split("blkref #").skip(1) {
        let (id, rest) = block.split_once(": rel ")?;
        let mut words = rest.trim_end_matches([',', ' ']).split(' ');
        let file = words.next()?;
        let (mut fork, mut word) = ("main", words.next()?);
        if word == "fork" {
            fork = words.next()?;
            word = words.next()?;
        }
        let number = words.next().filter(|_| word == "blk")?.trim_end_matches(',');
        let image = match words.collect::<Vec<_>>().join(" ").trim_end_matches(',') {
            "" => "",
            "FPW" => " image",
            "FPW for WAL verification" => " image to compare",
            _ => return None,
        };
        // Writing to a String cannot fail.
        let _ = write!(line, "; {id} {file} {fork} {number}{image}");
    }
    Some(line)
}

/// What a record is: position, the one before, resource manager, transaction, length without images and in all, blocks.
///
/// # Errors
/// Its parts do not fit together.
pub fn line(record: &Record<'_>) -> Result<String, WalError> {
    let parts = record.parts()?;
    let mut line = format!(
        "{} {} {} {} {}/{}",
        record.start,
        record.previous,
        record.rmgr,
        record.xid,
        record.length - parts.image_bytes,
        record.length
    );
    for block in parts.blocks() {
        let fork: Fork = block.fork;
        let image = match block.image.map(|image| image.apply) {
            None => "",
            Some(true) => " image",
            Some(false) => " image to compare",
        };
        let _ = write!(line, "; {} {} {} {}{image}", block.id, block.file, fork.name(), block.number);
    }
    Ok(line)
}
