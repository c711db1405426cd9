//! `luthier gc`.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_engine::format;
use luthier_engine::lock::Lock;
use luthier_engine::store::GcOptions;

use super::{open_store, workspace};
use crate::args::{GcArgs, Global};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &GcArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let store = open_store(&workspace(global))?;
    let mut locks = Vec::new();
    for path in lock_files() {
        locks.extend(Lock::read(&path)?);
    }
    let options = GcOptions { keep_runs: args.keep_runs, locks, dry_run: args.dry_run };
    let report = store.gc(&options)?;
    if printer.json {
        printer.json(&report);
    } else {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        printer.result(&format!(
            "{verb} {}, {} freed, {} kept",
            format::plural(report.removed.len(), "object", "objects"),
            format::bytes(report.freed_bytes),
            format::bytes(report.kept_bytes)
        ));
    }
    Ok(exit::DONE)
}

/// Locks in this directory and in `pipelines/`.
fn lock_files() -> Vec<Utf8PathBuf> {
    let mut found = Vec::new();
    for directory in [Utf8Path::new("."), Utf8Path::new("pipelines")] {
        let Ok(entries) = directory.read_dir_utf8() else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension() == Some("lock") && path.file_name() != Some("Cargo.lock") {
                found.push(path.to_owned());
            }
        }
    }
    found.sort();
    found
}
