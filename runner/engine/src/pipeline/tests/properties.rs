//! What holds for any bytes.

use std::sync::Arc;

use proptest::prelude::*;

use super::kinds::registry;
use super::pipeline::WORDS;
use crate::pipeline::load_source;
use crate::spec::{Diagnostics, Node, NodeValue, SourceText, Span, parse};

/// Texts that exercise odd corners of YAML.
const CORPUS: [&str; 24] = [
    "",
    "\u{feff}luthier: 1",
    "---\n...\n---\n",
    "%YAML 1.2\n---\nluthier: 1\n",
    "? a\n: b\n? [c, d]\n: e\n",
    "a: |\n  text\n\n  more\nb: >-\n  folded\n",
    "a: 'it''s'\nb: \"\\u00e9\\n\"\n",
    "&a a: *a\n",
    "a: &a\n  b: *a\n",
    "<<: {a: 1}\n<<: [{b: 2}, 3]\n",
    "a: !!binary aGk=\n",
    "!!map {a: !!null }\n",
    "{a: [1, {b: ${params.x}}], c: $${x}}",
    "a: ${\nb: ${}\nc: ${.}\n",
    "- - - - a\n- [[[[]]]]\n",
    "\t- a",
    "a:\r\n  b: c\r\n",
    "\u{10fffc}: ${params.x}",
    "a: \"unterminated",
    "a: [1, 2",
    "luthier: 1\nstages:\n  s: {uses: train, in: {model: s, data: [s, s@*, s.x.y, '@', '.', '*']}}\n",
    "luthier: 1\nstages:\n  s: {uses: command, in: '*', with: {run: x, outputs: {}}, matrix: {a: [1, 1.0, '1']}}\n",
    "luthier: 1\nparams: {a: ${params.a}}\nstages: {s: {uses: ingest, with: {files: ${params.a}}}}\n",
    "名前: 値\nemoji: 🎻\n",
];

fn spans(node: &Node, found: &mut Vec<Span>) {
    found.push(node.span);
    match &node.value {
        NodeValue::List(items) => items.iter().for_each(|item| spans(item, found)),
        NodeValue::Map(entries) => {
            for entry in entries {
                found.push(entry.key_span);
                spans(&entry.value, found);
            }
        }
        _ => {}
    }
}

/// Loads and renders; checks every place that is named.
fn check(text: &str) {
    let source = Arc::new(SourceText::new("pipeline.yaml", text));
    let inside = |span: Span| {
        assert!(span.start <= span.end && text.get(span.start..span.end).is_some(), "{span:?} in {text:?}");
    };
    let problems = match parse(&source) {
        Ok(node) => {
            let mut found = Vec::new();
            spans(&node, &mut found);
            found.into_iter().for_each(inside);
            match load_source(Arc::clone(&source), &[], &registry(), &|_| None) {
                Ok(_) => return,
                Err(problems) => problems,
            }
        }
        Err(problems) => Diagnostics::new(source, problems),
    };
    assert!(!problems.items().is_empty());
    for item in problems.items() {
        item.labels.iter().for_each(|label| inside(label.span));
    }
    assert!(!problems.render(true, 40).is_empty());
    assert!(problems.to_json()["errors"].is_array());
}

#[test]
fn odd_texts_are_answered() {
    CORPUS.iter().for_each(|text| check(text));
    for length in 0..WORDS.len() {
        check(WORDS.get(..length).unwrap_or_default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}") {
        check(&text);
    }

    #[test]
    fn any_yaml_like_text_is_answered(
        text in "([a-z<]{1,3}|[0-9]|[-:?&*!|>%@`'\"{}\\[\\],#.$\\\\~]|\n|\n  |\n    |  |: |- |\\$\\{|\\$\\{params\\.a\\}|é|\u{1F3BB}|\t|\r\n){0,60}",
    ) {
        check(&text);
    }

    #[test]
    fn a_damaged_pipeline_is_answered(at in 0..WORDS.len(), length in 0usize..12, insert in "\\PC{0,6}") {
        let end = (at + length).min(WORDS.len());
        if let (Some(before), Some(after)) = (WORDS.get(..at), WORDS.get(end..)) {
            check(&format!("{before}{insert}{after}"));
        }
    }

    #[test]
    fn order_of_keys_and_comments_do_not_change_the_value(
        entries in proptest::collection::btree_map("[a-z]{1,6}", "[a-z][a-z0-9]{0,5}|[0-9]{1,4}(\\.[0-9]{1,3})?|true|~", 1..8),
        rotation in 0usize..8,
        comment in "[ -~]{0,20}",
    ) {
        let lines: Vec<String> = entries.iter().map(|(key, value)| format!("  {key}: {value}\n")).collect();
        let mut moved = lines.clone();
        moved.rotate_left(rotation % lines.len());
        let plain = format!("with:\n{}", lines.concat());
        let commented = format!("# {comment}\nwith: # {comment}\n{}", moved.join(&format!("  # {comment}\n\n")));
        let value = |text: &str| parse(&SourceText::new("", text)).expect("valid YAML").to_value().to_string();
        prop_assert_eq!(value(&plain), value(&commented));
    }
}
