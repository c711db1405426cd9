//! Each built-in runs natively and as WebAssembly with equal verdicts.

use camino::Utf8Path;
use luthier_plugins::{
    Builtin, CompiledCache, FilterEngine, Limits, OnTrap, Plugin, PluginComponent, TextBatch, TextColumn,
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
    let column = TextColumn::from_texts(texts.iter().map(String::as_str)).unwrap();
    let batch = TextBatch { texts: column, reads: vec![] };
    for builtin in Builtin::all() {
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
            _ => vec![json!({})],
        };
        for config in configs {
            let judge = |plugin: Plugin| plugin.open(&config).unwrap().judge(&batch, OnTrap::Fail).unwrap();
            let native = judge(Plugin::Native(*builtin));
            assert_eq!(native, judge(Plugin::Component(component.clone())), "{} {config}", builtin.name());
            let dropped = native.drop.iter().filter(|drop| **drop != 0).count();
            assert!(dropped < texts.len(), "{}: everything was dropped, so nothing was compared", builtin.name());
        }
    }
}
