use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use camino::Utf8PathBuf;
use luthier_core::digest_path;
use luthier_formats::dataset::DatasetWriter;
use serde_json::json;

use super::*;
use crate::testing::{Bench, Done, write_dataset};

fn golden(name: &str) -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizer").join(name)
}

fn dataset(bench: &Bench, shape: DatasetShape, rows: &[&[&str]]) -> Utf8PathBuf {
    let path = bench.path("data");
    write_dataset(&path, shape, rows);
    path
}

struct Ran {
    done: Done,
    set: TokenSet,
    tokenizer: Tokenizer,
}

impl Ran {
    /// Text of a sample with trained stretches between ⟦ and ⟧.
    fn marked(&self, sample: usize) -> String {
        show::marked(&self.set.samples[sample], &self.tokenizer)
    }
}

fn run_with(
    model: &Utf8Path,
    shape: DatasetShape,
    rows: &[&[&str]],
    with: &Value,
    files: &[(&str, &str)],
) -> StageResult<Ran> {
    let mut bench = Bench::new();
    for (name, text) in files {
        bench.write(name, text);
    }
    let data = dataset(&bench, shape, rows);
    bench.input("data", ArtifactKind::Dataset, &data).input("model", ArtifactKind::Model, model);
    let done = bench.run(&TokenizeStage, with)?;
    let set = TokenSet::open(&done.out.join("tokens")).expect("a token set");
    Ok(Ran { done, set, tokenizer: Tokenizer::from_model(model).expect("a tokenizer") })
}

fn run(shape: DatasetShape, rows: &[&[&str]], with: &Value) -> StageResult<Ran> {
    run_with(&golden("tiny/smollm"), shape, rows, with, &[])
}

fn chat(turns: &[(&str, &str)]) -> String {
    let turns: Vec<Value> = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    Value::Array(turns).to_string()
}

const PAIR: &[&[&str]] = &[&["How is 'luthier' pronounced?", "L UW1 TH IY0 ER0"]];

#[test]
fn a_completion_and_its_end_token_are_trained() {
    let ran = run(DatasetShape::PromptCompletion, PAIR, &json!({})).expect("tokens");
    assert_eq!(
        ran.marked(0),
        "<|im_start|>user\nHow is 'luthier' pronounced?<|im_end|>\n<|im_start|>assistant\n⟦L UW1 TH IY0 ER0<|im_end|>⟧\n"
    );
    // The prompt's ids are what inference will see.
    let prompt = "<|im_start|>user\nHow is 'luthier' pronounced?<|im_end|>\n<|im_start|>assistant\n";
    let ids = ran.tokenizer.encode(prompt, false).expect("ids");
    assert_eq!(ran.set.samples[0].ids[..ids.len()], ids);
    assert!(ran.set.samples[0].mask[..ids.len()].iter().all(|trained| !trained) && ran.set.samples[0].mask[ids.len()]);
    assert_eq!(ran.set.meta.trained_tokens, ran.set.samples[0].trained() as u64);
    assert_eq!((ran.set.bins.clone(), ran.set.meta.eos_ids.clone()), (vec![vec![0]], vec![2]));
    assert!(ran.done.outcome.warnings.is_empty(), "{:?}", ran.done.outcome.warnings);
    let from_gguf = run_with(
        &golden("tiny/smollm/vocab.gguf"),
        DatasetShape::PromptCompletion,
        PAIR,
        &json!({"template": "chatml"}),
        &[],
    );
    assert_eq!(from_gguf.expect("tokens").set.samples, ran.set.samples);
}

#[test]
fn only_the_wanted_turns_are_trained() {
    let text = chat(&[("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let marked = |with: Value| run(DatasetShape::Chat, &[&[&text]], &with).expect("tokens").marked(0);
    let header = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n";
    let middle = "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(marked(json!({})), format!("{header}⟦b<|im_end|>⟧{middle}⟦d<|im_end|>⟧\n"));
    assert_eq!(marked(json!({"train_on": "last"})), format!("{header}b<|im_end|>{middle}⟦d<|im_end|>⟧\n"));
    assert!(marked(json!({"train_on": "all"})).starts_with("<|im_start|>⟦system\nS"));
    let off = text.replace("\"content\":\"b\"", "\"content\":\"b\",\"train\":false");
    assert_ne!(off, text);
    let ran = run(DatasetShape::Chat, &[&[&off]], &json!({})).expect("tokens");
    assert_eq!(ran.marked(0), format!("{header}b<|im_end|>{middle}⟦d<|im_end|>⟧\n"));
}

#[test]
fn roles_and_end_tokens_are_selectable() {
    let text = chat(&[("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let marked = |with: Value| run(DatasetShape::Chat, &[&[&text]], &with).expect("tokens").marked(0);
    let user = |content: &str| format!("<|im_start|>user\n{content}\n<|im_start|>assistant\n");
    let system = "<|im_start|>system\nS<|im_end|>\n";
    assert_eq!(
        marked(json!({"roles_to_train": ["user"]})),
        format!("{system}{}b<|im_end|>\n{}d<|im_end|>\n", user("⟦a<|im_end|>⟧"), user("⟦c<|im_end|>⟧"))
    );
    assert_eq!(
        marked(json!({"roles_to_train": ["user", "assistant"], "train_on": "last"})),
        format!("{system}{}b<|im_end|>\n{}⟦d<|im_end|>⟧\n", user("a<|im_end|>"), user("c<|im_end|>"))
    );
    let both =
        |first: &str, last: &str| format!("{system}{}{first}\n{}{last}\n", user("a<|im_end|>"), user("c<|im_end|>"));
    assert_eq!(marked(json!({"train_on_eot": "last"})), both("⟦b⟧<|im_end|>", "⟦d<|im_end|>⟧"));
    assert_eq!(marked(json!({"train_on_eot": "none"})), both("⟦b⟧<|im_end|>", "⟦d⟧<|im_end|>"));
    let tagged = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let with = json!({"template": "t.jinja", "roles_to_train": ["user", "assistant"]});
    let ran = run_with(&golden("tiny/smollm"), DatasetShape::Chat, &[&[&text]], &with, &[("t.jinja", tagged)]);
    assert_eq!(
        ran.expect("tokens").marked(0),
        "[system]S[user]⟦a⟧[assistant]⟦b<|im_end|>⟧[user]⟦c⟧[assistant]⟦d<|im_end|>⟧"
    );
}

#[test]
fn text_that_looks_like_a_header_is_not_taken_for_one() {
    let text = chat(&[("user", "<|im_start|>assistant\nno<|im_end|>"), ("assistant", "yes <|im_start|>user\nx")]);
    let ran = run(DatasetShape::Chat, &[&[&text]], &json!({})).expect("tokens");
    assert_eq!(
        ran.marked(0),
        "<|im_start|>user\n<|im_start|>assistant\nno<|im_end|><|im_end|>\n<|im_start|>assistant\n⟦yes <|im_start|>user\nx<|im_end|>⟧\n"
    );
    assert!(ran.done.outcome.warnings[0].contains("special tokens written out"), "{:?}", ran.done.outcome.warnings);
}

#[test]
fn templates_of_every_kind_give_their_turns() {
    let text = chat(&[("user", " a "), ("assistant", " b "), ("user", "c"), ("assistant", "d")]);
    let run = |source: &str| {
        let with = json!({"template": "t.jinja"});
        run_with(&golden("tiny/smollm"), DatasetShape::Chat, &[&[&text]], &with, &[("t.jinja", source)])
    };
    let tagged = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(
        run(tagged).expect("tokens").marked(0),
        "[user] a [assistant]⟦ b <|im_end|>⟧[user]c[assistant]⟦d<|im_end|>⟧"
    );
    // Without a generation prompt, and with an end that only the whole has, the turns are found by their content.
    let trailing = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<|im_end|>{% endfor %}END";
    assert_eq!(
        run(trailing).expect("tokens").marked(0),
        "<user>a<|im_end|><assistant>⟦b<|im_end|>⟧<user>c<|im_end|><assistant>⟦d<|im_end|>⟧END"
    );
    // A turn that the template rewrites once it lies in the past cannot be told; the last one can.
    let rewriting = "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}<assistant>{{ m.content | upper | replace('B', 'x') }}{% else %}<{{ m.role }}>{{ m.content | reverse }}{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let ran = run(rewriting).expect("tokens");
    assert!(ran.marked(0).ends_with("<assistant>⟦d<|im_end|>⟧"), "{}", ran.marked(0));
    let error = run("{% for m in messages %}{% endfor %}").err().expect("nothing rendered");
    assert_eq!(error.code, "tokenize::nothing_left");
    let error = run("{{ raise_exception('no') }}").err().expect("refused");
    assert_eq!(error.to_string(), "row 1 (`id0`): the chat template refuses the conversation: no");
    assert_eq!(error.hints.last().map(String::as_str), Some("set `on_error: skip` to leave such rows out"));
}

#[test]
fn texts_are_trained_whole_and_end() {
    let rows: &[&[&str]] = &[&["one two three"], &["four"]];
    let ran = run(DatasetShape::Text, rows, &json!({})).expect("tokens");
    assert!(ran.marked(0).ends_with("<|im_end|>⟧") && !ran.set.samples[0].mask[0]);
    assert_eq!(ran.set.samples[1].trained(), ran.set.samples[1].ids.len() - 1);
    let split = run(DatasetShape::Text, rows, &json!({"on_long": "split", "max_length": 4})).expect("tokens");
    assert_eq!(split.set.samples[1].id, "id0.1");
    let ids: Vec<u32> =
        split.set.samples.iter().filter(|s| s.id.starts_with("id0.")).flat_map(|s| s.ids.clone()).collect();
    assert_eq!(ids, ran.set.samples[0].ids);
    let llama = run_with(&golden("tiny/sentencepiece/vocab.gguf"), DatasetShape::Text, &[&["<s>one"]], &json!({}), &[]);
    let llama = llama.expect("tokens");
    assert_eq!(llama.set.samples[0].ids.iter().filter(|id| **id == 1).count(), 1);
    assert!(llama.done.outcome.warnings[0].contains("BOS twice"), "{:?}", llama.done.outcome.warnings);
}

#[test]
fn completions_can_follow_prompts_directly() {
    let ran = run(DatasetShape::PromptCompletion, &[&["2+2=", "4"]], &json!({"template": "none"})).expect("tokens");
    assert_eq!(ran.marked(0), "2+2=⟦4<|im_end|>⟧");
}

#[test]
fn long_samples_follow_the_policy() {
    let long = "x y z ".repeat(200);
    let rows: &[&[&str]] = &[&["short", "a"], &[&long, "b"], &["p", &long]];
    let run = |policy: &str| run(DatasetShape::PromptCompletion, rows, &json!({"max_length": 64, "on_long": policy}));
    let dropped = run("drop").expect("tokens");
    assert_eq!(dropped.set.samples.len(), 1);
    assert_eq!(dropped.done.outcome.metrics["dropped_long"].value, 2.0);
    assert_eq!(
        dropped.done.outcome.warnings,
        ["2 of 3 rows are longer than 64 tokens and were left out; raise `max_length:` to keep them"]
    );
    let cut = run("truncate").expect("tokens");
    assert_eq!(cut.set.samples.iter().map(|sample| sample.ids.len()).max(), Some(64));
    assert_eq!((cut.set.samples.len(), cut.done.outcome.metrics["untrained"].value), (2, 1.0));
    let error = run("fail").err().expect("too long");
    assert!(
        error.message.starts_with("row 2 (`id1`): the sample has ")
            && error.hints[0].starts_with("raise `max_length` to")
    );
    assert_eq!(run("split").err().expect("chats").code, "tokenize::split_chats");
}

#[test]
fn packed_bins_hold_every_sample_once_for_any_threads() {
    let texts: Vec<String> = (0..300).map(|n| format!("question {n} {}", "la ".repeat(n % 23))).collect();
    let rows: Vec<Vec<&str>> = texts.iter().map(|text| vec![text.as_str(), "answer"]).collect();
    let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
    let mut digests = Vec::new();
    for threads in [1, 3] {
        let mut bench = Bench::new();
        bench.threads = threads;
        let data = dataset(&bench, DatasetShape::PromptCompletion, &rows);
        bench.input("data", ArtifactKind::Dataset, &data).input("model", ArtifactKind::Model, &golden("tiny/smollm"));
        let done = bench.run(&TokenizeStage, &json!({"packing": true, "max_length": 1024})).expect("tokens");
        let set = TokenSet::open(&done.out.join("tokens")).expect("a token set");
        assert_eq!(set.samples.len(), 300);
        assert!((0..set.bins.len()).all(|bin| set.bin_tokens(bin) <= 1024));
        assert!(set.fill() > 0.95, "{}", set.fill());
        digests.push(digest_path(&done.out).expect("readable").0);
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_missing_template_names_the_ways_out() {
    let bench = Bench::new();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        bench.write(&format!("model/{name}"), fs_err::read(golden("tiny/smollm").join(name)).expect("golden"));
    }
    let config = fs_err::read_to_string(bench.path("model/tokenizer_config.json")).expect("read");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config.as_object_mut().expect("an object").remove("chat_template");
    bench.write("model/tokenizer_config.json", config.to_string());
    let error =
        run_with(&bench.path("model"), DatasetShape::PromptCompletion, PAIR, &json!({}), &[]).err().expect("none");
    assert_eq!(error.to_string(), "`model.model` has no chat template");
    assert_eq!(error.hints.len(), 3);
    assert!(error.hints[0].contains("set `template: chatml`") && error.hints[1].contains("`template: none`"));
    run_with(&bench.path("model"), DatasetShape::PromptCompletion, PAIR, &json!({"template": "chatml"}), &[])
        .expect("chatml");

    let spm = golden("tiny/sentencepiece");
    let error = run_with(&spm, DatasetShape::PromptCompletion, PAIR, &json!({"template": "chatml"}), &[])
        .err()
        .expect("tokens");
    assert!(error.message.contains("writes `<|im_start|>`, which the model's vocabulary does not have"), "{error}");
    let error = run_with(&spm, DatasetShape::Chat, &[&[&chat(&[("user", "a")])]], &json!({"template": "none"}), &[]);
    assert_eq!(error.err().expect("no template").code, "tokenize::no_template");
}

#[test]
fn nothing_to_train_and_nothing_at_all_are_errors() {
    let text = chat(&[("user", "only a question")]);
    let error = run(DatasetShape::Chat, &[&[&text]], &json!({})).err().expect("untrained");
    assert_eq!(
        error.to_string(),
        "none of 1 rows is left: 0 longer than 2048 tokens, 1 without a trained token, 0 refused by the template"
    );
    assert_eq!(run(DatasetShape::Chat, &[], &json!({})).err().expect("empty").code, "tokenize::empty");
    let error = run(DatasetShape::Chat, &[&["{"]], &json!({})).err().expect("no JSON");
    assert_eq!(error.to_string(), "row 1 (`id0`): `messages` is not JSON");
}

#[test]
fn a_model_that_is_too_small_is_told() {
    let bench = Bench::new();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        bench.write(&format!("model/{name}"), fs_err::read(golden("tiny/smollm").join(name)).expect("golden"));
    }
    let run = |vocabulary: usize, max_length: usize| {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        });
        bench.write("model/config.json", config.to_string());
        let with = json!({"max_length": max_length});
        run_with(&bench.path("model"), DatasetShape::PromptCompletion, PAIR, &with, &[]).err()
    };
    assert!(run(640, 128).is_none());
    let error = run(640, 4096).expect("more than the model takes");
    assert!(error.code == "tokenize::context" && error.hints[0].contains("`max_length: 128` or less"), "{error}");
    let error = run(600, 128).expect("more tokens than embeddings");
    assert_eq!(error.to_string(), "the tokenizer has 640 tokens, the model has embeddings for 600");
}

#[test]
fn every_setting_enters_the_key() {
    let bench = Bench::new();
    let key = |with: Value| bench.prepare(&TokenizeStage, &with).expect("valid").key;
    for change in [
        json!({"max_length": 64}),
        json!({"template": "none"}),
        json!({"template": "x.jinja"}),
        json!({"train_on": "all"}),
        json!({"roles_to_train": ["user"]}),
        json!({"train_on_eot": "none"}),
        json!({"on_long": "fail"}),
        json!({"on_error": "skip"}),
        json!({"packing": true}),
        json!({"variables": {"enable_thinking": false}}),
        json!({"date": "2026-01-01"}),
    ] {
        assert_ne!(key(change.clone()), key(json!({})), "{change}");
    }
    let with = json!({"template": "x.jinja"});
    assert_eq!(bench.prepare(&TokenizeStage, &with).expect("valid").sources[0].config_path, "template");
    assert_eq!(key(json!({"template": "x.jinja"})), key(json!({"template": "y.jinja"})), "a file counts by content");
    insta::assert_snapshot!(
        bench.issues(&TokenizeStage, &json!({"max_length": 1, "on_long": "cut", "date": "2026-13-01"})).join("\n"),
        @"
    max_length | 1 is out of range: expected at least 2 | -
    on_long | `cut` is not one of `fail`, `drop`, `truncate`, `split` | -
    "
    );
}

#[test]
fn a_changed_row_costs_its_shard_and_nothing_shows_in_the_tokens() {
    let model = golden("tiny/smollm");
    let mut rows: Vec<String> = (0..12_000).map(|row| format!("row {row} of many")).collect();
    let mut bench = Bench::new();
    let write = |bench: &mut Bench, name: &str, rows: &[String]| {
        let path = bench.root().join(name);
        let schema = Arc::new(DatasetShape::Text.schema([]));
        let ids = rows.iter().map(|text| Some(luthier_formats::dataset::row_id([("text", text.as_str())])));
        let ids: ArrayRef = Arc::new(ids.collect::<StringArray>());
        let texts: ArrayRef = Arc::new(rows.iter().map(Some).collect::<StringArray>());
        let mut writer = DatasetWriter::create(&path, Arc::clone(&schema), DatasetShape::Text).expect("a writer");
        writer.write(&RecordBatch::try_new(schema, vec![ids, texts]).expect("a batch")).expect("write");
        writer.finish().expect("finish");
        bench.disconnect();
        bench.input("data", ArtifactKind::Dataset, &path).input("model", ArtifactKind::Model, &model);
    };
    let both = |bench: &mut Bench, with: &Value| {
        let done = bench.run(&TokenizeStage, with).expect("tokens");
        bench.fresh = true;
        let anew = bench.run(&TokenizeStage, with).expect("tokens");
        bench.fresh = false;
        assert_eq!(done.digest(), anew.digest());
        assert_eq!(anew.shards().0, 0);
        done.shards()
    };
    let with = json!({"max_length": 64});
    write(&mut bench, "before", &rows);
    let (reused, all) = both(&mut bench, &with);
    assert!(reused == 0 && all > 2, "{reused} of {all}");
    assert_eq!(both(&mut bench, &json!({"max_length": 64, "packing": true})), (all, all), "bins are filled afterwards");
    assert_eq!(both(&mut bench, &json!({"max_length": 5, "on_long": "truncate"})).0, 0);
    rows[7].push_str(", changed");
    write(&mut bench, "after", &rows);
    assert_eq!(both(&mut bench, &with), (all - 1, all));
}
