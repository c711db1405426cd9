//! Lock to text.

use std::fmt::Write as _;

use serde_json::Value;

use super::{FORMAT, Lock, LockStage};
use crate::fingerprint::path::flatten;

const HEADER: &str = "# Written by `luthier run`; commit it. Git merges blocks of different stages.\n";

pub(super) fn render(lock: &Lock) -> String {
    let mut text = format!("{HEADER}version: {FORMAT}\n\nstages:\n");
    for (index, (id, stage)) in lock.stages.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}:", key(id.as_str()));
        block(&mut text, stage);
    }
    text
}

/// A name as a YAML key: plain where that is safe, else quoted as JSON.
fn key(name: &str) -> String {
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || "_-.[]@=,+/".contains(c));
    if plain { name.to_owned() } else { Value::String(name.to_owned()).to_string() }
}

fn block(text: &mut String, stage: &LockStage) {
    let print = &stage.fingerprint;
    let mut line = |indent: usize, name: &str, value: &str| {
        let space = if value.is_empty() { "" } else { " " };
        let _ = writeln!(text, "{:indent$}{}:{space}{value}", "", key(name));
    };
    line(4, "kind", &print.kind);
    line(4, "recipe", &print.recipe.to_string());
    line(4, "key", &stage.key.hex());
    if let Some(class) = &print.numeric_class {
        line(4, "class", class);
    }
    line(4, "config", "");
    for (path, value) in flatten(&print.config) {
        line(6, &path, &value.to_string());
    }
    if !print.inputs.is_empty() {
        line(4, "inputs", "");
    }
    for (port, artifacts) in &print.inputs {
        for (index, artifact) in artifacts.iter().enumerate() {
            let single = artifacts.len() == 1 && artifact.name.is_none();
            let name = if single { port.clone() } else { format!("{port}[{index}]") };
            let from = artifact.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            line(6, &name, &format!("{} {}{from}", artifact.kind, artifact.digest));
        }
    }
    for (title, digests) in [("sources", &print.sources), ("env", &print.env)] {
        if !digests.is_empty() {
            line(4, title, "");
        }
        for (name, digest) in digests {
            line(6, name, &digest.hex());
        }
    }
    line(4, "outputs", "");
    for (name, artifact) in &stage.outputs {
        let shape = if artifact.tree { "tree" } else { "file" };
        line(6, name.as_str(), &format!("{} {shape} {} {}", artifact.kind, artifact.size, artifact.digest));
    }
    if !stage.metrics.is_empty() {
        line(4, "metrics", "");
    }
    for (name, value) in &stage.metrics {
        line(6, name, value);
    }
}
