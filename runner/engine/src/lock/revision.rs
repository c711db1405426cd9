//! Locks as they were at git revisions, through the user's git.

use std::collections::BTreeSet;
use std::process::Command;

use camino::Utf8Path;

use super::Lock;
use crate::error::EngineError;

/// Which commits of a repository are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revisions {
    /// As git writes them: `main`, `v1.2`, `HEAD~3`, `v1..v2`.
    pub named: Vec<String>,
    /// The tips of all branches, remote branches and tags.
    pub all_branches: bool,
    /// Not only those commits, but all from which they descend.
    pub history: bool,
}

impl Revisions {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && !self.all_branches
    }
}

fn failure(file: &Utf8Path, revision: &str, detail: &str) -> EngineError {
    EngineError::Git {
        path: file.to_owned(),
        revision: revision.to_owned(),
        detail: detail.trim().trim_start_matches("fatal: ").to_owned(),
    }
}

/// Git, in the directory of the file.
fn git(file: &Utf8Path) -> Command {
    let mut command = Command::new("git");
    if let Some(parent) = file.parent().filter(|parent| !parent.as_str().is_empty()) {
        command.current_dir(parent);
    }
    command
}

impl Lock {
    /// Reads `file` as of a git revision.
    ///
    /// # Errors
    /// Git is not there, knows no such revision or file, or what it has does not parse.
    pub fn at_revision(file: &Utf8Path, revision: &str) -> Result<Self, EngineError> {
        // A revision that starts with a dash would be read as an option.
        if revision.starts_with('-') {
            return Err(failure(file, revision, "a revision does not start with `-`"));
        }
        let name = file.file_name().unwrap_or(file.as_str());
        let output = git(file)
            .args(["show", &format!("{revision}:./{name}")])
            .output()
            .map_err(|error| failure(file, revision, &format!("git cannot be started: {error}")))?;
        if !output.status.success() {
            return Err(failure(file, revision, &String::from_utf8_lossy(&output.stderr)));
        }
        let text = String::from_utf8(output.stdout).map_err(|_| failure(file, revision, "it is not UTF-8"))?;
        Ok(Self::parse(&text, file)?)
    }

    /// Every different content that `file` has at the revisions. Where it does not exist there is nothing to read; what
    /// does not parse (another tool's `.lock`, conflict markers) is an error.
    ///
    /// # Errors
    /// Git is not there or knows no such revision, or a lock does not parse.
    pub fn at_revisions(file: &Utf8Path, revisions: &Revisions) -> Result<Vec<Self>, EngineError> {
        if revisions.is_empty() {
            return Ok(Vec::new());
        }
        let shown = revisions.named.first().map_or("--all", String::as_str);
        if let Some(option) = revisions.named.iter().find(|name| name.starts_with('-')) {
            return Err(failure(file, option, "a revision does not start with `-`"));
        }
        let name = file.file_name().unwrap_or(file.as_str());
        let mut command = git(file);
        command.arg("rev-list");
        let walks = revisions.history || revisions.named.iter().any(|name| name.contains(".."));
        if !walks {
            command.arg("--no-walk");
        }
        if revisions.all_branches {
            command.args(["--branches", "--remotes", "--tags"]);
        }
        command.args(&revisions.named).arg("--");
        if walks {
            // Only commits that changed the file; those between have the content of one of them.
            command.arg(name);
        }
        let output =
            command.output().map_err(|error| failure(file, shown, &format!("git cannot be started: {error}")))?;
        if !output.status.success() {
            return Err(failure(file, shown, &String::from_utf8_lossy(&output.stderr)));
        }
        let commits = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut seen = BTreeSet::new();
        let mut locks = Vec::new();
        for commit in commits.lines() {
            let blob = git(file)
                .args(["rev-parse", "--verify", "--quiet", &format!("{commit}:./{name}")])
                .output()
                .map_err(|error| failure(file, commit, &format!("git cannot be started: {error}")))?;
            if blob.status.success() && seen.insert(blob.stdout) {
                locks.push(Self::at_revision(file, commit)?);
            }
        }
        Ok(locks)
    }
}
