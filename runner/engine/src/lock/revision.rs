//! A lock as it was at a git revision.

use std::process::Command;

use camino::Utf8Path;

use super::Lock;
use crate::error::EngineError;

impl Lock {
    /// Reads `file` as of a git revision, through the user's git.
    ///
    /// # Errors
    /// Git is not there, knows no such revision or file, or what it has does not parse.
    pub fn at_revision(file: &Utf8Path, revision: &str) -> Result<Self, EngineError> {
        let fail = |detail: String| EngineError::Git {
            path: file.to_owned(),
            revision: revision.to_owned(),
            detail: detail.trim().trim_start_matches("fatal: ").to_owned(),
        };
        let name = file.file_name().unwrap_or(file.as_str());
        let directory = match file.parent() {
            Some(parent) if !parent.as_str().is_empty() => parent,
            _ => Utf8Path::new("."),
        };
        // A revision that starts with a dash would be read as an option.
        if revision.starts_with('-') {
            return Err(fail("a revision does not start with `-`".to_owned()));
        }
        let output = Command::new("git")
            .args(["show", &format!("{revision}:./{name}")])
            .current_dir(directory)
            .output()
            .map_err(|error| fail(format!("git cannot be started: {error}")))?;
        if !output.status.success() {
            return Err(fail(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let text = String::from_utf8(output.stdout).map_err(|_| fail("it is not UTF-8".to_owned()))?;
        Ok(Self::parse(&text, file)?)
    }
}
