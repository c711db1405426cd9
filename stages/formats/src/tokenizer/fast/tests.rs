use camino::{Utf8Path, Utf8PathBuf};
use proptest::prelude::*;

use super::super::Tokenizer;

const KINDS: [&str; 4] = ["gpt2", "smollm", "llama3", "qwen2"];

fn load(name: &str) -> Tokenizer {
    let path: Utf8PathBuf =
        Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer/tiny").join(name);
    Tokenizer::from_model(&path).expect("loads")
}

/// Ids and offsets of the `tokenizers` library itself.
fn library(tokenizer: &Tokenizer, text: &str) -> (Vec<u32>, Vec<(usize, usize)>) {
    let encoding = tokenizer.inner.encode(text, false).expect("encodes");
    (encoding.get_ids().to_vec(), encoding.get_offsets().to_vec())
}

fn ours(tokenizer: &Tokenizer, text: &str) -> Option<(Vec<u32>, Vec<(usize, usize)>)> {
    let encoded = tokenizer.fast.as_ref().expect("a known kind").encode_with_offsets(text)?;
    Some((encoded.ids, encoded.offsets.iter().map(|range| (range.start, range.end)).collect()))
}

/// Pieces that pre-tokenizers treat differently, next to each other in every way.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z]{1,12}",
        2 => " {1,4}",
        2 => "[\r\n\t\u{b}\u{85}\u{a0}\u{3000}]{1,3}",
        2 => "[0-9]{1,7}",
        2 => "'(s|S|t|re|RE|ve|ll|LL|lL|m|d|ſ|x|)",
        2 => "[!-/:-@{-~]{1,4}",
        1 => "\\p{L}{1,4}",
        1 => "\\p{N}{1,4}",
        1 => "[😀-😎\u{1f1e6}-\u{1f1ff}\u{200d}\u{fe0f}\u{301}]{1,3}",
        1 => "(<\\|im_start\\|>|<\\|im_end\\|>|<\\|endoftext\\|>|<\\|im_|\\|>)",
        1 => "[a-c]{40,120}",
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn ids_and_offsets_are_the_library_s(text in hostile()) {
        for name in KINDS {
            thread_local! {
                static LOADED: Vec<(&'static str, Tokenizer)> = KINDS.map(|name| (name, load(name))).into();
            }
            LOADED.with(|loaded| {
                let tokenizer = &loaded.iter().find(|(known, _)| *known == name).expect("loaded").1;
                if let Some(found) = ours(tokenizer, &text) {
                    assert_eq!(found, library(tokenizer, &text), "{name}: {text:?}");
                } else {
                    assert_eq!(name, "qwen2", "only NFC may send a text to the library");
                }
            });
        }
    }
}

#[test]
fn only_texts_out_of_normal_form_go_to_the_library() {
    let qwen = load("qwen2");
    let fast = qwen.fast.as_ref().expect("a known kind");
    assert!(fast.encode("caf\u{e9}").is_some());
    assert!(fast.encode("cafe\u{301}").is_none());
    assert_eq!(qwen.encode("cafe\u{301}", false).expect("encodes"), library(&qwen, "cafe\u{301}").0);
}

#[test]
fn other_kinds_go_to_the_library() {
    assert!(load("sentencepiece").fast.is_none());
}

#[test]
fn a_word_without_end_takes_no_time_squared() {
    for name in KINDS {
        let tokenizer = load(name);
        let text = "ab".repeat(500_000) + &" ".repeat(1_000_000);
        let encoded = tokenizer.encode_with_offsets(&text, false).expect("encodes");
        assert_eq!(encoded.offsets.last().map(|range| range.end), Some(text.len()));
    }
}

#[test]
fn two_tokenizers_on_one_thread_do_not_share_words() {
    let (one, other) = (load("gpt2"), load("llama3"));
    let text = "the same words the same words";
    for _ in 0..3 {
        assert_eq!(one.encode(text, false).expect("encodes"), library(&one, text).0);
        assert_eq!(other.encode(text, false).expect("encodes"), library(&other, text).0);
    }
}
