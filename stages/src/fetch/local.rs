//! A local path as a source: copied, so that later edits cannot reach the store.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageContext, StageError, StageResult};

/// Copies the file or directory into `work`.
///
/// # Errors
/// It is not there, or cannot be copied.
pub fn copy(context: &StageContext<'_>, index: usize, path: &Utf8Path, work: &Utf8Path) -> StageResult<Utf8PathBuf> {
    let from = match context.source(&format!("from[{index}]")) {
        Ok(source) => source.path.clone(),
        Err(_) => context.request().directory.join(path),
    };
    if !from.exists() {
        return Err(StageError::input("fetch::not_found", format!("`{path}` does not exist"))
            .hint(format!("paths are relative to the pipeline's directory, `{}`", context.request().directory)));
    }
    let to = work.join("local");
    if from.is_file() {
        fs_err::copy(&from, &to)?;
        return Ok(to);
    }
    for relative in luthier_core::fs::walk_files(&from)? {
        context.check_cancelled()?;
        if relative.split('/').any(|part| part == ".git" || part == ".luthier") {
            continue;
        }
        let target = to.join(&relative);
        if let Some(parent) = target.parent() {
            fs_err::create_dir_all(parent)?;
        }
        fs_err::copy(from.join(&relative), &target)?;
    }
    Ok(to)
}
