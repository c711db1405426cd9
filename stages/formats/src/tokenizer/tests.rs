use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::*;

fn golden(name: &str) -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs_err::read(golden(name)).expect("golden")).expect("JSON")
}

fn texts() -> Vec<String> {
    serde_json::from_value(read("texts.json")).expect("texts")
}

/// Ids and decoded texts made by Hugging Face tokenizers (tests/golden/tokenizer/make.py).
fn check(name: &str, tokenizer: &Tokenizer) {
    let expected = read(&format!("ids_{name}.json"));
    let rows = expected["rows"].as_array().expect("rows");
    let texts = texts();
    assert!(texts.len() == rows.len() && texts.len() > 50);
    let mut wrong = Vec::new();
    for (index, (text, row)) in texts.iter().zip(rows).enumerate() {
        let ids: Vec<u32> = serde_json::from_value(row["hugging_face"].clone()).expect("ids");
        let ours = tokenizer.encode(text, false).expect("encodes");
        if ours != ids {
            wrong.push(format!("{text:?}\n  ours   {ours:?}\n  theirs {ids:?}"));
            continue;
        }
        let encoded = tokenizer.encode_with_offsets(text, false).expect("encodes");
        assert_eq!(encoded.ids, ids);
        assert!(encoded.offsets.iter().all(|range| text.get(range.clone()).is_some()), "{text:?}");
        let decoded = expected["decoded_where_not_the_text"].get(index.to_string()).and_then(Value::as_str);
        assert_eq!(tokenizer.decode(&ids, false), decoded.unwrap_or(text), "{text:?}");
    }
    assert!(wrong.is_empty(), "{name}: {} of {} differ\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

#[test]
fn directories_give_the_ids_of_the_original() {
    for name in ["gpt2", "smollm", "llama3", "qwen2", "sentencepiece"] {
        check(name, &Tokenizer::from_model(&golden(&format!("tiny/{name}"))).expect("loads"));
    }
}

#[test]
fn gguf_vocabularies_give_the_ids_of_the_original() {
    for name in ["gpt2", "smollm", "llama3", "qwen2", "sentencepiece"] {
        check(name, &Tokenizer::from_model(&golden(&format!("tiny/{name}/vocab.gguf"))).expect("loads"));
    }
}

#[test]
fn a_gguf_vocabulary_survives_as_tokenizer_json() {
    let from_gguf = Tokenizer::from_model(&golden("tiny/llama3/vocab.gguf")).expect("loads");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = Utf8Path::from_path(dir.path()).expect("UTF-8");
    fs_err::write(root.join("tokenizer.json"), from_gguf.to_json()).expect("write");
    check("llama3", &Tokenizer::from_model(root).expect("loads"));
}

#[test]
fn offsets_cover_the_text() {
    let tokenizer = Tokenizer::from_model(&golden("tiny/smollm")).expect("loads");
    for text in texts() {
        let offsets = tokenizer.encode_with_offsets(&text, false).expect("encodes").offsets;
        let mut end = 0;
        for range in offsets {
            assert!(range.start <= end, "a gap before {range:?} in {text:?}");
            end = end.max(range.end);
        }
        assert_eq!(end, text.len(), "{text:?}");
    }
}

#[test]
fn special_tokens_are_known() {
    for path in ["tiny/smollm", "tiny/smollm/vocab.gguf"] {
        let tokenizer = Tokenizer::from_model(&golden(path)).expect("loads");
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.vocab_size()), (Some(1), vec![2], 640));
        assert!(tokenizer.is_special(2) && !tokenizer.is_special(3));
        assert_eq!(tokenizer.decode(&[1, 2], true), "");
        assert_eq!(tokenizer.token(2).as_deref(), Some("<|im_end|>"));
    }
    let bos = Tokenizer::from_model(&golden("tiny/sentencepiece/vocab.gguf")).expect("loads");
    assert_eq!(bos.encode("a", true).expect("encodes")[0], 1);
    assert_ne!(bos.encode("a", false).expect("encodes")[0], 1);
}

#[test]
fn missing_and_broken_files_are_errors() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = Utf8Path::from_path(dir.path()).expect("UTF-8");
    assert_eq!(Tokenizer::from_model(root).expect_err("nothing").code, "tokenizer::missing");
    fs_err::write(root.join("tokenizer.json"), "{\"model\": {\"type\": \"BPE\"}}").expect("write");
    assert_eq!(Tokenizer::from_model(root).expect_err("no vocabulary").code, "tokenizer::bad_file");
    fs_err::write(root.join("tokenizer.json"), "{").expect("write");
    assert_eq!(Tokenizer::from_model(root).expect_err("no JSON").code, "model::bad_json");
}
