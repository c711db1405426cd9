//! Sources that a stage names and that are not on disk.

use camino::Utf8Path;
use luthier_core::{SourceKind, SourceRef, nearest};

use super::draft::Draft;
use crate::spec::Diagnostic;

/// Reports each source that is missing, or is a directory where a file is wanted.
pub(super) fn check(draft: &Draft<'_>, directory: &Utf8Path, problems: &mut Vec<Diagnostic>) {
    let Some(prepared) = &draft.prepared else { return };
    for source in &prepared.sources {
        let path = directory.join(&source.path);
        let problem = match fs_err::metadata(&path) {
            Ok(meta) if meta.is_dir() && source.kind == SourceKind::File => "is a directory, but a file was expected",
            Ok(_) => continue,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "does not exist",
            Err(_) => "cannot be read",
        };
        let message = format!("stage `{}` reads `{}`, which {problem}", draft.spec.id, source.path);
        problems.push(
            Diagnostic::new("plan::missing_source", message)
                .at(draft.config_span(&source.config_path, false), problem)
                .hint(hint(source, &path)),
        );
    }
}

fn hint(source: &SourceRef, path: &Utf8Path) -> String {
    let siblings: Vec<String> = path
        .parent()
        .and_then(|parent| parent.read_dir_utf8().ok())
        .into_iter()
        .flat_map(|entries| entries.flatten().take(1000))
        .map(|entry| entry.file_name().to_owned())
        .collect();
    let near = path.file_name().and_then(|name| nearest(name, siblings.iter().map(String::as_str)));
    if path.is_dir() {
        return format!("name a file in it, such as `{}`", source.path.join("data.jsonl"));
    }
    match near {
        Some(near) => format!("did you mean `{}`?", source.path.with_file_name(near)),
        _ if source.path.is_absolute() => "create it, or correct the path".to_owned(),
        _ => format!("create it, or correct the path; it is looked up as `{path}`"),
    }
}
