//! The header of a sealed object.

use std::fmt;
use std::str::FromStr;

use proto::config::ClusterName;
use proto::{Digest, Lsn, ServerTime, SystemId, TimelineId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::HEADER_LENGTH;
use crate::{Error, Result};

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A branch's facts: what `walkeep init` writes.
    Branch,
    /// Who streams since when, from where.
    Epoch,
    /// A whole WAL segment.
    Segment,
    /// A part of a WAL segment.
    Fragment,
    /// A part of a WAL segment that grows.
    Journal,
    /// A timeline's history file.
    History,
    /// A timeline's last, incomplete segment, as the server renamed it.
    Partial,
    /// The small file that a primary writes to `pg_wal` at the end of a base backup.
    BackupHistory,
    /// A backup has begun.
    Intent,
    /// A backup is still running.
    Alive,
    /// A backup is complete.
    Manifest,
    /// The server's own `backup_manifest`.
    ServerManifest,
    /// Which relations there were when a backup was taken.
    Names,
    /// Digests of the blocks of some files, for comparison by content.
    BlockDigests,
    /// Frames of a backup's files.
    Pack,
    /// Proof of a restore.
    Drill,
    /// A scheduled job was run.
    Run,
    /// What the server was like.
    Look,
    /// A backup is to be kept.
    Keep,
    /// What is going to be deleted.
    Condemned,
    /// A logical backup is complete.
    Dump,
    /// A file of a logical backup.
    DumpFile,
}

impl Kind {
    /// Who may read it in an encrypted repository.
    pub fn audience(self) -> Audience {
        match self {
            // A host that can only write must know its branch, and which WAL is whose. Nothing that is not in
            // the objects' names anyway.
            Self::Branch | Self::Epoch | Self::History => Audience::Everyone,
            Self::Intent
            | Self::Alive
            | Self::Manifest
            | Self::ServerManifest
            | Self::Names
            | Self::BlockDigests
            | Self::BackupHistory
            | Self::Drill
            | Self::Run
            | Self::Look
            | Self::Keep
            | Self::Condemned
            | Self::Dump => Audience::Metadata,
            Self::Segment | Self::Fragment | Self::Journal | Self::Partial | Self::Pack | Self::DumpFile => {
                Audience::Content
            }
        }
    }
}

/// Who may read an object in an encrypted repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// It is never encrypted.
    Everyone,
    /// The recipients, and the metadata identity: what is needed to plan, but none of the database's content.
    Metadata,
    /// The recipients alone.
    Content,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// How an object's content is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// Not at all.
    #[default]
    None,
    /// As one age file.
    Age,
}

/// What an object says about itself, readable without a key. Nothing in here is secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Its key below its branch, such as `pack/<label>/<id>`: an object that was moved is noticed.
    pub name: String,
    /// The cluster.
    pub cluster: ClusterName,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The timeline, where there is one.
    pub timeline: Option<TimelineId>,
    /// The first byte of WAL that it holds or is about.
    pub from: Option<Lsn>,
    /// The first byte of WAL after it.
    pub to: Option<Lsn>,
    /// The server's clock when the content was sent.
    pub server_time: Option<ServerTime>,
    /// So many segments before this one were perhaps not stored yet when this one was: it was stored ahead of them.
    pub ahead: u32,
    /// Who wrote it.
    pub writer: WriterId,
    /// How its content is encrypted. Set by the writer of the object.
    pub encryption: Encryption,
}

/// A writer's own random name, so that two writers never share an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(u64);

impl WriterId {
    /// A new one.
    pub fn random() -> Self {
        Self(crate::chance::random())
    }

    /// From its number, for tests.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WriterId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let valid = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or_else(|| {
            Error::invalid(format_args!("{text:?}"), "16 hexadecimal digits are expected of a writer")
        })
    }
}

impl Serialize for WriterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WriterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What only the closing header can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Closing {
    /// Bytes of the content before compression.
    pub(super) raw_length: u64,
    /// Of the content before compression.
    pub(super) digest: Digest,
}

/// The version of the format of sealed objects.
const FORMAT: u32 = 1;

/// Magic number of the skippable frame around a header.
pub(super) const HEADER_MAGIC: u32 = 0x184D_2A57;

/// Magic number of the skippable frame around an index.
pub(super) const INDEX_MAGIC: u32 = 0x184D_2A58;

/// Magic number and length before the payload of a skippable frame.
pub(super) const SKIPPABLE_PREFIX: usize = 8;

const JSON_LENGTH: usize = HEADER_LENGTH - SKIPPABLE_PREFIX;

/// The header's fields as they are written, in this order.
#[derive(Serialize, Deserialize)]
struct Written {
    walkeep: u32,
    kind: Kind,
    name: String,
    cluster: ClusterName,
    system_identifier: SystemId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeline: Option<TimelineId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_lsn: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_lsn: Option<Lsn>,
    /// Microseconds since 1970-01-01 00:00 UTC: every value that a server can send fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_time_us: Option<i64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    ahead: u32,
    writer: WriterId,
    compression: String,
    encryption: Encryption,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

/// Left out of the header, as is most often the case.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The only compression there is.
const ZSTD: &str = "zstd";

/// The header as a skippable frame of [`HEADER_LENGTH`] bytes; with `closing` the closing one.
pub(super) fn encode(header: &Header, closing: Option<Closing>) -> Result<[u8; HEADER_LENGTH]> {
    let written = Written {
        walkeep: FORMAT,
        kind: header.kind,
        name: header.name.clone(),
        cluster: header.cluster.clone(),
        system_identifier: header.system_id,
        timeline: header.timeline,
        from_lsn: header.from,
        to_lsn: header.to,
        server_time_us: header.server_time.map(ServerTime::unix_micros),
        ahead: header.ahead,
        writer: header.writer,
        compression: ZSTD.to_owned(),
        encryption: header.encryption,
        raw_length: closing.map(|closing| closing.raw_length),
        digest: closing.map(|closing| closing.digest),
    };
    let too_long = || Error::invalid(&header.name, "the object's name is too long for its header");
    let json = serde_json::to_vec(&written).map_err(|error| Error::invalid(&header.name, error))?;
    let mut frame = [b' '; HEADER_LENGTH];
    frame[..4].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
    frame[4..SKIPPABLE_PREFIX].copy_from_slice(&(JSON_LENGTH as u32).to_le_bytes());
    frame[HEADER_LENGTH - 1] = b'\n';
    let room = &mut frame[SKIPPABLE_PREFIX..HEADER_LENGTH - 1];
    room.get_mut(..json.len()).ok_or_else(too_long)?.copy_from_slice(&json);
    Ok(frame)
}

/// The header alone, for the front of an object that is not sealed as a whole.
pub(crate) fn front(header: &Header) -> Result<[u8; HEADER_LENGTH]> {
    encode(header, None)
}

/// A header as it was read: its fields by name too, so that fields of later versions are compared as well.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) header: Header,
    pub(super) closing: Option<Closing>,
    fields: Map<String, Value>,
}

impl Parsed {
    /// Whether `self`, the closing header, repeats the `clear` one and adds nothing but length and digest.
    pub(super) fn repeats(&self, clear: &Parsed) -> bool {
        let own = |name: &str| name == "raw_length" || name == "digest";
        let mut repeated = self.fields.clone();
        repeated.retain(|name, _| !own(name));
        repeated == clear.fields
    }
}

/// Reads what [`encode`] has written; the reason if it is anything else.
pub(super) fn decode(frame: &[u8]) -> Result<Parsed, String> {
    let (prefix, json) = frame
        .split_at_checked(SKIPPABLE_PREFIX)
        .filter(|_| frame.len() == HEADER_LENGTH)
        .ok_or("it is shorter than a header")?;
    let number = |at: usize| prefix.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    if number(0) != Some(HEADER_MAGIC) || number(4) != Some(JSON_LENGTH as u32) {
        return Err("it does not begin with a header of ours".into());
    }
    let fields: Map<String, Value> =
        serde_json::from_slice(json).map_err(|error| format!("its header is not readable: {error}"))?;
    match fields.get("walkeep").and_then(Value::as_u64) {
        Some(version) if version == u64::from(FORMAT) => {}
        Some(version) => return Err(format!("its format is {version}; this program knows {FORMAT} only")),
        None => return Err("its header does not tell the format".into()),
    }
    let written: Written = serde_json::from_value(Value::Object(fields.clone()))
        .map_err(|error| format!("its header is not readable: {error}"))?;
    if written.compression != ZSTD {
        return Err(format!("its compression is {:?}; this program knows zstd only", written.compression));
    }
    let closing = written.raw_length.zip(written.digest);
    let header = Header {
        kind: written.kind,
        name: written.name,
        cluster: written.cluster,
        system_id: written.system_identifier,
        timeline: written.timeline,
        from: written.from_lsn,
        to: written.to_lsn,
        server_time: written.server_time_us.map(ServerTime::from_unix_micros),
        ahead: written.ahead,
        writer: written.writer,
        encryption: written.encryption,
    };
    Ok(Parsed { header, closing: closing.map(|(raw_length, digest)| Closing { raw_length, digest }), fields })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn any_header() -> impl Strategy<Value = Header> {
        let times = (any::<Option<i64>>(), any::<u64>(), any::<Option<(u64, u64)>>(), any::<Option<u32>>());
        ("[a-z0-9/._-]{1,300}", "[a-zA-Z0-9][a-z.-]{0,62}", any::<u64>(), times).prop_map(
            |(name, cluster, system, (time, writer, lsns, timeline))| Header {
                kind: Kind::Segment,
                name,
                cluster: cluster.parse().unwrap(),
                system_id: SystemId(system),
                timeline: timeline.and_then(TimelineId::new),
                from: lsns.map(|lsns| Lsn(lsns.0)),
                to: lsns.map(|lsns| Lsn(lsns.1)),
                // The server's clock counts from 2000, the header from 1970: the last 30 years have no room.
                server_time: time.map(|time| ServerTime(time / 2)),
                ahead: (writer % 3) as u32,
                writer: WriterId(writer),
                encryption: Encryption::Age,
            },
        )
    }

    #[test]
    fn a_header_is_one_padded_line() {
        proptest!(|(header in any_header())| {
            let frame = encode(&header, None).unwrap();
            prop_assert_eq!(&frame[..8], b"\x57\x2a\x4d\x18\xf8\x03\x00\x00");
            prop_assert_eq!(frame.iter().position(|&b| b == b'\n'), Some(HEADER_LENGTH - 1));
        });
    }

    #[test]
    fn a_name_that_does_not_fit_is_an_error() {
        proptest!(|(header in any_header())| {
            let header = Header { name: "x".repeat(1000), ..header };
            prop_assert!(encode(&header, None).is_err());
        });
    }

    #[test]
    fn a_newer_format_is_told() {
        proptest!(|(header in any_header())| {
            let frame = encode(&header, None).unwrap();
            let text = String::from_utf8_lossy(&frame[8..]).replace("\"walkeep\":1", "\"walkeep\":2");
            let newer = [&frame[..8], text.as_bytes()].concat();
            prop_assert!(decode(&newer).unwrap_err().contains("its format is 2"));
        });
    }

    proptest! {
        #[test]
        fn survives_a_round_trip(header in any_header(), raw_length: u64, content: Vec<u8>) {
            let clear = decode(&encode(&header, None).unwrap()).unwrap();
            prop_assert_eq!(&clear.header, &header);
            prop_assert_eq!(clear.closing, None);
            let closing = Closing { raw_length, digest: Digest::of(&content) };
            let closed = decode(&encode(&header, Some(closing)).unwrap()).unwrap();
            prop_assert_eq!(closed.closing, Some(closing));
            prop_assert!(closed.repeats(&clear));
            let other = Header { writer: WriterId(header.writer.0 ^ 1), ..header };
            prop_assert!(!closed.repeats(&decode(&encode(&other, None).unwrap()).unwrap()));
        }

        #[test]
        fn never_panics(bytes: Vec<u8>, json in "\\PC{0,200}") {
            let _ = decode(&bytes);
            let mut frame = [b' '; HEADER_LENGTH];
            frame[..4].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
            frame[4..8].copy_from_slice(&1016u32.to_le_bytes());
            frame[8..8 + json.len()].copy_from_slice(json.as_bytes());
            let _ = decode(&frame);
        }
    }
}
