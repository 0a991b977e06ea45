//! How dumps are told: the same by every verb.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::config::DumpFormat;
use repository::dump::{Contents, DumpLabel, Dumps, Part, PartKind, Selection};
use serde::Serialize;

/// One dump, as `walkeep list`, `walkeep dump` and `restore-cmd dump` tell it. Keys of its JSON are promised to users: none
/// goes away.
#[derive(Debug, Clone, Serialize)]
pub struct DumpLine {
    label: String,
    started_at: Timestamp,
    finished_at: Timestamp,
    size_bytes: u64,
    stored_bytes: u64,
    note: Option<String>,
    server_version: u32,
    tool_version: String,
    from_standby: bool,
    selection: Selection,
    parts: Vec<PartLine>,
}

#[derive(Debug, Clone, Serialize)]
struct PartLine {
    kind: PartKind,
    database: Option<String>,
    format: DumpFormat,
    files: usize,
    size_bytes: u64,
}

/// A dump that is there, and of which nobody can tell what it holds.
#[derive(Debug, Clone, Serialize)]
pub struct UnreadableDump {
    label: String,
    error: String,
}

impl DumpLine {
    /// What its contents say.
    pub fn of(dump: &Contents) -> Self {
        let part = |part: &Part| PartLine {
            kind: part.kind,
            database: part.database.clone(),
            format: part.format,
            files: part.files.len(),
            size_bytes: part.size_bytes(),
        };
        Self {
            label: dump.label.to_string(),
            started_at: dump.started_at,
            finished_at: dump.finished_at,
            size_bytes: dump.size_bytes(),
            stored_bytes: dump.stored_bytes(),
            note: dump.note.clone(),
            server_version: dump.server_version,
            tool_version: dump.tool_version.clone(),
            from_standby: dump.from_standby,
            selection: dump.selection.clone(),
            parts: dump.parts.iter().map(part).collect(),
        }
    }

    /// The databases and what else there is, in a few words.
    fn summary(&self) -> String {
        let names = self.parts.iter().map(|part| match (&part.database, part.kind) {
            (Some(database), _) => format!("{database} ({})", part.format),
            (None, PartKind::Everything) => "everything".to_owned(),
            (None, _) => "globals".to_owned(),
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

/// What is left out or picked, in a few words; `None`: nothing, so that each database is whole.
pub fn narrowed(of: &Selection) -> Option<String> {
    let mut words: Vec<String> = Vec::new();
    for (what, patterns) in [
        ("only tables", &of.tables),
        ("only schemas", &of.schemas),
        ("without tables", &of.exclude_tables),
        ("without schemas", &of.exclude_schemas),
        ("without rows of", &of.exclude_table_data),
    ] {
        words.extend((!patterns.is_empty()).then(|| format!("{what} {}", patterns.join(", "))));
    }
    words.extend(of.schema_only.then(|| "no rows".to_owned()));
    words.extend(of.data_only.then(|| "rows only".to_owned()));
    (!words.is_empty()).then(|| words.join("; "))
}

impl UnreadableDump {
    /// Those that are meant.
    pub fn of(dumps: &Dumps, is_meant: impl Fn(&DumpLabel) -> bool) -> Vec<Self> {
        let one = |(label, error): &(DumpLabel, repository::Error)| Self {
            label: label.to_string(),
            error: error.to_string(),
        };
        dumps.unreadable.iter().filter(|(label, _)| is_meant(label)).map(one).collect()
    }
}

/// To the second, in UTC.
fn clock(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A table of dumps for people; empty if there are none.
pub fn told(dumps: &[DumpLine], unreadable: &[UnreadableDump]) -> String {
    let mut text = String::new();
    if !dumps.is_empty() {
        let _ = writeln!(text, "{:<28}  {:<20}  {:<11}  {:<11}  OF", "DUMP", "FINISHED", "SIZE", "STORED");
    }
    for dump in dumps {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<28}  {:<20}  {:<11}  {:<11}  {}",
            dump.label,
            clock(dump.finished_at),
            HumanBytes(dump.size_bytes).to_string(),
            HumanBytes(dump.stored_bytes).to_string(),
            dump.summary()
        );
        for words in [narrowed(&dump.selection), dump.note.clone()].into_iter().flatten() {
            let _ = writeln!(text, "    {words}");
        }
        if dump.from_standby {
            text += "    taken from a standby\n";
        }
    }
    for dump in unreadable {
        let _ = writeln!(text, "dump {} cannot be read: {}", dump.label, dump.error);
    }
    text
}

#[cfg(test)]
mod tests {
    use proto::Digest;
    use repository::dump::{DUMP_FORMAT, DumpFile};

    use super::*;

    #[test]
    fn people_see_what_a_dump_holds_and_what_it_lacks() {
        let file = DumpFile {
            name: None,
            object: "file-00000000-00000000000000a1".parse().unwrap(),
            size_bytes: 5 << 20,
            stored_bytes: 1 << 20,
            digest: Digest::of(b""),
        };
        let part = |kind, database: Option<&str>, format| Part {
            kind,
            database: database.map(str::to_owned),
            format,
            files: vec![file.clone()],
        };
        let dump = Contents {
            format: DUMP_FORMAT,
            label: "20261124T013015Z-dump-1a2b3c".parse().unwrap(),
            server_version: 150_018,
            tool_version: "15.18".into(),
            from_standby: true,
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::from_second(1_795_483_815).unwrap(),
            note: Some("before the upgrade".into()),
            selection: Selection { exclude_tables: vec!["log*".into()], ..Selection::default() },
            parts: vec![
                part(PartKind::Globals, None, DumpFormat::Plain),
                part(PartKind::Database, Some("shop"), DumpFormat::Custom),
            ],
        };
        let text = told(&[DumpLine::of(&dump)], &[]);
        for words in [
            "20261124T013015Z-dump-1a2b3c  2026-11-24 01:30:15Z  10.00 MiB    2.00 MiB     globals, shop (custom)",
            "    without tables log*",
            "    before the upgrade",
            "    taken from a standby",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        let json = serde_json::to_value(DumpLine::of(&dump)).unwrap();
        assert_eq!(
            (&json["size_bytes"], &json["parts"][1]["database"]),
            (&(10 << 20).into(), &"shop".into())
        );
    }
}
