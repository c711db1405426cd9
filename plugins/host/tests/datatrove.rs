//! The built-in heuristics against datatrove's verdicts on documents near the limits of its rules
//! (`tests/golden/filters`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use camino::Utf8Path;
use luthier_plugins::{Builtin, OnTrap, Plugin, TextBatch, TextColumn};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/filters").join(name);
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

/// The reason each document is dropped for, and the text that is left of those that are kept.
fn judged(name: &str, config: &Value, texts: &[&str]) -> Vec<Result<Option<String>, String>> {
    let builtin = Builtin::find(name).unwrap();
    let reasons = builtin.manifest().reasons;
    let column = TextColumn::from_texts(texts.iter().copied()).unwrap();
    let batch = TextBatch { texts: column, reads: vec![] };
    let verdicts = Plugin::Native(builtin).open(config).unwrap().judge(&batch, OnTrap::Fail).unwrap();
    let mut edits: std::collections::BTreeMap<usize, String> = verdicts.edits.into_iter().collect();
    verdicts
        .drop
        .iter()
        .enumerate()
        .map(|(row, drop)| match drop {
            0 => Ok(edits.remove(&row)),
            reason => Err(reasons[usize::from(*reason) - 1].clone()),
        })
        .collect()
}

#[test]
fn verdicts_and_texts_equal_datatroves() {
    let documents = golden("documents.json");
    let documents = documents.as_array().unwrap();
    let texts: Vec<&str> = documents.iter().map(|document| document["text"].as_str().unwrap()).collect();
    let verdicts = golden("verdicts.json");
    let mut wrong = Vec::new();
    for (rule, builtin, config) in [
        ("gopher_quality", "gopher-quality", json!({})),
        ("gopher_repetition", "gopher-repetition", json!({})),
        ("c4_quality", "c4-quality", json!({})),
        ("c4_no_punct", "c4-quality", json!({"terminal_punctuation": false})),
        ("c4_no_sentences", "c4-quality", json!({"min_sentences": -1})),
        ("fineweb_quality", "fineweb-quality", json!({})),
    ] {
        let mut dropped = 0;
        for ((document, expected), ours) in
            documents.iter().zip(verdicts.as_array().unwrap()).zip(judged(builtin, &config, &texts))
        {
            assert_eq!(document["name"], expected["name"]);
            let reason = expected["spacy"][rule].as_str();
            let text = expected["spacy"][format!("{rule}_text")].as_str();
            let theirs = match reason {
                Some(reason) => Err(reason.to_owned()),
                None => Ok(text.map(str::to_owned)),
            };
            dropped += usize::from(reason.is_some());
            if ours != theirs {
                wrong.push(format!("{rule} {}: {ours:?}, datatrove {theirs:?}", document["name"]));
            }
        }
        assert!(dropped > 1, "{rule} dropped nothing");
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
