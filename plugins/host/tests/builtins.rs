//! Each built-in runs natively and as WebAssembly with equal verdicts.

use camino::Utf8Path;
use luthier_plugins::{
    Builtin, CompiledCache, FilterEngine, Limits, OnTrap, Plugin, PluginComponent, TextBatch, TextColumn, author,
};
use serde_json::json;

/// Texts of many kinds: prose, lists, repetition, code, symbols, other scripts, nothing.
fn corpus() -> Vec<String> {
    const PIECES: &[&str] = &[
        "The maker of violins have to be patient with wood that is old.",
        "the",
        "of",
        " and ",
        "\n",
        "\n\n",
        "- item",
        "• item\n",
        "...",
        "…",
        "#",
        "# ",
        "{",
        "lorem ipsum",
        "JavaScript",
        "[1]",
        "[edit]",
        "use cookies",
        "\"Yes!\"",
        "don't",
        "I’m",
        "e.g.",
        "well-known",
        "https://example.com/a?b=c ",
        "x",
        "漢字かな交じり文。",
        "مرحبا؟",
        "é",
        "😀",
        "\u{2028}",
        "\r\n",
        "\t",
        "  ",
        "1,234.5",
        "$5.00",
        "10km",
        "U.S.",
        "A b c d e f g h i j. ",
        "'",
        "\0",
        "\u{a0}",
        "As an AI model, I'm sorry, but I can't help with",
        "jane.doe@example.org",
        "8.8.8.8",
        "+49 30 901820",
        "token = Zm9vYmFy0123456789QwErTyUiOpAsDfGhJk",
    ];
    let mut state = 99u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let mut texts = vec![String::new(), " ".to_owned(), "\n".to_owned(), "a ".repeat(5_000)];
    for _ in 0..1_500 {
        let (pieces, variety) = (next(120), 1 + next(PIECES.len()));
        let from = next(PIECES.len());
        let mut text = String::new();
        for _ in 0..pieces {
            text.push_str(PIECES[(from + next(variety)) % PIECES.len()]);
            if next(3) > 0 {
                text.push(' ');
            }
        }
        texts.push(text);
    }
    texts
}

#[test]
fn native_and_wasm_agree_on_every_row() {
    let cache = Utf8Path::new(env!("CARGO_TARGET_TMPDIR"));
    let engine = FilterEngine::new(false).unwrap();
    let texts = corpus();
    for builtin in Builtin::all() {
        // A further column shows the text of the row before.
        let column = |shift: usize| {
            let rows = (0..texts.len()).map(|row| texts[(row + texts.len() - shift) % texts.len()].as_str());
            TextColumn::from_texts(rows).unwrap()
        };
        let reads = builtin.manifest().reads.iter().map(|_| column(1)).collect();
        let batch = TextBatch { texts: column(0), reads };
        let wasm = match builtin.component(cache, true, 2) {
            Err(error) if error.code == "plugin::no_target" => {
                eprintln!("skipped: {error} (hint: {})", error.hints.join("; "));
                return;
            }
            Err(error) => panic!("{error}: {}", std::error::Error::source(&error).unwrap()),
            Ok(wasm) => wasm,
        };
        let component =
            PluginComponent::load(&engine, &CompiledCache::new(cache), builtin.name(), &wasm, Limits::DEFAULT).unwrap();
        assert_eq!(component.manifest(), &builtin.manifest());
        // Defaults drop most of such texts for the first reason; loose bounds let the later checks speak.
        let configs = match builtin.name() {
            "gopher-quality" => vec![json!({}), json!({"min_words": 0, "min_word_length": 0, "max_word_length": 0})],
            "c4-quality" => vec![json!({}), json!({"min_sentences": 1, "terminal_punctuation": false})],
            "length" => vec![json!({}), json!({"min_chars": 40, "max_words": 100})],
            "curator-quality" => vec![
                json!({"min_words": 0, "max_non_alphanumeric": 1, "max_unpunctuated": 1, "min_alphabetic": 0}),
                json!({"min_words": 5, "max_non_alphanumeric": 0.5}),
            ],
            "curator-repetition" => vec![json!({}), json!({"max_top": [0.9, 0.8, 0.7], "min_lines": 0.1})],
            "overlap" => vec![json!({"min_words": 1, "ngrams": 1, "max_copied": 0.5}), json!({"min_shared": 0.1})],
            "regex" => vec![
                json!({"patterns": ["(?i)java\\w+", "\\p{Han}{2}"], "action": "drop"}),
                json!({
                    "patterns": [
                        "cookies|ipsum|violins", "\\b(?:\\d{1,3}\\.){3}\\d{1,3}\\b", "(?m)^\\s*#", "https?://", "(?i)LOREM"
                    ],
                    "action": "drop"
                }),
                json!({"patterns": ["a", "b", "cd", "e{2}", "f", "g", "h", "i", "j.", "kk"], "action": "keep"}),
                json!({"patterns": ["\\d+", "(?i:E)[tg]", "\\s#"], "action": "replace", "replacement": "[$0]"}),
                json!({"patterns": ["\\b(\\w)(\\w*)\\b", "  +"], "action": "replace", "replacement": "$2$1"}),
            ],
            "language" => vec![json!({"keep": ["en"]}), json!({"keep": ["ja", "ar"], "min_confidence": 0.4})],
            "refusal" => vec![json!({}), json!({"window": 0, "phrases": ["lorem"]})],
            _ => vec![json!({})],
        };
        for config in configs {
            let judge = |plugin: Plugin| plugin.open(&config).unwrap().judge(&batch, OnTrap::Fail).unwrap();
            let native = judge(Plugin::Native(*builtin));
            assert_eq!(native, judge(Plugin::Component(component.clone())), "{} {config}", builtin.name());
            let dropped = native.drop.iter().filter(|drop| **drop != 0).count();
            assert!(dropped < texts.len(), "{}: everything was dropped, so nothing was compared", builtin.name());
            let said = dropped > 0 || !native.edits.is_empty();
            assert!(said || builtin.name() == "length", "{} {config}: no row was dropped or edited", builtin.name());
        }
    }
}

#[test]
fn what_follows_from_scores_is_what_would_be_judged() {
    let texts = corpus();
    // A further column shows the text of the row before.
    let column = |shift: usize| {
        let rows = (0..texts.len()).map(|row| texts[(row + texts.len() - shift) % texts.len()].as_str());
        TextColumn::from_texts(rows).unwrap()
    };
    let moved = [
        ("gopher-quality", json!({"min_words": 5, "max_words": 90, "min_word_length": 0, "max_word_length": 6.5})),
        ("gopher-quality", json!({"min_words": 0, "max_symbols": 0.25, "min_alphabetic": 0.5, "min_stop_words": 1})),
        ("gopher-quality", json!({"min_words": 0, "max_bullet_lines": 0, "max_ellipsis_lines": 0.5})),
        ("fineweb-quality", json!({"min_punctuated": 0.5, "max_short_lines": 1, "max_repeated_chars": 1})),
        ("fineweb-quality", json!({"min_punctuated": 0, "max_short_lines": 1, "max_breaks": 0.2})),
        ("fineweb-quality", json!({"allow_unpunctuated": true, "max_repeated_chars": 0})),
        ("length", json!({"min_chars": 40, "max_words": 100})),
        ("length", json!({"min_words": 7, "max_chars": 300})),
        ("url-ratio", json!({"max": 0})),
        ("url-ratio", json!({"max": 0.25})),
        ("c4-paragraphs", json!({"min_paragraphs": 1})),
        ("c4-quality", json!({"min_sentences": 2})),
        ("c4-quality", json!({"min_sentences": 30})),
        ("gopher-repetition", json!({"max_lines": 0.05, "max_top": [0.1, 0.18, 0.16]})),
        ("gopher-repetition", json!({"max_paragraphs": 0, "max_top": [0.9], "max_repeated": []})),
        ("curator-quality", json!({"min_words": 5, "max_urls": 0.05, "max_unpunctuated": 1, "max_word_length": 6.5})),
        ("curator-quality", json!({"min_words": 0, "max_digits": 0.01, "min_common_words": 0, "longest_word": 20})),
        ("curator-repetition", json!({"min_lines": 0.95, "max_repeated": [0.01]})),
        ("curator-repetition", json!({"min_lines": 0, "min_paragraphs": 0, "min_line_chars": 0, "max_top": []})),
        ("data-juicer", json!({"min_words": 20, "max_special": 0.5, "min_longest_line": 60})),
        ("data-juicer", json!({"max_chars": 400, "max_char_repetition": 0.05, "min_alphanumeric": 0.7})),
        ("language", json!({"keep": ["en"], "min_confidence": 0.2})),
        ("language", json!({"keep": ["en"], "min_confidence": 0.999})),
        ("refusal", json!({"refusals": false})),
        ("overlap", json!({"max_copied": 0.1, "min_words": 3})),
        ("overlap", json!({"min_shared": 0.3})),
    ];
    for (name, config) in moved {
        let builtin = Builtin::find(name).unwrap();
        let reads = builtin.manifest().reads.iter().map(|_| column(1)).collect();
        let batch = TextBatch { texts: column(0), reads };
        let judge = |config| Plugin::Native(builtin).open(config).unwrap().judge(&batch, OnTrap::Fail).unwrap();
        let defaults = if name == "language" { json!({"keep": ["en"]}) } else { json!({}) };
        assert_eq!(builtin.measured(&config), builtin.measured(&defaults), "{name} {config}");
        let rows = texts.len();
        let scores = |of: &[f32], row: usize| -> Vec<f32> { of.chunks_exact(rows).map(|column| column[row]).collect() };
        for (from, to) in [(&defaults, &config), (&config, &defaults)] {
            let (before, after) = (judge(from), judge(to));
            assert_ne!(before.drop, after.drop, "{name} {config}: nothing moved");
            let select = builtin.selector(to);
            let mut followed = 0;
            for (row, text) in texts.iter().enumerate() {
                let mut known = scores(&before.scores, row);
                let Some(drop) = select(&known, before.drop[row]) else { continue };
                followed += 1;
                assert_eq!(drop, after.drop[row], "{name} {to}: {text:?}");
                known.iter_mut().skip(builtin.scores_of(drop)).for_each(|score| *score = 0.0);
                assert_eq!(known, scores(&after.scores, row), "{name} {to}: {text:?}");
            }
            // The rest have scores on a bound, such as a share of one in a text of a single line, or were let through to
            // what was not measured of them.
            assert!(followed * 2 > rows || name.ends_with("repetition"), "{name} {to}: {followed} of {rows}");
            assert!(followed * 10 > rows, "{name} {to}: {followed} of {rows}");
        }
    }
}

/// Counted in instructions, so that a busy machine decides nothing.
#[test]
fn a_batch_crosses_the_boundary_for_a_small_part_of_its_work() {
    let cache = Utf8Path::new(env!("CARGO_TARGET_TMPDIR"));
    let engine = FilterEngine::new(true).unwrap();
    let texts = author::sample_texts(4_096, 20);
    for name in ["gopher-quality", "fineweb-quality", "c4-quality", "length"] {
        let builtin = Builtin::find(name).unwrap();
        let Ok(wasm) = builtin.component(cache, true, 2) else { return };
        let component =
            PluginComponent::load(&engine, &CompiledCache::new(cache), name, &wasm, Limits::DEFAULT).unwrap();
        let plugin = Plugin::Component(component);
        let report = author::bench(&plugin, &json!({}), &texts, std::time::Duration::ZERO).unwrap();
        let share = report.boundary_instructions_percent.unwrap();
        assert!(share < 2.0, "{name}: {share} %");
    }
}
