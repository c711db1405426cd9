//! `luthier diff`: two locks, or the lock against a git revision.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_engine::explain;
use luthier_engine::lock::Lock;

use crate::args::DiffArgs;
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::target;

pub fn run(args: &DiffArgs, printer: Printer) -> Result<u8, Failure> {
    let current =
        || -> Result<Utf8PathBuf, Failure> { Ok(lock_beside(&target::pipeline_file(args.pipeline.as_deref())?)) };
    let (old, new) = match &args.b {
        Some(b) => (side(&args.a, &current)?, side(b, &current)?),
        // One side: what is committed against what is there, or a revision against what is there.
        None => match file_of(&args.a) {
            Some(lock) => (Lock::at_revision(&lock, "HEAD")?, read(&lock)?),
            None => (Lock::at_revision(&current()?, &args.a)?, read(&current()?)?),
        },
    };
    let diff = explain::diff(&old, &new);
    if printer.json {
        printer.json(&diff);
    } else if args.markdown {
        printer.result(&diff.markdown());
    } else {
        printer.result(&diff.to_string());
    }
    Ok(exit::DONE)
}

/// The lock that a word means, if it is a file.
fn file_of(word: &str) -> Option<Utf8PathBuf> {
    let path = Utf8Path::new(word);
    match path.extension() {
        Some("yaml" | "yml") => Some(lock_beside(path)),
        _ if path.is_file() => Some(path.to_owned()),
        _ => None,
    }
}

fn lock_beside(pipeline: &Utf8Path) -> Utf8PathBuf {
    pipeline.with_extension("lock")
}

fn side(word: &str, current: &dyn Fn() -> Result<Utf8PathBuf, Failure>) -> Result<Lock, Failure> {
    match file_of(word) {
        Some(lock) => read(&lock),
        None => Ok(Lock::at_revision(&current()?, word)?),
    }
}

fn read(path: &Utf8Path) -> Result<Lock, Failure> {
    Lock::read(path)?.ok_or_else(|| {
        Failure::input("diff::no_lock", format!("there is no lock `{path}`"))
            .hint("`luthier run` writes it after a full run")
    })
}
