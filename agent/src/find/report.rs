//! What `walkeep find` tells: for people, and as JSON.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::config::ClusterName;
use proto::{Lsn, ServerTime, TimelineId};
use repository::catalogue::Window;
use serde::Serialize;

use super::hit::{Hit, Kind, Subject};
use super::lines::Lines;
use super::names::{Name, Names};
use super::range::WalRange;
use super::scan::Scanned;

/// All of it. Keys are promised to users: none goes away.
#[derive(Debug, Serialize)]
pub struct Report {
    cluster: ClusterName,
    timeline: TimelineId,
    from_lsn: Lsn,
    to_lsn: Lsn,
    read_bytes: u64,
    records: u64,
    hits: Vec<Told>,
    /// Hits that are not listed.
    more: u64,
    gaps: Vec<Missing>,
    damage: Vec<Damaged>,
    notices: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Missing {
    from_lsn: Lsn,
    to_lsn: Lsn,
}

#[derive(Debug, Serialize)]
struct Damaged {
    lsn: Lsn,
    why: String,
}

#[derive(Debug, Serialize)]
struct Told {
    kind: Kind,
    time: Option<Timestamp>,
    xid: Option<u32>,
    /// Where the record is that made it last.
    lsn: Lsn,
    timeline: TimelineId,
    relations: Vec<Relation>,
    /// A database that was dropped, or in which a transaction was committed.
    database: Option<String>,
    restore_point: Option<String>,
    /// The line that restores the moment before it; `None` if no backup leads there.
    restore: Option<String>,
    /// The line that dumps the tables alone, as they were then; `None` where they are not all known by name.
    export: Option<String>,
    /// Where that ends: before the record that begins here.
    target_lsn: Lsn,
    /// The commit before it.
    before: Option<Before>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Before {
    xid: u32,
    time: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct Relation {
    #[serde(flatten)]
    name: Option<Name>,
    /// Tablespace, database and file.
    file: Option<String>,
    /// Rows that were deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    #[serde(skip)]
    subject: Subject,
}

/// A relation that somebody asks for: `schema.name`, a name, an oid, or the number of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish(pub String);

impl Wish {
    fn is(&self, relation: &Relation) -> bool {
        let text = self.0.as_str();
        let by_name = relation.name.as_ref().is_some_and(|name| {
            text == name.name
                || text == name.qualified()
                || text == format!("{}.{}", name.database, name.qualified())
        });
        let by_number = |number: u32| {
            relation.subject.oid == Some(number)
                || relation.name.as_ref().is_some_and(|name| name.oid == number)
                || relation.subject.file.is_some_and(|file| file.number == number)
        };
        by_name || text.parse().is_ok_and(by_number) || relation.file.as_deref() == Some(text)
    }
}

/// What the report is made of.
pub struct Found<'a> {
    /// What happened.
    pub hits: &'a [Hit],
    /// Of these, more than were kept.
    pub more: u64,
    /// How it is called.
    pub names: &'a Names,
    /// What was to be read.
    pub range: &'a WalRange,
    /// What was.
    pub scanned: Scanned,
    /// What can be restored.
    pub windows: &'a [Window],
    /// What else there is to say.
    pub notices: Vec<String>,
}

impl Report {
    /// Puts it together: only what happened to `wish`, if there is one, and `limit` things at most.
    pub fn new(
        cluster: ClusterName,
        found: Found<'_>,
        lines: &Lines,
        wish: Option<&Wish>,
        limit: usize,
    ) -> Self {
        let timeline = found.range.lineage.timeline();
        let mut told: Vec<Told> = found
            .hits
            .iter()
            .map(|hit| tell(hit, &found, timeline, lines))
            .filter(|told| wish.is_none_or(|wish| told.relations.iter().any(|relation| wish.is(relation))))
            .collect();
        let more = found.more + told.len().saturating_sub(limit) as u64;
        told.truncate(limit);
        let mut notices = found.notices;
        notices.extend(found.names.notices.iter().cloned());
        if found.scanned.more_damage > 0 {
            notices.push(format!("{} more places are damaged", found.scanned.more_damage));
        }
        Self {
            cluster,
            timeline,
            from_lsn: found.range.from,
            to_lsn: found.range.to,
            read_bytes: found.scanned.bytes,
            records: found.scanned.records,
            hits: told,
            more,
            gaps: found
                .range
                .gaps
                .iter()
                .map(|gap| Missing { from_lsn: gap.start, to_lsn: gap.end })
                .collect(),
            damage: found
                .scanned
                .damage
                .into_iter()
                .map(|damage| Damaged { lsn: damage.at, why: damage.why })
                .collect(),
            notices,
        }
    }

    /// Whether WAL that the repository has could not be read.
    pub fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }

    /// For people.
    pub fn human(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "cluster {}, timeline {}: {} of WAL from {} to {}. All times are UTC.\n",
            self.cluster,
            self.timeline,
            HumanBytes(self.read_bytes),
            self.from_lsn,
            self.to_lsn
        );
        for hit in &self.hits {
            hit.human(&mut text);
        }
        if self.hits.is_empty() {
            text += "nothing of what was asked for is in it\n";
        }
        if self.more > 0 {
            let _ = writeln!(
                text,
                "and {} more: narrow it with --since, --until or --relation, or --limit",
                self.more
            );
        }
        for gap in &self.gaps {
            let missing = HumanBytes(gap.to_lsn.bytes_since(gap.from_lsn));
            let _ = writeln!(
                text,
                "NOT SEEN: WAL from {} to {} is missing ({missing}); what happened there is not known",
                gap.from_lsn, gap.to_lsn
            );
        }
        for damage in &self.damage {
            let _ = writeln!(text, "NOT SEEN: WAL at {} is damaged: {}", damage.lsn, damage.why);
        }
        for notice in &self.notices {
            let _ = writeln!(text, "note: {notice}");
        }
        text
    }
}

fn tell(hit: &Hit, found: &Found<'_>, timeline: TimelineId, lines: &Lines) -> Told {
    let relation = |subject: &Subject| Relation {
        name: found.names.name(subject, hit.stop),
        file: subject.file.map(|file| file.to_string()),
        rows: (subject.rows > 0).then_some(subject.rows),
        subject: *subject,
    };
    let about_database = matches!(hit.kind, Kind::DropDatabase | Kind::Commit);
    let database = hit.subjects.first().filter(|_| about_database).map(|subject| {
        let known =
            hit.name.clone().or_else(|| found.names.database(subject.database, hit.stop).map(Into::into));
        known.unwrap_or_else(|| format!("with oid {}", subject.database))
    });
    let relations: Vec<Relation> =
        if about_database { Vec::new() } else { hit.subjects.iter().map(relation).collect() };
    let mut notes: Vec<String> = hit.doubt.iter().map(|doubt| (*doubt).to_owned()).collect();
    if let Some(name) = &hit.prepared_as {
        notes.push(format!(
            "it was prepared: a restored server still has it, until ROLLBACK PREPARED '{}'",
            name.replace('\'', "''")
        ));
    }
    let unnamed = relations.iter().filter(|relation| relation.name.is_none()).count();
    if unnamed > 0 && found.names.notices.is_empty() {
        notes.push(format!(
            "{unnamed} of these have no name that is known: no backup was taken while they were there, and the WAL does \
             not tell"
        ));
    }
    let reached = found.windows.iter().any(|window| {
        window.timeline == timeline && window.from_lsn <= hit.stop && hit.stop <= window.to_lsn
    });
    let accident = matches!(hit.kind, Kind::Drop | Kind::Truncate | Kind::Delete);
    let tables = tables(&relations).filter(|_| reached && accident);
    let export = tables.and_then(|tables| lines.export(timeline, hit.stop, &tables));
    Told {
        kind: hit.kind,
        time: hit.time.and_then(instant),
        xid: (hit.xid != 0).then_some(hit.xid),
        lsn: hit.lsn,
        timeline,
        relations,
        database,
        restore_point: hit.name.clone().filter(|_| hit.kind == Kind::RestorePoint),
        restore: reached.then(|| lines.restore(timeline, hit.stop)),
        export,
        target_lsn: hit.stop,
        before: hit.before.map(|commit| Before { xid: commit.xid, time: instant(commit.time) }),
        notes,
    }
}

/// The tables among them; `None` if something has no name: it may be one.
fn tables(relations: &[Relation]) -> Option<Vec<&Name>> {
    let names: Option<Vec<&Name>> = relations.iter().map(|relation| relation.name.as_ref()).collect();
    names.map(|names| names.into_iter().filter(|name| matches!(name.kind, 'r' | 'p' | 'm')).collect())
}

impl Told {
    fn human(&self, text: &mut String) {
        let time = self.time.map_or_else(|| "at an unknown time".to_owned(), clock);
        let what = match self.kind {
            Kind::Drop => "DROPPED",
            Kind::Truncate => "TRUNCATED",
            Kind::DropDatabase => "DATABASE DROPPED",
            Kind::Delete => "ROWS DELETED",
            Kind::Rewrite => "rewritten",
            Kind::Create => "created",
            Kind::Commit => "commit",
            Kind::RestorePoint => "restore point",
        };
        let _ = writeln!(text, "{time}  {what}  {}", self.subject());
        let transaction = self.xid.map_or_else(String::new, |xid| format!("transaction {xid}, "));
        let before = match &self.before {
            Some(Before { xid, time: Some(time) }) => {
                format!("; the commit before it: transaction {xid} at {}", clock(*time))
            }
            _ => String::new(),
        };
        let _ = writeln!(text, "    {transaction}at {}{before}", self.lsn);
        for note in &self.notes {
            let _ = writeln!(text, "    note: {note}");
        }
        match &self.restore {
            Some(line) => {
                let _ = writeln!(text, "    the moment before it:\n    {line}");
                if let Some(line) = &self.export {
                    let _ = writeln!(text, "    that alone, as it was then, into a file:\n    {line}");
                }
                text.push('\n');
            }
            None => {
                let _ = writeln!(text, "    no backup leads to the moment before it: see `walkeep list`\n");
            }
        }
    }

    /// What it happened to, in one line.
    fn subject(&self) -> String {
        if let Some(name) = &self.restore_point {
            return format!("\"{name}\"");
        }
        if let Some(database) = &self.database {
            return match self.kind {
                Kind::Commit => format!("in database {database}"),
                _ => database.clone(),
            };
        }
        // Tables first; what belongs to them is counted.
        let is_part = |relation: &&Relation| {
            relation.name.as_ref().is_some_and(|name| matches!(name.kind, 'i' | 'I' | 't'))
        };
        let (parts, whole): (Vec<&Relation>, Vec<&Relation>) = self.relations.iter().partition(is_part);
        let (shown, counted) = if whole.is_empty() { (&parts, 0) } else { (&whole, parts.len()) };
        const MOST: usize = 20;
        let mut names: Vec<String> = shown.iter().take(MOST).map(|relation| relation.human()).collect();
        if shown.len() > MOST {
            names.push(format!("and {} more", shown.len() - MOST));
        }
        let mut subject = names.join(", ");
        if counted > 0 {
            let _ = write!(subject, " (and {counted} of their indexes and TOAST tables)");
        }
        let databases: Vec<&str> = {
            let mut all: Vec<&str> =
                shown.iter().filter_map(|r| Some(r.name.as_ref()?.database.as_str())).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        if !databases.is_empty() {
            let _ = write!(subject, " in database {}", databases.join(", "));
        }
        subject
    }
}

impl Relation {
    fn human(&self) -> String {
        let rows = self.rows.map_or_else(String::new, |rows| format!("{rows} of "));
        let name = match &self.name {
            Some(name) => format!("{} {}", kind(name.kind), name.qualified()),
            None => match (&self.file, self.subject.oid) {
                (Some(file), _) => format!("relation with file {file}"),
                (None, Some(oid)) => format!("relation with oid {oid}"),
                (None, None) => "a relation".to_owned(),
            },
        };
        rows + &name
    }
}

fn kind(kind: char) -> &'static str {
    match kind {
        'r' | 'p' => "table",
        'i' | 'I' => "index",
        'S' => "sequence",
        'm' => "materialized view",
        't' => "TOAST table",
        _ => "relation",
    }
}

fn instant(time: ServerTime) -> Option<Timestamp> {
    Timestamp::from_microsecond(time.unix_micros()).ok()
}

fn clock(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
