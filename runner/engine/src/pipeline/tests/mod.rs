mod errors;
mod kinds;
mod matrix;
mod pages;
mod pipeline;
mod properties;
mod speed;

use std::sync::Arc;

use camino::Utf8PathBuf;

use super::{Pipeline, load_source};
use crate::spec::{Diagnostics, SourceText};

/// A directory with the source files that test pipelines read, and the environment they see.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        for name in ["train.jsonl", "more.jsonl"] {
            fs_err::write(bench.directory.path().join(name), "{}\n").expect("a source file");
        }
        bench
    }

    fn file(&self) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.directory.path().join("pipeline.yaml")).expect("a UTF-8 path")
    }

    fn load_with(&self, text: &str, overrides: &[(&str, &str)]) -> Result<Pipeline, Diagnostics> {
        let overrides: Vec<(String, String)> =
            overrides.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let source = Arc::new(SourceText::new(self.file(), text));
        load_source(source, &overrides, &kinds::registry(), &|name| (name == "CORPUS").then(|| "wiki".to_owned()))
    }

    fn load(&self, text: &str) -> Pipeline {
        self.load_with(text, &[]).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The errors as they are shown, with the directory left out.
    fn errors(&self, text: &str) -> String {
        self.errors_with(text, &[])
    }

    fn errors_with(&self, text: &str, overrides: &[(&str, &str)]) -> String {
        let errors = self.load_with(text, overrides).expect_err("the pipeline is wrong");
        self.plain(&errors.render(false, 100))
    }

    fn plain(&self, text: &str) -> String {
        let directory = self.file().parent().map(ToString::to_string).unwrap_or_default();
        text.replace(&format!("{directory}/"), "")
    }
}
