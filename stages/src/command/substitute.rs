//! `${in.x}`, `${out.x}` and `${file.x}` in a command become paths.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use luthier_core::{ArtifactKind, ConfigIssue, StageError, StageResult, nearest};

/// Paths by reference, such as `in.words`.
pub type Names = BTreeMap<String, Utf8PathBuf>;

/// The references in a text: byte range of `${…}` and what is between the braces.
fn references(text: &str) -> Vec<(std::ops::Range<usize>, &str)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find("${").map(|at| from + at) {
        let Some(end) = text[start..].find('}').map(|at| start + at) else { break };
        let name = &text[start + 2..end];
        if ["in.", "out.", "file."].iter().any(|prefix| name.starts_with(prefix)) {
            found.push((start..end + 1, name));
        }
        from = end + 1;
    }
    found
}

/// Outputs and files that a text names and the configuration does not. Inputs are known only to the pipeline.
pub fn check(
    path: &str,
    text: &str,
    outputs: &BTreeMap<String, ArtifactKind>,
    files: &BTreeMap<String, String>,
) -> Vec<ConfigIssue> {
    let mut issues = Vec::new();
    for (_, name) in references(text) {
        let (group, known): (&str, Vec<&str>) = if name.starts_with("out.") {
            ("out", outputs.keys().map(String::as_str).collect())
        } else if name.starts_with("file.") {
            ("file", files.keys().map(String::as_str).collect())
        } else {
            continue;
        };
        let word = &name[group.len() + 1..];
        if !known.contains(&word) {
            let issue = ConfigIssue::new(path, format!("`${{{name}}}` is not declared"));
            issues.push(match nearest(word, known.iter().copied()) {
                Some(near) => issue.help(format!("did you mean `${{{group}.{near}}}`?")),
                None if group == "out" => issue.help(format!("declare it: `outputs: {{{word}: file}}`")),
                None => issue.help(format!("declare it: `files: {{{word}: PATH}}`")),
            });
        }
    }
    issues
}

/// Replaces the references; for a shell line, each path as one quoted word.
///
/// # Errors
/// A reference to an input that is not connected.
pub fn substitute(text: &str, names: &Names, shell: bool) -> StageResult<String> {
    let mut result = String::with_capacity(text.len());
    let mut from = 0;
    for (range, name) in references(text) {
        let Some(path) = names.get(name) else {
            let known: Vec<String> = names.keys().map(|name| format!("`${{{name}}}`")).collect();
            return Err(StageError::input("command::unknown_name", format!("`${{{name}}}` is not connected"))
                .hint(format!("known here: {}", known.join(", "))));
        };
        result.push_str(&text[from..range.start]);
        result.push_str(&if shell { quote(path.as_str()) } else { path.to_string() });
        from = range.end;
    }
    result.push_str(&text[from..]);
    Ok(result)
}

/// One word for a POSIX shell.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
