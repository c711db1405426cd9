//! Exports of the tiny model, read back, and everything that must be refused.

use camino::Utf8PathBuf;
use luthier_core::digest_path;
use luthier_formats::gguf::MetaValue;
use luthier_formats::model_files::{Architecture, write_json};
use luthier_test::TinyModel;
use serde_json::json;

use super::*;
use crate::testing::{Bench, Done};

struct Setup {
    bench: Bench,
    base: Utf8PathBuf,
}

impl Setup {
    fn new(model: &TinyModel) -> Self {
        let mut bench = Bench::new();
        let base = bench.path("base");
        model.write_directory(&base);
        bench.input("model", ArtifactKind::Model, &base);
        Self { bench, base }
    }

    /// For files whose digest does not matter to the test.
    fn edit_json(self, name: &str, edit: impl Fn(&mut Value)) -> Self {
        let path = self.base.join(name);
        let mut json: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        edit(&mut json);
        write_json(&path, &json).unwrap();
        self
    }

    fn run(&mut self, with: &Value) -> StageResult<Done> {
        self.bench.run(&ExportStage, with)
    }

    fn text(&mut self, with: &Value) -> String {
        let error = self.run(with).expect_err("a refusal");
        assert!(!error.hints.is_empty(), "{error}");
        let base = self.base.as_str().to_owned();
        format!("{}: {}\n  hint: {}", error.code, error.to_string().replace(&base, "DIR"), error.hints.join("; "))
    }
}

fn values(files: &ModelFiles) -> Vec<Vec<f32>> {
    let read = |(name, spec): (&String, &TensorSpec)| {
        let mut values = vec![0.0; spec.shape.iter().product()];
        files.read_f32(name, &mut values).expect("readable");
        values
    };
    files.specs().iter().map(read).collect()
}

#[test]
fn f32_export_is_the_same_model_bit_by_bit() {
    for architecture in [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3] {
        for tied in [false, true] {
            let mut model = TinyModel::new(3).architecture(architecture);
            model.config.tie_embeddings = tied;
            let mut setup = Setup::new(&model);
            let done = setup.run(&json!({"type": "f32"})).expect("an export");
            let source = ModelFiles::open(&setup.base).unwrap();
            let exported = ModelFiles::open(&done.out.join("gguf")).unwrap();
            assert_eq!(values(&source), values(&exported), "{architecture}");
            for metric in ["relative_error", "mean_divergence", "largest_logit_difference"] {
                assert_eq!(done.outcome.metrics[metric].value, 0.0, "{architecture} {metric}");
            }
            assert!(done.outcome.metrics["probe_texts"].value >= 27.0);
            assert!(done.outcome.warnings.is_empty(), "{:?}", done.outcome.warnings);
        }
    }
}

#[test]
fn every_type_is_written_and_read_back() {
    let mut setup = Setup::new(&TinyModel::new(3));
    let mut last = f64::INFINITY;
    for name in ["f32", "bf16", "f16", "q8_0", "q6_k", "q5_1", "q5_0", "q4_1", "iq4_nl", "q4_0", "q4_k_m", "q2_k"] {
        let done = setup.run(&json!({"type": name})).expect("an export");
        let bits = done.outcome.metrics["bits_per_weight"].value;
        assert!(bits <= last + 1.5, "{name}: {bits}");
        last = bits;
        let file = GgufFile::open(&done.out.join("gguf")).unwrap();
        assert_eq!(file.version(), 3);
        assert!(file.tensor("blk.0.attn_norm.weight").unwrap().tensor_type == TensorType::F32);
    }
}

#[test]
fn logits_drift_with_fewer_bits() {
    let mut setup = Setup::new(&TinyModel::new(3));
    let mut last = 0.0;
    for name in ["f16", "q8_0", "q5_1", "q4_0", "q2_k"] {
        let done = setup.run(&json!({"type": name})).expect("an export");
        let divergence = done.outcome.metrics["mean_divergence"].value;
        assert!(divergence > last || name == "q2_k", "{name}: {divergence}");
        last = divergence;
    }
    let text = setup.text(&json!({"type": "q4_0", "check": {"prompts": ["the end"], "max_divergence": 1e-9}}));
    assert!(text.starts_with("export::divergence: the file's mean divergence from the source is"), "{text}");
    assert!(
        text.ends_with("above 1e-9\n  hint: choose a `type` with more bits, or raise `check.max_divergence`"),
        "{text}"
    );
}

#[test]
fn another_pre_tokenizer_is_caught() {
    let mut setup = Setup::new(&TinyModel::new(3));
    let text = setup.text(&json!({"pre": "llama-bpe"}));
    insta::assert_snapshot!(text, @r##"
export::tokens: the file gives "How is 'luthier' pronounced?\nL UW1 TH IY0 ER0" other token ids than the source: from token 3 on 292 35 42 111, expected 35 273 35 42
  hint: set `pre: NAME` to llama.cpp's name for the source's pre-tokenizer; set `check: {tokens: false}` only if the difference is known and meant
"##);
}

#[test]
fn metadata_is_complete() {
    let mut setup = Setup::new(&TinyModel::new(3).tied());
    let done = setup
        .run(
            &json!({"type": "q8_0", "name": "Tiny G2P", "metadata": {"general.description": "a test", "lab.run": "7"}}),
        )
        .expect("an export");
    let file = GgufFile::open(&done.out.join("gguf")).unwrap();
    let show = |(key, value): (&String, &MetaValue)| {
        let text = match value {
            MetaValue::Array(values) => format!("[{}]", values.len()),
            MetaValue::String(text) if key == "luthier.source.blake3" => format!("({} characters)", text.len()),
            other => format!("{other:?}"),
        };
        format!("{key} = {text}")
    };
    let lines: Vec<String> = file.all_metadata().iter().map(show).collect();
    insta::assert_snapshot!(lines.join("\n"), @r##"
general.architecture = String("llama")
general.type = String("model")
general.name = String("Tiny G2P")
general.size_label = String("94K")
general.file_type = U32(7)
general.quantization_version = U32(2)
luthier.source.blake3 = (64 characters)
llama.block_count = U32(2)
llama.context_length = U32(256)
llama.embedding_length = U32(64)
llama.feed_forward_length = U32(128)
llama.attention.head_count = U32(4)
llama.attention.head_count_kv = U32(2)
llama.attention.key_length = U32(16)
llama.attention.value_length = U32(16)
llama.attention.layer_norm_rms_epsilon = F32(1e-5)
llama.rope.freq_base = F32(10000.0)
llama.rope.dimension_count = U32(16)
llama.vocab_size = U32(304)
tokenizer.ggml.model = String("gpt2")
tokenizer.ggml.pre = String("smollm")
tokenizer.ggml.tokens = [304]
tokenizer.ggml.token_type = [304]
tokenizer.ggml.merges = [45]
tokenizer.ggml.bos_token_id = U32(1)
tokenizer.ggml.eos_token_id = U32(2)
tokenizer.ggml.unknown_token_id = U32(0)
tokenizer.ggml.padding_token_id = U32(2)
tokenizer.ggml.add_bos_token = Bool(false)
tokenizer.ggml.add_eos_token = Bool(false)
tokenizer.ggml.add_space_prefix = Bool(false)
tokenizer.chat_template = String("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
general.description = String("a test")
lab.run = String("7")
"##);
}

#[test]
fn a_gguf_source_keeps_its_tokenizer() {
    let model = TinyModel::new(3);
    let mut bench = Bench::new();
    let base = bench.path("base.gguf");
    model.write_gguf(&base, TensorType::F32);
    bench.input("model", ArtifactKind::Model, &base);
    let done = bench.run(&ExportStage, &json!({"type": "q8_0"})).expect("an export");
    let (before, after) = (GgufFile::open(&base).unwrap(), GgufFile::open(&done.out.join("gguf")).unwrap());
    for (key, value) in before.all_metadata().iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        assert_eq!(after.metadata(key), Some(value), "{key}");
    }
}

#[test]
fn a_directory_has_the_tokenizer_of_its_gguf() {
    let model = TinyModel::new(3);
    let mut setup = Setup::new(&model);
    let done = setup.run(&json!({"type": "f16"})).expect("an export");
    let gguf = setup.bench.path("reference.gguf");
    model.write_gguf(&gguf, TensorType::F16);
    let (expected, found) = (GgufFile::open(&gguf).unwrap(), GgufFile::open(&done.out.join("gguf")).unwrap());
    for (key, value) in expected.all_metadata().iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        assert_eq!(found.metadata(key), Some(value), "{key}");
    }
}

#[test]
fn llama3_rotation_is_written_as_divisors() {
    let mut model = TinyModel::new(3);
    model.config.rope_scaling = Some(RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    });
    model.config.rope_theta = 500_000.0;
    let mut setup = Setup::new(&model);
    let done = setup.run(&json!({"type": "f32"})).expect("an export");
    let exported = ModelFiles::open(&done.out.join("gguf")).unwrap();
    assert_eq!(exported.config().rope_scaling, model.config.rope_scaling);
    assert_eq!(exported.gguf().unwrap().tensor(ROPE_DIVISORS).unwrap().shape, [8]);
}

#[test]
fn padded_vocabularies_are_filled() {
    let mut model = TinyModel::new(3);
    model.config.vocab_size = 320;
    let mut setup = Setup::new(&model);
    let done = setup.run(&json!({"type": "f32"})).expect("an export");
    let file = GgufFile::open(&done.out.join("gguf")).unwrap();
    let tokens = file.metadata("tokenizer.ggml.tokens").unwrap().as_strings().unwrap();
    let types = file.metadata("tokenizer.ggml.token_type").unwrap().as_i32s().unwrap();
    assert_eq!((tokens.len(), tokens[303].as_str(), tokens[304].as_str()), (320, "as", "[PAD304]"));
    assert_eq!((types[303], types[304], types[1]), (1, 5, 3));
}

#[test]
fn the_modelfile_speaks_chatml() {
    let mut setup = Setup::new(&TinyModel::new(3));
    let done = setup.run(&json!({"type": "f16", "system": "Answer in phonemes."})).expect("an export");
    let text = fs_err::read_to_string(done.out.join("modelfile")).unwrap();
    insta::assert_snapshot!(text, @r##"
# ollama create NAME -f Modelfile, with the exported file beside it as model.gguf
FROM ./model.gguf
TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system
{{ .Content }}<|im_end|>
{{ else if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ .Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
SYSTEM """Answer in phonemes."""
PARAMETER num_ctx 256
PARAMETER stop "<|im_end|>"
PARAMETER stop "<|im_start|>"
"##);
    let done = setup.run(&json!({"type": "f16", "modelfile": false})).expect("an export");
    assert!(!done.out.join("modelfile").exists());
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let digest = |threads: usize| {
        let mut setup = Setup::new(&TinyModel::new(1));
        setup.bench.threads = threads;
        digest_path(&setup.run(&json!({"type": "q4_k_m"})).expect("an export").out.join("gguf")).unwrap().0
    };
    assert_eq!(digest(1), digest(3));
}

#[test]
fn tokenizers_without_a_name_are_refused() {
    let tokenizer =
        |edit: fn(&mut Value)| Setup::new(&TinyModel::new(1)).edit_json("tokenizer.json", edit).text(&json!({}));
    let texts = [
        tokenizer(|json| json["pre_tokenizer"] = json!({"type": "Whitespace"})),
        tokenizer(|json| json["model"]["type"] = json!("WordPiece")),
        tokenizer(|json| json["model"]["vocab"]["zzz"] = json!(304)),
        tokenizer(|json| json["model"]["merges"] = json!([["a"]])),
        tokenizer(|json| json["model"] = json!(null)),
        tokenizer(|json| json["model"]["ignore_merges"] = json!(true)),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r##"
tokenizer::unknown_pre: `DIR/tokenizer.json` cuts text by rules that none of the known names stands for (`gpt-2`, `smollm`, `llama-bpe`, `qwen2`, `gpt-4o`, `tekken`)
  hint: if llama.cpp knows these rules by a name, set `pre: NAME`; a wrong one silently gives other tokens
tokenizer::unknown_kind: `DIR/tokenizer.json` is of type "WordPiece", expected BPE
  hint: use a model with a BPE tokenizer
tokenizer::bad: `DIR/tokenizer.json` gives `zzz` the id 304, but the model has 304 tokens
  hint: fetch the model again, or save its tokenizer with a current transformers
tokenizer::bad: `DIR/tokenizer.json` has the merge ["a"], expected two strings
  hint: fetch the model again, or save its tokenizer with a current transformers
tokenizer::bad: `DIR/tokenizer.json` has no `model.vocab` that maps tokens to ids
  hint: fetch the model again, or save its tokenizer with a current transformers
tokenizer::unknown_pre: `DIR/tokenizer.json` cuts text by rules that none of the known names stands for (`gpt-2`, `smollm`, `llama-bpe`, `qwen2`, `gpt-4o`, `tekken`)
  hint: if llama.cpp knows these rules by a name, set `pre: NAME`; a wrong one silently gives other tokens
"##);
    let mut setup = Setup::new(&TinyModel::new(1))
        .edit_json("tokenizer.json", |json| json["pre_tokenizer"] = json!({"type": "Whitespace"}));
    let done = setup.run(&json!({"pre": "gpt-2", "check": {"tokens": false}})).expect("an export");
    let file = GgufFile::open(&done.out.join("gguf")).unwrap();
    assert_eq!(file.metadata("tokenizer.ggml.pre"), Some(&MetaValue::from("gpt-2")));
}

#[test]
fn configuration_issues_are_found_together() {
    let bench = Bench::new();
    let issues = bench.issues(&ExportStage, &json!({"type": "q4_k", "modelfil": true}));
    insta::assert_snapshot!(issues.join("\n"), @r##"
type | `q4_k` is not one of `f32`, `f16`, `bf16`, `q8_0`, `q6_k`, `q5_k_m`, `q5_k_s`, `q5_1`, `q5_0`, `q4_k_m`, `q4_k_s`, `q4_1`, `q4_0`, `iq4_nl`, `iq4_xs`, `q3_k_l`, `q3_k_m`, `q3_k_s`, `q2_k` | did you mean `q2_k`?
modelfil | unknown key `modelfil` | did you mean `modelfile`?
"##);
    let issues = bench.issues(
        &ExportStage,
        &json!({"metadata": {"tokenizer.ggml.pre": "x", "Bad Key": "y"}, "check": {"prompts": []}}),
    );
    insta::assert_snapshot!(issues.join("\n"), @r##"
metadata.Bad Key | `Bad Key` is not a metadata key | use lowercase words joined by `_` and `.`, such as `general.description`
metadata.tokenizer.ggml.pre | `tokenizer.ggml.pre` describes the file itself and cannot be set | use a key of your own, such as `general.description` or `project.run`
check.prompts | there is no prompt to compare logits on | give a prompt, or set `check: {logits: false}`
"##);
}

#[test]
fn every_field_enters_the_key() {
    let bench = Bench::new();
    let key = |with: Value| bench.prepare(&ExportStage, &with).expect("valid").key;
    let default = key(json!({}));
    for with in [
        json!({"type": "q8_0"}),
        json!({"name": "x"}),
        json!({"metadata": {"a.b": "c"}}),
        json!({"pre": "qwen2"}),
        json!({"check": {"logits": false}}),
        json!({"check": {"tokens": false}}),
        json!({"check": {"prompts": ["x"]}}),
        json!({"check": {"max_divergence": 0.1}}),
        json!({"modelfile": false}),
        json!({"context": 512}),
        json!({"system": "x"}),
    ] {
        assert_ne!(key(with.clone()), default, "{with}");
    }
}
