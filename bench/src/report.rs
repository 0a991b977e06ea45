//! What a benchmark found: printed as it comes, kept as a picture if asked for.

use std::path::Path;

use anyhow::{Context, Result};

use crate::picture;
use crate::spread::Spread;

/// What a figure is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// The ratio shall be no more than this.
    AtMost(f64),
    /// The ratio shall be no less than this.
    AtLeast(f64),
    /// It is told for its own sake.
    None,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Goal::AtMost(limit) => format!("goal ≤ {limit}"),
            Goal::AtLeast(limit) => format!("goal ≥ {limit}"),
            Goal::None => String::new(),
        }
    }

    pub(crate) fn is_met_by(self, ratio: f64) -> bool {
        match self {
            Goal::AtMost(limit) => ratio <= limit,
            Goal::AtLeast(limit) => ratio >= limit,
            Goal::None => true,
        }
    }
}

/// Two contenders at one job.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    /// The other contender.
    pub(crate) against: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Spread,
    pub(crate) theirs: Spread,
    /// Ours over theirs, pair by pair.
    pub(crate) ratio: Spread,
    pub(crate) goal: Goal,
}

/// The findings of one benchmark.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) title: String,
    /// Machine, versions, sizes: what the figures hold for.
    pub(crate) setting: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// Figures that are compared with nothing.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(title: &str) -> Report {
        println!("{title}");
        let mut report =
            Report { title: title.to_owned(), setting: Vec::new(), rows: Vec::new(), notes: Vec::new() };
        report.setting(machine());
        report
    }

    /// Something the figures depend on.
    pub(crate) fn setting(&mut self, text: String) {
        println!("  {text}");
        self.setting.push(text);
    }

    /// A figure without a contender.
    pub(crate) fn note(&mut self, text: String) {
        println!("  {text}");
        self.notes.push(text);
    }

    /// A job done by both; the figures come in pairs.
    pub(crate) fn row(
        &mut self,
        what: &str,
        against: &str,
        unit: &'static str,
        (ours, theirs): (Vec<f64>, Vec<f64>),
        goal: Goal,
    ) {
        let row = Row {
            what: what.to_owned(),
            against: against.to_owned(),
            unit,
            ratio: Spread::of_ratios(&ours, &theirs),
            ours: Spread::of(ours),
            theirs: Spread::of(theirs),
            goal,
        };
        println!(
            "  {what}\n    ours   {} {unit}\n    theirs {} {unit} ({against})\n    ratio  {}   {}",
            row.ours,
            row.theirs,
            row.ratio,
            row.goal.text()
        );
        self.rows.push(row);
    }

    /// Draws the report into `folder`, as `<name>.svg`.
    pub(crate) fn save(&self, folder: &Path, name: &str) -> Result<()> {
        std::fs::create_dir_all(folder).context("cannot make the pictures' folder")?;
        let path = folder.join(format!("{name}.svg"));
        std::fs::write(&path, picture::draw(self))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("  {}", path.display());
        Ok(())
    }
}

/// The processor, and the day.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let today = std::process::Command::new("date").arg("-u").arg("+%Y-%m-%d").output();
    let today = today.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{cores} cores ({model}), {}", today.unwrap_or_default())
}
