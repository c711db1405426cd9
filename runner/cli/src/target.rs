//! Which pipeline file is meant, and whether a word names a stage or a path.

use camino::{Utf8Path, Utf8PathBuf};

use crate::failure::Failure;

/// The pipeline file to use: the one named, else the only one here or in `pipelines/`.
pub fn pipeline_file(named: Option<&Utf8Path>) -> Result<Utf8PathBuf, Failure> {
    if let Some(path) = named {
        if path.is_file() {
            return Ok(path.to_owned());
        }
        return Err(missing(path));
    }
    let default = Utf8PathBuf::from("luthier.yaml");
    if default.is_file() {
        return Ok(default);
    }
    let found = candidates();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::input("cli::no_pipeline", "no pipeline file found here or in `pipelines/`")
            .hint("write one with `luthier init`, or name one: `luthier run PATH.yaml`")),
        several => Err(Failure::input(
            "cli::which_pipeline",
            format!("several pipeline files found: {}", luthier_core::quoted(several)),
        )
        .hint(format!("name one, as in `luthier run {}`", several[0]))),
    }
}

fn missing(path: &Utf8Path) -> Failure {
    let failure = Failure::input("cli::no_pipeline", format!("pipeline file `{path}` does not exist"));
    let candidates = candidates();
    let names: Vec<&str> = candidates.iter().map(|candidate| candidate.as_str()).collect();
    match luthier_core::nearest(path.as_str(), names.iter().copied()) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None if names.is_empty() => failure.hint("write one with `luthier init`"),
        None => failure.hint(format!("pipeline files here: {}", names.join(", "))),
    }
}

/// Pipeline files in this directory and in `pipelines/`, sorted.
fn candidates() -> Vec<Utf8PathBuf> {
    let mut found = Vec::new();
    for directory in [Utf8Path::new("."), Utf8Path::new("pipelines")] {
        let Ok(entries) = directory.read_dir_utf8() else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let yaml = matches!(path.extension(), Some("yaml" | "yml"));
            if yaml
                && fs_err::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line.starts_with("luthier:")))
            {
                found.push(path.strip_prefix(".").unwrap_or(path).to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Splits `[PIPELINE] STAGE`, in either order: the word that ends in `.yaml` or `.yml` is the pipeline.
pub fn split_names(names: &[String]) -> (Option<Utf8PathBuf>, Option<String>) {
    let is_file = |name: &&String| name.ends_with(".yaml") || name.ends_with(".yml");
    let pipeline = names.iter().find(is_file).map(Utf8PathBuf::from);
    let stage = names.iter().find(|name| !is_file(name)).cloned();
    (pipeline, stage)
}
