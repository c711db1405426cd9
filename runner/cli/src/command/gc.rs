//! `luthier gc`.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_engine::format;
use luthier_engine::lock::{Lock, Revisions};
use luthier_engine::store::{GcOptions, GcReport};

use super::{open_store, workspace};
use crate::args::{GcArgs, Global};
use crate::exit;
use crate::failure::Failure;
use crate::printer::{Printer, Verbosity};

/// Stages of which the sizes are listed; the rest is added up.
const LISTED: usize = 12;

pub fn run(args: &GcArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let store = open_store(&workspace(global))?;
    let revisions = Revisions {
        named: match (args.rev.is_empty(), args.history && !args.all_branches) {
            (true, true) => vec!["HEAD".to_owned()],
            _ => args.rev.clone(),
        },
        all_branches: args.all_branches,
        history: args.history,
    };
    let mut files = lock_files();
    files.extend(store.known_locks());
    files.sort();
    files.dedup();
    let mut locks = Vec::new();
    for path in &files {
        locks.extend(Lock::read(path)?);
        locks.extend(Lock::at_revisions(path, &revisions)?);
    }
    if files.is_empty() && !revisions.is_empty() {
        return Err(Failure::input("gc::no_lock", "there is no lock here whose revisions could be kept")
            .hint("run it in the directory of the pipeline"));
    }
    let options = GcOptions {
        keep_runs: args.keep_runs,
        locks,
        keep_for: args.keep_for.as_deref().map(duration).transpose()?,
        keep_size: args.keep_size.as_deref().map(size).transpose()?,
        dry_run: args.dry_run,
    };
    let report = store.gc(&options)?;
    if printer.json {
        printer.json(&report);
    } else {
        printer.result(&text(&report, printer.verbosity == Verbosity::Verbose));
    }
    Ok(exit::DONE)
}

fn text(report: &GcReport, all: bool) -> String {
    let mut lines = Vec::new();
    if report.dry_run || all {
        let mut stages: Vec<_> = report.stages.iter().collect();
        stages.sort_by_key(|(name, share)| (std::cmp::Reverse(share.bytes), (*name).clone()));
        let rest = stages.split_off(stages.len().min(if all { usize::MAX } else { LISTED }));
        for (name, share) in &stages {
            lines.push(format!(
                "{:<24} {:>10} in {}",
                name,
                format::bytes(share.bytes),
                format::plural(share.objects, "object", "objects")
            ));
        }
        if !rest.is_empty() {
            let bytes = rest.iter().map(|(_, share)| share.bytes).sum();
            let objects = rest.iter().map(|(_, share)| share.objects).sum();
            lines.push(format!(
                "{:<24} {:>10} in {}",
                format!("{} more", format::plural(rest.len(), "stage", "stages")),
                format::bytes(bytes),
                format::plural(objects, "object", "objects")
            ));
        }
    }
    if all {
        for removed in &report.removed {
            lines.push(format!("{:<10} {:>10}  {}", removed.what, format::bytes(removed.bytes), removed.name));
        }
    }
    let mut kinds: Vec<String> = Vec::new();
    for (what, many) in [
        ("object", "objects"),
        ("tree", "trees"),
        ("record", "records"),
        ("checkpoint", "checkpoints"),
        ("run", "runs"),
        ("temporary", "temporary files"),
        ("transfer", "unfinished transfers"),
    ] {
        let count = report.removed.iter().filter(|removed| removed.what == what).count();
        if count > 0 {
            kinds.push(format::plural(count, what, many));
        }
    }
    let verb = if report.dry_run { "would remove" } else { "removed" };
    let what = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
    lines.push(format!(
        "{verb} {what}: {} freed, {} kept",
        format::bytes(report.freed_bytes),
        format::bytes(report.kept_bytes)
    ));
    lines.join("\n")
}

/// `30d`, `12h`, `45min`.
fn duration(text: &str) -> Result<Duration, Failure> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit.trim() {
        "d" => 86_400,
        "h" => 3_600,
        "min" => 60,
        "w" => 7 * 86_400,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(Failure::input("gc::duration", format!("`{text}` is no length of time"))
            .hint("write it like `--keep-for 30d`; units are `min`, `h`, `d` and `w`")),
    }
}

/// `500MB`, `20GB`.
fn size(text: &str) -> Result<u64, Failure> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale: Option<u64> = match unit.trim() {
        "B" => Some(1),
        "kB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "TB" => Some(1_000_000_000_000),
        _ => None,
    };
    match scale.and_then(|scale| number.parse::<u64>().ok()?.checked_mul(scale)) {
        Some(bytes) => Ok(bytes),
        None => Err(Failure::input("gc::size", format!("`{text}` is no size"))
            .hint("write it like `--keep-size 20GB`; units are `B`, `kB`, `MB`, `GB` and `TB`")),
    }
}

/// Locks in this directory and in `pipelines/`.
fn lock_files() -> Vec<Utf8PathBuf> {
    let mut found = Vec::new();
    for directory in [Utf8Path::new("."), Utf8Path::new("pipelines")] {
        let Ok(entries) = directory.read_dir_utf8() else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let pipeline = ["yaml", "yml"].iter().any(|extension| path.with_extension(extension).is_file());
            if path.extension() == Some("lock") && pipeline {
                found.extend(path.canonicalize_utf8());
            }
        }
    }
    found
}
