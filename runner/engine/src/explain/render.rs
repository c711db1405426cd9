//! A comparison of locks as text for a terminal, and as Markdown for a pull request.

use std::fmt::{self, Write as _};

use super::compare::{FieldChange, LockDiff, StageChange};
use crate::format;

/// A value for reading: digests cut, metrics rounded, nothing as a dash.
fn value(what: &str, value: Option<&String>) -> String {
    match value {
        None => "–".to_owned(),
        Some(text) if matches!(what, "input" | "output" | "source") => text.chars().take(12).collect(),
        Some(text) if what == "metric" => text.parse().map_or_else(|_| text.clone(), format::number),
        Some(text) => text.clone(),
    }
}

/// The relative change of a metric, empty where there is none to tell.
fn change(field: &FieldChange) -> String {
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<f64>().ok());
    match (field.what, number(&field.old), number(&field.new)) {
        ("metric", Some(old), Some(new)) if old != 0.0 && old.is_finite() && new.is_finite() => {
            format!("{:+.1} %", (new - old) / old.abs() * 100.0)
        }
        _ => String::new(),
    }
}

fn is_digest(field: &FieldChange) -> bool {
    matches!(field.what, "input" | "output" | "source")
}

impl LockDiff {
    /// `2 stages changed, 1 added, 1 removed`.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |change: &str| self.stages.iter().filter(|stage| stage.change == change).count();
        let (changed, added, removed) = (count("changed"), count("added"), count("removed"));
        let mut parts = Vec::new();
        if changed > 0 {
            parts.push(format!("{} changed", format::plural(changed, "stage", "stages")));
        }
        for (number, word) in [(added, "added"), (removed, "removed")] {
            match (number, parts.is_empty()) {
                (0, _) => {}
                (_, true) => parts.push(format!("{} {word}", format::plural(number, "stage", "stages"))),
                (_, false) => parts.push(format!("{number} {word}")),
            }
        }
        if parts.is_empty() { "no differences".to_owned() } else { parts.join(", ") }
    }

    /// GitHub's Markdown: what was decided, what came of it, and the digests folded away.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("**{}**\n", self.summary());
        let list = |change: &str| -> Vec<String> {
            let stages = self.stages.iter().filter(|stage| stage.change == change);
            stages.map(|stage| format!("`{}`", stage.stage)).collect()
        };
        for change in ["added", "removed"] {
            let stages = list(change);
            if !stages.is_empty() {
                let _ = write!(text, "\n{change}: {}\n", stages.join(", "));
            }
        }
        let decided = |field: &FieldChange| field.what != "metric" && !is_digest(field);
        text.push_str(&self.table("parameter", false, &decided));
        text.push_str(&self.table("metric", true, &|field| field.what == "metric"));
        let digests = self.table("artifact", false, &is_digest);
        if !digests.is_empty() {
            let _ = write!(text, "\n<details><summary>digests</summary>\n{digests}\n</details>\n");
        }
        text
    }

    /// A table of the fields that `wanted` picks, empty if there are none.
    fn table(&self, head: &str, changes: bool, wanted: &dyn Fn(&FieldChange) -> bool) -> String {
        let mut rows = String::new();
        // A bar would end the cell, a line break the row.
        let cell = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('\n', " ");
        for stage in &self.stages {
            for field in stage.fields.iter().filter(|field| wanted(field)) {
                let name = if is_digest(field) || field.what == "key" {
                    format!("{} {}", field.what, field.name)
                } else {
                    field.name.clone()
                };
                let _ = write!(
                    rows,
                    "| {} | {} | {} | {} |",
                    stage.stage,
                    cell(&name),
                    cell(&value(field.what, field.old.as_ref())),
                    cell(&value(field.what, field.new.as_ref()))
                );
                rows.push_str(&if changes { format!(" {} |\n", change(field)) } else { "\n".to_owned() });
            }
        }
        match (rows.is_empty(), changes) {
            (true, _) => rows,
            (false, true) => format!("\n| stage | {head} | old | new | change |\n|---|---|--:|--:|--:|\n{rows}"),
            (false, false) => format!("\n| stage | {head} | old | new |\n|---|---|---|---|\n{rows}"),
        }
    }
}

/// A block per stage, its fields in columns.
impl fmt::Display for LockDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in &self.stages {
            block(stage, f)?;
        }
        writeln!(f, "{}", self.summary())
    }
}

fn block(stage: &StageChange, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match stage.change {
        "changed" => writeln!(f, "{}", stage.stage)?,
        change => writeln!(f, "{} ({change})", stage.stage)?,
    }
    let name = |field: &FieldChange| format!("{} {}", field.what, field.name);
    let width = stage.fields.iter().map(|field| name(field).chars().count()).max().unwrap_or(0);
    for field in &stage.fields {
        let (old, new) = (value(field.what, field.old.as_ref()), value(field.what, field.new.as_ref()));
        let line = match (stage.change, &field.old, &field.new) {
            ("added", _, _) => new,
            ("removed", _, _) => old,
            _ => format!("{old} → {new}"),
        };
        let change = change(field);
        let gap = if change.is_empty() { "" } else { "  " };
        writeln!(f, "  {:<width$}  {line}{gap}{change}", name(field))?;
    }
    Ok(())
}
