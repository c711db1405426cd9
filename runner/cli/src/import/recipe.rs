//! A fine-tune in our own words, on its way to a pipeline file.

use std::fmt::Write as _;

use camino::Utf8Path;
use indexmap::IndexMap;
use serde_json::{Value, json};

use super::note::{Fate, Note};

/// Parameters of a training that its memory plan takes too.
const PLANNED: [&str; 12] = [
    "method",
    "rank",
    "targets",
    "dora",
    "dropout",
    "layers_to_transform",
    "optimizer",
    "batch",
    "accumulate",
    "checkpointing",
    "offload",
    "stream",
];

/// A part of the data, held out to watch the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    Rows(u64),
    Fraction(f64),
}

/// What the importers fill.
#[derive(Debug, Default)]
pub struct Recipe {
    /// As `fetch` wants it.
    pub model: String,
    /// What `base_model` of the training says, for a model of a hub.
    pub base_model: Option<String>,
    /// Files and globs of this machine.
    pub files: Vec<String>,
    /// Files to fetch first.
    pub urls: Vec<String>,
    /// `with` of the ingest, beside its files.
    pub rows: IndexMap<&'static str, Value>,
    pub deduplicate: bool,
    pub held_out: Option<HeldOut>,
    pub tokens: IndexMap<&'static str, Value>,
    pub train: IndexMap<&'static str, Value>,
    pub seed: u64,
}

/// `hf://` for a name of a hub, the path itself for what is on this machine.
pub fn model_source(name: &str, revision: Option<&str>) -> (String, Option<String>) {
    let local = name.starts_with(['.', '/', '~']) || name.matches('/').count() != 1 || Utf8Path::new(name).exists();
    if local {
        (name.to_owned(), None)
    } else {
        (format!("hf://{name}@{}", revision.unwrap_or("main")), Some(name.to_owned()))
    }
}

/// The first Parquet file that the hub makes of each public dataset.
pub fn dataset_url(name: &str, configuration: Option<&str>, split: Option<&str>) -> String {
    let (configuration, split) = (configuration.unwrap_or("default"), split.unwrap_or("train"));
    format!(
        "https://huggingface.co/datasets/{name}/resolve/refs%2Fconvert%2Fparquet/{configuration}/{split}/0000.parquet"
    )
}

/// Whether a dataset's name is a file or directory of this machine.
pub fn is_local(path: &str) -> bool {
    let extension = Utf8Path::new(path).extension().unwrap_or_default();
    path.starts_with(['.', '/', '~'])
        || ["json", "jsonl", "parquet", "csv", "tsv", "txt", "gz", "zst"].contains(&extension)
        || Utf8Path::new(path).exists()
}

fn mapping(fields: &IndexMap<&'static str, Value>, indent: usize) -> String {
    let mut text = String::new();
    for (key, value) in fields {
        // JSON is YAML, on one line.
        let _ = writeln!(text, "{:indent$}{key}: {value}", "");
    }
    text
}

impl Recipe {
    /// The pipeline file, with what was lost as comments at its top.
    pub fn to_yaml(&self, from: &Utf8Path, notes: &[Note]) -> String {
        let mut text = format!(
            "# yaml-language-server: $schema={}\n# Made by `luthier import` from {}.\n",
            luthier_engine::spec::SCHEMA_FILE,
            from.file_name().unwrap_or(from.as_str())
        );
        let lost: Vec<&Note> = notes.iter().filter(|note| note.fate == Fate::NotCarried).collect();
        if !lost.is_empty() {
            text.push_str("# Not carried over:\n");
            for note in lost {
                let _ = writeln!(text, "#   line {}: {}", note.line, note.to_string().replace('\n', " "));
            }
        }
        let _ = write!(text, "luthier: 1\n\nparams: {{seed: {}}}\n\nstages:\n", self.seed);
        let _ = write!(text, "  base:\n    uses: fetch\n    with:\n      from: {}\n", json!(self.model));
        self.data(&mut text);
        self.rest(&mut text);
        text
    }

    fn data(&self, text: &mut String) {
        let mut fetched = Vec::new();
        for (index, url) in self.urls.iter().enumerate() {
            let name = if self.urls.len() == 1 { "rows".to_owned() } else { format!("rows_{}", index + 1) };
            let _ = write!(text, "\n  {name}:\n    uses: fetch\n    with: {{from: {}, as: file}}\n", json!(url));
            fetched.push(name);
        }
        text.push_str("\n  raw:\n    uses: ingest\n");
        if !fetched.is_empty() {
            let _ = writeln!(text, "    in: {{files: [{}]}}", fetched.join(", "));
        }
        if !self.files.is_empty() || !self.rows.is_empty() {
            text.push_str("    with:\n");
        }
        if !self.files.is_empty() {
            let _ = writeln!(text, "      files: {}", json!(self.files));
        }
        text.push_str(&mapping(&self.rows, 6));
        if self.deduplicate {
            text.push_str("\n  clean:\n    uses: filter\n    in: raw\n    with: {steps: [{dedup: exact}]}\n");
        }
    }

    fn rest(&self, text: &mut String) {
        let mut data = if self.deduplicate { "clean" } else { "raw" };
        let held_out = self.held_out.map(|held_out| match held_out {
            HeldOut::Rows(rows) => json!(rows),
            HeldOut::Fraction(fraction) => json!(fraction),
        });
        if let Some(size) = &held_out {
            let _ = write!(
                text,
                "\n  split:\n    uses: split\n    in: {data}\n    with: {{seed: \"${{params.seed}}\", parts: {{validation: {size}, train: rest}}}}\n"
            );
            data = "split.train";
        }
        let with = |fields: &IndexMap<&'static str, Value>| {
            if fields.is_empty() { String::new() } else { format!("    with:\n{}", mapping(fields, 6)) }
        };
        let _ = write!(
            text,
            "\n  tokens:\n    uses: tokenize\n    in: {{model: base, data: {data}}}\n{}",
            with(&self.tokens)
        );
        if held_out.is_some() {
            let _ = write!(
                text,
                "\n  validation:\n    uses: tokenize\n    in: {{model: base, data: split.validation}}\n{}",
                with(&self.tokens)
            );
        }
        let planned: IndexMap<&'static str, Value> = self
            .train
            .iter()
            .filter(|(key, _)| PLANNED.contains(key))
            .map(|(key, value)| (*key, value.clone()))
            .collect();
        let _ = write!(text, "\n  memory:\n    uses: plan\n    in: {{model: base, data: tokens}}\n{}", with(&planned));
        let validation = if held_out.is_some() { ", validation: validation" } else { "" };
        let _ = write!(
            text,
            "\n  adapter:\n    uses: train\n    in: {{model: base, data: tokens{validation}}}\n    with:\n"
        );
        text.push_str(&mapping(&self.train, 6));
        if let Some(name) = &self.base_model {
            let _ = writeln!(text, "      base_model: {}", json!(name));
        }
        text.push_str("      seed: \"${params.seed}\"\n");
        text.push_str("\n  merged:\n    uses: merge\n    in: {model: base, adapters: adapter}\n");
        text.push_str("\n  gguf:\n    uses: export\n    in: merged\n    with: {type: q8_0}\n");
    }
}
